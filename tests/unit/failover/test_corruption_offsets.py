"""Damaged offsets are those that were damaged; a table written anew is not called damaged."""

import random
from pathlib import Path
from typing import Any

import pytest

from vedr.backup.layout import placement_key
from vedr.failover.corruption_offsets import compare_with_store, differences
from vedr.inventory import Node

TABLE = "application.db/000001.ldb"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(
        name="full-0",
        region="us-east",
        zone="us-east-1a",
        role="full",
        rpc="http://h:1",
        p2p="h:1",
        home=tmp_path,
        unit="u",
    )


@pytest.fixture(params=[300_000, 2_000], ids=["whole objects", "packed"])
def kept(make_world: Any, request: pytest.FixtureRequest) -> Any:
    """A world with a snapshot of tables of that size; its `data` plays the kept folder."""
    world = make_world(key=bytes(32))
    world.fill(table_bytes=request.param)
    world.back_up()
    return world


def damage(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        content = file.read(length)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in content))


def test_inverted_sectors_are_named_to_the_byte(kept: Any, node: Node) -> None:
    damage(kept.data / TABLE, 500, 100)
    damage(kept.data / TABLE, 1500, 20)
    found = compare_with_store(kept.repository, node, kept.data)
    (line,) = found.damaged
    assert line.startswith(f"{TABLE}: 120 of ")
    assert line.endswith("at 500+100, 1500+20")
    assert (found.files, found.reason) == (3, "")


def test_whole_tables_are_compared_and_not_called_damaged(kept: Any, node: Node) -> None:
    found = compare_with_store(kept.repository, node, kept.data)
    assert (found.files, found.damaged) == (3, ())


def test_a_table_written_anew_under_an_old_number_is_not_compared(kept: Any, node: Node) -> None:
    path = kept.data / TABLE
    size = path.stat().st_size
    path.with_suffix(".new").write_bytes(random.Random(9).randbytes(size))
    path.with_suffix(".new").rename(path)
    found = compare_with_store(kept.repository, node, kept.data)
    assert (found.files, found.damaged) == (2, ())


def test_another_content_throughout_is_said_as_such(kept: Any, node: Node) -> None:
    path = kept.data / TABLE
    damage(path, 0, path.stat().st_size)
    (line,) = compare_with_store(kept.repository, node, kept.data).damaged
    assert "throughout" in line


def test_an_older_snapshot_serves_where_the_newest_lacks_the_table(kept: Any, node: Node) -> None:
    (kept.data / TABLE).rename(kept.data / "kept-away")
    kept.clock.advance(hours=4)
    kept.back_up(200)
    (kept.data / "kept-away").rename(kept.data / TABLE)
    damage(kept.data / TABLE, 10, 10)
    found = compare_with_store(kept.repository, node, kept.data)
    assert [line.endswith("at 10+10") for line in found.damaged] == [True]
    assert len(found.snapshot.split(", ")) == 2


def test_what_could_not_be_compared_is_said_and_is_no_error(kept: Any, node: Node, tmp_path: Path) -> None:
    assert "set aside" in compare_with_store(kept.repository, node, tmp_path / "nowhere").reason
    other = node.model_copy(update={"name": "full-9"})
    assert "no snapshot of full-9" in compare_with_store(kept.repository, other, kept.data).reason
    listed = kept.listed()[0]
    damage(kept.data / TABLE, 10, 10)
    for store in kept.stores.values():
        store.delete(placement_key(listed.source, listed.id))
    assert listed.id in compare_with_store(kept.repository, node, kept.data).reason
    for store in kept.stores.values():
        store.faults.down = True
    assert compare_with_store(kept.repository, node, kept.data).reason


@pytest.mark.parametrize(
    ("observed", "expected", "stretches"),
    [
        (b"abc", b"abc", []),
        (b"abX", b"abc", [(2, 1)]),
        (b"X" + b"a" * 63 + b"X", b"b" + b"a" * 63 + b"b", [(0, 65)]),
        (b"X" + b"a" * 99 + b"X", b"b" + b"a" * 99 + b"b", [(0, 1), (100, 1)]),
        (b"ab", b"abcd", [(2, 2)]),
    ],
)
def test_stretches_close_to_each_other_are_one(
    observed: bytes, expected: bytes, stretches: list[tuple[int, int]]
) -> None:
    assert differences(observed, expected) == stretches
