"""Where exactly a damaged table differs from the copy that the store proves.

Guarantees: a difference is only called damage for a table of the same node, path, size and inode: goleveldb gives
numbers of files anew, but never rewrites a table in place; content that differs throughout is another table.
Leaves out: journals and manifests of databases, which change all the time; damage older than the oldest snapshot.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.backup.fetching import ObjectReader
from vedr.backup.manifest import FileEntry, VerifiedManifest
from vedr.backup.repository import Repository, list_snapshots, load_manifest
from vedr.errors import VedrError
from vedr.inventory import Node

TABLES: Final = (".ldb", ".sst")
MERGE_BYTES: Final = 64
"""Stretches closer than this are told as one: an inverted sector may agree with the original in single bytes."""

MAX_TOLD: Final = 50
MAX_SNAPSHOTS: Final = 6  # a day of them
_WHOLLY_OTHER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared; `reason` says why nothing was, and is empty otherwise."""

    snapshot: str
    files: int
    damaged: tuple[str, ...]
    reason: str = ""


def compare_with_store(repository: Repository, node: Node, data: Path) -> Compared:
    """The kept tables against the newest snapshots of this very node; a store that is silent is a reason, no error."""
    if not data.is_dir():
        return Compared("", 0, (), "no databases were set aside")
    try:
        listed = list_snapshots(repository, node.region, "state", name=node.name).snapshots[:MAX_SNAPSHOTS]
    except VedrError as error:
        return Compared("", 0, (), error.message)
    seen: set[str] = set()
    used: list[str] = []
    damaged: list[str] = []
    for one in listed:
        try:
            verified = load_manifest(repository, one, prefer=(node.region,))
            reader = ObjectReader(repository, verified, prefer=(node.region,))
            for file in _same_tables(verified, data):
                if file.path not in seen:
                    seen.add(file.path)
                    damaged += _difference(repository, verified, reader, file, data)
        except VedrError as error:
            return Compared(", ".join(used), len(seen), tuple(damaged[:MAX_TOLD]), f"{one.id}: {error.message}")
        used.append(one.id)
    reason = "" if seen else f"no snapshot of {node.name} holds a table that is still there"
    return Compared(", ".join(used), len(seen), tuple(damaged[:MAX_TOLD]), reason)


def _same_tables(verified: VerifiedManifest, data: Path) -> Iterator[FileEntry]:
    """Tables of the snapshot that lie, under the same inode and size, among what was kept."""
    for file in verified.manifest.files:
        path = data / file.path
        if path.suffix not in TABLES or not path.is_file():
            continue
        status = path.stat()
        if (status.st_size, status.st_ino) == (file.size_bytes, file.inode):
            yield file


def _difference(
    repository: Repository, verified: VerifiedManifest, reader: ObjectReader, file: FileEntry, data: Path
) -> Iterator[str]:
    """One line for a table that differs, with offsets and lengths in bytes."""
    found, differing = [], 0
    for offset, length, expected in _expected(repository, verified, reader, file, data):
        with (data / file.path).open("rb") as local:
            local.seek(offset)
            observed = local.read(length)
        stretches = differences(observed, expected)
        found += [(offset + start, size) for start, size in stretches]
        differing += sum(size for _, size in stretches)
    if not found:
        return
    if differing > file.size_bytes * _WHOLLY_OTHER:
        yield f"{file.path}: another content than in {verified.id} throughout"
        return
    where = ", ".join(f"{start}+{size}" for start, size in found[:MAX_TOLD])
    yield f"{file.path}: {differing} of {file.size_bytes} bytes differ from {verified.id}, at {where}"


def _expected(
    repository: Repository, verified: VerifiedManifest, reader: ObjectReader, file: FileEntry, data: Path
) -> Iterator[tuple[int, int, memoryview]]:
    """Runs of the file whose content has another name than the manifest's, with what the store has in their place."""
    offset = 0
    for extent in file.extents:
        with (data / file.path).open("rb") as local:
            local.seek(offset)
            observed = local.read(extent.length_bytes)
        name = file.digest or verified.manifest.objects[extent.number].name
        if repository.codec.name(hashlib.sha256(observed).digest()) != name:
            content = memoryview(reader.read(extent.number))
            run = content[extent.offset_bytes : extent.offset_bytes + extent.length_bytes]
            yield offset, extent.length_bytes, run
        offset += extent.length_bytes


def differences(observed: bytes, expected: bytes | memoryview) -> list[tuple[int, int]]:
    """Offset and length of the stretches that differ, those close to each other taken as one."""
    wanted = bytes(expected)
    found: list[tuple[int, int]] = []
    for offset in _differing_bytes(observed, wanted):
        if found and offset - (found[-1][0] + found[-1][1]) <= MERGE_BYTES:
            found[-1] = (found[-1][0], offset + 1 - found[-1][0])
        else:
            found.append((offset, 1))
    if len(observed) != len(wanted):
        shorter = min(len(observed), len(wanted))
        found.append((shorter, abs(len(observed) - len(wanted))))
    return found


def _differing_bytes(observed: bytes, wanted: bytes) -> Iterator[int]:
    """Blocks that are equal are skipped at once."""
    block = 4096
    for start in range(0, min(len(observed), len(wanted)), block):
        ours, theirs = observed[start : start + block], wanted[start : start + block]
        if ours != theirs:
            yield from (start + n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
