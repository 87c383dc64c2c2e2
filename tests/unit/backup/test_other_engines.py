"""Databases of an engine that vedr does not know are refused, and never taken for damaged or for backed up."""

import json
from pathlib import Path
from typing import Any

import pytest

from vedr.adapters.inspector import CommandInspector
from vedr.errors import CorruptError, RefusedError
from vedr.inventory import Chain


def inspector(*command: str) -> CommandInspector:
    chain: dict[str, Any] = {"chain_id": "chain-1", "block_time_s": 1, "start": ("x",), "start_isolated": ("x",)}
    return CommandInspector(Chain(**chain, inspect=command, genesis=Path("/g"), genesis_sha256="0" * 64))


def says(backend: str) -> str:
    heights = dict.fromkeys(("store_base", "store_height", "state_height", "app_height"), 7)
    told = {"chain_id": "chain-1", "consistent": True, "app_hash": "AB", "db_backend": backend, **heights}
    return json.dumps(told).replace("{", "{{").replace("}", "}}")  # the command is a template


def test_a_folder_of_pebble_or_rocksdb_is_refused_before_a_program_calls_it_damaged(tmp_path: Path) -> None:
    database = tmp_path / "data" / "application.db"
    database.mkdir(parents=True)
    with pytest.raises(CorruptError):
        inspector("false").inspect(tmp_path, tmp_path / "data")
    (database / "OPTIONS-000003").touch()
    with pytest.raises(RefusedError, match="Pebble or RocksDB, this site's databases are goleveldb") as found:
        inspector("false").inspect(tmp_path, tmp_path / "data")
    assert "not said to be damaged" in found.value.remedy


def test_what_the_program_itself_says_is_of_another_engine_is_refused(tmp_path: Path) -> None:
    assert inspector("echo", says("goleveldb")).inspect(tmp_path, tmp_path).state_height == 7
    with pytest.raises(RefusedError, match="is of pebbledb"):
        inspector("echo", says("pebbledb")).inspect(tmp_path, tmp_path)
