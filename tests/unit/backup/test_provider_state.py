"""A provider's checkpoints: read strictly, never ahead of the chain, never moved back."""

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedr.backup.provider_state import (
    Checkpoint,
    locate,
    parse_checkpoint,
    read_checkpoints,
    reconcile,
    write_advances,
)
from vedr.errors import CorruptError, NotFoundError, VerificationFailedError

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
GOOD = {"subscriber_id": "provider-0", "last_sequence": 41_003, "updated_at": "2026-11-22T11:59:00Z"}


def checkpoint(
    sequence: int, *, subscriber: str = "provider-0", file: str = "marketplace_checkpoint.json"
) -> Checkpoint:
    return Checkpoint(file, subscriber, sequence, NOW)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * 70_000,
        json.dumps(GOOD | {"last_sequence": "41003"}).encode(),
        json.dumps(GOOD | {"last_sequence": -1}).encode(),
        json.dumps(GOOD | {"last_sequence": True}).encode(),
        json.dumps(GOOD | {"subscriber_id": ""}).encode(),
        json.dumps(GOOD | {"updated_at": "2026-11-22T11:59:00"}).encode(),
        json.dumps(GOOD | {"updated_at": 5}).encode(),
        json.dumps(GOOD | {"extra": 1}).encode(),
        json.dumps({"subscriber_id": "x"}).encode(),
    ],
)
def test_anything_but_a_checkpoint_is_called_corrupt(broken: bytes) -> None:
    with pytest.raises(CorruptError, match="checkpoint"):
        parse_checkpoint("marketplace_checkpoint.json", broken)


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_checkpoints(tmp_path)


def test_a_checkpoint_ahead_of_the_chain_is_refused() -> None:
    with pytest.raises(VerificationFailedError, match="ahead of the tip 40"):
        locate((checkpoint(41_003),), tip=40, sequences_per_block=1000)


def test_a_checkpoint_knows_its_block_and_its_distance() -> None:
    (position,) = locate((checkpoint(41_003),), tip=50, sequences_per_block=1000)
    assert (position.height, position.behind_blocks) == (41, 9)


def test_another_providers_snapshot_is_refused() -> None:
    with pytest.raises(VerificationFailedError, match="another provider"):
        reconcile((checkpoint(1),), (checkpoint(1, subscriber="provider-9"),))


@given(restored=st.integers(0, 10**12), surviving=st.none() | st.integers(0, 10**12))
def test_reconciling_never_moves_a_checkpoint_back(restored: int, surviving: int | None) -> None:
    survivors = () if surviving is None else (checkpoint(surviving),)
    (advance,) = reconcile((checkpoint(restored),), survivors)
    assert advance.last_sequence == max(restored, surviving or 0)
    assert advance.skips_replay_of >= 0


def test_what_was_reconciled_is_what_the_daemon_reads(tmp_path: Path) -> None:
    (tmp_path / "marketplace_checkpoint.json").write_text(json.dumps(GOOD))
    advances = reconcile(read_checkpoints(tmp_path), (checkpoint(50_001),))
    for _ in range(2):
        write_advances(tmp_path, advances, NOW)
    assert [c.last_sequence for c in read_checkpoints(tmp_path)] == [50_001]
    assert [path.name for path in tmp_path.iterdir()] == ["marketplace_checkpoint.json"]
