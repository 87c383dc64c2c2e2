"""A database's own list of its tables is believed; what is gone, or cut, is named."""

import struct
from pathlib import Path

import pytest

from vedr.chain.leveldb import BLOCK_BYTES, missing_tables, records
from vedr.errors import CorruptError

COMPARER = b"\x01\x1aleveldb.BytewiseComparator"
NUMBERS = b"\x02\x03\x03\x09\x04\x80\x01\x09\x00"


def added(number: int, size: int) -> bytes:
    return b"\x07\x00" + bytes([number]) + size.to_bytes(1, "big") + b"\x01a\x01z"


def deleted(number: int) -> bytes:
    return b"\x06\x00" + bytes([number])


def journal(*written: bytes) -> bytes:
    return b"".join(struct.pack("<IHB", 0, len(one), 1) + one for one in written)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Tables 5 (100 bytes) and 7 (50 bytes, by its old name) are in use; 4 was compacted away."""
    folder = tmp_path / "state.db"
    folder.mkdir()
    edits = [COMPARER + NUMBERS + added(4, 9) + added(5, 100), deleted(4) + b"\x05\x01\x01k" + added(7, 50)]
    (folder / "MANIFEST-000002").write_bytes(journal(*edits))
    (folder / "CURRENT").write_text("MANIFEST-000002\n")
    (folder / "000005.ldb").write_bytes(bytes(100))
    (folder / "000007.sst").write_bytes(bytes(50))
    return folder


def test_a_whole_database_misses_nothing(database: Path) -> None:
    assert not missing_tables(database)


def test_a_table_that_is_gone_or_cut_is_named(database: Path) -> None:
    (database / "000005.ldb").write_bytes(bytes(99))
    (database / "000007.sst").unlink()
    cut, gone = missing_tables(database)
    assert cut == "state.db/000005.ldb: has 99 bytes, 100 are expected"
    assert gone == "state.db: table 000007 is gone"


@pytest.mark.parametrize("current", [None, b"", b"MANIFEST-000009\n", b"../x/MANIFEST-000002\n", b"\xff"])
def test_a_database_without_a_manifest_is_corrupt(database: Path, current: bytes | None) -> None:
    (database / "CURRENT").unlink()
    if current is not None:
        (database / "CURRENT").write_bytes(current)
    with pytest.raises(CorruptError, match=r"state\.db"):
        missing_tables(database)


@pytest.mark.parametrize("edit", [b"\x07\x00\x05", b"\x01\x7fshort", b"\x63\x00", b"\x02\x80"])
def test_a_manifest_that_can_not_be_followed_is_corrupt(database: Path, edit: bytes) -> None:
    (database / "MANIFEST-000002").write_bytes(journal(edit))
    with pytest.raises(CorruptError):
        missing_tables(database)


def test_a_record_may_run_over_blocks_and_a_torn_end_is_left_out() -> None:
    long = bytes(range(256)) * 300
    room = BLOCK_BYTES - 7
    parts = [long[:room], long[room : 2 * room], long[2 * room :]]
    content = b"".join(
        struct.pack("<IHB", 0, len(part), kind) + part for part, kind in zip(parts, (2, 3, 4), strict=True)
    )
    assert records(content) == ([long], len(content))
    assert records(content + journal(b"torn")[:-1]) == ([long], len(content))


def test_a_block_too_full_for_a_chunk_is_padded() -> None:
    first = journal(bytes(BLOCK_BYTES - 7 - 3))
    assert [len(one) for one in records(first + bytes(3) + journal(b"next"))[0]] == [BLOCK_BYTES - 10, 4]
