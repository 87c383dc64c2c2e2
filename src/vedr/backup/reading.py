"""From files to pieces of objects: what to read, what to recognise, what to pack together.

Guarantees: a file is taken as unchanged only when path, inode, device, size and mtime are those of a signed manifest of
the same epoch, and its mtime was no longer fresh then; a file that changes while it is read is refused.  The change
time is no part of this: hard-linking, which captures do, alters it.  A copy of a file that can still change is always
read: the inode is the copy's, and what is written through memory moves the mtime only when the kernel writes it out.
Leaves out: where objects go (upload.py).
"""

import contextlib
import hashlib
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from vedr.backup.layout import ObjectName
from vedr.backup.manifest import Extent, FileEntry, Manifest, ObjectEntry
from vedr.backup.rooms import Workspace
from vedr.backup.sealing import PART_BYTES, Codec
from vedr.backup.tree import LocalFile, Tree
from vedr.backup.upload import Uploader
from vedr.errors import RefusedError, UnavailableError

PACKED_FILE_BYTES: Final = 256 * 1024  # up to here a request for each file costs more than reading a pack
MAX_OLD_PACKS: Final = (
    16  # beyond, small files are packed anew, so that a restore need not fetch many packs for few files
)
AHEAD_BYTES: Final = 32 * 1024 * 1024  # asked of the disk before a worker is free for it
FORMS: Final = 2  # of content in memory at once: as it was read, compressed
FRESH_NS: Final = 13_000_000_000  # a file system's clock may stand still for 2 s, an id may be 11 s ahead of its time


class Piece(NamedTuple):
    """A run of an object's content."""

    entry: ObjectEntry
    offset_bytes: int
    length_bytes: int


class _Task(NamedTuple):
    """A pack of small files, or one part of a large file."""

    act: Callable[[], None]
    files: tuple[LocalFile, ...]
    offset_bytes: int
    length_bytes: int


