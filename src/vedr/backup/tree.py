"""Files on disk as a snapshot sees them.

Guarantees: only regular files and folders; anything else is refused, not skipped.  Leaves out: consistency across
files, which capture.py brings about for a live node.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vedr.backup.documents import is_inside
from vedr.backup.manifest import PERMISSION_BITS, FolderEntry
from vedr.errors import NotFoundError, RefusedError


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to store under `path`; its first `size_bytes` are read from `location`."""

    path: str
    location: Path
    mode: int
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int
    mutable: bool = False
    """A copy of what can still change: its inode is the copy's own, by which the next snapshot recognises nothing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """In the order of their paths."""

    files: tuple[LocalFile, ...]
    folders: tuple[FolderEntry, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def read_tree(root: Path, *, leave_out: Callable[[str], bool] = lambda _: False) -> Tree:
    """Everything under `root` but the paths (relative, with slashes) that `leave_out` names.

    Raises:
        NotFoundError: there is no such folder.
        RefusedError: a link, socket or device is there, or a name that no manifest can hold.
    """
    if not root.is_dir():
        raise NotFoundError(f"{root} is not a folder", remedy="Check the home of the node or provider.")
    files: list[LocalFile] = []
    folders: list[FolderEntry] = []
    for path, location, status in _walk(root, "", leave_out):
        if not is_inside(path):
            raise RefusedError(f"{path!r} has a name that a snapshot can't hold", remedy="Rename or remove it.")
        if stat.S_ISDIR(status.st_mode):
            folders.append(FolderEntry(path, status.st_mode & PERMISSION_BITS))
        elif stat.S_ISREG(status.st_mode):
            files.append(local_file(path, location, status))
        else:
            raise RefusedError(f"{location} is neither a file nor a folder", remedy="Remove it, or leave it out.")
    return Tree(tuple(sorted(files, key=lambda f: f.path)), tuple(sorted(folders)))


def local_file(path: str, location: Path, status: os.stat_result) -> LocalFile:
    mode = status.st_mode & PERMISSION_BITS
    return LocalFile(path, location, mode, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _walk(folder: Path, prefix: str, leave_out: Callable[[str], bool]) -> Iterator[tuple[str, Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if leave_out(path):
                continue
            status = entry.stat(follow_symlinks=False)
            yield path, Path(entry.path), status
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(Path(entry.path), path + "/", leave_out)
