"""What many runs show together: achieved times by runbook, backups by job, and which targets are far from them.

Guarantees: pure; a run whose ledger does not hold counts in no figure.
Leaves out: reading (`binder`) and drawing (`chart`).
"""

import datetime as dt
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vedr.ledger import Entry
from vedr.readiness.ages import MAX_SKEW_S
from vedr.readiness.schedule import found_fresh
from vedr.reports.evidence import Evidence
from vedr.reports.words import HOUR_MS, span
from vedr.runbook.timing import millis

BACKUP_JOBS: Final = ("chain-snapshot", "provider-state-backup", "config-backup", "key-backup")
VERIFY_JOB: Final = "snapshot-verify"
STALE_MS: Final = 24 * HOUR_MS  # the age at which VirtEngine alerts (dr_backup_age_hours)
SKEW_MS: Final = round(MAX_SKEW_S * 1000)  # dated further ahead, nobody knows how old it is
FRESH: Final = "another one was fresh"  # the outcome of a scheduled run that had nothing to do
MIN_SAMPLES: Final = 3
FAR_BELOW_PCT: Final = 20  # a target that was never used to a fifth says little about readiness
NEAR_PCT: Final = 80  # a target that was nearly used up will be missed on a bad day


@dataclass(frozen=True, slots=True)
class Achieved:
    """One completed run in a runbook's series."""

    at: dt.datetime
    total_ms: int
    target_ms: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How one scheduled run ended: its last entry, and when."""

    job: str
    region: str
    at: dt.datetime
    outcome: str


@dataclass(frozen=True, slots=True)
class Job:
    """A scheduled job's record; ages in milliseconds, None where there is no completed run."""

    name: str
    completed: int
    others: int
    age_ms: int | None
    longest_gap_ms: int | None
    gaps: tuple[tuple[dt.datetime, int], ...]


def series(runs: Iterable[Evidence]) -> dict[str, tuple[Achieved, ...]]:
    """Completed runs by runbook, oldest first."""
    found: dict[str, list[Achieved]] = {}
    for run in runs:
        if run.outcome == "completed" and run.proof != "unverifiable":
            measured = run.timing
            point = Achieved(run.detected_at, measured.total_ms, measured.target_ms, run.run_id)
            found.setdefault(run.runbook, []).append(point)
    return {name: tuple(sorted(found[name], key=lambda point: point.at)) for name in sorted(found)}


def ended(job: str, entries: Sequence[Entry]) -> Ended:
    """How a scheduled run ended; one that is open or paused has not completed, one that did nothing proves nothing."""
    last, order = entries[-1], entries[0].payload.get("order")
    region = str(order.get("region", "")) if isinstance(order, dict) else ""
    outcome = FRESH if found_fresh(entries) else last.payload.get("outcome")
    return Ended(job, region, last.time, outcome if last.kind == "closed" and isinstance(outcome, str) else "open")


def jobs(runs: Sequence[Ended], now: dt.datetime) -> tuple[Job, ...]:
    """Each job's record, a region apart where runs have one; a job that never ran is there too."""
    ran = {run.job for run in runs}
    by_name: dict[str, list[Ended]] = {job: [] for job in (*BACKUP_JOBS, VERIFY_JOB) if job not in ran}
    for run in sorted(runs, key=lambda run: run.at):
        by_name.setdefault(f"{run.job} {run.region}".strip(), []).append(run)
    return tuple(_job(name, of_it, now) for name, of_it in sorted(by_name.items()))


def _job(name: str, runs: Sequence[Ended], now: dt.datetime) -> Job:
    good = [run.at for run in runs if run.outcome == "completed"]
    gaps = tuple((after, millis(after - before)) for before, after in itertools.pairwise(good))
    age_ms = millis(now - good[-1]) if good else None
    longest = max((gap for _, gap in gaps), default=None)
    failed = sum(run.outcome not in ("completed", FRESH) for run in runs)
    return Job(name, len(good), failed, age_ms, longest, gaps)


def verified_share(runs: Iterable[Ended]) -> tuple[int, int]:
    """Proofs by boot: completed, and all."""
    proofs = [run for run in runs if run.job == VERIFY_JOB and run.outcome != FRESH]
    return sum(run.outcome == "completed" for run in proofs), len(proofs)


def hints(runs: Sequence[Evidence]) -> tuple[str, ...]:
    """What to review: targets and budgets far off what incidents and drills show, and what was never exercised to its
    end.
    """
    said: list[str] = []
    for name, points in series(runs).items():
        said += _target_hints(name, points)
        said += _budget_hints(name, [run for run in runs if run.runbook == name and run.outcome == "completed"])
    completed = {run.runbook for run in runs if run.outcome == "completed"}
    for name in sorted({run.runbook for run in runs} - completed):
        said.append(f"{name} was never completed in this time: its target is not proven.")
    return tuple(said)


def _target_hints(name: str, points: Sequence[Achieved]) -> list[str]:
    shares = [100 * point.total_ms // max(1, point.target_ms) for point in points]
    target = span(points[-1].target_ms)
    if missed := sum(share > 100 for share in shares):  # noqa: PLR2004 - the whole target
        return [f"{name} missed its target of {target} in {missed} of {len(points)} completed runs."]
    if max(shares) >= NEAR_PCT:
        return [f"{name} came to {max(shares)} % of its target of {target}: a bad day will miss it."]
    if len(points) >= MIN_SAMPLES and max(shares) < FAR_BELOW_PCT:
        slowest = span(max(point.total_ms for point in points))
        return [f"{name} never took more than {slowest} of its {target}: a lower target would say more."]
    return []


def _budget_hints(name: str, runs: Sequence[Evidence]) -> list[str]:
    took: dict[str, list[int]] = {}
    budgets: dict[str, tuple[str, int]] = {}
    for run in runs:
        for step in run.steps:
            if step.row.took_ms is not None and step.row.budget_ms:
                took.setdefault(step.row.key, []).append(step.row.took_ms)
                budgets[step.row.key] = (step.row.title, step.row.budget_ms)
    said = []
    for key, samples in took.items():
        title, budget_ms = budgets[key]
        median_ms = int(statistics.median(samples))
        if len(samples) >= MIN_SAMPLES and median_ms > budget_ms:
            said.append(f"{name}, {title}: usually {span(median_ms)}, over its budget of {span(budget_ms)}.")
    return said
