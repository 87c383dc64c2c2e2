"""A consistent copy of a node's data, taken in milliseconds whatever its size.

    (1) Link every immutable file (tables of the databases, closed segments of the WAL) while the node runs.
    (2) Pause the node: all its threads stand still, so what the kernel shows is one moment of all databases.
    (3) Link tables that have come since, drop those that have gone, copy all that can still change.
    (4) Resume.  If the host resumed it earlier, the copy is thrown away and taken again.

Guarantees: no file of the copy is one that the live node can still change: what it, or a process that it started, has
open for writing is copied, however it is named.  Keys and the sign-state are never in it.  The node runs on whatever
happens here, since the host ends the pause by itself; the staging folder goes with the `with` block, one left by a
killed run with the next capture.  A node is captured by one run at a time.
Leaves out: which node to take (require_capturable refuses those that must not be), and the height (inspection.py).

Links need staging on the data's own file system, which may be mounted in the home: it is a folder within the data.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from vedr.backup.manifest import PERMISSION_BITS, FolderEntry
from vedr.backup.tree import Tree, read_tree
from vedr.errors import (
    ConflictError,
    DeadlineError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from vedr.inventory import Node, Provider
from vedr.ports import Fleet

PAUSE_LIMIT_S: Final = 1.0  # the host resumes the node after that, come what may
ATTEMPTS: Final = 3
SPARE_BYTES: Final = 256 * 1024 * 1024  # copies of journals and WAL, and what the node writes meanwhile
STAGING_PREFIX: Final = ".vedr-capture-"
LOCK_NAME: Final = ".vedr-capture.lock"

_IMMUTABLE: Final = re.compile(r"(\.(ldb|sst)$)|(/wal\.\d+$)")
_LEFT_OUT: Final = re.compile(
    r"(^|/)(LOCK|LOG|LOG\.old|[^/]*\.lock|priv_validator_state\.json[^/]*|priv_validator_key\.json|node_key\.json)$"
    r"|(^|/)(keys|keyring-[a-z]+)(/|$)|\.(pem|key)$"
    r"|^(snapshots|config|lock)(/|$)|^\.vedr-"
)
LeaveOut = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class NodeCondition:
    """What the node and the chain say right before the capture."""

    catching_up: bool
    validator_power: int
    """Of the node's own consensus key in the validator set of now."""


@dataclass(frozen=True, slots=True)
class Capture:
    """`data` holds the copy until the `with` block ends."""

    data: Path
    tree: Tree
    method: Literal["pause", "stop"]
    pause_ms: int


def require_capturable(node: Node, condition: NodeCondition) -> None:
    """Refuse a node whose pause could cost the chain a signature, or whose state is old.

    Raises:
        RefusedError: it validates, or is not in sync.
    """
    if node.is_validator or condition.validator_power:
        raise RefusedError(
            f"{node.name} validates (power {condition.validator_power or node.power}): it is never paused for a backup",
            remedy="Take the snapshot from a full node.",
        )
    if condition.catching_up:
        raise RefusedError(
            f"{node.name} is still catching up", remedy="Wait until it is in sync, or take another node."
        )


@contextlib.contextmanager
def capture(
    node: Node | Provider,
    home: Path,
    fleet: Fleet,
    *,
    method: Literal["pause", "stop"] = "pause",
    secret: Iterable[str] = (),
) -> Iterator[Capture]:
    """The copy, for as long as the block lasts: a node's data, or a provider's home but for its configuration.

    Args:
        node: Whose data.
        home: Where it is.
        fleet: Pauses or stops it.
        method: How it is made to stand still.
        secret: Patterns of paths with keys, beside those that `is_left_out` knows: they are left out.

    Raises:
        RefusedError: it does not run, or a part of its data can't be captured.
        NoSpaceError: the disk lacks room for what must be copied; the node was not touched.
        DeadlineError: three times the pause ended before the copy did.
        UnavailableError: the node's host does not answer.
    """
    data = home if isinstance(node, Provider) else home / "data"
    if not data.is_dir():
        raise NotFoundError(f"{node.name} has no data in {home}", remedy="Check the node's home in the site file.")
    patterns = tuple(secret)

    def leave_out(path: str) -> bool:
        return is_left_out(path) or any(fnmatchcase(path, pattern) for pattern in patterns)

    with _staging(home, data) as folder:
        copy = _Copy(data, folder / "data", leave_out)
        copy.require_room(node)
        pause_ms = _paused(node, fleet, copy) if method == "pause" else _stopped(node, fleet, copy)
        yield Capture(folder / "data", copy.tree(), method, pause_ms)


