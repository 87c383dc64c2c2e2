"""Restoring a snapshot: each step its own function, safe to repeat after kill -9.

    (1) `candidates`     which snapshots fit, best first
    (2) `open_manifest`  its signature, its chain                       -> VerifiedManifest
    (3) `fetch`          room, then content, each object proven         -> Staged, beside the live data
    (4) the caller proves the staged copy (chain/boot.py) and stops the node
    (5) `swap_in`        live aside, staged in its place, by rename     -> Swapped
    (6) `roll_back` or `discard_old`

Guarantees: the live data is not touched before (5); a failure or a kill at any point leaves either the old or the new
data in place, never a mixture, and running the step again ends it.  Where a region's copy is missing or damaged, the
next region's is taken, object by object.  The sign-state is never part of a snapshot, and `swap_in` only ever merges it
upward: the old folder keeps its copy.  Run as root, what is put in place belongs to whom the data before it did.
Leaves out: stopping and starting the node.
"""

import datetime as dt
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.backup.fetching import FULL_ERRNOS, fetch_into
from vedr.backup.layout import SnapshotId
from vedr.backup.manifest import VerifiedManifest
from vedr.backup.repository import Listed, Repository, list_snapshots, load_manifest, require_readable
from vedr.backup.snapshot import NO_PROGRESS, Progress
from vedr.chain.durable import keep_owner
from vedr.chain.sign_state import FILE_NAME as SIGN_STATE_FILE
from vedr.chain.sign_state import SignState, merge_upward, read_sign_state, write_sign_state
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    VerificationFailedError,
)
from vedr.inventory import Height

SPARE_BYTES: Final = 64 * 1024 * 1024  # beside the content: folders, the node's first writes
COMPLETE_MARK: Final = ".vedr-complete"
SWAPPED_MARK: Final = ".vedr-swapped-"  # and the incident: tells data that was put in place from data that was not


@dataclass(frozen=True, slots=True)
class Staged:
    """A whole, proven copy beside the live data."""

    home: Path
    incident: str
    snapshot: SnapshotId
    path: Path
    total_bytes: int
    from_regions: tuple[str, ...]
    took_s: float


@dataclass(frozen=True, slots=True)
class Swapped:
    """The staged copy is live; `old` holds what was there before, None when nothing was."""

    home: Path
    incident: str
    data: Path
    old: Path | None


def candidates(
    repository: Repository,
    *,
    origins: Iterable[str],
    kind: str = "state",
    name: str | None = None,
    snapshot: str | None = None,
    max_height: int | None = None,
    before: dt.datetime | None = None,
) -> tuple[Listed, ...]:
    """Snapshots to try, newest first; all origins together, since the chain's state is one.

    Raises:
        NotFoundError: none fits.
        UnavailableError: no region answers.
    """
    found = [listed for origin in origins for listed in list_snapshots(repository, origin, kind, name=name).snapshots]
    fitting = [
        listed
        for listed in found
        if (snapshot is None or listed.id == snapshot)
        and (max_height is None or listed.height <= max_height)
        and (before is None or listed.created_at <= before)
    ]
    if not fitting:
        raise NotFoundError(
            f"none of {len(found)} snapshots fits (id {snapshot}, height up to {max_height}, before {before})",
            remedy="See `vedr snapshot list`.",
        )
    return tuple(sorted(fitting, key=lambda listed: (listed.height, listed.id), reverse=True))


def open_manifest(
    repository: Repository, listed: Listed, *, chain_id: str | None, prefer: Iterable[str] = ()
) -> VerifiedManifest:
    """Signature, chain, and whether this site's key opens it.

    Raises:
        VerificationFailedError: another chain's, or no trusted key signed it.
        InvalidInputError: it was made under another encryption key.
    """
    verified = load_manifest(repository, listed, prefer=prefer)
    chain = verified.manifest.facts.chain
    if chain_id is not None and (chain is None or chain.chain_id != chain_id):
        found = "no chain" if chain is None else f"chain {chain.chain_id}"
        raise VerificationFailedError(
            f"snapshot {listed.id} is of {found}, this site runs {chain_id}", remedy="Choose a snapshot of this chain."
        )
    require_readable(repository.codec, verified)
    return verified


