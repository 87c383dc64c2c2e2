"""Putting keys back on a host from an opened backup.

Guarantees: files are written whole, durable, mode 0600, and never over another; nothing is written while the owner's
unit runs or while that is unknown, or for a key that was revoked; no sign-state is written and nothing is started, so
that a restore alone never makes a signer.
Leaves out: arming a validator, for which a floor is needed (RB-DR-001 on its own host, RB-DR-002 and -003 elsewhere).
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.custody.key_backup import Bundle
from vedr.custody.key_backup_catalogue import Revocation
from vedr.custody.key_material import KeyKind
from vedr.errors import ConflictError, NoSpaceError, RefusedError
from vedr.ports import UnitStatus

KEY_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
NEXT: Final[dict[KeyKind, str]] = {
    "validator": "Nothing was started.  RB-DR-001 finds its floor and starts it: vedr run RB-DR-001 --node NAME.",
    "node": "Nothing was started.  Start the node with RB-DR-001: vedr run RB-DR-001 --node NAME.",
    "provider": "Nothing was started.  Its state: vedr snapshot restore --kind provider; then start the daemon.",
}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was written, and what to do next."""

    paths: tuple[Path, ...]
    next_step: str


def restore_keys(
    bundle: Bundle, home: Path, *, revoked: Sequence[Revocation], status: Callable[[], UnitStatus] | None
) -> Restored:
    """Write the bundle's files under `home`.

    Args:
        bundle: From `open_bundle`.
        home: The owner's home, or an empty folder.
        revoked: The revocations of its keys, looked up by the caller.
        status: Asks the supervisor of the owner's unit; None for a folder that is nobody's home.

    Raises:
        RefusedError: a key was revoked, or the unit runs.
        ConflictError: a file of that name exists; nothing was written.
        UnavailableError: the supervisor does not answer, so that nobody knows whether the unit runs.
    """
    for revocation in revoked:
        raise RefusedError(
            f"{bundle.owner}: key {revocation.fingerprint[:16]} was revoked on {revocation.at:%Y-%m-%d} "
            f"({revocation.incident}: {revocation.reason})",
            remedy="It may never be used again; restore the key that replaced it.",
        )
    if status is not None:
        seen = status()
        if seen.state in ("running", "paused") or seen.pid is not None:
            raise RefusedError(
                f"{bundle.owner}: unit {seen.name} is {seen.state} (pid {seen.pid})",
                remedy="Stop it on its host first; a running process may be using the key.",
            )
    targets = [home / file.path for file in bundle.files]
    for target in targets:
        if target.exists() or target.is_symlink():
            raise ConflictError(f"{target} exists; nothing was written", remedy="Move it aside, and keep it.")
    for target, file in zip(targets, bundle.files, strict=True):
        write_key(target, file.content)
    return Restored(tuple(targets), NEXT[bundle.kind].replace("NAME", bundle.owner))


def write_key(target: Path, content: bytes) -> None:
    """Whole, durable, 0600, and only where no file is: it is linked into place, which never replaces one."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)  # of a process that was killed and had our number
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, KEY_MODE)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (the descriptor has the mode from its first byte on)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(draft, target)
        _sync_folder(target.parent)
    except FileExistsError:
        raise ConflictError(f"{target} exists", remedy="Move it aside, and keep it.") from None
    except OSError as error:
        raise NoSpaceError(f"{target}: {error.strerror}", remedy="Make room, or correct the folder's mode.") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
