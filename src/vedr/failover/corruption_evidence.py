"""Keeps damaged data beside the node, whole, with a record of every file: what the root cause is looked for in.

    (1) `require_room`  the new data has to fit beside the damaged
    (2) `set_aside`     the data folder is renamed; a fresh one takes its place, with the sign-state
    (3) `list_files`    path, size and SHA-256 of everything that was kept
    (4) `write_record`  the list and the findings, durably, beside the data

Guarantees: nothing is deleted or changed, here or by whoever uses this; each step is safe to repeat after kill -9; a
validator's sign-state is carried into the fresh folder as it is, or not at all when it can't be read, after which no
validator starts before a floor is proven.  Keys are never copied.
Leaves out: removing the evidence, which a person does when the root cause is known.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.durable import replace_file, sync_folder
from vedr.chain.sign_state import FILE_NAME as SIGN_STATE_FILE
from vedr.chain.sign_state import read_sign_state, write_sign_state
from vedr.errors import CorruptError, InvalidInputError, NoSpaceError, NotFoundError
from vedr.failover.corruption import CONSENSUS_LOG, KEY_FILES, Finding

FORMAT: Final = "vedr-damage/1"
SPARE_BYTES: Final = 256 * 1024 * 1024  # the record, journals, and what the node writes while it catches up
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of the evidence; `path` is relative to its folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept, and where."""

    folder: Path
    record: Path
    files: int
    total_bytes: int
    record_sha256: str


def evidence_folder(home: Path, incident: str) -> Path:
    """Beside the data, so that keeping it is a rename."""
    if not incident or not all(c.isalnum() or c in "-_" for c in incident):
        raise InvalidInputError(f"{incident!r} cannot be part of a file name", remedy="Use letters, digits, - and _.")
    return home / f"vedr-damaged-{incident}"


def require_room(home: Path, needed_bytes: int) -> int:
    """The bytes that are free.

    Raises:
        NoSpaceError: the new data would not fit beside the damaged; nothing was changed.
    """
    free = shutil.disk_usage(home).free
    if free < needed_bytes + SPARE_BYTES:
        raise NoSpaceError(
            f"{home} has {free} bytes free; {needed_bytes} of new data and {SPARE_BYTES} to spare have to fit beside "
            "what is damaged, which is kept",
            remedy="Free some space, or move older vedr-damaged-… folders to another disk; then resume.",
        )
    return free


def set_aside_data(home: Path, incident: str) -> Path:
    """Rename the stopped node's data into the evidence; a fresh folder with its sign-state takes the place."""
    kept, data = evidence_folder(home, incident) / "data", home / "data"
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    if not kept.exists():
        if not data.exists():
            raise NotFoundError(f"{data} does not exist", remedy="There is nothing to keep: run RB-DR-001.")
        data.rename(kept)
    data.mkdir(mode=0o700, exist_ok=True)
    for folder in (home, kept.parent):  # taken back by a loss of power, it would leave the sign-state of before
        sync_folder(folder)
    source, target = kept / SIGN_STATE_FILE, data / SIGN_STATE_FILE
    if source.exists() and not target.exists():
        with contextlib.suppress(CorruptError):  # without one no validator starts before its floor is proven
            write_sign_state(target, read_sign_state(source))
    return kept


def set_aside_log(home: Path, incident: str) -> Path:
    """Rename the stopped node's consensus log into the evidence; the node begins a new one."""
    kept, log = evidence_folder(home, incident) / CONSENSUS_LOG, home / CONSENSUS_LOG
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not kept.exists() and log.exists():
        log.rename(kept)
    return kept


def copy_files(home: Path, incident: str, relative: Iterable[str]) -> Path:
    """Copy damaged configuration files into the evidence; those that are gone are left out, copied ones kept."""
    folder = evidence_folder(home, incident)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in relative:
        if name in KEY_FILES:
            raise InvalidInputError(f"{name} is a key: it is never copied", remedy="Leave it out of the evidence.")
        source, target = home / name, folder / name
        if source.is_file() and not target.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(target, source.read_bytes())
    return folder


def list_files(folder: Path) -> tuple[KeptFile, ...]:
    """Everything under `folder`, by path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return tuple(KeptFile(str(path.relative_to(folder)), path.stat().st_size, sha256_of(path)) for path in paths)


def sha256_of(path: Path) -> str:
    """Of the file's content, in hexadecimal; bytes that the disk can't read are said in its place."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()


def write_record(home: Path, incident: str, node: str, findings: Iterable[Finding]) -> Kept:
    """List what was kept in `<evidence>.json` beside it (docs/formats/damage-record.md)."""
    folder = evidence_folder(home, incident)
    files = list_files(folder)
    document = {
        "format": FORMAT,
        "incident": incident,
        "node": node,
        "findings": [{"kind": one.kind, "subject": one.subject, "detail": one.detail} for one in findings],
        "files": [{"path": one.path, "size_bytes": one.size_bytes, "sha256": one.sha256} for one in files],
    }
    record = folder.with_name(f"{folder.name}.json")
    content = json.dumps(document, indent=1).encode() + b"\n"
    replace_file(record, content)
    total = sum(one.size_bytes for one in files)
    return Kept(folder, record, len(files), total, hashlib.sha256(content).hexdigest())
