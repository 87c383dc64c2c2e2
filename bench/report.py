"""Figures to Markdown."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from bench.dataset import DataSet
from bench.measuring import MIB
from bench.methods import METHODS
from bench.servers import ServerKind

BASELINE: Final = "restic"
SEALING: Final = ("SHA-256", "zstd", "AES-256-GCM", "PUT to the sink")
NOISE: Final = 0.15  # of the machine's cores spent by others: beyond, a run is named as disturbed


class Limit(NamedTuple):
    """What the machine can do of one thing; `whole_s` is the time for the whole data set at this speed."""

    title: str
    mib_per_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Phase:
    """What one command cost; `others_s` is CPU time of all else on the machine, the kernel's writers included."""

    wall_s: float
    cpu_s: float
    server_s: float
    others_s: float
    peak_bytes: int

    @property
    def disturbed(self) -> bool:
        return self.others_s > NOISE * cores() * self.wall_s


@dataclass(frozen=True, slots=True)
class Run:
    """One method in one round."""

    method: str
    server: ServerKind
    first: Phase
    second: Phase
    restore: Phase
    stored_bytes: int
    added_bytes: int

    @property
    def phases(self) -> tuple[Phase, Phase, Phase]:
        return self.first, self.second, self.restore


PHASES: Final[dict[str, Callable[[Run], Phase]]] = {
    "first": lambda run: run.first,
    "second": lambda run: run.second,
    "restore": lambda run: run.restore,
}


def progress(number: int, run: Run) -> str:
    """A line while it goes on."""
    costs = "  ".join(
        f"{title} {phase(run).wall_s:.2f} s (cpu {phase(run).cpu_s:.2f}, server {phase(run).server_s:.2f}, others "
        f"{phase(run).others_s:.2f}, {phase(run).peak_bytes / MIB:.0f} MiB)"
        for title, phase in PHASES.items()
    )
    return f"round {number + 1}  {run.method} on {run.server}: {costs}"


def backup_report(
    data: DataSet, runs: list[Run], found: list[Limit], *, rounds: int, load: float, took_s: float
) -> str:
    """The whole section."""
    total = sum(status.st_size for status in data.files("a").values())
    disturbed = sum(phase.disturbed for run in runs for phase in run.phases)
    lines = [
        f"Machine: {cores()} cores ({_cpu_name()}), Linux {platform.release().split('-')[0]}; client and servers",
        f"share them, loopback, no TLS. Load average at the start {load:.2f}; others used more than {NOISE:.0%}",
        f"of the machine in {disturbed} of {3 * len(runs)} measurements. {rounds} round(s), methods in turn,",
        f"{took_s / 60:.0f} min in all.",
        "",
        f"Data: {total / MIB:,.0f} MiB in {len(data.files('a'))} files; the second state has {data.new_share():.1%} of",
        "its bytes in new files. Read from a cold disk; a restore ends when everything is durable, and is compared",
        "byte by byte.",
        "",
        "Seconds: median (smallest-largest). CPU seconds: first / second / restore.",
        "",
        *_table(runs, "labs3"),
        "",
        *_ratios(runs),
        "",
        "Against the plain sink, which checks nothing and keeps nothing durable:",
        "",
        *_table(runs, "sink"),
        "",
        "Physical limits of this machine, each alone, both cores:",
        "",
        *_limits(found),
        "",
        *_against_limits(runs, found),
    ]
    return "\n".join(lines)


def _of(runs: Iterable[Run], method: str, server: ServerKind) -> list[Run]:
    return [run for run in runs if run.method == method and run.server == server]