def staged_path(home: Path, incident: str) -> Path:
    return home / f"data.vedr-staged-{_checked(incident)}"


def old_path(home: Path, incident: str) -> Path:
    return home / f"data.vedr-old-{_checked(incident)}"


def require_exchangeable(home: Path) -> None:
    """RefusedError when a home's data can't be exchanged by rename, because it is a mount point or a link."""
    data = home / "data"
    kind = "a link" if data.is_symlink() else "a mount point" if data.is_mount() else None
    if kind is not None:
        raise RefusedError(
            f"{data} is {kind}: restored data can't take its place by rename",
            remedy="Mount the disk at the node's home, or name the folder above the data as home in the site file.",
        )


def fetch(
    repository: Repository,
    verified: VerifiedManifest,
    home: Path,
    incident: str,
    *,
    prefer: Iterable[str] = (),
    progress: Progress = NO_PROGRESS,
) -> Staged:
    """Bring the content beside the live data; a complete earlier fetch is found again, a partial one is begun anew.

    Raises:
        RefusedError: the live data could not be exchanged for it.
        NoSpaceError: the disk lacks room; nothing is left behind.
        CorruptError, NotFoundError, UnavailableError: an object is good in no region; nothing is left behind.
    """
    require_exchangeable(home)
    target = staged_path(home, incident)
    mark = target / COMPLETE_MARK
    total = verified.manifest.total_bytes
    if mark.is_file() and mark.read_text(encoding="ascii") == verified.sha256:
        return Staged(home, incident, verified.id, target, total, (), 0.0)
    if target.exists():
        shutil.rmtree(target)
    _require_room(home, total)
    try:
        fetched = fetch_into(repository, verified, target, prefer=prefer, progress=progress)
        _write_durably(mark, verified.sha256)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL_ERRNOS:
            raise NoSpaceError(
                f"{home}: {error.strerror} while {total} bytes were written",
                remedy="Free some space (df -h, df -i), and run it again.",
            ) from error
        raise
    return Staged(home, incident, verified.id, target, total, fetched.from_regions, fetched.took_s)


def swap_in(staged: Staged, *, validator: bool) -> Swapped:
    """Rename live to old and staged to live.  The node must be stopped.

    Each step is skipped when it shows as done, so that a run killed between any two of them is ended by the next.

    A validator's sign-state is carried over as it is; if it can't be read the swap is refused, and if there is none
    the new data has none either, with which no validator starts: the runbook must find a floor.  A full node signs
    nothing, but does not start without the file: it gets an empty one where there is none to carry over.

    Raises:
        CorruptError, RefusedError: the validator's sign-state can't be trusted, or an old folder is in the way.
        NotFoundError: what was staged is gone, and was not put in place.
    """
    require_exchangeable(staged.home)
    data, old = staged.home / "data", old_path(staged.home, staged.incident)
    mark = SWAPPED_MARK + staged.incident
    if staged.path.exists():
        if data.exists() and old.exists():
            raise RefusedError(
                f"{old} exists already beside live and staged data", remedy="Look what it is, and move it away."
            )
        _carry_over_sign_state(old if old.exists() else data, staged.path, validator=validator)
        (staged.path / COMPLETE_MARK).unlink(missing_ok=True)
        _write_durably(staged.path / mark, staged.snapshot)
        _give_to_owner(staged.path, like=next(path for path in (data, old, staged.home) if path.exists()))
        if data.exists():
            _rename(data, old)
        _rename(staged.path, data)
    elif not data.exists() or not (old.exists() or swapped_before(staged.home, staged.incident)):
        raise NotFoundError(f"{staged.path} is gone, {data} was not exchanged", remedy="Fetch the snapshot again.")
    return Swapped(staged.home, staged.incident, data, old if old.exists() else None)


