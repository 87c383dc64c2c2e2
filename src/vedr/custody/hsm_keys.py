"""Public keys as tokens hold them: one encoding to compare by, and signatures verified under it.

Guarantees: two keys are equal exactly when their SubjectPublicKeyInfo is; what a token says of itself is parsed
strictly, and a key of a kind that is not listed here is never taken for one that is.
Leaves out: private keys, which have no place in this module.

PKCS#11 v3.0, 6.3 (elliptic curves: EC_PARAMS, EC_POINT); RFC 8410 (Ed25519 in SubjectPublicKeyInfo); CometBFT v0.38
crypto/ed25519 (address: the first 20 bytes of the SHA-256 of the raw key).
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from vedr.errors import CorruptError, VerificationFailedError

KeyKind = Literal["ed25519", "secp256k1", "p-256", "rsa-2048", "rsa-4096"]
KEY_KINDS: Final[tuple[KeyKind, ...]] = get_args(KeyKind)

ED25519_BYTES: Final = 32
ADDRESS_BYTES: Final = 20
SCALAR_BYTES: Final = 32  # r and s of both curves here
RSA_EXPONENT: Final = 65537
DER_OCTET_STRING: Final = 0x04

ED25519_OID: Final = bytes.fromhex("06032b6570")  # 1.3.101.112
P256_OID: Final = bytes.fromhex("06082a8648ce3d030107")  # 1.2.840.10045.3.1.7
SECP256K1_OID: Final = bytes.fromhex("06052b8104000a")  # 1.3.132.0.10
ED25519_NAME: Final = b"\x13\x0cedwards25519"  # how PKCS#11 v3.0 names the curve of EC_EDWARDS keys

CURVES: Final[dict[bytes, KeyKind]] = {
    ED25519_OID: "ed25519",
    ED25519_NAME: "ed25519",
    P256_OID: "p-256",
    SECP256K1_OID: "secp256k1",
}
_WEIERSTRASS: Final[dict[KeyKind, ec.EllipticCurve]] = {"p-256": ec.SECP256R1(), "secp256k1": ec.SECP256K1()}

_Key: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of a kind that is signed with here; `spki` is its SubjectPublicKeyInfo in DER."""

    kind: KeyKind
    spki: bytes

    @property
    def raw_ed25519(self) -> bytes:
        """The 32 bytes of an Ed25519 key; VerificationFailedError for another kind."""
        if self.kind != "ed25519":
            raise VerificationFailedError(
                f"a {self.kind} key, where Ed25519 is needed", remedy="Choose the validator's key by its label."
            )
        return self.spki[-ED25519_BYTES:]

    @property
    def consensus_address(self) -> str:
        """As CometBFT shows a validator's: 40 capital hexadecimal digits; Ed25519 only."""
        return hashlib.sha256(self.raw_ed25519).digest()[:ADDRESS_BYTES].hex().upper()

    def verify(self, signature: bytes, message: bytes, *, what: str) -> None:
        """Check a signature as a token gives it.

        Ed25519: pure (RFC 8032).  Curves: ECDSA over the message's SHA-256, r and s of 32 bytes each.  RSA: PKCS #1
        v1.5 with SHA-256.

        Raises:
            VerificationFailedError: it does not verify under this key.
        """
        key = _loaded(self.spki)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(_der_signature(signature), message, ec.ECDSA(hashes.SHA256()))
            else:
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise VerificationFailedError(
                f"{what}: the signature does not verify under the public key {self.fingerprint}",
                remedy="The private key is another one, or the device is faulty: do not sign with it.",
            ) from None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of `spki`, its first 16 hexadecimal digits: enough to tell keys apart in messages."""
        return hashlib.sha256(self.spki).hexdigest()[:16]


def from_ed25519(raw: bytes) -> PublicKey:
    """From the raw 32 bytes."""
    return PublicKey("ed25519", _spki(Ed25519PublicKey.from_public_bytes(raw)))


def from_spki(spki: bytes, *, what: str) -> PublicKey:
    """From DER; CorruptError when it is not exactly the encoding of a key of a known kind."""
    try:
        key = _loaded(spki)
        canonical = _spki(key) == spki
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unreadable(what) from None
    kind = _kind_of(key)
    if kind is None or not canonical:
        raise _unreadable(what)
    return PublicKey(kind, spki)


def from_point(ec_params: bytes, ec_point: bytes) -> PublicKey | None:
    """From a token's EC_PARAMS and EC_POINT, the point bare or in an OCTET STRING; None for what is not of ours."""
    kind = CURVES.get(ec_params)
    if kind is None:
        return None
    try:
        return PublicKey(kind, _spki(_point(kind, _unwrapped(ec_point))))
    except ValueError:
        return None


def from_modulus(modulus: bytes, exponent: bytes) -> PublicKey | None:
    """From a token's MODULUS and PUBLIC_EXPONENT, both big-endian; None for sizes and exponents that are not ours."""
    try:
        key = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()
    except ValueError:
        return None
    kind = _kind_of(key)
    return None if kind is None else PublicKey(kind, _spki(key))


def _point(kind: KeyKind, point: bytes) -> _Key:
    if kind == "ed25519":
        return Ed25519PublicKey.from_public_bytes(point)
    return ec.EllipticCurvePublicKey.from_encoded_point(_WEIERSTRASS[kind], point)


def _unwrapped(point: bytes) -> bytes:
    """Without the OCTET STRING that PKCS#11 wants and not every vendor gives; both points here are under 128 bytes."""
    header = bytes([DER_OCTET_STRING, len(point) - 2]) if len(point) > 2 else b""  # noqa: PLR2004 (tag and length)
    return point[2:] if header and point.startswith(header) else point


def _kind_of(key: object) -> KeyKind | None:
    match key:
        case Ed25519PublicKey():
            return "ed25519"
        case ec.EllipticCurvePublicKey():
            return next((kind for kind, curve in _WEIERSTRASS.items() if curve.name == key.curve.name), None)
        case rsa.RSAPublicKey() if key.public_numbers().e == RSA_EXPONENT:
            return next((kind for kind in KEY_KINDS if kind == f"rsa-{key.key_size}"), None)
        case _:
            return None


def _loaded(spki: bytes) -> _Key:
    return serialization.load_der_public_key(spki)  # type: ignore[return-value]  # other kinds are refused when made


def _spki(key: _Key) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _der_signature(signature: bytes) -> bytes:
    if len(signature) != 2 * SCALAR_BYTES:
        raise InvalidSignature
    r, s = signature[:SCALAR_BYTES], signature[SCALAR_BYTES:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _unreadable(what: str) -> CorruptError:
    kinds = ", ".join(KEY_KINDS)
    return CorruptError(f"{what}: not a public key of a known kind", remedy=f"Known are {kinds}, in DER.")
