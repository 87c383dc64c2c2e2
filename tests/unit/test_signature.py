"""Signed documents: nothing is believed that a trusted key did not sign, byte for byte."""

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from vedr import signature
from vedr.errors import CorruptError, InvalidInputError, VerificationFailedError
from vedr.signature import Signer, canonical_json, open_document

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = Signer(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
TRUSTED = [SIGNER.public_hex]
DOCUMENT = SIGNER.seal_document({"height": 7, "files": ["a", "b"], "name": "höhe"})

documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(signed=documents)
def test_what_was_sealed_is_what_opens(signed: dict[str, signature.Json]) -> None:
    assert open_document(SIGNER.seal_document(signed), TRUSTED, what="it") == signed


def test_every_single_bit_flip_is_refused() -> None:
    for position in range(len(DOCUMENT) * 8):
        damaged = bytearray(DOCUMENT)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationFailedError):
            open_document(bytes(damaged), TRUSTED, what="it")


@pytest.mark.parametrize("spelling", [str.upper, " ".join])
def test_another_spelling_of_the_same_signature_is_refused(spelling: Callable[[str], str]) -> None:
    document = json.loads(DOCUMENT)
    document["signatures"][0]["sig"] = spelling(document["signatures"][0]["sig"])
    with pytest.raises(CorruptError):
        open_document(canonical_json(document), TRUSTED, what="it")


def test_the_same_signature_twice_is_refused() -> None:
    document = json.loads(SIGNER.seal_document({"a": 1}))
    document["signatures"] *= 2
    with pytest.raises(CorruptError, match="canonical"):
        open_document(canonical_json(document), [SIGNER.public_hex], what="it")


def test_every_truncation_is_refused() -> None:
    for length in range(len(DOCUMENT)):
        with pytest.raises(CorruptError):
            open_document(DOCUMENT[:length], TRUSTED, what="it")


def test_a_strangers_signature_is_named_and_refused() -> None:
    stranger = OTHER.seal_document({"height": 7})
    with pytest.raises(VerificationFailedError, match=OTHER.keyid[:16]):
        open_document(stranger, TRUSTED, what="it")


def test_a_document_that_nobody_signed_is_refused() -> None:
    with pytest.raises(VerificationFailedError, match="nobody"):
        open_document(canonical_json({"signatures": [], "signed": {}}), TRUSTED, what="it")


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"null",
        b'{"signatures":[],"signed":[]}',
        b'{"extra":1,"signatures":[],"signed":{}}',
        b'{"signatures":[],"signed":{"a":1,"a":1}}',
        b'{"signatures": [], "signed": {}}',
        b'{"signatures":[{"keyid":"x","sig":"zz"}],"signed":{}}',
        b'{"signatures":7,"signed":{}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_canonical_signed_document_is_called_corrupt(document: bytes) -> None:
    with pytest.raises(CorruptError):
        open_document(document, TRUSTED, what="it")


def test_an_oversized_document_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "MAX_DOCUMENT_BYTES", 10)
    with pytest.raises(CorruptError, match="more than 10"):
        open_document(DOCUMENT, TRUSTED, what="it")


def test_a_second_trusted_signature_is_enough() -> None:
    body = {"height": 7}
    ours, theirs = (json.loads(signer.seal_document(body))["signatures"][0] for signer in (SIGNER, OTHER))
    document = canonical_json({"signatures": [theirs, ours], "signed": body})
    assert open_document(document, TRUSTED, what="it") == body


def test_a_signer_comes_from_pem_and_never_shows_a_bad_one() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    encoding, fmt = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, fmt, serialization.NoEncryption())
    assert Signer.from_pem(pem).public_hex == SIGNER.public_hex
    with pytest.raises(InvalidInputError) as refused:
        Signer.from_pem(b"c2VjcmV0LWlucHV0")
    assert "c2VjcmV0" not in str(refused.value)
    assert refused.value.__cause__ is None
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(encoding, fmt, serialization.NoEncryption())
    with pytest.raises(InvalidInputError, match="not Ed25519"):
        Signer.from_pem(curve)
