"""Finding and ending every process of a lab, whoever started it.

Guarantees: only processes that carry the lab's mark in their environment, or live in one of its network namespaces, are
touched; never the caller or its ancestors.  nginx overwrites its environment, so it is known by its working folder.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK_ENV: Final = "VEDR_LAB_FOLDER"
PROC: Final = Path("/proc")
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    command: str


def of_lab(folder: Path, namespaces: frozenset[int]) -> list[Process]:
    """Every process of the lab in `folder`, or in a network namespace of that inode."""
    spared = _self_and_ancestors()
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        try:
            if _belongs(entry, folder, namespaces):
                found.append(Process(int(entry.name), _command(entry)))
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


def in_namespaces(namespaces: frozenset[int]) -> list[Process]:
    """Every process in a network namespace of that inode."""
    return of_lab(Path("/nonexistent"), namespaces)


def end(processes: list[Process], *, signal_number: signal.Signals, limit_s: float) -> list[Process]:
    """Signal them and wait; returns those still there after the limit."""
    for process in processes:
        try:
            os.kill(process.pid, signal_number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + limit_s
    while (alive := [p for p in processes if is_alive(p.pid)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return alive


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        status = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def _belongs(entry: Path, folder: Path, namespaces: frozenset[int]) -> bool:
    if not is_alive(int(entry.name)):
        return False
    if namespaces and (entry / "ns/net").stat().st_ino in namespaces:
        return True
    if f"{MARK_ENV}={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
        return True
    return (entry / "comm").read_text().strip() == "nginx" and (entry / "cwd").readlink().is_relative_to(folder)


def _command(entry: Path) -> str:
    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return words or (entry / "comm").read_text().strip()


def _self_and_ancestors() -> set[int]:
    spared, pid = set(), os.getpid()
    while pid > 1:
        spared.add(pid)
        try:
            pid = int((PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            break
    return spared
