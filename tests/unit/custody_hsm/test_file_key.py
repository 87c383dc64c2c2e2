"""Signing with CometBFT's key file: what is refused, and that nothing of the key is shown."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.file_key import MAX_BYTES, FileKey, parse_key_file
from vedr.errors import CorruptError, NotFoundError, RefusedError, VerificationFailedError

SEED = hashlib.sha256(b"a seed of the tests").digest()
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()
ADDRESS = hashlib.sha256(PUBLIC).hexdigest()[:40].upper()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def document(**changed: object) -> bytes:
    whole: dict[str, object] = {
        "address": ADDRESS,
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": encoded(PUBLIC)},
        "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": encoded(SEED + PUBLIC)},
    }
    return json.dumps(whole | changed, indent=2).encode()


WHOLE = document()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


def private(value: bytes) -> Any:
    return {"type": "tendermint/PrivKeyEd25519", "value": encoded(value)}


def test_the_file_as_cometbft_writes_it_signs(tmp_path: Path) -> None:
    path = tmp_path / "priv_validator_key.json"
    path.touch(mode=0o600)
    path.write_bytes(WHOLE)
    key = FileKey(path)
    assert key.public_key == PUBLIC
    assert key.sign(b"x") == KEY.sign(b"x")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        FileKey(tmp_path / "none.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o611])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(WHOLE)
    path.chmod(mode)
    with pytest.raises(RefusedError, match=f"mode {mode:04o}"):
        FileKey(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "key.json"
    folder.mkdir(mode=0o700)
    with pytest.raises(RefusedError):
        FileKey(folder)


@pytest.mark.parametrize(
    "data",
    [
        document(address=hashlib.sha256(OTHER).hexdigest()[:40].upper()),
        document(address=ADDRESS.lower()),
        document(pub_key={"type": "tendermint/PubKeyEd25519", "value": encoded(OTHER)}),
        document(priv_key=private(SEED + OTHER)),
        document(priv_key=private(bytes(32) + PUBLIC)),
    ],
    ids=["address", "address in small letters", "public", "second half", "seed"],
)
def test_parts_of_different_keys_are_refused(data: bytes) -> None:
    with pytest.raises(VerificationFailedError, match="not of one key"):
        parse_key_file(data, what="key")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 5000,
        WHOLE[:-2],
        WHOLE + b"x",
        WHOLE + b" " * MAX_BYTES,
        WHOLE.replace(b'"address"', b'"address": "", "address"'),
        document(extra=1),
        document(address=7),
        document(priv_key=None),
        document(priv_key=private(SEED)),
        document(priv_key=private(b"")),
        document(priv_key={"type": "tendermint/PrivKeySecp256k1", "value": encoded(SEED + PUBLIC)}),
        document(priv_key={"type": "tendermint/PrivKeyEd25519", "value": 7}),
        document(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "no base64!"}),
        document(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "ümlaut"}),
        document(pub_key={"type": "tendermint/PrivKeyEd25519", "value": encoded(PUBLIC)}),
        b"\xff\xfe",
    ],
    ids=range(20),
)
def test_what_is_no_key_file_is_corrupt_and_not_shown(data: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        parse_key_file(data, what="key")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert encoded(SEED)[:20] not in str(caught.value)


def test_a_flipped_bit_is_refused_or_changes_nothing() -> None:
    for position in range(len(WHOLE) * 8):
        data = bytearray(WHOLE)
        data[position // 8] ^= 1 << position % 8
        try:
            key = parse_key_file(bytes(data), what="key")
        except (CorruptError, VerificationFailedError):
            continue
        assert key.private_bytes_raw() == SEED  # white space, or the unused bits of base64


def test_every_truncation_is_refused() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(CorruptError):
            parse_key_file(WHOLE[:length], what="key")
