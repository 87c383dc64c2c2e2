"""Puts keys on a token: made there, or imported from a seed; never extractable.

Guarantees: a private key is marked sensitive and not extractable from its first moment; a label or id that is taken is
refused, so that a key is never made ambiguous; the public object goes with it.
Leaves out: deletion, which nothing here may do, and wrapping between tokens: SoftHSM 2.6.1 can't wrap Ed25519 keys, so
a lab's replica is the same seed imported twice.  Real devices replicate by their vendor's own means.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from vedr.adapters.pkcs11_token import Pkcs11Token
from vedr.custody.hsm import KeyObject, matching
from vedr.custody.hsm_keys import (
    DER_OCTET_STRING,
    ED25519_BYTES,
    ED25519_OID,
    P256_OID,
    SECP256K1_OID,
    KeyKind,
    PublicKey,
    from_ed25519,
)
from vedr.errors import ConflictError, InvalidInputError, UnavailableError

_UNEXTRACTABLE: Final = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_CURVES: Final[dict[KeyKind, tuple[KeyType, bytes]]] = {
    "ed25519": (KeyType.EC_EDWARDS, ED25519_OID),
    "secp256k1": (KeyType.EC, SECP256K1_OID),
    "p-256": (KeyType.EC, P256_OID),
}
_PAIR: Final = ("private", "public")
_RSA_BITS: Final[dict[KeyKind, int]] = {"rsa-2048": 2048, "rsa-4096": 4096}


def import_ed25519(token: Pkcs11Token, seed: bytes, *, label: str, key_id: bytes) -> PublicKey:
    """Put the key of a raw 32-byte seed (RFC 8032) on a token that was opened writable; its public half.

    Safe to repeat: what is there already is left, and a missing private object is added.

    Raises:
        InvalidInputError: the seed is not 32 bytes, or label or id is empty.
        ConflictError: another key has the label or the id.
    """
    if len(seed) != ED25519_BYTES:
        raise InvalidInputError(
            f"an Ed25519 seed has {ED25519_BYTES} bytes", remedy="Take the first half of CometBFT's."
        )
    public = from_ed25519(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
    there = {key.object_class for key in _taken(token, label, key_id, public)}
    names = {Attribute.LABEL: label, Attribute.ID: key_id, Attribute.TOKEN: True}
    curve = {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.EC_PARAMS: ED25519_OID}
    with token.session(f"import {label!r}") as session:
        if "public" not in there:
            point = bytes([DER_OCTET_STRING, ED25519_BYTES]) + public.raw_ed25519
            role = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.PRIVATE: False, Attribute.VERIFY: True}
            session.create_object({**role, **names, **curve, Attribute.EC_POINT: point})
        if "private" not in there:
            role = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.SIGN: True, **_UNEXTRACTABLE}
            session.create_object({**role, **names, **curve, Attribute.VALUE: seed})
    return public


def generate(token: Pkcs11Token, kind: KeyKind, *, label: str, key_id: bytes) -> PublicKey:
    """Make a new key pair on a token that was opened writable; its public half.

    Raises:
        InvalidInputError: label or id is empty.
        ConflictError: another key has the label or the id.
    """
    _taken(token, label, key_id, None)
    names = {"label": label, "id": key_id, "store": True, "private_template": _UNEXTRACTABLE}
    use = MechanismFlag.SIGN | MechanismFlag.VERIFY
    with token.session(f"generate {label!r}") as session:
        if kind in _RSA_BITS:
            session.generate_keypair(KeyType.RSA, _RSA_BITS[kind], capabilities=use, **names)
        else:
            key_type, curve = _CURVES[kind]
            parameters = session.create_domain_parameters(key_type, {Attribute.EC_PARAMS: curve}, local=True)
            parameters.generate_keypair(capabilities=use, **names)
    made = matching(token.objects(), "public", label=label, key_id=key_id)
    if made.public is None:
        raise UnavailableError(f"the token made {label!r}, and shows no {kind} key of it", remedy="Look at its module.")
    return made.public


def _taken(token: Pkcs11Token, label: str, key_id: bytes, public: PublicKey | None) -> list[KeyObject]:
    """The objects of just this key that are there; ConflictError when the label or the id is another's."""
    if not label or not key_id:
        raise InvalidInputError("a key on a token needs a label and an id", remedy="Name it as the validator is named.")
    found = [key for key in token.objects() if key.label == label or key.key_id == key_id]
    publics = [key for key in found if key.object_class == "public"]
    ours = all(key.label == label and key.key_id == key_id for key in found) and len(found) <= len(_PAIR)
    if found and (public is None or not ours or [key.public for key in publics] != [public]):
        raise ConflictError(
            f"label {label!r} or id {key_id.hex()} is taken on the token",
            remedy="Choose another label and id; a key is never replaced here.",
        )
    return found
