"""Replaces a file so that a crash leaves the old one or the new one, whole; makes a folder's entries last."""

import os
import tempfile
from pathlib import Path


def keep_owner(path: Path, *, like: Path) -> None:
    """What root makes for a node belongs to whom `like` does: the node runs as that user.  Only root can give."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write beside it, fsync, rename over it, fsync the folder; nothing is left behind on failure.

    Written by root it belongs to whom the file, or else the folder, belonged to: a node that runs as another user
    reads and replaces what is written for it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            keep_owner(temporary, like=path if path.exists() else path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """After it, a loss of power takes back no rename and no new entry in the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
