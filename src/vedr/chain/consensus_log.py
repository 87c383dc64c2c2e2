"""Is a node's consensus log (`data/cs.wal`) readable?

Guarantees: every record that a start would replay is read and its checksum compared; a last record that was only begun,
as a crash leaves it, is no damage.
Leaves out: what the records mean.  A node repairs a torn log itself, but one with rubbish only up to it.

Format: cometbft v0.38 consensus/wal.go: CRC-32C of the data, its length (both big-endian, 4 bytes), the data, protobuf.
"""

import struct
from pathlib import Path
from typing import Final

MAX_RECORD_BYTES: Final = 1024 * 1024 + 24  # consensus/wal.go: maxMsgSizeBytes, and the time around a message
CLOSED_SEGMENTS: Final = 1
"""How many of the closed segments are read: a start replays the last height, which the newest two files hold."""

_HEAD: Final = struct.Struct(">II")
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected (RFC 3720, appendix B.4)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli), as LevelDB and CometBFT use it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def damage_in(folder: Path) -> str:
    """What is wrong with the log in `folder`, with file and offset; empty when nothing is, or there is no log."""
    closed = sorted(folder.glob("wal.*"), key=lambda path: path.name)[-CLOSED_SEGMENTS:]
    for path in (*closed, *folder.glob("wal")):
        if found := _damage(path.read_bytes()):
            return f"{path.name}: {found}"
    return ""


def _damage(content: bytes) -> str:
    view, offset = memoryview(content), 0
    while len(view) - offset >= _HEAD.size:
        checksum, length = _HEAD.unpack_from(view, offset)
        if length > MAX_RECORD_BYTES:
            return f"the record at {offset} says that it has {length} bytes"
        record = view[offset + _HEAD.size : offset + _HEAD.size + length]
        if len(record) < length:
            return ""  # begun, not ended: the process was killed while it wrote
        if crc32c(record) != checksum:
            return f"the record at {offset} does not fit its checksum"
        offset += _HEAD.size + length
    return ""
