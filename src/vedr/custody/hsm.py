"""Keys held in hardware: what a token is to the domain, and the challenge that its keys answer.

Guarantees: a challenge can't be mistaken for anything that a key here signs in earnest, and never repeats.
Leaves out: PKCS#11 itself (adapters), the record of a key (`hsm_reference`), the check of its replicas (`hsm_check`).

Why a challenge never counts as a vote, proposal, vote extension or transaction:
- What CometBFT signs is a protobuf message behind its length.  A first byte below 0x80 is the whole length, so the
  second byte is a field's tag: 0x08 in votes and proposals, 0x0a, 0x11, 0x19 or 0x22 in vote extensions.  Ours is `e`.
- A Cosmos SignDoc is bare protobuf.  Our first byte, `v`, would be a tag with wire type 6, which does not exist.
- The amino-JSON form of a transaction begins with `{`; a SecretConnection challenge is 32 bytes, ours are more.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.custody.hsm_keys import PublicKey
from vedr.errors import NotFoundError, RefusedError

CHALLENGE_TAG: Final = b"vedr-hsm-challenge/1\n"
CHALLENGE_RANDOM_BYTES: Final = 32

PinSource = Callable[[], bytes]
"""Fetches the PIN at the moment of login; what it gives is used once and kept nowhere."""

ObjectClass = Literal["private", "public", "secret"]


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token and its module say of themselves; `module_sha256` is of the library's file."""

    module: str
    module_sha256: str
    module_version: str
    manufacturer: str
    model: str
    firmware: str
    label: str
    serial: str
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a private or secret key; None where the token does not tell.

    A replica, being imported, shows `local`, `never_extractable` and `always_sensitive` as false.
    """

    sensitive: bool | None = None
    extractable: bool | None = None
    local: bool | None = None
    never_extractable: bool | None = None
    always_sensitive: bool | None = None


@dataclass(frozen=True, slots=True)
class KeyObject:
    """One key object on a token; `handle` means something to the session that listed it only.

    `public` is None for private and secret objects, and for public ones of kinds that are not signed with here.
    """

    object_class: ObjectClass
    label: str
    key_id: bytes
    key_type: str
    ec_params: bytes
    attributes: Attributes
    public: PublicKey | None
    handle: int


class Token(Protocol):
    """A logged-in session on one token.  Calls may come from any thread and are served one at a time."""

    def facts(self) -> TokenFacts:
        """What it says of itself now; UnavailableError when it is gone."""

    def objects(self) -> tuple[KeyObject, ...]:
        """Every key object; UnavailableError when the token is gone, never an empty list for that."""

    def sign(self, key: KeyObject, message: bytes) -> bytes:
        """Sign with a private key that `objects` listed; the forms are those of `PublicKey.verify`.

        Raises:
            NotFoundError: the session lists no such key.
            RefusedError: the key's kind or its attributes do not allow it.
            UnavailableError: the session, the token or the device is lost; open it anew.
        """

    def close(self) -> None:
        """Log out; quiet when it is closed."""


def challenge(serial: str, at: dt.datetime, random: Callable[[int], bytes]) -> bytes:
    """A fresh message for one token to sign.

    Args:
        serial: The token's own, so that an answer can't be passed on from another.
        at: Now.
        random: Gives that many bytes nobody can foresee (`secrets.token_bytes`).
    """
    lines = (f"serial={serial}", f"time={at.astimezone(dt.UTC).isoformat()}")
    nonce = f"nonce={random(CHALLENGE_RANDOM_BYTES).hex()}"
    return CHALLENGE_TAG + "\n".join((*lines, nonce, "")).encode()


def matching(keys: Sequence[KeyObject], wanted: ObjectClass, *, label: str, key_id: bytes | None) -> KeyObject:
    """The one object of that class under the label, or under the id, which must then be the same one.

    Args:
        keys: As the token lists them.
        wanted: Whose objects to look among.
        label: CKA_LABEL.
        key_id: CKA_ID; None: not known.

    Raises:
        NotFoundError: there is none.
        RefusedError: there are several, or the label stands on one and the id on another.
    """
    among = [key for key in keys if key.object_class == wanted]
    found = [key for key in among if key.label == label or (key_id is not None and key.key_id == key_id)]
    name = f"{wanted} key {label!r}" + ("" if key_id is None else f" with id {key_id.hex()}")
    if not found:
        labels = ", ".join(sorted({repr(key.label) for key in among})) or "none"
        raise NotFoundError(
            f"no {name} on the token; it has: {labels}", remedy="Check label and token: vedr hsm inventory."
        )
    if len(found) > 1:
        raise RefusedError(
            f"{len(found)} objects on the token answer to {name}",
            remedy="Remove or rename all but the right one, so that nobody has to guess.",
        )
    (key,) = found
    if key.label != label or key_id not in (None, key.key_id):
        raise RefusedError(
            f"label and id disagree: {name} is asked for, the token has {key.label!r} with id {key.key_id.hex()}",
            remedy="Correct the label or the id on the token, or make a new reference.",
        )
    return key
