"""Content out of the regions onto a disk, in parallel and proven.

Writing through the page cache is what bounds a restore: files are allocated at once, written at their offsets around
the cache where the file system allows it, and made durable one by one (posix_fallocate, pwrite, fdatasync and
POSIX_FADV_DONTNEED took half to two thirds of the time of buffered writes with one sync at the end; O_DIRECT took a
fifth to a third of their CPU time off again).

Guarantees: every byte written was proven against its object's name first; all of it is durable on return; a disk that
is full is met before content is fetched.  Leaves out: where the folder goes next (restore.py).
"""

import errno
import hashlib
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from vedr.backup.layout import object_key
from vedr.backup.manifest import FileEntry, PlacedObject, VerifiedManifest
from vedr.backup.mending import mendable
from vedr.backup.repository import Repository, load_placement, no_region, ordered, require_readable
from vedr.backup.rooms import Loan, Workspace
from vedr.backup.sealing import MAX_STORED_BYTES, Codec, Room, fresh_room
from vedr.backup.snapshot import NO_PROGRESS, Progress
from vedr.errors import CorruptError, NoSpaceError, VedrError

FETCHERS: Final = max(8, min(32, 4 * (os.cpu_count() or 2)))  # most wait for the network or the disk
FORMS: Final = 3  # of an object in memory at once: as it came, decrypted, decompressed
BLOCK_BYTES: Final = 4096  # what O_DIRECT wants offsets, lengths and addresses to be multiples of
FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
DIRECT_FROM_BYTES: Final = 256 * 1024  # below, a second descriptor costs more than it saves


@dataclass(frozen=True, slots=True)
class Fetched:
    from_regions: tuple[str, ...]
    took_s: float


class _Target(NamedTuple):
    file: int
    offset_bytes: int
    source_bytes: int
    length_bytes: int


class ObjectReader:
    """Reads a snapshot's objects, each from the first region whose copy proves itself."""

    def __init__(self, repository: Repository, verified: VerifiedManifest, *, prefer: Iterable[str] = ()) -> None:
        """InvalidInputError when it is encrypted under another key than the site's."""
        require_readable(repository.codec, verified)
        self._repository, self._verified = repository, verified
        self._regions = ordered(repository.regions, prefer)
        self._placed: dict[str, tuple[PlacedObject, ...]] = {}
        self._silent: dict[str, VedrError] = {}
        self._lock = threading.Lock()
        self.used: set[str] = set()

    def read(self, number: int, room: Room = fresh_room) -> bytes | memoryview:
        """The content of the manifest's object of that number, in `room` where that saves a copy.

        Raises:
            VedrError: it is good nowhere; the message says why in each region.
        """
        return self._first_good(number, room)[1]

    def read_sealed(self, number: int, room: Room = fresh_room) -> memoryview:
        """The same object as it is stored, once it has proven itself; raises what `read` does."""
        return self._first_good(number, room)[0]

    def read_from(self, region: str, number: int, placed: PlacedObject, room: Room = fresh_room) -> bytes | memoryview:
        """The content of that region's copy, proven."""
        return self._proven(region, number, placed, room)[1]

    def _first_good(self, number: int, room: Room) -> tuple[memoryview, bytes | memoryview]:
        refusals: dict[str, VedrError] = {}
        for region in self._regions:
            try:
                proven = self._proven(region, number, self._placement(region)[number], room)
            except VedrError as error:
                refusals[region] = error
                if error.transient:
                    self._give_up(region, error)
                continue
            self.used.add(region)
            return proven
        name = self._verified.manifest.objects[number].name
        raise no_region(f"object {name} of snapshot {self._verified.id}", refusals)

    def _proven(
        self, region: str, number: int, placed: PlacedObject, room: Room
    ) -> tuple[memoryview, bytes | memoryview]:
        """As stored, and its content."""
        source, snapshot = self._verified.source, self._verified.id
        name, size = self._verified.manifest.objects[number]
        with mendable(source, snapshot, region):
            key = object_key(source, self._verified.manifest.epoch, name)
            limit_bytes = min(placed.stored_bytes, MAX_STORED_BYTES)
            stored = self._repository.stores[region].view(key, version=placed.version, limit_bytes=limit_bytes)
            content = self._repository.codec.open_object(name, stored, room)
        if len(content) != size:
            raise CorruptError(
                f"object {name[:16]}… has {len(content)} bytes, the manifest says {size}",
                remedy="Choose an older snapshot.",
            )
        return stored, content

    def _placement(self, region: str) -> tuple[PlacedObject, ...]:
        with self._lock:
            if region in self._silent:
                raise self._silent[region]
            if region not in self._placed:
                try:
                    self._placed[region] = load_placement(self._repository, self._verified, region).objects
                except VedrError as error:
                    self._silent[region] = error
                    raise
            return self._placed[region]

    def _give_up(self, region: str, error: VedrError) -> None:
        """A region that went silent is not asked again in this run: each time would cost its time limit."""
        with self._lock:
            self._silent.setdefault(region, error)


