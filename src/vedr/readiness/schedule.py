"""Everything that is scheduled, by the ledger: when it was due, what its runs came to, and what did not happen.

1. Jobs of each region (backups and their proof): a run that completed, or is at work, since it was due.
2. Looks at the whole site (daily validation, watch after failovers): a run since it was due that looked, whatever it
   found; a validation of some checks only is none, nor is a run that was refused, or died, before it had looked.
3. Rounds that leave nothing while all is well: one that was told of within the hour (vedr.readiness.rounds).
4. Drills: one that was passed, or is at work, since it was due (vedr.readiness.drill_schedule).

Guarantees: what can't be read does not count, nor what is dated in the future.  Nothing here needs the orchestrator,
whose schedules are what is in doubt.
Leaves out: starting what was missed.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import Entry, RunId
from vedr.policies.checks import Checks
from vedr.readiness.ages import duration, is_to_come
from vedr.readiness.drill_schedule import judge_drills, judge_tabletop
from vedr.readiness.finding import Part, Verdict, combine, look_at
from vedr.readiness.rounds import ROUNDS, judge_rounds
from vedr.readiness.run_times import last_due, opened_at, opened_by, period
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet

LOOK_BACK_RUNS: Final = 30  # newest runs of a job that are looked at, over all regions
LOOK_BACK_PER_REGION: Final = 3  # or so many of each region, where there are many
LONGEST_RUN_PERIODS: Final = 2  # what was begun that long before it was due may still have ended in time
VALIDATION: Final = "daily-validation"
FAILOVER_WATCH: Final = "failover-watch"
FINDINGS_STEP: Final = "look_at_everything"  # of the daily validation: tasks.checks
LOOKING: Final = "find_fresh"  # the step of tasks.freshness by which a run finds another one fresh, and ends
_EXPECTED: Final = "a run of all that is scheduled since it was last due, every drill passed since it was due"
EVERYWHERE: Final = ""  # the region of a job that runs once for the whole site


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run of a scheduled job.

    `at_work`: somebody writes it still; `worked`: it completed, and did what is scheduled: not one that found another
    one fresh, nor one of an older snapshot that somebody named.
    """

    run_id: RunId
    region: str
    last: Entry
    at_work: bool
    completed: bool
    worked: bool


def crons(site: Site) -> dict[str, str]:
    """Cron expression of each job that runs in every region, by its runbook's id."""
    plan = site.schedule
    return {
        "chain-snapshot": plan.chain_state,
        "provider-state-backup": plan.provider_state,
        "config-backup": plan.configuration,
        "snapshot-verify": plan.snapshot_verify,
        "key-backup": plan.keys,
    }


def looks(site: Site) -> dict[str, str]:
    """Cron expression of each look at the whole site, by its runbook's id."""
    return {VALIDATION: site.schedule.validation, FAILOVER_WATCH: site.schedule.failover_watch}


def past_runs(
    journal: Journal, job: str, *, since: dt.datetime | None = None, at_most: int = LOOK_BACK_RUNS
) -> Iterator[PastRun]:
    """The newest runs of a job, newest first, read one by one as they are asked for; unreadable ones are left out.

    Args:
        journal: The site's ledger.
        job: A runbook's id.
        since: When the oldest of them was opened; without it they are `at_most` so many.
        at_most: See `since`.
    """
    now = journal.clock()
    for run_id in reversed(opened_by(now, journal.runs_of(job))[-at_most if since is None else 0 :]):
        if since is not None and opened_at(run_id) < since:
            return
        try:
            entries = journal.read(run_id).entries
        except VedrError:
            continue  # what can't be read does not count as done
        order = entries[0].payload.get("order") if entries else None
        if isinstance(order, dict) and not is_to_come(entries[-1].time, now):
            last = entries[-1]
            completed = last.kind == "closed" and last.payload.get("outcome") == "completed"
            steps = last.payload.get("steps")
            has_work = isinstance(steps, dict) and bool(steps.keys() - {LOOKING})
            yield PastRun(
                run_id=run_id,
                region=str(order.get("region", EVERYWHERE)),
                last=last,
                at_work=not is_quiet(entries, now),
                completed=completed,
                worked=completed and has_work and not order.get("snapshot"),
            )


def newest_good(
    journal: Journal, job: str, regions: Sequence[str], *, since: dt.datetime | None = None
) -> dict[str, PastRun]:
    """By region, the newest run that completed, also by finding another one fresh, or is at work; see `past_runs`."""
    newest: dict[str, PastRun] = {}
    at_most = max(LOOK_BACK_RUNS, LOOK_BACK_PER_REGION * len(regions))
    for past in past_runs(journal, job, since=since, at_most=at_most):
        if past.at_work or past.completed:
            newest.setdefault(past.region, past)
        if newest.keys() >= set(regions):
            break
    return newest


