"""A node's last words: what means damage, and that only the last run of the node counts."""

from pathlib import Path

import pytest

from vedr.failover.corruption_signs import MAX_QUOTED, read_signs, signs_in

START = "I[2026-11-22|10:00:00.000] Version info     tendermint_version=0.38.21 abci=2.0.0"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('E CONSENSUS FAILURE!!! err="invalid block: wrong Block.Header.AppHash.  Expected AB, got CD"', "state"),
        ("panic: state.AppHash does not match AppHash after replay. Got AB, expected CD", "state"),
        ("panic: leveldb/table: corruption on data-block (pos=2048): checksum mismatch, want=0x1 got=0x2", "database"),
        ("open state.db: leveldb: manifest corrupted (field 'comparer'): missing [file=MANIFEST-000001]", "database"),
        ("failed to read in /h/config/config.toml: While parsing config: toml: expected character", "config"),
        ("Error: error in config file: timeout_propose can't be negative", "config"),
    ],
)  # fmt: skip
def test_what_nodes_say_of_damage_is_recognised(line: str, kind: str) -> None:
    (found,) = signs_in([START, line, "and more"])
    assert found.kind == kind
    assert line[:MAX_QUOTED] in found.detail


@pytest.mark.parametrize(
    "line",
    [
        "I committed state app_hash=AB height=7",
        'E Error on catchup replay; proceeding to start node anyway err="cannot replay height 7"',
        'E The WAL file is corrupted; attempting repair err="DataCorruptionError[checksums do not match]"',
        "E dialing failed (attempts: 3): connection refused",
    ],
)
def test_ordinary_trouble_is_no_damage(line: str) -> None:
    assert not signs_in([START, line])


def test_only_the_last_start_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join([START, "panic: leveldb: corruption on x", "\x1b[32m" + START, "I fine"]))
    assert not read_signs(log)
    log.write_text(log.read_text() + "\nwrong \x1b[0mBlock.Header.AppHash\n")
    assert [one.subject for one in read_signs(log)] == ["state"]


def test_a_log_without_a_start_is_read_as_a_whole_up_to_its_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("leveldb: manifest corrupted\n")
    assert read_signs(log)
    log.write_text("leveldb: manifest corrupted\n" + "x\n" * 200_000)
    assert not read_signs(log)
