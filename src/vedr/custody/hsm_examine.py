"""One key on one token, put to the proof.

1. Exactly one private object answers to the label and the id.
2. So does one public object, and it equals the expected key.
3. The private object is SENSITIVE and not EXTRACTABLE.
4. A fresh challenge that it signs verifies under the *expected* public key.

Guarantees: `examine` returns only when all four hold.  Only the fourth finds the right public object over a wrong
private key.
Leaves out: LOCAL, NEVER_EXTRACTABLE and ALWAYS_SENSITIVE, which an imported replica always shows as false: they are
recorded.  What a dishonest device would answer: the attributes are its own word.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from vedr.custody.hsm import Attributes, Token, TokenFacts, challenge, matching
from vedr.custody.hsm_keys import PublicKey
from vedr.errors import VerificationFailedError

Random = Callable[[int], bytes]
"""Gives that many unforeseeable bytes."""


@dataclass(frozen=True, slots=True)
class KeyName:
    """How a key is named on every token that holds it: CKA_LABEL and CKA_ID."""

    label: str
    key_id: bytes

    def __str__(self) -> str:
        return f"{self.label} ({self.key_id.hex()})"


@dataclass(frozen=True, slots=True)
class Examined:
    """What a token said and signed."""

    facts: TokenFacts
    attributes: Attributes
    ec_params: bytes
    challenge: bytes
    signature: bytes


def examine(token: Token, name: KeyName, expected: PublicKey, *, at: dt.datetime, random: Random) -> Examined:
    """Prove that the token holds the private half of `expected`, and keeps it.

    Args:
        token: Logged in.
        name: The key's.
        expected: The public key by the reference.
        at: Now.
        random: Gives the challenge its nonce.

    Raises:
        NotFoundError: no such private or public object.
        RefusedError: several answer to the name, or the token does not let it sign.
        VerificationFailedError: another public key, extractable, or the signature is not of this key.
        UnavailableError: the token is lost.
    """
    facts = token.facts()
    found = token.objects()
    private = matching(found, "private", label=name.label, key_id=name.key_id)  # (1)
    public = matching(found, "public", label=name.label, key_id=name.key_id)  # (2)
    if public.public != expected:
        shown = "of no known kind" if public.public is None else public.public.fingerprint
        raise VerificationFailedError(
            f"{name}: the public key is {shown}, by the reference {expected.fingerprint}",
            remedy="Another key has this name on the token; find out who put it there.",
        )
    attributes = private.attributes
    if attributes.sensitive is not True or attributes.extractable is not False:  # (3)
        raise VerificationFailedError(
            f"{name}: the private key is not kept in: SENSITIVE {attributes.sensitive}, "
            f"EXTRACTABLE {attributes.extractable}",
            remedy="Treat the key as exposed to everybody with the token's PIN: RB-DR-005.",
        )
    message = challenge(facts.serial, at, random)  # (4)
    signature = token.sign(private, message)
    expected.verify(signature, message, what=str(name))
    return Examined(facts, attributes, public.ec_params, message, signature)
