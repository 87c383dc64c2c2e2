"""Damage is what it says, where it says, and nowhere else."""

import hashlib
import json
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
        (folder / "000001.log").write_bytes(b"j" * 9000)
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
