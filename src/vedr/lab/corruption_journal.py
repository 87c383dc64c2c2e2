"""Makes a stopped node's application hold another state than the chain's, with every checksum right.

A value of the newest leaf of the application's iavl tree is changed by one more record in its database's journal, as a
faulty program or a person with a tool would.  Nothing that opens the database notices; only reading every key and
value, or the next block that touches the leaf's neighbourhood, does.

Guarantees: the record is whole, and the value differs in one bit.  Leaves out: databases whose journal holds no leaf,
as right after a start: let the node execute a transaction first.

Formats: LevelDB doc/log_format.md and write batches; iavl v1 docs/node/node.md (leaf: height 0, size 1, key, value).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from vedr.chain.consensus_log import crc32c
from vedr.chain.leveldb import BLOCK_BYTES, CHUNK, FIRST, FULL, LAST, MIDDLE, Fields, records
from vedr.errors import NotFoundError

_BATCH: Final = struct.Struct("<QI")  # sequence number, number of entries
_PUT: Final = 1
_MASK: Final = 0xA282EAD8
_LEAF: Final = b"\x00\x02"  # height 0 and size 1, as zigzag varints
_NODE_KEY_BYTES: Final = 13  # "s", version, number in the version
_SKIPPED_NUMBERS: Final = 1000  # sequence numbers only have to rise


class Put(NamedTuple):
    """An entry of a write batch."""

    sequence: int
    key: bytes
    value: bytes


def diverge(database: Path) -> str:
    """Change one value of the newest leaf in the newest journal; what was done.

    Raises:
        NotFoundError: no journal, or none that holds a leaf.
    """
    journals = sorted(database.glob("*.log"))
    if not journals:
        raise NotFoundError(f"{database} has no journal", remedy="Let the node run first.")
    content = journals[-1].read_bytes()
    batches, end = records(content)
    leaf = None
    sequence = 0
    for record in batches:
        for put in _puts(record):
            sequence = put.sequence
            if len(put.key) == _NODE_KEY_BYTES and put.key[:1] == b"s" and put.value.startswith(_LEAF):
                leaf = put
    if leaf is None:
        raise NotFoundError(f"{journals[-1]} holds no leaf", remedy="Let the node execute a transaction first.")
    changed = leaf.value[:-1] + bytes([leaf.value[-1] ^ 1])
    batch = _BATCH.pack(sequence + _SKIPPED_NUMBERS, 1) + bytes([_PUT]) + _sized(leaf.key) + _sized(changed)
    journals[-1].write_bytes(content[:end] + _chunks(batch, end))
    version = int.from_bytes(leaf.key[1:9], "big")
    return f"changed the last bit of a value of version {version} in {'/'.join(journals[-1].parts[-3:])}"


def _puts(record: bytes) -> Iterator[Put]:
    sequence, count = _BATCH.unpack_from(record)
    fields = Fields(record, _BATCH.size)
    for number in range(count):
        kind, key = fields.byte(), fields.field()
        if kind == _PUT:
            yield Put(sequence + number, key, fields.field())


def _sized(field: bytes) -> bytes:
    length, head = len(field), bytearray()
    while length >= 0x80:  # noqa: PLR2004 - a varint's last byte is below
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + field


def _chunks(record: bytes, start: int) -> bytes:
    """The record as it is written at offset `start` of a journal."""
    out, left, is_first = bytearray(), record, True
    while left or is_first:
        room = BLOCK_BYTES - (start + len(out)) % BLOCK_BYTES
        if room < CHUNK.size:
            out += bytes(room)
            continue
        data, left = left[: room - CHUNK.size], left[room - CHUNK.size :]
        kind = (FULL if not left else FIRST) if is_first else (LAST if not left else MIDDLE)
        crc = crc32c(bytes([kind]) + data)
        masked = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
        out += CHUNK.pack(masked, len(data), kind) + data
        is_first = False
    return bytes(out)
