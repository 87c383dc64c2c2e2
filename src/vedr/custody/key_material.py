"""Key files as CometBFT, CometBFT's p2p layer and provider daemons keep them: read, checked, made new.

Guarantees: what is read is whole, and its private key, public key and address belong together: the public half is
derived again from the private one.  No error and no `repr` shows any of a file's content.
Leaves out: encryption (envelope), and the sign-state, which is never part of a key (docs/formats/sign-state.md).

| Kind | File | Content |
|---|---|---|
| validator | `config/priv_validator_key.json` | `address`, `pub_key`, `priv_key`, amino JSON, Ed25519 |
| node | `config/node_key.json` | `priv_key`, amino JSON, Ed25519; its id is the address of the public key |
| provider | `keys/*.pem` | PKCS#8, unencrypted: Ed25519, secp256k1, P-256, RSA 2048 or 4096 |

Sources: cometbft v0.38 privval/file.go, p2p/key.go, crypto/ed25519.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.errors import CorruptError, InvalidInputError
from vedr.signature import Json

KeyKind = Literal["validator", "node", "provider"]
KINDS: Final[tuple[KeyKind, ...]] = get_args(KeyKind)
Algorithm = Literal["ed25519", "secp256k1", "p256", "rsa2048", "rsa4096"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)

VALIDATOR_FILE: Final = "config/priv_validator_key.json"
NODE_FILE: Final = "config/node_key.json"
MAX_KEY_FILE_BYTES: Final = 64 * 1024  # an RSA 4096 PEM has 3.3 KB
SEED_BYTES: Final = 32
EXPANDED_BYTES: Final = 64  # Go's ed25519.PrivateKey: seed, then public key
ADDRESS_BYTES: Final = 20
_PRIVATE_TYPE: Final = "tendermint/PrivKeyEd25519"
_PUBLIC_TYPE: Final = "tendermint/PubKeyEd25519"

PrivateKey: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_CURVES: Final[dict[str, Algorithm]] = {"secp256k1": "secp256k1", "secp256r1": "p256"}
_RSA_SIZES: Final[dict[int, Algorithm]] = {2048: "rsa2048", 4096: "rsa4096"}
_PEM: Final = serialization.Encoding.PEM
_DER: Final = serialization.Encoding.DER
_PKCS8: Final = serialization.PrivateFormat.PKCS8


@dataclass(frozen=True, slots=True)
class Identity:
    """The public half: what a key is known by.

    `address` is the consensus address (upper case) of a validator, the node id (lower case) of a node, else empty.
    """

    algorithm: Algorithm
    public_key: str
    address: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 over algorithm and public key, hexadecimal: the name of a key everywhere in vedr."""
        return hashlib.sha256(f"{self.algorithm}:{self.public_key}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One checked key file; `path` is relative to the home of its owner, `content` is the secret."""

    kind: KeyKind
    path: str
    identity: Identity
    content: bytes = field(repr=False)


def read_key_file(kind: KeyKind, path: str, content: bytes, *, what: str) -> KeyFile:
    """A file of that kind; CorruptError, which shows nothing of it, when it is none or does not agree with itself."""
    if not 0 < len(content) <= MAX_KEY_FILE_BYTES:
        raise broken(what, f"{len(content)} bytes")
    readers = {"validator": _read_validator, "node": _read_node, "provider": _read_provider}
    return KeyFile(kind, path, readers[kind](content, what), content)


def new_key_file(kind: KeyKind, path: str) -> KeyFile:
    """A fresh Ed25519 key, in the file format of its kind."""
    key = Ed25519PrivateKey.generate()
    if kind == "provider":
        content = pem_of(key)
    else:
        private: dict[str, Json] = {"type": _PRIVATE_TYPE, "value": _base64(_expanded(key))}
        document: dict[str, Json] = {"priv_key": private}
        if kind == "validator":
            public = key.public_key().public_bytes_raw()
            pub_key: dict[str, Json] = {"type": _PUBLIC_TYPE, "value": _base64(public)}
            document = {"address": address_of(public).upper(), "pub_key": pub_key, **document}
        content = json.dumps(document, indent=2).encode()
    return read_key_file(kind, path, content, what=f"new {kind} key")


def identity_of(key: PrivateKey, *, address: str = "") -> Identity:
    """The public half, derived; InvalidInputError for a kind of key that nobody here uses."""
    if isinstance(key, Ed25519PrivateKey):
        return Identity("ed25519", key.public_key().public_bytes_raw().hex(), address)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        return Identity(_CURVES[key.curve.name], point.hex(), address)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size in _RSA_SIZES:
        public = key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return Identity(_RSA_SIZES[key.key_size], public.hex(), address)
    raise InvalidInputError("a key of an unknown algorithm", remedy=f"Use one of: {', '.join(ALGORITHMS)}.")


def load_private(algorithm: str, private: bytes, *, what: str) -> PrivateKey:
    """A private key from the encodings that Go programs write.

    Ed25519: seed, or seed and public key (which must agree).  Elliptic curves: the 32-byte scalar or DER.  RSA: PKCS#1
    or PKCS#8 DER.

    Raises:
        CorruptError: not such a key; nothing of it is shown.
    """
    try:
        if algorithm == "ed25519" and len(private) in (SEED_BYTES, EXPANDED_BYTES):
            return _load_ed25519(private, what)
        if algorithm in ("secp256k1", "p256") and len(private) == SEED_BYTES:
            curve = ec.SECP256K1() if algorithm == "secp256k1" else ec.SECP256R1()
            return ec.derive_private_key(int.from_bytes(private), curve)
        loaded = serialization.load_der_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise broken(what, f"its private key is no {_known(algorithm)} key") from None
    if not isinstance(loaded, Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or (
        _algorithm_of(loaded) != algorithm
    ):
        raise broken(what, f"its private key is no {_known(algorithm)} key")
    return loaded


def public_agrees(key: PrivateKey, public: bytes) -> bool:
    """Whether `public` is this key's public half, in any of the usual encodings."""
    encodings: list[bytes]
    if isinstance(key, Ed25519PrivateKey):
        encodings = [key.public_key().public_bytes_raw()]
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        points = (serialization.PublicFormat.CompressedPoint, serialization.PublicFormat.UncompressedPoint)
        encodings = [key.public_key().public_bytes(serialization.Encoding.X962, point) for point in points]
    else:
        encodings = [key.public_key().public_bytes(_DER, serialization.PublicFormat.PKCS1)]
    spki = key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public in (*encodings, spki)


def pem_of(key: PrivateKey) -> bytes:
    """Unencrypted PKCS#8 PEM: the form in which a provider's key is restored."""
    return key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption())


def address_of(public: bytes) -> str:
    """CometBFT's address of an Ed25519 public key: the first 20 bytes of its SHA-256, lower-case hexadecimal."""
    return hashlib.sha256(public).digest()[:ADDRESS_BYTES].hex()


def broken(what: str, why: str) -> CorruptError:
    """The one kind of error of this module; callers never pass content."""
    return CorruptError(f"{what}: {why}", remedy="Restore this key from its newest backup: vedr keys restore.")


def strict_object(data: bytes, *, what: str) -> dict[str, Json]:
    """A JSON object without duplicate members; CorruptError without any of its content."""
    try:
        parsed = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError):
        raise broken(what, "not JSON, or with a member twice") from None
    if not isinstance(parsed, dict):
        raise broken(what, "not a JSON object")
    return parsed


