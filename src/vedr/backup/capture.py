"""A consistent copy of a node's data, taken in milliseconds whatever its size.

    (1) Link every immutable file (tables of the databases, closed segments of the WAL) while the node runs.
    (2) Pause the node: all its threads stand still, so what the kernel shows is one moment of all databases.
    (3) Link tables that have come since, drop those that have gone, copy all that can still change.
    (4) Resume.  If the host resumed it earlier, the copy is thrown away and taken again.

Guarantees: no file of the copy is one that the live node can still change: what it has open for writing is copied,
however it is named.  Keys and the sign-state are never in it.  The node runs on whatever happens here, since the host
ends the pause by itself; the staging folder goes with the `with` block, one left by a killed run with the next capture.
A node is captured by one run at a time.
Leaves out: which node to take (require_capturable refuses those that must not be), and the height (inspection.py).

Links need staging on the data's own file system: it is a folder beside the data.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

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
    r"|^(snapshots|config|lock)(/|$)|^\.vedr-capture-"
)


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
    node: Node | Provider, home: Path, fleet: Fleet, *, method: Literal["pause", "stop"] = "pause"
) -> Iterator[Capture]:
    """The copy, for as long as the block lasts: a node's data, or a provider's home but for its configuration.

    Raises:
        NoSpaceError: the disk lacks room for what must be copied; the node was not touched.
        DeadlineError: three times the pause ended before the copy did.
        UnavailableError: the node's host does not answer.
    """
    data = home if isinstance(node, Provider) else home / "data"
    if not data.is_dir():
        raise NotFoundError(f"{node.name} has no data in {home}", remedy="Check the node's home in the site file.")
    with _staging(home) as folder:
        _require_room(node, home, data)
        copy = _Copy(data, folder / "data")
        pause_ms = _paused(node, fleet, copy) if method == "pause" else _stopped(node, fleet, copy)
        yield Capture(folder / "data", read_tree(folder / "data", leave_out=is_left_out), method, pause_ms)


def is_left_out(path: str) -> bool:
    """Keys, sign-state, configuration, locks, logs, and state-sync snapshots, which the node makes again."""
    return _LEFT_OUT.search(path) is not None


@contextlib.contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A folder of its own, under a lock that dies with this process; what a killed run left is removed first."""
    with (home / LOCK_NAME).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"{home} is being captured", remedy="Wait until the other snapshot ends.") from error
        for leftover in home.glob(STAGING_PREFIX + "*"):
            shutil.rmtree(leftover)
        folder = home / f"{STAGING_PREFIX}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _require_room(node: Node | Provider, home: Path, data: Path) -> None:
    mutable = sum(_size_bytes(data / path) for path, _ in _scan(data) if not _IMMUTABLE.search(path))
    free = shutil.disk_usage(home).free
    if free < mutable + SPARE_BYTES:
        raise NoSpaceError(
            f"{node.name}: {free} bytes free in {home}, a capture needs {mutable} and {SPARE_BYTES} to spare",
            remedy="Free some space on the node's disk; the node was not touched.",
        )


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
    """Inodes of the files that a process may write through an open descriptor.

    Raises:
        RefusedError: this process may not look; guessing could let a file change under the snapshot.
    """
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
    return frozenset(inodes)


def _scan(data: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Relative path and inode of every file that belongs into a capture; no stat, which a large node can't afford."""
    with os.scandir(data / prefix) as entries:
        for entry in entries:
            path = prefix + entry.name
            if is_left_out(path):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(data, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path, entry.inode()
            else:
                raise RefusedError(f"{entry.path} is neither a file nor a folder", remedy="Move it out of the data.")


class _Copy:
    """The growing copy: path to inode of what is linked."""

    def __init__(self, data: Path, target: Path) -> None:
        self._data, self._target = data, target
        self._linked: dict[str, int] = {}
        self._copied: set[str] = set()
        target.mkdir(mode=0o700)

    def link_immutable(self) -> None:
        """Before the pause: whatever is linked here need not be linked in it."""
        for path, inode in _scan(self._data):
            if _IMMUTABLE.search(path) and self._linked.get(path) != inode:
                with contextlib.suppress(FileNotFoundError):  # compaction was faster
                    self._link(path, inode)

    def settle(self, writable: frozenset[int]) -> None:
        """While the node stands still: make the copy equal to this moment."""
        for path in self._copied:
            (self._target / path).unlink(missing_ok=True)
        self._copied.clear()
        present = dict(_scan(self._data))
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
        os.link(self._data / path, target, follow_symlinks=False)
        self._linked[path] = inode
        self._copied.discard(path)

    def _copy(self, path: str) -> None:
        target = self._target / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # writing through a link would change the live node's file
        shutil.copy2(self._data / path, target, follow_symlinks=False)
        self._copied.add(path)