class Reading:
    """One pass over a tree.  `tasks` run on several threads; `result` is for afterwards."""

    def __init__(
        self,
        tree: Tree,
        earlier: Manifest | None,
        uploader: Uploader,
        codec: Codec,
        progress: Callable[[int, int], None],
    ) -> None:
        self._tree, self._uploader, self._codec = tree, uploader, codec
        self._known = _Known(earlier, uploader)
        self._progress = progress
        self._total_bytes = tree.total_bytes
        self._done_bytes = 0
        self.read_bytes = 0
        self._lock = threading.Lock()
        self._pieces: dict[str, list[Piece | None]] = {}
        self._digests: dict[str, str] = {}
        self._workspace = Workspace()

    def tasks(self) -> Iterator[Callable[[], None]]:
        """Each reads up to a part; drawn by one thread at a time.  The disk is kept busy some way ahead of them."""
        waiting: deque[_Task] = deque()
        waiting_bytes = 0
        for task in self._found():
            _read_ahead(task)
            waiting.append(task)
            waiting_bytes += task.length_bytes
            while waiting_bytes > AHEAD_BYTES:
                ready = waiting.popleft()
                waiting_bytes -= ready.length_bytes
                yield ready.act
        yield from (task.act for task in waiting)

    def _found(self) -> Iterator[_Task]:
        """What can't be recognised, as tasks; what can is noted."""
        pack: list[LocalFile] = []
        packed_bytes = 0
        for file in self._tree.files:
            if (known := self._known.entry(file)) is not None:
                self._pieces[file.path] = list(known[0])
                self._digests[file.path] = known[1]
                self._advance(file.size_bytes, read=False)
            elif file.size_bytes > PACKED_FILE_BYTES:
                yield from self._parts(file)
            else:
                if packed_bytes + file.size_bytes > PART_BYTES:
                    yield self._pack_task(pack, packed_bytes)
                    pack, packed_bytes = [], 0
                pack.append(file)
                packed_bytes += file.size_bytes
        if pack:
            yield self._pack_task(pack, packed_bytes)

    def result(self) -> tuple[tuple[ObjectEntry, ...], tuple[FileEntry, ...]]:
        """The manifest's tables; objects in the order of their first use."""
        index: dict[ObjectEntry, int] = {}
        files = []
        for file in self._tree.files:
            extents = tuple(
                Extent(index.setdefault(piece.entry, len(index)), piece.offset_bytes, piece.length_bytes)
                for piece in self._pieces[file.path]
                if piece is not None
            )
            files.append(
                FileEntry(
                    file.path, file.mode, file.size_bytes, file.mtime_ns, file.inode, file.device,
                    extents, self._digests.get(file.path, ""),
                )
            )  # fmt: skip
        return tuple(index), tuple(files)

    def _parts(self, file: LocalFile) -> Iterator[_Task]:
        count = -(-file.size_bytes // PART_BYTES)
        pieces: list[Piece | None] = [None] * count
        self._pieces[file.path] = pieces

        def task(number: int) -> _Task:
            offset = number * PART_BYTES
            length = min(PART_BYTES, file.size_bytes - offset)
            return _Task(lambda: self._read_part(file, number, length, pieces), (file,), offset, length)

        yield from (task(number) for number in range(count))

    def _read_part(self, file: LocalFile, number: int, length: int, pieces: list[Piece | None]) -> None:
        with self._workspace.loan(FORMS * length) as loan:
            view = loan(length)
            self._fill(file, number * PART_BYTES, view)
            pieces[number] = Piece(self._store(view), 0, length)
        self._advance(length)

    def _pack_task(self, files: list[LocalFile], length: int) -> _Task:
        def act() -> None:
            with self._workspace.loan(FORMS * length) as loan:
                self._read_pack(files, loan(length))

        return _Task(act, tuple(files), 0, length)

    def _read_pack(self, files: list[LocalFile], buffer: memoryview) -> None:
        end = 0
        places = []
        for file in files:
            view = buffer[end : end + file.size_bytes]
            self._fill(file, 0, view)
            self._digests[file.path] = self._codec.name(hashlib.sha256(view).digest())
            places.append((file, end))
            end += file.size_bytes
        entry = self._store(buffer[:end]) if end else None
        for file, offset in places:
            self._pieces[file.path] = [Piece(entry, offset, file.size_bytes)] if entry and file.size_bytes else []
            self._advance(file.size_bytes)

    def _store(self, view: memoryview) -> ObjectEntry:
        if not self._uploader.reachable:
            raise UnavailableError("every region's store has failed", remedy="See the regions' errors; run it again.")
        name = self._codec.name(hashlib.sha256(view).digest())
        self._uploader.add(name, view)
        return ObjectEntry(name, len(view))

    def _fill(self, file: LocalFile, offset: int, view: memoryview) -> None:
        """Read exactly that run, and make sure that it still is the file that was listed."""
        descriptor = os.open(file.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(descriptor, offset, len(view), os.POSIX_FADV_SEQUENTIAL)
            done = 0
            while done < len(view):
                got = os.preadv(descriptor, [view[done:]], offset + done)
                if got == 0:
                    break
                done += got
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        found = (done, status.st_mtime_ns, status.st_ino)
        if found != (len(view), file.mtime_ns, file.inode):
            raise RefusedError(
                f"{file.location} changed while it was read", remedy="Run it again, from a fresh capture."
            )

    def _advance(self, amount: int, *, read: bool = True) -> None:
        with self._lock:
            self._done_bytes += amount
            self.read_bytes += amount if read else 0
            self._progress(self._done_bytes, self._total_bytes)


def _read_ahead(task: _Task) -> None:
    """Let the disk begin on what the task will read.  A hint: what is wrong with a file, reading it tells."""
    for file in task.files:
        with contextlib.suppress(OSError):
            descriptor = os.open(file.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.posix_fadvise(
                    descriptor, task.offset_bytes, min(task.length_bytes, file.size_bytes), os.POSIX_FADV_WILLNEED
                )
            finally:
                os.close(descriptor)


class _Known:
    """Files of the earlier manifest that need not be read again."""

    def __init__(self, earlier: Manifest | None, uploader: Uploader) -> None:
        self._uploader = uploader
        self._objects: tuple[ObjectEntry, ...] = earlier.objects if earlier else ()
        self._files: dict[str, FileEntry] = {file.path: file for file in earlier.files} if earlier else {}
        self._fresh_from_ns = int(earlier.created_at.timestamp()) * 1_000_000_000 - FRESH_NS if earlier else 0
        packs: defaultdict[ObjectName, int] = defaultdict(int)
        for file in self._files.values():
            if file.digest:
                for extent in file.extents:
                    packs[self._objects[extent.number].name] += 1
        self._repack = len(packs) > MAX_OLD_PACKS

    def entry(self, file: LocalFile) -> tuple[list[Piece], str] | None:
        """Its pieces and digest, if it is unchanged and every region that works has all of it."""
        known = None if file.mutable else self._files.get(file.path)
        if known is None or (known.size_bytes, known.mtime_ns, known.inode, known.device) != (
            file.size_bytes, file.mtime_ns, file.inode, file.device,
        ):  # fmt: skip
            return None
        if file.mtime_ns >= self._fresh_from_ns or (self._repack and known.digest):
            return None
        pieces = [Piece(self._objects[e.number], e.offset_bytes, e.length_bytes) for e in known.extents]
        if any(self._uploader.lacking(piece.entry.name) for piece in pieces):
            return None
        return pieces, known.digest
