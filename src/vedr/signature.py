"""Signed documents: canonical JSON under Ed25519 signatures, as manifests and ledger entries use them.

The layout is The Update Framework's: `{"signatures": [{"keyid", "sig"}], "signed": {…}}`, where each signature covers
the canonical form of `signed` and a key's id is the SHA-256 of its raw public key (docs/formats/signed-document.md).

Guarantees: `open_document` returns content only when a trusted key signed exactly these bytes.
Leaves out: where keys come from.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vedr.errors import CorruptError, InvalidInputError, VerificationFailedError

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
"""No floats: their text differs between writers."""

MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024  # a manifest of 2 million files; more is an attack or a mistake


def canonical_json(value: Json) -> bytes:
    """The one encoding that is signed and hashed: UTF-8, keys sorted, no white space, no floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def summed_json(document: dict[str, Json]) -> bytes:
    """Canonical JSON with one more member, `sum`: the SHA-256 of the document without it.

    For objects that are replaced too often to be signed: a flipped digit is damage then, and no lower number.
    """
    return canonical_json({**document, "sum": hashlib.sha256(canonical_json(document)).hexdigest()})


class Signer:
    """Holds one Ed25519 private key; shows only its public half."""

    __slots__ = ("_key", "keyid", "public_hex")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes_raw()
        self.public_hex: Final = raw.hex()
        self.keyid: Final = hashlib.sha256(raw).hexdigest()

    @classmethod
    def from_pem(cls, pem: bytes) -> "Signer":
        """From an unencrypted PKCS#8 PEM; the error never shows the input."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            raise InvalidInputError(
                "the signing key is not an unencrypted PKCS#8 PEM", remedy="Check the reference in [signing]."
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInputError(
                "the signing key is not Ed25519", remedy="Make one: openssl genpkey -algorithm ed25519."
            )
        return cls(key)

    def seal_document(self, signed: Mapping[str, Json]) -> bytes:
        """The document's bytes, ready to store."""
        body = dict(signed)
        signature = self._key.sign(canonical_json(body)).hex()
        return canonical_json({"signatures": [{"keyid": self.keyid, "sig": signature}], "signed": body})


def open_document(data: bytes, trusted: Iterable[str], *, what: str) -> dict[str, Json]:
    """The signed content, verified.

    Args:
        data: The stored bytes; must be canonical, so that one content has one hash.
        trusted: Public keys, raw 32 bytes in hex.
        what: Names the document in errors.

    Raises:
        CorruptError: not such a document, or not canonical.
        VerificationFailedError: no trusted key signed it.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CorruptError(
            f"{what}: {len(data)} bytes, more than {MAX_DOCUMENT_BYTES}", remedy="Use another region's copy."
        )
    try:
        document = json.loads(data, object_pairs_hook=_no_duplicates)
        canonical = canonical_json(document) == data
        signed, signatures = document["signed"], document["signatures"]
        offered = [(str(entry["keyid"]), bytes.fromhex(entry["sig"])) for entry in signatures]
        # Hexadecimal may hold capitals and spaces; only one spelling is canonical, or one content has several hashes.
        canonical &= signatures == [{"keyid": keyid, "sig": sig.hex()} for keyid, sig in offered]
        canonical &= len({keyid for keyid, _ in offered}) == len(offered)  # a key signs once, for the same reason
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorruptError(f"{what}: not a signed document", remedy="Use another region's copy.") from None
    if not canonical or set(document) != {"signed", "signatures"} or not isinstance(signed, dict):
        raise CorruptError(f"{what}: not in canonical form", remedy="Use another region's copy.")
    keys = {hashlib.sha256(raw).hexdigest(): raw for raw in map(bytes.fromhex, trusted)}
    body = canonical_json(signed)
    for keyid, signature in offered:
        if keyid in keys and _verifies(keys[keyid], signature, body):
            return signed
    raise VerificationFailedError(
        f"{what}: no trusted key signed it (signed by {', '.join(k[:16] for k, _ in offered) or 'nobody'})",
        remedy="If the signer is yours, add its public key to [signing] trusted; otherwise treat it as forged.",
    )


def _verifies(public_key: bytes, signature: bytes, body: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, body)
    except InvalidSignature:
        return False
    return True


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result
