"""Does damaged data ever pass?  Thousands of seeded corruptions, each through the verification that a user would run.

    python -m bench.corruptions --count 10000 --seed 1 [--write docs/measurements.md]
    python -m bench.corruptions --seed 1 --replay "ledger entries/417"

The exit status is 1 when anything passed, crashed or hung.
"""

import argparse
import multiprocessing
import platform
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from bench.corrupting.subjects import SLOW, SUBJECTS, opened, shared_out
from bench.corrupting.trial import FAILED, Result, run
from bench.report import write_between_marks

PART: Final = "corruptions"
SLOW_PART: Final = "corrupted-node"
BATCH: Final = 250
VERDICTS: Final = ("refused", "healed", "harmless", "as signed", FAILED)
FAST_FOLDER: Final = Path("/dev/shm")  # noqa: S108 (each trial syncs to disk several times; only if it is there)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="SUBJECT", choices=[*SUBJECTS, *SLOW], help="all trials of one subject")
    parser.add_argument("--replay", metavar="SUBJECT/NUMBER", help="one trial, as a failure names it")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the trials")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's marks")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    if options.replay:
        name, _, number = options.replay.rpartition("/")
        results = batch(Batch(name, options.seed, (int(number),)))
    else:
        results = all_trials(shared_out(options.count, options.only), options.seed, options.jobs)
    for result in results:
        if result.is_failure or options.replay:
            print(f"{result.subject}/{result.number}: {result.kind}: {result.what}\n    {result.verdict} {result.why}")
    text = report(results, options.seed, time.monotonic() - began)
    print(text)
    failed = any(result.is_failure for result in results)
    if options.write and not failed:
        write_between_marks(options.write, SLOW_PART if options.only in SLOW else PART, text)
    return int(failed)


class Batch(NamedTuple):
    """Trials of one subject."""

    subject: str
    seed: int
    numbers: Sequence[int]


def all_trials(parts: Mapping[str, int], seed: int, jobs: int) -> list[Result]:
    """All of them, in batches over the processes; a line on stderr for each batch."""
    batches = [
        Batch(name, seed, range(first, min(first + BATCH, number)))
        for name, number in parts.items()
        for first in range(0, number, BATCH)
    ]
    if jobs == 1:
        return [result for one in batches for result in batch(one)]
    # Fresh processes: what a subject opened in one of them is never another's.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [result for found in pool.map(batch, batches) for result in found]


def batch(wanted: Batch) -> list[Result]:
    """Make the subject, run the trials, remove it."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="vedr-corruptions-", dir=_scratch()) as folder,
        opened(wanted.subject, Path(folder)) as subject,
    ):
        found = [run(subject, wanted.seed, number) for number in wanted.numbers]
    tally = Counter(result.verdict for result in found)
    took_s = time.monotonic() - began
    print(f"{wanted.subject}, {wanted.numbers[0]} and on: {dict(tally)} in {took_s:.1f} s", file=sys.stderr, flush=True)
    return found


def report(results: Sequence[Result], seed: int, took_s: float) -> str:
    """Two tables: by what was damaged, and by kind of damage."""
    total = Counter(result.verdict for result in results)
    system = f"Linux {platform.release().split('-')[0]}"
    words = (
        f"{len(results):,} injected corruptions, seed {seed}, {took_s / 60:.1f} min on a shared machine ({system}): "
        f"**{total[FAILED]} passed, crashed or hung**. {total['refused']:,} were refused with an error of ours that "
        f"says what to do next; {total['healed']:,} were named, and what came out was the original from another copy; "
        f"{total['harmless']:,} touched nothing that is read, and what came out was the original; "
        f"{total['as signed']:,} were nonsense signed again by a trusted key, which was read as it stands or refused, "
        "never with a bare error."
    )
    lines = [
        *textwrap.wrap(words, 120),
        "",
        *_table("Damaged", results, [result.subject for result in results]),
        "",
        *_table("Kind of damage", results, [result.kind for result in results]),
    ]
    return "\n".join(lines)


def _table(title: str, results: Sequence[Result], labels: Sequence[str]) -> list[str]:
    counts = Counter((label, result.verdict) for label, result in zip(labels, results, strict=True))
    lines = [f"| {title} | trials | {' | '.join(VERDICTS)} |", f"|---|{'---|' * (len(VERDICTS) + 1)}"]
    for label in dict.fromkeys(labels):
        row = [counts[label, verdict] for verdict in VERDICTS]
        lines.append(f"| {label} | {sum(row):,} | {' | '.join(f'{one:,}' for one in row)} |")
    return lines


def _scratch() -> Path | None:
    return FAST_FOLDER if FAST_FOLDER.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
