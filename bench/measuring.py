"""Running a command and saying what it cost.

Guarantees: CPU time and peak memory are the kernel's own account of the process and of all it waited for (wait4), not
samples.  Leaves out: processes that detach themselves.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command; `peak_bytes` is of its largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run(argv: Sequence[str], *, environment: Mapping[str, str], log: Path, sync: Path | None = None) -> Cost:
    """Run to the end; with `sync`, until that file system has everything on disk too.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(argv, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        if sync is not None:
            sync_file_system(sync)
        wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(argv[:4])} … ended with {process.returncode}:\n{tail}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB)


def sync_file_system(folder: Path) -> None:
    """Everything on the folder's file system is durable on return."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def cold(*folders: Path) -> None:
    """Make the next read come from the disk.  Only these folders: others may work on this machine."""
    for folder in folders:
        sync_file_system(folder)
        for path in folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def process_cpu_s(pid: int) -> float:
    """User and system time of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def busy_s() -> float:
    """CPU time that the whole machine has spent, from boot on: shows neighbours at work."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle, waiting, stolen = ticks[3], ticks[4], ticks[7]
    return (sum(ticks[:8]) - idle - waiting - stolen) / TICKS_PER_S


def tree_bytes(folder: Path) -> int:
    """Sizes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
