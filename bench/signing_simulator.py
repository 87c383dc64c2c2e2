"""Schedules of signers, promotions and everything that breaks, by the million: does one key ever sign twice?

    python -m bench.signing_simulator --schedules 1000000 --seed 1
    python -m bench.signing_simulator --schedules 20000 --without quiet+fence
    python -m bench.signing_simulator --replay 4711 [--without quiet+fence]
    python -m bench.signing_simulator --schedules 1000000 --results build/signing.jsonl    # may be ended and goes on
    python -m bench.signing_simulator --table 4000 [--write docs/signing-safety.md]

A seed is a schedule: every third is one of remote signers over the registers, the others are file-based signers and
promotions.  The exit status is 1 when something was signed twice with all rules on.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bench.report import write_between_marks
from bench.signing.file_schedule import FileSchedule
from bench.signing.register_schedule import RegisterSchedule
from bench.signing.rules import EXCLUDED, REGISTER_RULES, RULES, without

BATCH: Final = 100
CHUNK: Final = 2_000  # seeds a line of the results' file
KINDS: Final = {"all": (0, 1, 2), "files": (1, 2), "registers": (0,)}
"""Which seeds, by their remainder of 3."""
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

    def __str__(self) -> str:
        return (
            f"{self.schedules} schedules ({self.schedules / max(self.cpu_s, 0.001):.0f} a second of CPU): "
            f"{self.released} signatures, {self.promoted} promotions, {sum(self.ended.values())} refusals "
            f"{dict(self.ended)}, {len(self.broken)} double signs"
        )


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
        self._processes, self.limit_s = processes, limit_s
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
            if time.monotonic() - began_s > self.limit_s:
                break
        return total


def play_recorded(workers: Workers, first: int, schedules: int, kind: str, results: Path) -> Tally:
    """Play what the file does not have yet, chunk by chunk, and give the sum of all that it has."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(line["kind"], line["first"], line["last"]) for line in lines}
    total, began_s = Tally(), time.monotonic()
    for line in lines:
        total.add(_recorded(line["tally"]))
    for begin in range(first, first + schedules, CHUNK):
        last = min(begin + CHUNK, first + schedules) - 1
        if time.monotonic() - began_s > workers.limit_s:
            break
        if (kind, begin, last) in done:
            continue
        seeds = [seed for seed in range(begin, last + 1) if seed % 3 in KINDS[kind]]
        tally = workers.play(seeds, frozenset(), shown=False)
        if tally.schedules < len(seeds):
            break  # the time was up within the chunk, which is then not counted
        fields = {name: getattr(tally, name) for name in Tally.__slots__}
        with results.open("a") as file:
            file.write(json.dumps({"kind": kind, "first": begin, "last": last, "tally": fields}) + "\n")
        total.add(tally)
        print(f"seeds {begin} to {last} ({kind}): {total}", flush=True)
    return total


def _recorded(line: dict[str, Any]) -> Tally:
    broken = [(seed, what) for seed, what in line["broken"]]
    return Tally(**{**line, "ended": Counter(line["ended"]), "broken": broken})


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
    told = {**RULES, **EXCLUDED}
    for names in ((), *((name,) for name in told), *TOGETHER):
        of_registers = bool(set(names) & {*REGISTER_RULES, *EXCLUDED})
        seeds = [one for one in range(seed, seed + 3 * schedules) if not names or (one % 3 == 0) == of_registers]
        tally = workers.play(seeds[:schedules], frozenset(names), shown=False)
        first = min((number for number, _ in tally.broken), default="")
        rule = told[names[0]] if len(names) == 1 else "together" if names else "all rules on"
        cells = (" + ".join(names) or "nothing", rule, tally.schedules, len(tally.broken), first)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument(
        "--without", default="", help="rules to switch off, joined by +: " + ", ".join((*RULES, *EXCLUDED))
    )
    parser.add_argument("--replay", type=int, help="tell this one seed line by line")
    parser.add_argument("--table", type=int, help="schedules for each row of the table")
    parser.add_argument("--write", type=Path, help="the page that the table goes into")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kind", choices=KINDS, default="all", help="with --results: which of the seeds")
    parser.add_argument("--results", type=Path, help="keep the result of each chunk in this file, and skip what it has")
    parser.add_argument("--limit-s", type=float, default=36_000.0, help="end after this long, whatever is left")
    asked = parser.parse_args()
    off = frozenset(filter(None, asked.without.split("+")))
    if unknown := off - {*RULES, *EXCLUDED}:
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
        if asked.results:
            total = play_recorded(workers, asked.seed, asked.schedules, asked.kind, asked.results)
        else:
            total = workers.play(range(asked.seed, asked.seed + asked.schedules), off, shown=True)
    print(f"from seed {asked.seed}, in {time.monotonic() - began_s:.0f} s: {total}")
    return 1 if total.broken and not off else 0


if __name__ == "__main__":
    sys.exit(main())
