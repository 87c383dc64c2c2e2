"""Schedules of signers, promotions and everything that breaks, by the million: does one key ever sign twice?

    python -m bench.signing_simulator --schedules 1000000 --seed 1
    python -m bench.signing_simulator --schedules 20000 --without quiet+fence
    python -m bench.signing_simulator --replay 4711 [--without quiet+fence]
    python -m bench.signing_simulator --table 4000 [--write docs/signing-safety.md]

A seed is a schedule: every third is one of remote signers over the registers, the others are file-based signers and
promotions.  The exit status is 1 when something was signed twice with all rules on.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from bench.report import write_between_marks
from bench.signing.file_schedule import FileSchedule
from bench.signing.register_schedule import RegisterSchedule
from bench.signing.rules import REGISTER_RULES, RULES, without

BATCH: Final = 100
TOGETHER: Final = (
    ("fence", "quiet"),
    ("epoch", "ticket"),
    ("recheck", "ticket"),
    ("recheck", "quiet"),
    ("own-state", "tip"),
    ("never-lower", "own-state", "tip"),
)


@dataclass(slots=True)
class Tally:
    """What a number of schedules came to."""

    schedules: int = 0
    released: int = 0
    promoted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)
    cpu_s: float = 0.0

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.released += other.released
        self.promoted += other.promoted
        self.ended.update(other.ended)
        self.broken += other.broken
        self.cpu_s += other.cpu_s


def schedule_of(seed: int, off: frozenset[str], log: list[str] | None = None) -> FileSchedule | RegisterSchedule:
    """The schedule that a seed is."""
    return RegisterSchedule(seed, off, log) if seed % 3 == 0 else FileSchedule(seed, off, log)


def play(seeds: Iterable[int], off: frozenset[str] = frozenset()) -> Tally:
    """Play these schedules in this process."""
    tally, began_s = Tally(), time.process_time()
    with without(off):
        for seed in seeds:
            schedule = schedule_of(seed, off)
            oracle = schedule.run()
            tally.schedules += 1
            tally.released += len(oracle.released)
            tally.promoted += schedule.promoted if isinstance(schedule, FileSchedule) else 0
            tally.ended.update(schedule.refused)
            if oracle.broken:
                tally.broken.append((seed, oracle.broken))
    tally.cpu_s = time.process_time() - began_s
    return tally


def _play_batch(batch: tuple[Sequence[int], frozenset[str]]) -> Tally:
    return play(*batch)


class Workers:
    """Processes that play schedules; they load the program once."""

    def __init__(self, processes: int, limit_s: float) -> None:
        self._processes, self._limit_s = processes, limit_s
        self._pool = multiprocessing.get_context("spawn").Pool(processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()

    def play(self, seeds: Sequence[int], off: frozenset[str], *, shown: bool) -> Tally:
        """Play these, until all are done or the time is up."""
        total, began_s = Tally(), time.monotonic()
        batches = [(seeds[first : first + BATCH], off) for first in range(0, len(seeds), BATCH)]
        for number in range(0, len(batches), self._processes):
            for tally in self._pool.map(_play_batch, batches[number : number + self._processes], chunksize=1):
                total.add(tally)
                for seed, what in tally.broken if shown else ():
                    print(f"seed {seed}: {what}", flush=True)
            if shown and number % (100 * self._processes) == 0:
                print(f"{total.schedules} schedules, {len(total.broken)} broken", flush=True)
            if time.monotonic() - began_s > self._limit_s:
                break
        return total


def replay(seed: int, off: frozenset[str]) -> str:
    """Tell one schedule line by line."""
    log: list[str] = []
    with without(off):
        oracle = schedule_of(seed, off, log).run()
    print("\n".join(log))
    print(oracle.broken or "nothing was signed twice")
    return oracle.broken


def table(schedules: int, seed: int, workers: Workers) -> str:
    """Each rule off, then those that cover for one another: what the schedules find."""
    lines = ["| Off | The rule | Schedules | Double signs | First seed |", "|---|---|---|---|---|"]
    for names in ((), *((name,) for name in RULES), *TOGETHER):
        of_registers = bool(set(names) & set(REGISTER_RULES))
        seeds = [one for one in range(seed, seed + 3 * schedules) if not names or (one % 3 == 0) == of_registers]
        tally = workers.play(seeds[:schedules], frozenset(names), shown=False)
        first = min((number for number, _ in tally.broken), default="")
        rule = RULES[names[0]] if len(names) == 1 else "together" if names else "all rules on"
        cells = (" + ".join(names) or "nothing", rule, tally.schedules, len(tally.broken), first)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--without", default="", help="rules to switch off, joined by +: " + ", ".join(RULES))
    parser.add_argument("--replay", type=int, help="tell this one seed line by line")
    parser.add_argument("--table", type=int, help="schedules for each row of the table")
    parser.add_argument("--write", type=Path, help="the page that the table goes into")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=36_000.0, help="end after this long, whatever is left")
    asked = parser.parse_args()
    off = frozenset(filter(None, asked.without.split("+")))
    if unknown := off - set(RULES):
        parser.error(f"no such rule: {', '.join(sorted(unknown))}")
    if asked.replay is not None:
        return 1 if replay(asked.replay, off) and not off else 0
    with Workers(asked.processes, asked.limit_s) as workers:
        if asked.table:
            text = table(asked.table, asked.seed, workers)
            if asked.write:
                write_between_marks(asked.write, "rules-off", text)
            return 0
        began_s = time.monotonic()
        total = workers.play(range(asked.seed, asked.seed + asked.schedules), off, shown=True)
    print(
        f"{total.schedules} schedules from seed {asked.seed} in {time.monotonic() - began_s:.0f} s "
        f"({total.schedules / total.cpu_s:.0f} a second of CPU): {total.released} signatures, "
        f"{total.promoted} promotions, {sum(total.ended.values())} refusals {dict(total.ended)}, "
        f"{len(total.broken)} double signs"
    )
    return 1 if total.broken and not off else 0


if __name__ == "__main__":
    sys.exit(main())