def swapped_before(home: Path, incident: str) -> SnapshotId | None:
    """What that incident put in place already and has not done with; None when nothing."""
    try:
        return SnapshotId((home / "data" / (SWAPPED_MARK + _checked(incident))).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def _give_to_owner(folder: Path, *, like: Path) -> None:
    """All of the folder: the node could not open what root fetched."""
    for path in (folder, *folder.rglob("*")):
        keep_owner(path, like=like)


def _carry_over_sign_state(live: Path, staged: Path, *, validator: bool) -> None:
    source, target = live / SIGN_STATE_FILE, staged / SIGN_STATE_FILE
    try:
        if source.exists():
            write_sign_state(target, read_sign_state(source))
        elif not validator and not target.exists():
            write_sign_state(target, SignState(Height(0), 0, 0))
    except CorruptError:
        if validator:
            raise
        write_sign_state(target, SignState(Height(0), 0, 0))


def roll_back(swapped: Swapped, *, validator: bool) -> None:
    """Put the old data back.  The node must be stopped.  What it signed meanwhile is kept: merged upward.

    Raises:
        CorruptError, RefusedError: the sign-states can't be merged, or there was no data before the swap.
    """
    data, old = swapped.home / "data", old_path(swapped.home, swapped.incident)
    rejected = swapped.home / f"data.vedr-rejected-{swapped.incident}"
    if old.exists():
        if validator:
            _merge_signed(old, data if data.exists() else rejected)
        if data.exists():
            _rename(data, rejected)
        _rename(old, data)
    elif swapped.old is None:
        raise RefusedError(f"there was no data in {swapped.home} before the swap", remedy="Restore another snapshot.")
    shutil.rmtree(rejected, ignore_errors=True)
    _sync_folder(swapped.home)


def _merge_signed(old: Path, new: Path) -> None:
    """Raise the old folder's sign-state to what the new one's says."""
    kept, signed = old / SIGN_STATE_FILE, new / SIGN_STATE_FILE
    if signed.exists():
        write_sign_state(kept, merge_upward(kept if kept.exists() else None, signed))


def discard_old(swapped: Swapped) -> None:
    """Remove what was there before, once the new data is proven in service."""
    old = old_path(swapped.home, swapped.incident)
    if old.exists():
        if not (swapped.home / "data").is_dir():
            raise RefusedError(f"{swapped.home / 'data'} is missing: the old data is all there is", remedy="Roll back.")
        shutil.rmtree(old)
        _sync_folder(swapped.home)
    (swapped.home / "data" / (SWAPPED_MARK + swapped.incident)).unlink(missing_ok=True)


def discard_staged(home: Path, incident: str) -> None:
    """Remove a staged copy that will not be used; quiet when there is none."""
    if (path := staged_path(home, incident)).exists():
        shutil.rmtree(path)
        _sync_folder(home)


def _checked(incident: str) -> str:
    if not incident or not all(c.isalnum() or c in "-_" for c in incident):
        raise InvalidInputError(f"{incident!r} cannot be part of a file name", remedy="Use letters, digits, - and _.")
    return incident


def _require_room(home: Path, needed_bytes: int) -> None:
    if not home.is_dir():
        raise NotFoundError(f"{home} is not a folder", remedy="Check the node's home in the site file.")
    free = shutil.disk_usage(home).free
    if free < needed_bytes + SPARE_BYTES:
        raise NoSpaceError(
            f"{home} has {free} bytes free, the snapshot needs {needed_bytes} and {SPARE_BYTES} to spare",
            remedy="Free some space, or restore to another disk.",
        )


def _rename(source: Path, target: Path) -> None:
    source.rename(target)
    _sync_folder(target.parent)


def _write_durably(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