# --- the check


def schedule_adherence(site: Site, journal: Journal, policy: Checks, now: dt.datetime) -> Verdict:
    """Everything that was due happened: jobs in every region, looks at the site, rounds, drills."""
    before = now - dt.timedelta(seconds=policy.grace_s)
    since = next((opened_at(run_id) for run_id in journal.runs()), None)
    if since is None:
        return combine(
            [],
            expected=_EXPECTED,
            nothing="No job ever ran here: deploy the schedules (prefect deploy --all) and start the workers.",
        )
    parts: list[Part] = []
    for job, cron in crons(site).items():
        due = last_due(cron, before)
        good = newest_good(journal, job, tuple(site.regions), since=due - LONGEST_RUN_PERIODS * period(cron, now))
        ended = {region: good[region].last.time if region in good else None for region in site.regions}
        parts += judge_job(job, due, ended, since=since, now=now)
    for look, cron in looks(site).items():
        parts.append(look_at(look, partial(_judge_look, journal, look, last_due(cron, before), since=since, now=now)))
    for job in ROUNDS:
        parts.append(look_at(job, partial(judge_rounds, journal, job, policy.grace_s, since=since, now=now)))
    parts += judge_drills(site, journal, before, since=since, now=now)
    parts.append(look_at("drill-tabletop", partial(judge_tabletop, journal, since=since, now=now)))
    return combine(parts, expected=_EXPECTED, nothing="", summary=f"{len(parts)} schedules kept")


def judge_job(
    job: str,
    due: dt.datetime,
    ended: Mapping[str, dt.datetime | None],
    *,
    since: dt.datetime | None,
    now: dt.datetime,
) -> list[Part]:
    """Pure: the newest good run of each region against the time that it was due, on a site that runs `since` then."""
    parts = []
    for region, end in ended.items():
        name = f"{job} {region}"
        if end is not None and end >= due:
            parts.append(Part(name, "passed", f"ran {end:%Y-%m-%d %H:%M} UTC"))
        elif since is not None and due <= since:
            parts.append(Part(name, "passed", "not due yet on a site this young"))
        else:
            late = duration((now - due).total_seconds())
            remedy = f"Run it: vedr run {job} --region {region}; then look at its worker and schedule."
            parts.append(Part(name, "failed", f"missed {due:%Y-%m-%d %H:%M} UTC, {late} ago", remedy))
    return parts


def _judge_look(journal: Journal, look: str, due: dt.datetime, *, since: dt.datetime, now: dt.datetime) -> Part:
    """It happened, whatever it found; on a site younger than its last due time nothing was missed."""
    opened = [run_id for run_id in opened_by(now, journal.runs_of(look)) if opened_at(run_id) >= due]
    for run_id in reversed(opened):
        if _has_looked(journal, run_id, now):
            return Part(look, "passed", f"ran {opened_at(run_id):%Y-%m-%d %H:%M} UTC")
    if due <= since:
        return Part(look, "passed", "not due yet on a site this young")
    why = f": {opened[-1]} came to no look at the whole site" if opened else ""
    remedy = f"Look at its deployment and worker (pool ops); run it: vedr run {look}."
    return Part(look, "failed", f"missed {due:%Y-%m-%d %H:%M} UTC{why}", remedy)


def _has_looked(journal: Journal, run_id: RunId, now: dt.datetime) -> bool:
    """Also while it is at work; what can't be read has not."""
    try:
        entries = journal.read(run_id).entries
    except VedrError:
        return False
    if not entries or is_partial(entries):
        return False
    if not is_quiet(entries, now):
        return True
    runbook = entries[0].payload.get("runbook")
    if runbook == VALIDATION:
        return has_findings(entries)
    return any(entry.kind in ("step_completed", "step_failed") for entry in entries)


def found_fresh(entries: Sequence[Entry]) -> bool:
    """Whether a job's run completed without its work: by the look alone whether another one is fresh."""
    last, steps = entries[-1].payload, entries[-1].payload.get("steps")
    return last.get("outcome") == "completed" and isinstance(steps, dict) and steps.keys() == {LOOKING}


def is_partial(entries: Sequence[Entry]) -> bool:
    """Whether a validation was ordered for some checks only, so that it says nothing of the site as a whole."""
    order = entries[0].payload.get("order")
    return isinstance(order, dict) and bool(order.get("checks"))


def has_findings(entries: Sequence[Entry]) -> bool:
    """Whether a validation's checks were made, and what they found recorded."""
    return any(one.kind == "step_completed" and one.payload.get("step") == FINDINGS_STEP for one in entries)
