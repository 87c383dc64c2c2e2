"""A validator's key file on the disk of a host that is given it, and off it again.

A full node has a key of its own, which signs nothing.  It is set aside while the host has a validator's:

    config/priv_validator_key.json            what the node signs with
    config/vedr-own/priv_validator_key.json   the host's own key, while the other one is the validator's

Guarantees: there is a whole key file at every moment, so that a node that is started never makes a new one; the host's
own key is never lost; a process that is killed may repeat either.
Leaves out: whether the host may have it (`promotion`), the folder that lets it sign (`signer_disk`), and wiping what a
file system or a disk keeps of overwritten blocks: the disk's encryption is for that.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Final

from vedr.chain.durable import replace_file
from vedr.errors import UnavailableError
from vedr.failover.promotion_key import FILE_NAME, OWNER_ONLY, KeySeen, read_key_file
from vedr.failover.signer_disk import OPEN, LocalSignerDisk
from vedr.inventory import Node
from vedr.ports import Files

OWN_FOLDER: Final = "vedr-own"
_FOLDER_MODE: Final = 0o700


def address_on(home: Path) -> str:
    """The consensus address of the key that a node in this home would sign with; "" when there is no readable one.

    UnavailableError when the disk can't be read.
    """
    path = home / "config" / FILE_NAME
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", remedy="Look at that disk.") from error
    except ValueError:
        return ""
    address = found.get("address") if isinstance(found, dict) else None
    return address if isinstance(address, str) else ""


class SignsHere:
    """Whether a node on this host would sign with this key: it is on its disk, and that disk is not fenced.

    For who asks a hundred times a second: the key file is read only when another one is in its place.

    Args:
        files: Reaches the host's home.
        host: A node that may be given the key.
        address: The key's consensus address.
    """

    def __init__(self, files: Files, host: Node, address: str) -> None:
        self._files, self._host, self._address = files, host, address
        self._seen: tuple[int, ...] | None = None
        self._has_key = False

    def __call__(self) -> bool:
        """True as well when its folder is gone, fenced by nobody: whoever reads it has to say so.

        UnavailableError when the disk can't be read.
        """
        home = self._files.home(self._host)
        now = _identity(home / "config" / FILE_NAME)
        if now != self._seen:
            self._has_key, self._seen = address_on(home) == self._address, now
        if not self._has_key:
            return False
        return (home / OPEN).is_dir() or LocalSignerDisk(self._files, self._host).place().where != "fenced"


def put_key(home: Path, content: bytes) -> KeySeen:
    """Make it the node's; the host's own key is set aside first.  What is there afterwards, read back."""
    path, own = home / "config" / FILE_NAME, _own(home)
    if path.exists() and not own.exists():
        own.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        os.link(path, own)
        _sync(own.parent)
    replace_file(path, content, mode=OWNER_ONLY)
    return read_key_file(path)


def take_key_off(home: Path, address: str) -> bool:
    """Overwrite the validator's key and give the node its own back; whether there was anything to do."""
    path, own = home / "config" / FILE_NAME, _own(home)
    if own.exists():
        if path.exists() and not path.samefile(own):  # else it was only set aside yet
            _overwrite(path)
        own.replace(path)
        with contextlib.suppress(OSError):
            own.parent.rmdir()
    elif address_on(home) == address:
        _overwrite(path)
        path.unlink()
    else:
        return False
    _sync(path.parent)
    return True


def _own(home: Path) -> Path:
    return home / "config" / OWN_FOLDER / FILE_NAME


def _identity(path: Path) -> tuple[int, ...]:
    """Another one for another file in its place, and for one that was written to; empty when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", remedy="Look at that disk.") from error
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _overwrite(path: Path) -> None:
    """In place, so that the blocks that held the key hold something else, where the file system writes in place."""
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
