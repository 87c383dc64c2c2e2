"""Public keys: one encoding, strict parsing, signatures of every kind."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vedr.custody.hsm_keys import (
    ED25519_NAME,
    ED25519_OID,
    P256_OID,
    SECP256K1_OID,
    from_ed25519,
    from_modulus,
    from_point,
    from_spki,
)
from vedr.errors import CorruptError, VerificationFailedError

CURVES = {P256_OID: ec.SECP256R1(), SECP256K1_OID: ec.SECP256K1()}
RAW = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
RECORDED_CHAIN = Path(__file__).parents[1] / "chain" / "kvstore_chain.json"


def octets(data: bytes) -> bytes:
    return bytes([4, len(data)]) + data


def spki_of(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("params", [ED25519_OID, ED25519_NAME])
@pytest.mark.parametrize("point", [RAW, octets(RAW)])
def test_an_ed25519_point_is_taken_bare_and_wrapped(params: bytes, point: bytes) -> None:
    key = from_point(params, point)
    assert key == from_ed25519(RAW)
    assert key.raw_ed25519 == RAW


def test_a_raw_key_that_looks_wrapped_is_taken_as_it_is() -> None:
    """32 bytes that begin with 04 1E: tag and length of the 30 that follow."""
    looks_wrapped = b"\x04\x1e" + RAW[2:]
    key = from_point(ED25519_OID, looks_wrapped)
    assert key is None or key.raw_ed25519 == looks_wrapped


@pytest.mark.parametrize("params", CURVES)
def test_a_curves_point_and_its_signatures_are_read(params: bytes) -> None:
    private = ec.derive_private_key(77, CURVES[params])
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key = from_point(params, octets(point))
    assert key is not None
    assert key == from_point(params, point) == from_spki(spki_of(private.public_key()), what="key")
    r, s = decode_dss_signature(private.sign(b"message", ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    key.verify(signature, b"message", what="key")
    for wrong in (signature[:-1], signature + b"\0", b"", bytes(64), signature[32:] + signature[:32]):
        with pytest.raises(VerificationFailedError, match="does not verify"):
            key.verify(wrong, b"message", what="key")
    with pytest.raises(VerificationFailedError, match="where Ed25519 is needed"):
        _ = key.consensus_address


def test_an_rsa_key_and_its_signatures_are_read() -> None:
    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    key = from_modulus(numbers.n.to_bytes(256, "big"), b"\1\0\1")
    assert key is not None
    assert key.kind == "rsa-2048"
    key.verify(private.sign(b"m", padding.PKCS1v15(), hashes.SHA256()), b"m", what="key")
    with pytest.raises(VerificationFailedError):
        key.verify(private.sign(b"n", padding.PKCS1v15(), hashes.SHA256()), b"m", what="key")
    assert from_modulus(numbers.n.to_bytes(256, "big"), b"\3") is None
    assert from_modulus((1 << 1535).to_bytes(192, "big")[:-1] + b"\1", b"\1\0\1") is None
    assert from_modulus(b"\1", b"\1") is None


def test_an_ed25519_signature_is_checked() -> None:
    private, key = Ed25519PrivateKey.from_private_bytes(bytes(32)), from_ed25519(RAW)
    key.verify(private.sign(b"m"), b"m", what="key")
    with pytest.raises(VerificationFailedError, match="under the public key " + key.fingerprint):
        key.verify(private.sign(b"n"), b"m", what="key")


@pytest.mark.parametrize(
    ("params", "point"),
    [
        (b"\x06\x03\x2b\x65\x71", bytes(57)),
        (b"", RAW),
        (ED25519_OID, RAW[:-1]),
        (ED25519_OID, b""),
        (ED25519_OID, octets(RAW)[:-1]),
        (P256_OID, RAW),
        (P256_OID, b"\x04" + bytes(64)),
        (SECP256K1_OID, b"\x04" + b"\xff" * 64),
    ],
    ids=range(8),
)
def test_what_is_no_point_of_a_known_curve_is_no_key(params: bytes, point: bytes) -> None:
    assert from_point(params, point) is None


def test_only_known_kinds_in_their_one_encoding_are_read_from_der() -> None:
    p384 = ec.derive_private_key(77, ec.SECP384R1()).public_key()
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + (
        ec.derive_private_key(77, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    x25519 = bytes.fromhex("302a300506032b656e032100") + RAW
    for der in (spki_of(p384), compressed, x25519, b"", b"0", from_ed25519(RAW).spki + b"\0"):
        with pytest.raises(CorruptError, match="not a public key of a known kind"):
            from_spki(der, what="key")


def test_a_flipped_bit_is_another_key_or_none() -> None:
    whole = from_ed25519(RAW)
    for position in range(len(whole.spki) * 8):
        spki = bytearray(whole.spki)
        spki[position // 8] ^= 1 << position % 8
        try:
            key = from_spki(bytes(spki), what="key")
        except CorruptError:
            continue
        assert key != whole


def test_the_consensus_address_is_the_one_that_a_real_chain_uses() -> None:
    found = 0
    waiting = [json.loads(RECORDED_CHAIN.read_text())]
    while waiting:
        match waiting.pop():
            case {"address": str(address), "pub_key": {"type": "tendermint/PubKeyEd25519", "value": str(value)}}:
                assert from_ed25519(base64.b64decode(value)).consensus_address == address
                found += 1
            case dict() as members:
                waiting += members.values()
            case list() as items:
                waiting += items
    assert found
