"""Key files: what agrees with itself is read, all else is refused without a word of its content."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keysworld import PATHS

from vedr.custody import key_material
from vedr.custody.key_material import (
    KINDS,
    KeyKind,
    address_of,
    identity_of,
    load_private,
    new_key_file,
    pem_of,
    public_agrees,
    read_key_file,
)
from vedr.errors import CorruptError, InvalidInputError

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()
NEEDLES = (SEED.hex().encode(), base64.b64encode(SEED), base64.b64encode(SEED + PUBLIC), SEED)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def validator_json(**changes: Any) -> bytes:
    document = {
        "address": address_of(PUBLIC).upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": b64(PUBLIC)},
        "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": b64(SEED + PUBLIC)},
    }
    return json.dumps({**document, **changes}).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_key_file_is_one_that_its_program_reads(kind: KeyKind) -> None:
    file = new_key_file(kind, PATHS[kind])
    again = read_key_file(kind, file.path, file.content, what="x")
    assert again == file
    assert file.content.decode()[:40] not in repr(file)
    assert len(file.identity.fingerprint) == 64
    assert bool(file.identity.address) == (kind != "provider")


def test_the_address_is_cometbfts() -> None:
    """From the CometBFT documentation's form: first 20 bytes of the SHA-256 of the raw public key."""
    identity = read_key_file("validator", "x", validator_json(), what="x").identity
    assert identity.address == address_of(PUBLIC).upper()
    node = json.dumps({"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": b64(SEED + PUBLIC)}}).encode()
    assert read_key_file("node", "x", node, what="x").identity.address == address_of(PUBLIC)


OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("validator", b""),
        ("validator", b"x" * 70_000),
        ("validator", b"{"),
        ("validator", b"[]"),
        ("validator", b'{"address": NaN}'),
        ("validator", b"[" * 60_000),
        ("validator", validator_json(more=1)),
        ("validator", validator_json(address="00" * 20)),
        ("validator", validator_json(address=address_of(PUBLIC))),
        ("validator", validator_json(pub_key={"type": "tendermint/PubKeyEd25519", "value": b64(OTHER)})),
        ("validator", validator_json(pub_key={"type": "tendermint/PubKeySecp256k1", "value": b64(PUBLIC)})),
        ("validator", validator_json(pub_key="x")),
        ("validator", validator_json(priv_key={"type": "tendermint/PrivKeyEd25519", "value": b64(SEED + OTHER)})),
        ("validator", validator_json(priv_key={"type": "tendermint/PrivKeyEd25519", "value": b64(SEED)})),
        ("validator", validator_json(priv_key={"type": "tendermint/PrivKeyEd25519", "value": 7})),
        ("validator", validator_json(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "!!"})),
        ("validator", validator_json(priv_key={"type": "tendermint/PrivKeyEd25519", "value": b64(SEED + PUBLIC)[:-1]})),
        ("validator", validator_json(priv_key={"value": b64(SEED + PUBLIC)})),
        ("validator", validator_json()[:-1] + b', "address": "x"}'),
        ("node", validator_json()),
        ("provider", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("provider", validator_json()),
    ],
)
def test_what_does_not_agree_with_itself_is_refused_and_not_shown(kind: KeyKind, content: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        read_key_file(kind, "x", content, what="the file")
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__suppress_context__}".encode()
    assert not any(needle in shown for needle in NEEDLES)


DER = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "ed25519": KEY,
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa2048": RSA,
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_algorithm_goes_through_der_and_pem(algorithm: str) -> None:
    key = KEYS[algorithm]
    none = serialization.NoEncryption()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, none)
    loaded = load_private(algorithm, der, what="x")
    assert identity_of(loaded) == identity_of(key)
    file = read_key_file("provider", "keys/x.pem", pem_of(key), what="x")
    assert file.identity == identity_of(key)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public_agrees(key, spki)
    assert not public_agrees(key, b"other")


def test_go_s_raw_forms_are_read() -> None:
    assert identity_of(load_private("ed25519", SEED, what="x")) == identity_of(KEY)
    assert identity_of(load_private("ed25519", SEED + PUBLIC, what="x")) == identity_of(KEY)
    scalar = KEYS["secp256k1"].private_numbers().private_value.to_bytes(32)
    assert identity_of(load_private("secp256k1", scalar, what="x")) == identity_of(KEYS["secp256k1"])
    scalar = KEYS["p256"].private_numbers().private_value.to_bytes(32)
    assert identity_of(load_private("p256", scalar, what="x")) == identity_of(KEYS["p256"])
    assert public_agrees(KEY, PUBLIC)
    point = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert public_agrees(KEYS["p256"], KEYS["p256"].public_key().public_bytes(*point))


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [
        ("ed25519", b"short"),
        ("ed25519", SEED + OTHER),
        ("secp256k1", bytes(32)),
        ("dsa", SEED),
        ("rsa4096", RSA.private_bytes(*DER)),
        ("p256", KEYS["secp256k1"].private_bytes(*DER)),
    ],
)
def test_a_private_key_of_another_algorithm_is_refused(algorithm: str, private: bytes) -> None:
    with pytest.raises(CorruptError):
        load_private(algorithm, private, what="x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 3072),
        lambda: dsa.generate_private_key(2048),
    ],
)
def test_other_algorithms_are_named_as_such(make: Callable[[], Any]) -> None:
    key = make()
    with pytest.raises(CorruptError, match="unknown algorithm"):
        read_key_file("provider", "x", pem_of(key), what="x")
    if not isinstance(key, dsa.DSAPrivateKey):
        with pytest.raises(InvalidInputError):
            identity_of(key)
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with pytest.raises(CorruptError):
            load_private("rsa4096", der, what="x")


FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(FUZZ, max_examples=60)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_flipped_bit_or_a_cut_gives_our_error_or_the_same_key(data: st.DataObject, kind: KeyKind) -> None:
    file = FILES[kind]
    content = bytearray(file.content)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) * 8 - 1))
        content[place // 8] ^= 1 << place % 8
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    try:
        read = read_key_file(kind, file.path, bytes(content), what="x")
    except CorruptError:
        return
    # A PEM holds no public half: a flip in it is another key, which the comparison with the catalogue finds.
    assert kind == "provider" or read.identity == file.identity


FILES = {kind: new_key_file(kind, PATHS[kind]) for kind in KINDS}


@settings(FUZZ, max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["address", "pub_key", "priv_key", "type", "value"]), inner, max_size=4),
                    max_leaves=8))  # fmt: skip
def test_any_json_gives_our_error(value: Any) -> None:
    for kind in KINDS:
        with pytest.raises(CorruptError):
            read_key_file(kind, "x", json.dumps(value).encode(), what="x")


def test_base64_has_one_spelling() -> None:
    assert key_material.decode_base64("AA==", what="x", member="m") == b"\0"
    for wrong in ("AB==", "AA=", "A A==", None, 7):
        with pytest.raises(CorruptError):
            key_material.decode_base64(wrong, what="x", member="m")
