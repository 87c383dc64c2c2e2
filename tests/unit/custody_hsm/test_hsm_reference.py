"""Making, sealing and reading the record of a key."""

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters.pkcs11_token_provisioning import import_ed25519
from vedr.custody.hsm_examine import KeyName
from vedr.custody.hsm_keys import PublicKey
from vedr.custody.hsm_reference import open_reference, seal
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    RefusedError,
    VedrError,
    VerificationFailedError,
)
from vedr.signature import Signer

MakeKey = Callable[[int], tuple[bytes, PublicKey]]
Pair = Any
NOW = dt.datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=dt.UTC)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUSTED = (SIGNER.public_hex,)


def test_a_reference_needs_a_label_that_can_name_a_record(pair: Pair) -> None:
    with pytest.raises(InvalidInputError, match="can't name a record"):
        pair.reference(label="../val-0")


def test_a_reference_needs_its_primary(pair: Pair) -> None:
    with pytest.raises(InvalidInputError, match="no token in ap-south"):
        pair.reference(primary="ap-south")


def test_a_reference_is_not_made_of_a_kind_that_is_not_known(pair: Pair) -> None:
    ed448 = b"\x06\x03\x2b\x65\x71"
    pair.bench.put_public(pair.tokens["us-east"], pair.public.raw_ed25519, "odd", b"\x05", EC_PARAMS=ed448)
    with pytest.raises(VerificationFailedError, match="of no known kind"):
        pair.reference(label="odd")


def test_a_reference_is_not_made_of_unequal_replicas(pair: Pair, make_key: MakeKey) -> None:
    pair.spoil("eu-west", lambda token: import_ed25519(token, make_key(2)[0], label="val-0", key_id=b"\x01"))
    with pytest.raises(VerificationFailedError, match=r"^eu-west: .*by the reference"):
        pair.reference()


def altered(sealed: bytes, change: Callable[[Any], None]) -> bytes:
    signed = json.loads(sealed)["signed"]
    change(signed)
    return SIGNER.seal_document(signed)


def test_a_record_comes_back_as_it_was_and_is_sealed_alike(pair: Pair, sealed: bytes) -> None:
    reference = open_reference(sealed, TRUSTED, what="record")
    assert seal(reference, SIGNER) == sealed
    assert (reference.name, reference.public) == (KeyName("val-0", b"\x01"), pair.public)
    assert reference.created_at == NOW.replace(microsecond=0)
    assert {region: token.role for region, token in reference.tokens.items()} == {
        "us-east": "primary",
        "eu-west": "replica",
    }


def _set(path: str, value: object) -> Callable[[Any], None]:
    *folders, last = path.split("/")

    def change(signed: Any) -> None:
        for folder in folders:
            signed = signed[folder]
        signed[last] = value

    return change


def _remove(path: str) -> Callable[[Any], None]:
    *folders, last = path.split("/")

    def change(signed: Any) -> None:
        for folder in folders:
            signed = signed[folder]
        del signed[last]

    return change


@pytest.mark.parametrize(
    "path",
    [
        "private_key",
        "key/privateKey",
        "key/CKA_VALUE",
        "key/value",
        "key/seed",
        "key/d",
        "key/prime_1",
        "tokens/us-east/pin",
        "tokens/us-east/facts/CKA_PRIVATE_EXPONENT",
        "tokens/eu-west/attributes/secret",
    ],
)
def test_a_record_with_a_field_for_a_private_value_is_refused_and_not_shown(sealed: bytes, path: str) -> None:
    with pytest.raises(RefusedError, match="never holds a private value") as caught:
        open_reference(altered(sealed, _set(path, "geheim")), TRUSTED, what="record")
    assert "geheim" not in str(caught.value)
    assert "compromised" in caught.value.remedy


@pytest.mark.parametrize("text", ["-----BEGIN PRIVATE KEY-----geheim", b"x EC PRIVATE KEY geheim".hex()])
def test_a_private_key_in_any_text_is_refused(sealed: bytes, text: str) -> None:
    for change in (_set("tokens/us-east/attestation", text), _set("site", [[text]])):
        with pytest.raises(RefusedError, match="a private key's text"):
            open_reference(altered(sealed, change), TRUSTED, what="record")


def test_a_record_that_would_be_refused_is_never_sealed(pair: Pair) -> None:
    reference = pair.reference()
    token = dataclasses.replace(reference.tokens["us-east"], pin_reference="4711")
    with pytest.raises(CorruptError, match="pin_reference is no reference") as caught:
        seal(dataclasses.replace(reference, tokens={**reference.tokens, "us-east": token}), SIGNER)
    assert "4711" not in str(caught.value)
    token = dataclasses.replace(token, attestation=b"PRIVATE KEY")
    with pytest.raises(RefusedError):
        seal(dataclasses.replace(reference, tokens={"us-east": token}), SIGNER)


