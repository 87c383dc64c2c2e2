"""Disables a key on a token, and asks whether the token still signs with it; runs where the token's session is.

Guarantees: False from `still_signs` is the token's own answer to C_SignInit, CKR_KEY_FUNCTION_NOT_PERMITTED, and
nothing else: every other failure is an error.
Leaves out: enabling, which is done by hand on the token.
"""

import datetime as dt
import hashlib
import secrets
from typing import Any, Final

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11._pkcs11 import SignMixin  # type: ignore[attr-defined]  # the stubs leave it out
from pkcs11.exceptions import (
    AttributeReadOnly,
    FunctionNotSupported,
    PKCS11Error,
    TemplateInconsistent,
    TokenWriteProtected,
)

from vedr.adapters.pkcs11_token import Pkcs11Token
from vedr.custody.hsm import challenge
from vedr.errors import NotFoundError, RefusedError

_FIXED: Final = (AttributeReadOnly, FunctionNotSupported, TemplateInconsistent, TokenWriteProtected)
_KEY_FUNCTION_NOT_PERMITTED: Final = "0x68"  # PKCS#11 3.0, 5.1.6; python-pkcs11 has no class for it
_MECHANISMS: Final = {
    KeyType.EC_EDWARDS: Mechanism.EDDSA,
    KeyType.EC: Mechanism.ECDSA,
    KeyType.RSA: Mechanism.SHA256_RSA_PKCS,
}


def served(token: Pkcs11Token, what: str, label: str) -> bool:
    """A request of `TokenProcess`: `disable`, or else whether the key still signs."""
    if what == "disable":
        disable(token, label)
    return still_signs(token, label)


def disable(token: Pkcs11Token, label: str) -> None:
    """Set CKA_SIGN to false, in the token's process; quiet when it is.

    Raises:
        NotFoundError: the token has no private key of that label.
        RefusedError: it has several, or it does not let the key be changed.
    """
    with token.session(f"disable {label!r}") as session:
        key = _only(session, label)
        if not key[Attribute.SIGN]:
            return
        try:
            key[Attribute.SIGN] = False
        except _FIXED as error:
            raise RefusedError(
                f"token: key {label!r} can't be changed ({type(error).__name__})",
                remedy="Fence the host in another way, or disable the key's user in the token's own administration.",
            ) from None


def still_signs(token: Pkcs11Token, label: str) -> bool:
    """Ask for a signature of a fresh challenge, in the token's process; False when the token refuses the key.

    Raises:
        NotFoundError: the token has no private key of that label.
        RefusedError: it has several, or the key is of a kind that is not signed with here.
        UnavailableError: the token fails, which proves nothing.
    """
    serial = token.facts().serial
    message = challenge(serial, dt.datetime.now(dt.UTC), secrets.token_bytes)
    with token.session(f"sign with {label!r}") as session:
        key = _only(session, label)
        mechanism = _MECHANISMS.get(key.key_type)
        if mechanism is None:
            raise RefusedError(f"{label!r} is a {key.key_type} key", remedy="Name the validator's key.")
        data = hashlib.sha256(message).digest() if mechanism is Mechanism.ECDSA else message
        try:
            _asking(key).sign(data, mechanism=mechanism)
        except PKCS11Error as error:
            if type(error) is PKCS11Error and str(error).endswith(_KEY_FUNCTION_NOT_PERMITTED):
                return False
            raise
    return True


def _asking(key: Any) -> Any:
    """The key with `sign`, which python-pkcs11 leaves out where CKA_SIGN is false: the token has to refuse, not it."""
    return key if isinstance(key, SignMixin) else type("AskedKey", (SignMixin, type(key)), {})(key.wrapper)


def _only(session: Any, label: str) -> Any:
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label}))
    if not found:
        raise NotFoundError(f"token: no private key {label!r}", remedy="Check label and token: vedr hsm inventory.")
    if len(found) > 1:
        raise RefusedError(
            f"token: {len(found)} private keys {label!r}", remedy="Give each a label of its own; nothing here guesses."
        )
    return found[0]