def is_left_out(path: str) -> bool:
    """Keys, sign-state, configuration, locks, logs, marks of ours, and the state-sync snapshots of a node."""
    return _LEFT_OUT.search(path) is not None


@contextlib.contextmanager
def _staging(home: Path, data: Path) -> Iterator[Path]:
    """A folder of its own, under a lock that dies with this process; what a killed run left is removed first."""
    with (home / LOCK_NAME).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"{home} is being captured", remedy="Wait until the other snapshot ends.") from error
        for leftover in itertools.chain.from_iterable(place.glob(STAGING_PREFIX + "*") for place in {home, data}):
            shutil.rmtree(leftover)
        folder = data / f"{STAGING_PREFIX}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the node runs: it has removed or renamed it since it was listed
        return 0


def _paused(node: Node | Provider, fleet: Fleet, copy: "_Copy") -> int:
    for _ in range(ATTEMPTS):
        copy.link_immutable()
        status = fleet.status(node.unit, node.zone)
        if status.state == "paused":
            raise ConflictError(f"{node.name} is paused by somebody else", remedy="Another capture runs: try later.")
        if status.state != "running" or status.pid is None:
            raise RefusedError(f"{node.name} is {status.state}, not running", remedy="Start it, or take another node.")
        try:
            fleet.pause(node.unit, node.zone, limit_s=PAUSE_LIMIT_S)
        except DeadlineError:  # a busy host: it did not stand still in time, and runs again
            continue
        try:
            copy.settle(open_for_writing(status.pid))
        finally:
            pause = fleet.resume(node.unit, node.zone)
        if not pause.expired:
            return round(pause.paused_s * 1000)
    raise DeadlineError(
        f"{node.name}: {ATTEMPTS} times it did not stand still, or the copy took longer than the pause of "
        f"{PAUSE_LIMIT_S} s allows",
        remedy="The host is busy or its disk slow: capture with the method stop, or from another node.",
    )


def _stopped(node: Node | Provider, fleet: Fleet, copy: "_Copy") -> int:
    copy.link_immutable()
    began = time.monotonic()
    fleet.stop(node.unit, node.zone)
    try:
        copy.settle(frozenset())
    finally:
        fleet.start(node.unit, node.zone)
    return round((time.monotonic() - began) * 1000)


def open_for_writing(pid: int) -> frozenset[int]:
    """Inodes of the files that a process and those it started may write through an open descriptor.

    A unit's main process may be a supervisor such as cosmovisor, and the node its child.

    Raises:
        UnavailableError: one of them ended meanwhile.
        RefusedError: this process may not look; guessing could let a file change under the snapshot.
    """
    return frozenset(inode for process in _with_children(pid) for inode in _opened_by(process))


