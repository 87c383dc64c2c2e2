"""`vedr.custody.hsm.Token` over a PKCS#11 module loaded into this process.

Guarantees: one logged-in session for its life; the PIN is handed to the module and forgotten; every code becomes an
error of ours; a private key is only used, and its value is never asked for.
Leaves out: what a second token with its own configuration needs, a deadline, and a crash of the vendor's library, for
which each token gets a process of its own (`pkcs11_token_process`).  SOFTHSM2_CONF must be set before the module is
first loaded: SoftHSM reads it once.

python-pkcs11 0.10; mechanisms: docs/formats/hsm-reference.md.
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, PKCS11Error, SessionClosed

from vedr.adapters.pkcs11_token_errors import translated, translating
from vedr.custody import hsm
from vedr.custody.hsm import Attributes, KeyObject, TokenFacts
from vedr.custody.hsm_keys import PublicKey, from_modulus, from_point
from vedr.errors import InvalidInputError, NotFoundError, RefusedError, VedrError

Found: TypeAlias = Any
"""An object that python-pkcs11 found: its classes are assembled at run time and have no common static type."""

_CLASSES: Final[dict[hsm.ObjectClass, ObjectClass]] = {
    "private": ObjectClass.PRIVATE_KEY,
    "public": ObjectClass.PUBLIC_KEY,
    "secret": ObjectClass.SECRET_KEY,
}
_MECHANISMS: Final = {
    "EC_EDWARDS": Mechanism.EDDSA,
    "EC": Mechanism.ECDSA,
    "RSA": Mechanism.SHA256_RSA_PKCS,
}

_CALLING: Final = threading.Lock()
"""Held for every call, whatever the token: python-pkcs11 initialises a module without asking it for locks, and SoftHSM
was seen to crash when two threads used two of its tokens."""


class Pkcs11Token:
    """One session.  Thread-safe: all calls of this process take turns.  Made by `open_here`; use it with `with`."""

    def __init__(self, library: Any, session: Any, module: Path) -> None:
        self._library = library
        self._session = session
        self._module = module
        self._label: Final[str] = session.token.label
        self._listed: dict[int, Found] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> TokenFacts:
        """As the port says."""
        with self.session("describe it"):
            return self._facts()

    def objects(self) -> tuple[KeyObject, ...]:
        """As the port says."""
        with self.session("list its keys") as session:
            session.token.slot.get_token()  # SoftHSM lists nothing, and no error, for a token that is gone
            found = [
                (name, each)
                for name, number in _CLASSES.items()
                for each in list(session.get_objects({Attribute.CLASS: number}))
            ]
            self._listed = {each.handle: each for _, each in found}
            return tuple(_described(name, each) for name, each in found)

    def sign(self, key: KeyObject, message: bytes) -> bytes:
        """As the port says."""
        with self.session(f"sign with {key.label!r}"):
            found = self._listed.get(key.handle)
            if found is None or key.object_class != "private":
                raise NotFoundError(
                    f"token {self._label!r}: no private key with handle {key.handle} in this session",
                    remedy="List the keys in this session first.",
                )
            _require_signing(found, key)
            # ECDSA_SHA256 is missing in some modules (SoftHSM): hash first
            data = hashlib.sha256(message).digest() if key.key_type == "EC" else message
            signature: bytes = found.sign(data, mechanism=_MECHANISMS[key.key_type])
            return signature

    def close(self) -> None:
        """As the port says."""
        with _CALLING, contextlib.suppress(PKCS11Error):  # a session that is lost needs no logout
            if not self._closed:
                self._closed = True
                self._session.close()

    @contextlib.contextmanager
    def session(self, what: str) -> Iterator[Any]:
        """python-pkcs11's session, held alone for the block; for `pkcs11_token_provisioning`.

        Args:
            what: What is asked of the token, for errors: "sign with 'val-0'".
        """
        with _CALLING, translating(f"token {self._label!r}: cannot {what}"):
            if self._closed:  # python-pkcs11 would leave its own lock taken
                raise SessionClosed
            yield self._session

    def _facts(self) -> TokenFacts:
        now = self._session.token.slot.get_token()
        return TokenFacts(
            module=str(self._module),
            module_sha256=hashlib.sha256(self._module.read_bytes()).hexdigest(),
            module_version=_dotted(self._library.library_version),
            manufacturer=now.manufacturer_id.strip(),
            model=now.model.strip(),
            firmware=_dotted(now.firmware_version),
            label=now.label,
            serial=now.serial.decode("ascii", "backslashreplace").strip(),
            mechanisms=tuple(sorted({_mechanism_name(each) for each in now.slot.get_mechanisms()})),
        )


def open_here(module: Path, label: str, pin: bytes, *, writable: bool = False) -> Pkcs11Token:
    """Load the module, find the token by its label, log in.

    Raises:
        NotFoundError: no such file, or no token of that label.
        InvalidInputError: the file is no PKCS#11 module that this machine can load.
        RefusedError: wrong, locked or expired PIN; several tokens of that label.
        ConflictError: this process has a session on it already.
        UnavailableError: the module or the device fails.
    """
    library = _load(module)
    with _CALLING, translating(f"token {label!r} of {module}"):
        token = library.get_token(token_label=label)
    try:
        text = pin.decode()
    except UnicodeDecodeError:
        raise RefusedError(
            f"token {label!r}: the PIN is not UTF-8 text", remedy="Check what the PIN's secret reference holds."
        ) from None
    with _CALLING, translating(f"token {label!r}: cannot log in"):
        session = token.open(user_pin=text, rw=writable)
    return Pkcs11Token(library, session, module)


def _load(module: Path) -> Any:
    if not module.is_file():
        raise NotFoundError(
            f"PKCS#11 module {module} is missing",
            remedy="Install the vendor's library, or correct `module` in the site.",
        )
    try:
        return pkcs11.lib(str(module))
    except PKCS11Error as error:
        raise _unloadable(error, module) from None


def _unloadable(error: PKCS11Error, module: Path) -> VedrError:
    if type(error) is PKCS11Error:  # the loader's own; codes of the module are subclasses
        return InvalidInputError(
            f"{module} can't be loaded as a PKCS#11 module",
            remedy="It must be a shared library for this machine that exports C_GetFunctionList.",
        )
    return translated(error, f"PKCS#11 module {module}: cannot initialise it (is its configuration there?)")


def _require_signing(found: Found, key: KeyObject) -> None:
    if key.key_type not in _MECHANISMS:
        raise RefusedError(
            f"{key.label!r} is a {key.key_type} key, which is not signed with here",
            remedy=f"Known are: {', '.join(_MECHANISMS)}.",
        )
    if not hasattr(found, "sign"):  # python-pkcs11 gives the method to keys with CKA_SIGN only
        raise RefusedError(f"{key.label!r} may not sign: CKA_SIGN is false", remedy="Put the key on the token anew.")


def _described(name: hsm.ObjectClass, found: Found) -> KeyObject:
    key_type = _read(found, Attribute.KEY_TYPE)
    secret = name != "public"
    return KeyObject(
        object_class=name,
        label=_read(found, Attribute.LABEL) or "",
        key_id=_read(found, Attribute.ID) or b"",
        key_type=key_type.name if isinstance(key_type, KeyType) else str(key_type),
        ec_params=_read(found, Attribute.EC_PARAMS) or b"",
        attributes=Attributes(
            sensitive=_read(found, Attribute.SENSITIVE),
            extractable=_read(found, Attribute.EXTRACTABLE),
            local=_read(found, Attribute.LOCAL),
            never_extractable=_read(found, Attribute.NEVER_EXTRACTABLE),
            always_sensitive=_read(found, Attribute.ALWAYS_SENSITIVE),
        )
        if secret
        else Attributes(),
        public=None if secret else _public(found, key_type),
        handle=found.handle,
    )


def _read(found: Found, attribute: Attribute) -> Any:
    """None where the token has no such attribute, does not tell, or holds text that is none."""
    try:
        return found[attribute]
    except (AttributeTypeInvalid, AttributeSensitive, UnicodeDecodeError):
        return None


def _public(found: Found, key_type: object) -> PublicKey | None:
    if key_type == KeyType.RSA:
        return from_modulus(found[Attribute.MODULUS], found[Attribute.PUBLIC_EXPONENT])
    if key_type in (KeyType.EC, KeyType.EC_EDWARDS):
        return from_point(found[Attribute.EC_PARAMS], found[Attribute.EC_POINT])
    return None


def _mechanism_name(mechanism: Mechanism | int) -> str:
    return mechanism.name if isinstance(mechanism, Mechanism) else f"0x{mechanism:08x}"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
