"""Damage is what it says, where it says, and nowhere else."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from vedr.errors import NotFoundError
from vedr.lab.corruption import KINDS, corrupt


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "validator-0"
    for database in ("application.db", "blockstore.db", "state.db"):
        folder = home / "data" / database
        folder.mkdir(parents=True)
        (folder / "000001.log").write_bytes(journal_of_one_leaf(b"x" * 40_000))
        (folder / "000002.ldb").write_bytes(bytes(range(256)) * 40)
    (home / "data" / "cs.wal").mkdir()
    (home / "data" / "cs.wal" / "wal").write_bytes(b"w" * 5000)
    (home / "data" / "priv_validator_state.json").write_text('{"height": "900", "round": 1, "step": 3}')
    (home / "config").mkdir()
    (home / "config" / "genesis.json").write_text('{"chain_id": "x-1"}')
    (home / "config" / "config.toml").write_text('moniker = "a"\n' * 20)
    (home / "config" / "node_key.json").write_text("{}")
    (home / "config" / "priv_validator_key.json").write_text("{}")
    return home


def journal_of_one_leaf(value: bytes) -> bytes:
    """A LevelDB journal with one batch, in two chunks: iavl's leaf of version 7.  Checksums are left out."""
    leaf = b"\x00\x02" + b"\x01k" + value
    batch = struct.pack("<QI", 5, 1) + b"\x01" + b"\x0d" + b"s" + struct.pack(">QI", 7, 1)
    length = len(leaf)
    batch += bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + leaf
    head, tail = batch[: 32768 - 7], batch[32768 - 7 :]
    return struct.pack("<IHB", 0, len(head), 2) + head + struct.pack("<IHB", 0, len(tail), 4) + tail


def fingerprint(home: Path) -> dict[str, str]:
    files = [path for path in home.rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("what", KINDS)
def test_each_damage_changes_the_home_and_says_so(home: Path, what: str, tmp_path: Path) -> None:
    before = fingerprint(home)
    done = corrupt(home, what, record=tmp_path / "faults.jsonl")
    assert fingerprint(home) != before
    entry = json.loads((tmp_path / "faults.jsonl").read_text())
    assert (entry["node"], entry["what"], entry["done"]) == ("validator-0", what, done)


@pytest.mark.parametrize("what", sorted(set(KINDS) - {"wipe-data", "lost-app-db"}))
def test_damage_to_one_thing_leaves_the_rest(home: Path, what: str, tmp_path: Path) -> None:
    before = fingerprint(home)
    corrupt(home, what, record=tmp_path / "faults.jsonl")
    after = fingerprint(home)
    assert len([name for name in before if after.get(name) != before[name]]) == 1


def test_tables_are_damaged_before_journals_and_keep_their_size(home: Path, tmp_path: Path) -> None:
    table = home / "data" / "application.db" / "000002.ldb"
    size = table.stat().st_size
    assert "000002.ldb" in corrupt(home, "app-db", record=tmp_path / "faults.jsonl")
    assert table.stat().st_size == size


def test_a_diverged_state_is_one_more_record_of_the_journal(home: Path, tmp_path: Path) -> None:
    journal = home / "data" / "application.db" / "000001.log"
    before = journal.read_bytes()
    assert "version 7" in corrupt(home, "app-state", record=tmp_path / "faults.jsonl")
    after = journal.read_bytes()
    assert after.startswith(before)
    assert after.endswith(b"xxxxy")  # the last bit of the value, and the record's second chunk ends the file


def test_a_wiped_disk_holds_nothing_but_keeps_the_configuration(home: Path, tmp_path: Path) -> None:
    corrupt(home, "wipe-data", record=tmp_path / "faults.jsonl")
    assert not list((home / "data").iterdir())
    assert (home / "config" / "priv_validator_key.json").exists()


def test_unknown_damage_lists_what_there_is(home: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="wipe-data"):
        corrupt(home, "nonsense", record=tmp_path / "faults.jsonl")


@pytest.mark.parametrize("what", sorted(KINDS))
def test_damage_to_what_is_not_there_is_an_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty" / "data").mkdir(parents=True)
    if what == "wipe-data":
        assert "nothing" in corrupt(tmp_path / "empty", what, record=tmp_path / "faults.jsonl")
        return
    with pytest.raises(NotFoundError):
        corrupt(tmp_path / "empty", what, record=tmp_path / "faults.jsonl")
