"""Is the process that writes a run still there?

A writer puts an entry into the ledger at least every HEARTBEAT_S, so a run that is silent for SILENCE_S has no
writer, or one whose next entry is going to conflict.  Ledger activity is the only heartbeat: it needs nothing besides
what every step needs anyway, it fences a writer that was taken over at its next beat, and it works across regions and
without an orchestrator.

Guarantees: a run is taken over only when its writer paused it, its process is seen to be gone on this very machine, or
no entry came for SILENCE_S by our clock that never goes back.  Where the entries' times alone say so, a beat is waited
for all the same, since two machines' clocks may disagree.
Leaves out: stopping a process that hangs longer than that and wakes up later; its next entry conflicts, and every step
checks first.
"""

import datetime as dt
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from vedr.errors import ConflictError
from vedr.ledger import Entry, RunId
from vedr.runbook.journal import Journal
from vedr.signature import Json

HEARTBEAT_S: Final = 10.0
SILENCE_S: Final = 30.0  # three beats; also what a resume from another machine has to wait
BEAT_S: Final = 1.5 * HEARTBEAT_S  # in this time a writer that lives has written
_FRESH_S: Final = BEAT_S  # a process seen alive that wrote this lately is at work
_CLOCK_DRIFT_S: Final = 10.0
LONG_AGO_S: Final = 1800.0  # S3 refuses whose clock is off by 15 min: no two that write here differ by more than this
_POLL_S: Final = 1.0
_QUIET_KINDS: Final = frozenset({"paused", "closed"})
_PROC_STAT_START: Final = 19  # field 22 of /proc/<pid>/stat, counted after the command's closing parenthesis


@dataclass(frozen=True, slots=True)
class Process:
    """Which process: a pid means something only on its machine, in its pid namespace, since its boot."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int

    def payload(self) -> dict[str, Json]:
        return asdict(self)


def this_process() -> Process:
    return Process(
        host=socket.gethostname(),
        boot=_boot(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=_start_ticks(os.getpid()) or 0,
    )


def is_gone(process: Process) -> bool:
    """True only when this machine can tell that it has ended."""
    return _is_of_this_machine(process) and _start_ticks(process.pid) != process.started


def _is_here(process: Process) -> bool:
    return _is_of_this_machine(process) and _start_ticks(process.pid) == process.started


def _is_of_this_machine(process: Process) -> bool:
    return bool(process.boot) and (process.boot, process.namespace) == (_boot(), _namespace())


def writer_of(entries: Sequence[Entry]) -> Process | None:
    """The process that wrote the newest epoch."""
    for entry in reversed(entries):
        if entry.kind in ("opened", "resumed"):
            return _process(entry.payload.get("process"))
    return None


def is_quiet(entries: Sequence[Entry], now: dt.datetime) -> bool:
    """Whether a run has no writer, as far as can be told at once: by the clock too, so not before acting on it."""
    return _has_ended(entries) or (now - entries[-1].time).total_seconds() > SILENCE_S + _CLOCK_DRIFT_S


def _has_ended(entries: Sequence[Entry]) -> bool:
    writer = writer_of(entries)
    return entries[-1].kind in _QUIET_KINDS or bool(writer and is_gone(writer))


def await_quiet(
    journal: Journal,
    run_id: RunId,
    entries: Sequence[Entry],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when nobody writes it any more, watching for up to SILENCE_S; ConflictError when somebody does."""
    now = journal.clock()
    age_s = (now - entries[-1].time).total_seconds()
    if _has_ended(entries) or age_s > LONG_AGO_S:
        return
    if (writer := writer_of(entries)) and _is_here(writer) and age_s < _FRESH_S:
        raise _at_work(run_id, entries, entries[-1])
    seen = entries[-1].seq
    until = monotonic() + (BEAT_S if is_quiet(entries, now) else SILENCE_S)
    while monotonic() < until:
        sleep(_POLL_S)
        last = journal.last(run_id)
        if last and last.seq > seen:
            if last.kind in _QUIET_KINDS:
                return
            raise _at_work(run_id, entries, last)


def _at_work(run_id: RunId, entries: Sequence[Entry], last: Entry) -> ConflictError:
    writer = writer_of(entries)
    where = f" by process {writer.pid} on {writer.host}" if writer else ""
    return ConflictError(
        f"run {run_id} is being worked on{where}: it wrote {last.kind} at {last.time:%H:%M:%S} UTC",
        remedy=f"Watch it: vedr ledger show {run_id}.  To take over, end that process first.",
    )


def _process(value: Json) -> Process | None:
    match value:
        case {
            "host": str(host),
            "boot": str(boot),
            "namespace": str(namespace),
            "pid": int(pid),
            "started": int(started),
        }:
            return Process(host, boot, namespace, pid, started)
        case _:
            return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none, or it has ended but was not
    reaped.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[_PROC_STAT_START])
