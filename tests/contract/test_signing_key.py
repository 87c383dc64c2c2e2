"""What every SigningKey must do; run against a PKCS#11 token and a key file."""

import base64
import concurrent.futures
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vedr.adapters.file_key import FileKey
from vedr.adapters.pkcs11_token_key import open_token_key
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.ports import SigningKey

SEED = bytes(3) + bytes(range(29))  # leading zeros, which an encoder of big integers would cut off
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()


def key_file(path: Path) -> Path:
    private = {"type": "tendermint/PrivKeyEd25519", "value": base64.b64encode(SEED + PUBLIC).decode()}
    public = {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(PUBLIC).decode()}
    address = hashlib.sha256(PUBLIC).hexdigest()[:40].upper()
    path.touch(mode=0o600)
    path.write_text(json.dumps({"address": address, "pub_key": public, "priv_key": private}, indent=2))
    return path


@pytest.fixture(scope="module", params=["token", "file"])
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKey]:
    folder = tmp_path_factory.mktemp("key")
    if request.param == "file":
        yield FileKey(key_file(folder / "priv_validator_key.json"))
        return
    soft_hsm: Any = request.getfixturevalue("make_soft_hsm")(folder)
    hsm = soft_hsm.make("us-east")
    with TokenProcess(hsm, soft_hsm.pin, writable=True) as token:
        token.import_ed25519(SEED, label="val-0", key_id=b"\x01")
    with open_token_key(hsm, soft_hsm.pin, label="val-0") as opened:
        yield opened


def test_the_public_key_is_the_raw_one(key: SigningKey) -> None:
    assert key.public_key == PUBLIC


@pytest.mark.parametrize("size", [0, 1, 64, 120, 4096, 100_000])
def test_a_signature_is_the_one_that_the_rfc_prescribes(key: SigningKey, size: int) -> None:
    message = b"m" * size
    signature = key.sign(message)
    assert signature == KEY.sign(message)  # deterministic (RFC 8032), pure, not prehashed
    Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)


def test_a_signature_is_of_its_message_only(key: SigningKey) -> None:
    signature = key.sign(b"one")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, b"other")


def test_threads_get_the_signatures_of_their_own_messages(key: SigningKey) -> None:
    messages = [f"message {number}".encode() * number for number in range(64)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(key.sign, messages))
    assert signatures == [KEY.sign(message) for message in messages]


def test_the_key_shows_nothing_of_its_private_half(key: SigningKey) -> None:
    shown = f"{key!r} {key!s} {getattr(key, '__dict__', '')}"
    assert SEED.hex() not in shown
    assert base64.b64encode(SEED[:30]).decode() not in shown