def fetch_into(
    repository: Repository,
    verified: VerifiedManifest,
    target: Path,
    *,
    prefer: Iterable[str] = (),
    progress: Progress = NO_PROGRESS,
) -> Fetched:
    """Write all files of the snapshot under `target`, which must not exist.

    Raises:
        NoSpaceError: the disk is full; nothing was fetched.
        VedrError: an object is good nowhere.
    """
    began = time.monotonic()
    target.mkdir(mode=0o700)
    for folder in verified.manifest.folders:
        (target / folder.path).mkdir(mode=0o700, parents=True, exist_ok=True)
    writer = _Writer(target, verified.manifest.files, repository.codec, progress)
    reader = ObjectReader(repository, verified, prefer=prefer)
    try:
        writer.allocate()
        _run(reader, writer, verified)
    finally:
        writer.close()
    for folder in reversed(verified.manifest.folders):
        (target / folder.path).chmod(folder.mode)
    _sync_folders(target)
    return Fetched(tuple(sorted(reader.used)), time.monotonic() - began)


def _run(reader: ObjectReader, writer: "_Writer", verified: VerifiedManifest) -> None:
    work: queue.SimpleQueue[int] = queue.SimpleQueue()
    targets = _targets(verified)
    for number in range(len(verified.manifest.objects)):
        work.put(number)
    stop = threading.Event()
    workspace = Workspace()

    def fetch() -> None:
        try:
            while not stop.is_set():
                try:
                    number = work.get_nowait()
                except queue.Empty:
                    return
                if number in targets:
                    with workspace.loan(FORMS * verified.manifest.objects[number].size_bytes) as loan:
                        writer.write(reader.read(number, loan), targets.pop(number), loan)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(FETCHERS, "fetch") as pool:
        futures = [pool.submit(fetch) for _ in range(FETCHERS)]
    for future in futures:
        future.result()


def _targets(verified: VerifiedManifest) -> dict[int, list[_Target]]:
    """Which runs of which files each object fills: one object may fill several, and is fetched once."""
    targets: defaultdict[int, list[_Target]] = defaultdict(list)
    for index, file in enumerate(verified.manifest.files):
        offset = 0
        for extent in file.extents:
            targets[extent.number].append(_Target(index, offset, extent.offset_bytes, extent.length_bytes))
            offset += extent.length_bytes
    return dict(targets)


class _Writer:
    """Files being filled from many threads; each is finished by the thread that brings its last run."""

    def __init__(self, root: Path, files: tuple[FileEntry, ...], codec: Codec, progress: Progress) -> None:
        self._root, self._files, self._codec, self._progress = root, files, codec, progress
        self._prefix = f"{root}{os.sep}"
        self._left = [len(file.extents) for file in files]
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = sum(file.size_bytes for file in files)
        self._around_cache = True

    def allocate(self) -> None:
        """Create every file with its room reserved, so that a full disk shows now."""
        for folder in {os.path.dirname(file.path) for file in self._files}:  # noqa: PTH120 (a thousand Paths are slow)
            (self._root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._files:
            path = self._path(file)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if file.size_bytes:
                    os.posix_fallocate(descriptor, 0, file.size_bytes)
                else:
                    os.fchmod(descriptor, file.mode)
                    os.fsync(descriptor)
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    raise NoSpaceError(
                        f"{path}: no room for {file.size_bytes} bytes", remedy="Free some space, and run it again."
                    ) from error
                raise
            finally:
                os.close(descriptor)

    def _path(self, file: FileEntry) -> str:
        return f"{self._prefix}{file.path}"

    def write(self, content: bytes | memoryview, targets: list[_Target], loan: Loan) -> None:
        view = memoryview(content)
        for target in targets:
            file = self._files[target.file]
            run = view[target.source_bytes : target.source_bytes + target.length_bytes]
            if file.digest:
                self._check_packed(file, run)
            descriptor = self._descriptor(target.file)
            whole = len(run) - len(run) % BLOCK_BYTES
            aligned = whole >= DIRECT_FROM_BYTES and not target.source_bytes % BLOCK_BYTES and loan.lent(view)
            written = self._write_direct(run[:whole], target) if aligned else 0
            while written < len(run):
                written += os.pwrite(descriptor, run[written:], target.offset_bytes + written)
            self._finish(target, descriptor)

    def _write_direct(self, blocks: memoryview, target: _Target) -> int:
        """Bytes written around the cache, 0 where the file system can't: the rest is the caller's."""
        if not self._around_cache or target.offset_bytes % BLOCK_BYTES:
            return 0
        path = self._path(self._files[target.file])
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
            try:
                return os.pwrite(descriptor, blocks, target.offset_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._around_cache = False
            return 0

    def _check_packed(self, file: FileEntry, run: memoryview) -> None:
        """Its object is proven; this proves that the manifest points at the right run of it."""
        if self._codec.name(hashlib.sha256(run).digest()) != file.digest:
            raise CorruptError(
                f"file {file.path} has another hash than its manifest says", remedy="Choose an older snapshot."
            )

    def _descriptor(self, index: int) -> int:
        with self._lock:
            if index not in self._open:
                self._open[index] = os.open(self._path(self._files[index]), os.O_WRONLY | os.O_CLOEXEC)
            return self._open[index]

    def _finish(self, target: _Target, descriptor: int) -> None:
        with self._lock:
            self._left[target.file] -= 1
            last = not self._left[target.file]
            self._done_bytes += target.length_bytes
            self._progress(self._done_bytes, self._total_bytes)
        if last:
            file = self._files[target.file]
            os.fchmod(descriptor, file.mode)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.utime(descriptor, ns=(file.mtime_ns, file.mtime_ns))
            with self._lock:
                del self._open[target.file]
            os.close(descriptor)

    def close(self) -> None:
        """What a failure left open."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _sync_folders(root: Path) -> None:
    for folder in _folders(root):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _folders(root: Path) -> Iterator[str]:
    for path, _, _ in os.walk(root, topdown=False):
        yield path
