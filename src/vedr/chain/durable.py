"""Replaces a file so that a crash leaves the old one or the new one, whole."""

import os
import tempfile
from pathlib import Path


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
            if os.geteuid() == 0:
                former = (path if path.exists() else path.parent).stat()
                os.fchown(file.fileno(), former.st_uid, former.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
