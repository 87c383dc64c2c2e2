import hashlib
import json
import threading
from pathlib import Path

import pytest
from chainmaker import CHAIN_ID, make_chain

from vedr.chain import trust
from vedr.chain.trust import TrustStore, parse_genesis, read_genesis
from vedr.chain.wire import RawJson, Value
from vedr.errors import CorruptError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.inventory import Chain

REAL = json.loads((Path(__file__).parent / "kvstore_chain.json").read_text())
CHAIN = make_chain(40, lambda _: {1: 10, 2: 5})


def genesis(**changes: RawJson) -> Value:
    return Value({**REAL["genesis"], **changes}, "genesis")


def chain(path: Path, **changes: object) -> Chain:
    return Chain(
        chain_id=REAL["genesis"]["chain_id"],
        block_time_s=1,
        start=("x",),
        start_isolated=("x",),
        inspect=("x",),
        genesis=path,
        genesis_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64,
    ).model_copy(update=changes)


def test_a_pinned_genesis_is_read(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    path.write_text(json.dumps(REAL["genesis"]))
    read = read_genesis(chain(path))

    assert read.initial_height == 1
    assert read.validators.total_power == 65


def test_a_genesis_that_is_missing_other_or_of_another_chain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    with pytest.raises(NotFoundError):
        read_genesis(chain(path))
    path.write_text(json.dumps(REAL["genesis"]))
    with pytest.raises(VerificationFailedError, match="SHA-256"):
        read_genesis(chain(path, genesis_sha256="0" * 64))
    with pytest.raises(VerificationFailedError, match="chain id"):
        read_genesis(chain(path, chain_id="other-1"))


@pytest.mark.parametrize(("written", "height"), [("1", 1), ("0", 1), (None, 1), (7, 7), ("9", 9)])
def test_the_initial_height_is_read_as_cometbft_and_the_sdk_write_it(written: RawJson, height: int) -> None:
    assert parse_genesis(genesis(initial_height=written)).initial_height == height


def test_the_sdks_layout_is_read_and_a_genesis_without_validators_refused() -> None:
    raw = dict(REAL["genesis"])
    listed = raw.pop("validators")
    assert parse_genesis(Value({**raw, "consensus": {"validators": listed}}, "g")).validators.total_power == 65
    for empty in ({**raw, "validators": []}, {**raw, "consensus": {"validators": None}}, raw):
        with pytest.raises(InvalidInputError, match="names no validators"):
            parse_genesis(Value(empty, "g"))


def test_what_is_remembered_is_read_again_to_the_nanosecond(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "new", CHAIN_ID)
    assert store.load() == {}
    store.remember(CHAIN[7].header, CHAIN[9].header)
    store.remember(CHAIN[8].header, CHAIN[9].header)

    assert store.load() == {height: CHAIN[height].header for height in (7, 8, 9)}


def test_a_second_history_is_never_remembered(tmp_path: Path) -> None:
    store = TrustStore(tmp_path, CHAIN_ID)
    store.remember(CHAIN[7].header)
    fork = make_chain(7, lambda _: {1: 10, 2: 5}, flavour=b"fork")
    with pytest.raises(VerificationFailedError, match="remembered as"):
        store.remember(fork[7].header)
    assert store.load()[7] == CHAIN[7].header  # type: ignore[index]


def test_only_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_REMEMBERED", 3)
    store = TrustStore(tmp_path, CHAIN_ID)
    store.remember(*(CHAIN[height].header for height in (1, 2, 3, 4, 5)))
    assert sorted(store.load()) == [3, 4, 5]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    def write(first: int) -> None:
        for height in range(first, 41, 4):
            TrustStore(tmp_path, CHAIN_ID).remember(CHAIN[height].header)

    threads = [threading.Thread(target=write, args=(first,)) for first in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(TrustStore(tmp_path, CHAIN_ID).load()) == list(range(1, 41))


def test_any_change_to_the_stored_file_is_noticed(tmp_path: Path) -> None:
    store = TrustStore(tmp_path, CHAIN_ID)
    store.remember(CHAIN[7].header)
    whole = store.path.read_text()
    hash_7 = CHAIN[7].header.hash().hex().upper()
    app_7 = CHAIN[7].header.app_hash.hex().upper()
    for old, new in (
        ('"version": 1', '"version": 2'),
        (f'"chain_id": "{CHAIN_ID}",\n "headers"', '"chain_id": "other-1",\n "headers"'),
        (hash_7, "00" + hash_7[2:]),
        (app_7, "00" + app_7[2:]),
        ("}", ""),
    ):
        assert old in whole
        store.path.write_text(whole.replace(old, new, 1))
        with pytest.raises(CorruptError, match="trust store") as caught:
            store.load()
        assert "Move" in caught.value.remedy