@pytest.mark.parametrize(
    "change",
    [
        _set("format", "vedr-hsm-reference/2"),
        _set("extra", 1),
        _set("key/extra", 1),
        _set("tokens/us-east/extra", 1),
        _set("tokens/us-east/facts/extra", 1),
        _set("tokens/us-east/attributes/extra", 1),
        _remove("site"),
        _remove("key"),
        _remove("tokens/eu-west/facts/serial"),
        _remove("tokens/us-east/attributes/local"),
        _remove("tokens/us-east"),
        _set("tokens", {}),
        _set("tokens", []),
        _set("created_at", "2026-11-23 02:00:00"),
        _set("key/label", "../val-0"),
        _set("key/id", ""),
        _set("key/id", "0"),
        _set("key/id", "AB"),
        _set("key/role", "emperor"),
        _set("key/type", "p-256"),
        _set("key/public_key", "00"),
        _set("key/ec_params", ""),
        _set("key/ec_params", "06082a8648ce3d030107"),
        _set("key/consensus_address", "0" * 40),
        _set("key/consensus_address", None),
        _set("tokens/eu-west/role", "primary"),
        _set("tokens/us-east/role", "replica"),
        _set("tokens/eu-west/pin_reference", "4711"),
        _set("tokens/eu-west/attributes/extractable", True),
        _set("tokens/eu-west/attributes/sensitive", None),
        _set("tokens/eu-west/attributes/local", "false"),
        _set("tokens/eu-west/challenge", b"vote".hex()),
        _set("tokens/eu-west/signature", "zz"),
        _set("tokens/eu-west/facts/serial", "other"),
        _set("tokens/eu-west/facts/module_sha256", "0"),
        _set("tokens/eu-west/facts/mechanisms", "EDDSA  ECDSA"),
        _set("tokens/eu-west/facts/mechanisms", ["EDDSA"]),
    ],
    ids=range(37),
)
def test_a_signed_record_whose_parts_disagree_is_corrupt(sealed: bytes, change: Callable[[Any], None]) -> None:
    with pytest.raises(CorruptError):
        open_reference(altered(sealed, change), TRUSTED, what="record")


def test_two_regions_with_one_token_are_no_reference(sealed: bytes) -> None:
    def change(signed: Any) -> None:
        signed["tokens"]["eu-west"] = signed["tokens"]["us-east"] | {"role": "replica"}

    with pytest.raises(CorruptError, match="same token"):
        open_reference(altered(sealed, change), TRUSTED, what="record")


def test_a_recorded_signature_that_does_not_verify_is_refused(sealed: bytes) -> None:
    with pytest.raises(VerificationFailedError, match="does not verify"):
        open_reference(altered(sealed, _set("tokens/eu-west/signature", "00" * 64)), TRUSTED, what="record")


def test_a_record_that_nobody_trusted_signed_is_refused(sealed: bytes) -> None:
    with pytest.raises(VerificationFailedError, match="no trusted key"):
        open_reference(sealed, ("00" * 32,), what="record")


def test_a_record_out_of_all_size_is_corrupt() -> None:
    with pytest.raises(CorruptError, match="more than"):
        open_reference(b" " * (1024 * 1024 + 1), TRUSTED, what="record")


def test_every_flipped_bit_and_every_truncation_is_refused(sealed: bytes) -> None:
    positions = range(0, len(sealed) * 8, 53)
    for position in positions:
        data = bytearray(sealed)
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationFailedError):
            open_reference(bytes(data), TRUSTED, what="record")
    for length in range(0, len(sealed), 97):
        with pytest.raises(CorruptError):
            open_reference(sealed[:length], TRUSTED, what="record")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from(["zz", "00", "PRIVATE KEY"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["format", "key", "tokens", "value", "id", "us-east", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
_PATHS = [
    *("format", "site", "created_at", "chain_id", "key", "tokens", "key/label", "key/id", "key/role", "key/type"),
    *("key/ec_params", "key/public_key", "key/consensus_address", "tokens/us-east", "tokens/us-east/facts"),
    *("tokens/us-east/attributes", "tokens/us-east/challenge", "tokens/us-east/facts/mechanisms"),
    *("tokens/us-east/attestation", "tokens/us-east/pin_reference", "tokens/us-east/attributes/local"),
]


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(_PATHS), value=_JSON)
def test_any_other_signed_content_is_refused_or_means_the_same(sealed: bytes, path: str, value: object) -> None:
    data = altered(sealed, _set(path, value))
    try:
        reference = open_reference(data, TRUSTED, what="record")
    except VedrError as error:
        assert isinstance(error, VerificationFailedError | RefusedError)  # noqa: PT017
    else:
        assert seal(reference, SIGNER) == data


def test_a_second_reader_finds_the_same(sealed: bytes) -> None:
    second_reader = beside("hsm_second_reader", Path(__file__).with_name("second_reader.py"))
    signed = second_reader.read(sealed, TRUSTED[0])
    reference = open_reference(sealed, TRUSTED, what="record")
    assert signed["key"]["public_key"] == reference.public.spki.hex()
    assert signed["tokens"]["eu-west"]["facts"]["serial"] == reference.tokens["eu-west"].facts.serial