def _table(runs: list[Run], server: ServerKind) -> list[str]:
    lines = [
        "| Method | Encrypts | First | Second | Restore | Client CPU | Server CPU | Stored + new, MiB | Peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        chosen = _of(runs, name, server)
        if not chosen:
            continue
        walls = [_spread([phase(run).wall_s for run in chosen]) for phase in PHASES.values()]
        lines.append(
            "| "
            + " | ".join(
                [
                    method.title,
                    "yes" if method.encrypts else "no",
                    *walls,
                    _triple(chosen, lambda phase: phase.cpu_s),
                    _triple(chosen, lambda phase: phase.server_s),
                    _stored(chosen),
                    f"{max(phase.peak_bytes for run in chosen for phase in run.phases) / MIB:.0f}",
                ]
            )
            + " |"
        )
    return lines


def _ratios(runs: list[Run]) -> list[str]:
    """How many times as long restic took, round by round: pairs share the machine's mood."""
    baseline = _of(runs, BASELINE, "labs3")
    if not baseline:
        return []
    lines = [f"Times faster than {BASELINE}, pair by pair in each round:", ""]
    lines += ["| Method | First | Second | Restore | Client CPU, all three |", "|---|---|---|---|---|"]
    for name, method in METHODS.items():
        chosen = _of(runs, name, "labs3")
        if name == BASELINE or not chosen:
            continue
        pairs = list(zip(baseline, chosen, strict=False))
        cells = [_spread([phase(b).wall_s / phase(m).wall_s for b, m in pairs]) for phase in PHASES.values()]
        cpu = _spread([sum(p.cpu_s for p in b.phases) / sum(p.cpu_s for p in m.phases) for b, m in pairs])
        lines.append(f"| {method.title} | {' | '.join(cells)} | {cpu} |")
    return lines


def _limits(found: list[Limit]) -> list[str]:
    lines = ["| Limit | MiB/s | The whole set, s |", "|---|---|---|"]
    return lines + [f"| {limit.title} | {limit.mib_per_s:,.0f} | {limit.whole_s:.2f} |" for limit in found]


def _against_limits(runs: list[Run], found: list[Limit]) -> list[str]:
    chosen = _of(runs, "vedr", "sink")
    if not chosen:
        return []
    seconds = {limit.title: limit.whole_s for limit in found}
    together = sum(seconds[title] for title in SEALING)
    slowest = max((*SEALING, "disk read, cold"), key=lambda title: seconds[title])
    first = _median(run.first.wall_s for run in chosen)
    restore = _median(run.restore.wall_s for run in chosen)
    copy = seconds["cp -r, durable, from cold"]
    return [
        f"- First snapshot on the sink, encrypting: {first:.2f} s. That is {first / seconds[slowest]:.2f} times the",
        f"  slowest limit alone ({slowest}, {seconds[slowest]:.2f} s), and {first / together:.2f} times what hashing,",
        f"  compressing, encrypting and putting take together on these cores ({together:.2f} s).",
        f"- Restore from the sink, verified and durable: {restore:.2f} s, {restore / copy:.2f} times a local",
        "  durable copy.",
    ]


def _stored(chosen: list[Run]) -> str:
    first, added = (_median(pick) / MIB for pick in ([r.stored_bytes for r in chosen], [r.added_bytes for r in chosen]))
    return f"{first:,.0f} + {added:,.0f}"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.2f}" if len(values) == 1 else f"{middle:.2f} ({min(values):.2f}-{max(values):.2f})"


def _triple(chosen: list[Run], pick: Callable[[Phase], float]) -> str:
    return " / ".join(f"{_median(pick(phase(run)) for run in chosen):.1f}" for phase in PHASES.values())


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def between_marks(page: Path, part: str) -> str:
    """What stands between `<!-- part -->` and `<!-- /part -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    return _parted(page, part)[1].strip("\n")


def write_between_marks(page: Path, part: str, text: str) -> None:
    """Replace what stands between `<!-- part -->` and `<!-- /part -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    before, _, after = _parted(page, part)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def _parted(page: Path, part: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks, which go with their sides."""
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    between, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no marks {begin} … {end}")
    return before + begin, between, end + after
