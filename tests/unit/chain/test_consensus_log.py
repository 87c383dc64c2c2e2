"""Consensus logs: torn ends are a crash, rubbish is damage."""

import struct
from pathlib import Path

import pytest

from vedr.chain.consensus_log import MAX_RECORD_BYTES, crc32c, damage_in


def record(data: bytes) -> bytes:
    return struct.pack(">II", crc32c(data), len(data)) + data


WHOLE = record(b"one") + record(b"two" * 100) + record(b"")


def wal(tmp_path: Path, content: bytes, name: str = "wal") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial; the catalogue's check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("cut", [0, 1, 5, 8, 11, 12, 30, len(WHOLE)])
def test_a_log_cut_anywhere_is_what_a_crash_leaves(tmp_path: Path, cut: int) -> None:
    assert not damage_in(wal(tmp_path, WHOLE[:cut]))


def test_a_flipped_bit_is_found_with_its_record(tmp_path: Path) -> None:
    broken = bytearray(WHOLE)
    broken[30] ^= 1
    assert damage_in(wal(tmp_path, bytes(broken))) == "wal: the record at 11 does not fit its checksum"


def test_a_length_that_no_record_has_is_damage(tmp_path: Path) -> None:
    rubbish = struct.pack(">II", 0, MAX_RECORD_BYTES + 1)
    assert "the record at 11 says" in damage_in(wal(tmp_path, record(b"one") + rubbish))


def test_the_newest_closed_segment_is_read_too_and_older_ones_are_not(tmp_path: Path) -> None:
    wal(tmp_path, WHOLE)
    wal(tmp_path, b"\xff" * 20, "wal.000")
    wal(tmp_path, WHOLE, "wal.001")
    assert not damage_in(tmp_path)
    wal(tmp_path, b"\xff" * 20, "wal.001")
    assert damage_in(tmp_path).startswith("wal.001: ")


def test_no_log_is_no_damage(tmp_path: Path) -> None:
    assert not damage_in(tmp_path / "cs.wal")
