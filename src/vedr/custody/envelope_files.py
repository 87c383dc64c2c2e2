"""Envelopes from file to file, in chunks: a payload of any size passes through a few MiB of memory.

Guarantees: the target appears under its name only when it is whole, verified and on the disk; until then it is a
hidden file of mode 0600 beside it, removed on failure.  A file that exists is never replaced.
Leaves out: sealing (envelope.seal: what is sealed is a key, not a file), and a crash of the machine, which can leave
that hidden file; it may then hold unverified plaintext.
"""

import errno
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from vedr.custody.envelope import open_stream, read_header, rewrap_stream
from vedr.custody.envelope_format import Header
from vedr.custody.envelope_slots import Entropy, Opener, Seal
from vedr.errors import ConflictError, NoSpaceError, NotFoundError


def open_file(source: Path, target: Path, opener: Opener) -> Header:
    """As `envelope.open_sealed`, the payload into a new file of mode 0600."""
    with _reading(source) as reading, _published(target) as writing:
        return open_stream(reading, writing, opener, whole_bytes=os.fstat(reading.fileno()).st_size)


def rewrap_file(
    source: Path,
    target: Path,
    opener: Opener,
    *,
    add: Sequence[Seal] = (),
    keep: Collection[str] = (),
    entropy: Entropy = secrets.token_bytes,
) -> Header:
    """As `envelope.rewrap`, into a new file; the source stays."""
    with _reading(source) as reading, _published(target) as writing:
        size = os.fstat(reading.fileno()).st_size
        return rewrap_stream(reading, writing, opener, whole_bytes=size, add=add, keep=keep, entropy=entropy)


def inspect_file(source: Path) -> Header:
    """As `envelope.inspect`; reads the header only."""
    with _reading(source) as reading:
        return read_header(reading, whole_bytes=os.fstat(reading.fileno()).st_size)[0]


def verify_file(source: Path, opener: Opener) -> Header:
    """Open all of it and keep nothing: what a backup has to pass before it counts."""
    with _reading(source) as reading, Path(os.devnull).open("wb") as writing:
        return open_stream(reading, writing, opener, whole_bytes=os.fstat(reading.fileno()).st_size)


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def _reading(source: Path) -> Iterator[BinaryIO]:
    """The file, open; NotFoundError when it can't be opened."""
    try:
        file = source.open("rb")
    except OSError as error:
        raise NotFoundError(f"{source}: {error.strerror}", remedy="Name a file that can be read.") from error
    with file:
        yield file


@contextmanager
def _published(target: Path) -> Iterator[BinaryIO]:
    """A temporary file that becomes the target when the block ends well."""
    _absent(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _absent(target)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise NoSpaceError(
                f"{target.parent}: {error.strerror}", remedy="Free some room, then repeat it: nothing was kept."
            ) from error
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _absent(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ConflictError(f"{target} exists", remedy="Name a new file; nothing is replaced.")