def decode_base64(value: Json, *, what: str, member: str) -> bytes:
    """Bytes as Go's encoding/json writes them: standard base64, padded, in one spelling only."""
    try:
        decoded = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        decoded = None
    if decoded is None or _base64(decoded) != value:
        raise broken(what, f"member {member} is not base64")
    return decoded


def _read_validator(content: bytes, what: str) -> Identity:
    document = _with_members(strict_object(content, what=what), {"address", "pub_key", "priv_key"}, what)
    key = _amino_private(document["priv_key"], what)
    public = key.public_key().public_bytes_raw()
    if _amino_value(document["pub_key"], _PUBLIC_TYPE, "pub_key", what) != public:
        raise broken(what, "its public key is not the one of its private key")
    address = address_of(public).upper()
    if document["address"] != address:
        raise broken(what, "its address is not the one of its key")
    return identity_of(key, address=address)


def _read_node(content: bytes, what: str) -> Identity:
    document = _with_members(strict_object(content, what=what), {"priv_key"}, what)
    key = _amino_private(document["priv_key"], what)
    return identity_of(key, address=address_of(key.public_key().public_bytes_raw()))


def _read_provider(content: bytes, what: str) -> Identity:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise broken(what, "not an unencrypted PKCS#8 PEM") from None
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise broken(what, "a key of an unknown algorithm")
    try:
        return identity_of(key)
    except InvalidInputError as error:
        raise broken(what, error.message) from None


def _amino_private(value: Json, what: str) -> Ed25519PrivateKey:
    expanded = _amino_value(value, _PRIVATE_TYPE, "priv_key", what)
    if len(expanded) != EXPANDED_BYTES:
        raise broken(what, f"its private key has {len(expanded)} bytes, not {EXPANDED_BYTES}")
    return _load_ed25519(expanded, what)


def _amino_value(value: Json, kind: str, member: str, what: str) -> bytes:
    if not isinstance(value, dict):
        raise broken(what, f"member {member} is not an object")
    members = _with_members(value, {"type", "value"}, what)
    if members["type"] != kind:
        raise broken(what, f"member {member} is not of type {kind}")
    return decode_base64(members["value"], what=what, member=f"{member}.value")


def _with_members(document: dict[str, Json], expected: set[str], what: str) -> dict[str, Json]:
    if set(document) != expected:
        raise broken(what, f"its members are not just {', '.join(sorted(expected))}")
    return document


def _load_ed25519(private: bytes, what: str) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.from_private_bytes(private[:SEED_BYTES])
    if len(private) == EXPANDED_BYTES and private[SEED_BYTES:] != key.public_key().public_bytes_raw():
        raise broken(what, "the public half inside its private key is another key's")
    return key


def _algorithm_of(key: PrivateKey) -> str:
    try:
        return identity_of(key).algorithm
    except InvalidInputError:
        return ""


def _known(algorithm: str) -> str:
    return algorithm if algorithm in ALGORITHMS else "known"


def _expanded(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes_raw() + key.public_key().public_bytes_raw()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate member")
    return result


def _no_constants(_: str) -> Json:
    raise ValueError("NaN and Infinity are not JSON")
