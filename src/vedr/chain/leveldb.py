"""What a LevelDB database at rest says of its own files, without opening it.

Guarantees: a table that the database counts on and that is gone, or has another size, is named; what can't be followed
is an error.  goleveldb, opened to be read, notices a missing table only when somebody reads from it.
Leaves out: the content of tables, which only reading them all, or comparing them with a copy, can tell.

Formats: LevelDB doc/log_format.md and doc/impl.md; goleveldb leveldb/session_record.go.
"""

import struct
from pathlib import Path
from typing import Final

from vedr.errors import CorruptError

BLOCK_BYTES: Final = 32 * 1024
CHUNK: Final = struct.Struct("<IHB")
"""Of a journal: masked CRC-32C of kind and data, length of the data, kind."""

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
MAX_MANIFEST_BYTES: Final = 256 * 1024 * 1024
_KEEP: Final = "Keep it for the root cause, and restore a snapshot."
_COMPARER, _COMPACTION, _DELETED, _ADDED = 1, 5, 6, 7
_NUMBERS: Final = (2, 3, 4, 9)  # journal, next file, sequence, previous journal


def records(content: bytes) -> tuple[list[bytes], int]:
    """A journal's whole records, up to the first that is not, and where the last one ends; checksums are not read."""
    found, parts, offset, end = [], b"", 0, 0
    while offset + CHUNK.size <= len(content):
        left = BLOCK_BYTES - offset % BLOCK_BYTES
        if left < CHUNK.size:
            offset += left
            continue
        _, length, kind = CHUNK.unpack_from(content, offset)
        data = content[offset + CHUNK.size : offset + CHUNK.size + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(data) < length:
            break
        offset += CHUNK.size + length
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            found.append(parts)
            end = offset
    return found, end


class Fields:
    """Reads varints and sized fields one after the other.  IndexError where the record ends too soon."""

    def __init__(self, record: bytes, offset: int = 0) -> None:
        self._record, self.offset = record, offset

    @property
    def is_done(self) -> bool:
        return self.offset >= len(self._record)

    def byte(self) -> int:
        self.offset += 1
        return self._record[self.offset - 1]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - a varint's last byte
                return value

    def field(self) -> bytes:
        length = self.number()
        if self.offset + length > len(self._record):
            raise IndexError(length)
        self.offset += length
        return self._record[self.offset - length : self.offset]


def missing_tables(database: Path) -> tuple[str, ...]:
    """Tables that the database's manifest names and that are gone or have another size, in words.

    Raises:
        CorruptError: there is no manifest, or it can't be followed.
    """
    problems = []
    for number, size in sorted(_live_tables(database).items()):
        found = [path for path in (database / f"{number:06}.ldb", database / f"{number:06}.sst") if path.is_file()]
        if not found:
            problems.append(f"{database.name}: table {number:06} is gone")
        elif (observed := found[0].stat().st_size) != size:
            problems.append(f"{database.name}/{found[0].name}: has {observed} bytes, {size} are expected")
    return tuple(problems)


def _live_tables(database: Path) -> dict[int, int]:
    """Number and size of each table that is in use."""
    try:
        manifest = database / (database / "CURRENT").read_text(encoding="ascii").strip()
        if manifest.parent != database or manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise CorruptError(f"{database.name}: CURRENT names {manifest.name}", remedy=_KEEP)
        edits, _ = records(manifest.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptError(f"{database.name}: its manifest can't be read: {error}", remedy=_KEEP) from error
    live: dict[int, int] = {}
    try:
        for edit in edits:
            _apply(Fields(edit), live)
    except IndexError as error:
        raise CorruptError(f"{database.name}/{manifest.name}: a record ends too soon", remedy=_KEEP) from error
    return live


def _apply(edit: Fields, live: dict[int, int]) -> None:
    while not edit.is_done:
        match edit.number():
            case tag if tag == _COMPARER:
                edit.field()
            case tag if tag in _NUMBERS:
                edit.number()
            case tag if tag == _COMPACTION:
                edit.number()
                edit.field()
            case tag if tag == _DELETED:
                edit.number()
                live.pop(edit.number(), None)
            case tag if tag == _ADDED:
                edit.number()
                number = edit.number()
                live[number] = edit.number()
                edit.field()
                edit.field()
            case tag:
                raise CorruptError(f"a manifest has the unknown tag {tag}", remedy=_KEEP)