def _with_children(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of those that stand still none ends
            _, _, after_name = stat.read_text(errors="replace").rpartition(")")
            parents[int(stat.parent.name)] = int(after_name.split()[1])
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family


def _opened_by(pid: int) -> set[int]:
    inodes = set()
    folder = Path(f"/proc/{pid}")
    try:
        descriptors = list((folder / "fdinfo").iterdir())
    except FileNotFoundError as error:
        raise UnavailableError(
            f"process {pid} is gone", remedy="The node ended: see its log, then try again."
        ) from error
    except PermissionError as error:
        raise RefusedError(
            f"the open files of process {pid} can't be seen",
            remedy="Run as the node's user or root, or use method stop.",
        ) from error
    for descriptor in descriptors:
        with contextlib.suppress(FileNotFoundError):
            flags = re.search(r"^flags:\s*([0-7]+)", descriptor.read_text(), re.MULTILINE)
            if flags is None or int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                inodes.add((folder / "fd" / descriptor.name).stat().st_ino)
    return inodes


def _scan(data: Path, leave_out: LeaveOut, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Relative path and inode of every file that belongs into a capture; no stat, which a large node can't afford."""
    with os.scandir(data / prefix) as entries:
        for entry in entries:
            path = prefix + entry.name
            if leave_out(path):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(data, leave_out, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path, entry.inode()
            else:
                raise RefusedError(f"{entry.path} is neither a file nor a folder", remedy="Move it out of the data.")


class _Copy:
    """The growing copy: path to inode of what is linked."""

    def __init__(self, data: Path, target: Path, leave_out: LeaveOut) -> None:
        self._data, self._target, self._leave_out = data, target, leave_out
        self._linked: dict[str, int] = {}
        self._copied: set[str] = set()
        target.mkdir(mode=0o700)

    def require_room(self, node: Node | Provider) -> None:
        """NoSpaceError when the disk lacks room for what must be copied."""
        mutable = sum(_size_bytes(self._data / path) for path, _ in self._scan() if not _IMMUTABLE.search(path))
        free = shutil.disk_usage(self._data).free
        if free < mutable + SPARE_BYTES:
            raise NoSpaceError(
                f"{node.name}: {free} bytes free in {self._data}, a capture needs {mutable} and {SPARE_BYTES} to spare",
                remedy="Free some space on the node's disk; the node was not touched.",
            )

    def tree(self) -> Tree:
        """What was captured, with the folders as they are in the data, the empty ones too."""
        found = read_tree(self._target, leave_out=self._leave_out)
        files = (replace(file, mutable=file.path in self._copied) for file in found.files)
        return Tree(tuple(files), tuple(sorted(self._folders())))

    def _scan(self) -> Iterator[tuple[str, int]]:
        return _scan(self._data, self._leave_out)

    def _folders(self, prefix: str = "") -> Iterator[FolderEntry]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._data / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False) and not self._leave_out(path):
                    yield FolderEntry(path, entry.stat(follow_symlinks=False).st_mode & PERMISSION_BITS)
                    yield from self._folders(path + "/")

    def link_immutable(self) -> None:
        """Before the pause: whatever is linked here need not be linked in it."""
        for path, inode in self._scan():
            if _IMMUTABLE.search(path) and self._linked.get(path) != inode:
                with contextlib.suppress(FileNotFoundError):  # compaction was faster
                    self._link(path, inode)

    def settle(self, writable: frozenset[int]) -> None:
        """While the node stands still: make the copy equal to this moment."""
        for path in self._copied:
            (self._target / path).unlink(missing_ok=True)
        self._copied.clear()
        present = dict(self._scan())
        for path in [path for path, inode in self._linked.items() if present.get(path) != inode or inode in writable]:
            (self._target / path).unlink()
            del self._linked[path]
        for path, inode in present.items():
            if path in self._linked:
                continue
            if _IMMUTABLE.search(path) and inode not in writable:
                self._link(path, inode)
            else:
                self._copy(path)

    def _link(self, path: str, inode: int) -> None:
        target = self._target / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._linked.pop(path, None)  # should the file go just now, there is no link
        target.unlink(missing_ok=True)
        try:
            os.link(self._data / path, target, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise RefusedError(
                f"{self._data / path} is on another file system than {self._data}",
                remedy="Mount the disk at the data folder or above it, not within it.",
            ) from error
        self._linked[path] = inode
        self._copied.discard(path)

    def _copy(self, path: str) -> None:
        target = self._target / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # writing through a link would change the live node's file
        shutil.copy2(self._data / path, target, follow_symlinks=False)
        self._copied.add(path)
