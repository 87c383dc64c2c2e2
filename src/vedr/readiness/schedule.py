"""Scheduled jobs, by the ledger: when they were due, what their runs came to, and which did not happen.

Guarantees: a run counts for a due time only when the ledger holds it as completed, or at work, after that; what can't
be read does not count.  Nothing here needs the orchestrator, whose schedules are what is in doubt.
Leaves out: starting what was missed.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cronsim import CronSim

from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import Entry, RunId
from vedr.policies.checks import Checks
from vedr.readiness.ages import duration
from vedr.readiness.finding import Part, Verdict, combine, look_at
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet

LOOK_BACK_RUNS: Final = 30  # newest runs of a job that are looked at, over all regions
VALIDATION: Final = "daily-validation"
LOOKING: Final = "find_fresh"  # the step of tasks.freshness by which a run finds another one fresh, and ends
EVERYWHERE: Final = ""  # the region of a job that runs once for the whole site
_RUN_ID_TIME: Final = slice(4, 19)  # inc-YYYYMMDD-HHMMSS-xxxx


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run of a scheduled job.  `at_work`: somebody writes it still; `worked`: it did the job, and completed."""

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


def period(cron: str, now: dt.datetime) -> dt.timedelta:
    """The time between the next two runs."""
    times = CronSim(cron, now)
    first = next(times)
    return next(times) - first


def last_due(cron: str, before: dt.datetime) -> dt.datetime:
    """The newest time at or before `before` that the expression names, UTC."""
    times = CronSim(cron, before + dt.timedelta(minutes=1), reverse=True)  # it leaves out its own starting minute
    return next(due for due in times if due <= before)


def opened_at(run_id: RunId) -> dt.datetime:
    """When a run was opened, which its id says."""
    return dt.datetime.strptime(run_id[_RUN_ID_TIME], "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)


def past_runs(journal: Journal, job: str, *, since: dt.datetime | None = None) -> Iterator[PastRun]:
    """The newest runs of a job, newest first, read one by one as they are asked for; unreadable ones are left out."""
    for run_id in reversed(journal.runs_of(job)[-LOOK_BACK_RUNS:]):
        if since is not None and opened_at(run_id) < since:
            return
        try:
            entries = journal.read(run_id).entries
        except VedrError:
            continue  # what can't be read does not count as done
        order = entries[0].payload.get("order") if entries else None
        if isinstance(order, dict):
            last = entries[-1]
            completed = last.kind == "closed" and last.payload.get("outcome") == "completed"
            steps = last.payload.get("steps")
            yield PastRun(
                run_id=run_id,
                region=str(order.get("region", EVERYWHERE)),
                last=last,
                at_work=not is_quiet(entries, journal.clock()),
                completed=completed,
                worked=completed and isinstance(steps, dict) and bool(steps.keys() - {LOOKING}),
            )


def newest_good(journal: Journal, job: str, regions: Sequence[str]) -> dict[str, PastRun]:
    """By region, the newest run that completed, also by finding another one fresh, or is at work."""
    newest: dict[str, PastRun] = {}
    for past in past_runs(journal, job):
        if past.at_work or past.completed:
            newest.setdefault(past.region, past)
        if newest.keys() >= set(regions):
            break
    return newest


# --- the check


def schedule_adherence(site: Site, journal: Journal, policy: Checks, now: dt.datetime) -> Verdict:
    """Every job ran in every region since it was last due, and yesterday's validation did as well."""
    parts: list[Part] = []
    before = now - dt.timedelta(seconds=policy.grace_s)
    since = next((opened_at(run_id) for run_id in journal.runs()), None)
    for job, cron in crons(site).items():
        good = newest_good(journal, job, tuple(site.regions))
        ended = {region: good[region].last.time if region in good else None for region in site.regions}
        parts += judge_job(job, last_due(cron, before), ended, since=since, now=now)
    parts.append(look_at(VALIDATION, lambda: _validation(site, journal, before, since)))
    return combine(
        parts if since is not None else [],
        expected="a completed run of every job in every region since it was last due",
        nothing="No job ever ran here: deploy the schedules (prefect deploy --all) and start the workers.",
        summary=f"{len(parts)} schedules kept",
    )


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


def _validation(site: Site, journal: Journal, before: dt.datetime, since: dt.datetime | None) -> Part:
    """It happened, whatever it found; on a site younger than its last due time nothing was missed."""
    due = last_due(site.schedule.validation, before)
    newest = next((run_id for run_id in reversed(journal.runs_of(VALIDATION))), None)
    if newest is not None and opened_at(newest) >= due:
        return Part(VALIDATION, "passed", f"ran {opened_at(newest):%Y-%m-%d %H:%M} UTC")
    if since is None or due <= since:
        return Part(VALIDATION, "passed", "not due yet on a site this young")
    remedy = "Look at its deployment and worker (pool ops); run it: vedr run daily-validation."
    return Part(VALIDATION, "failed", f"missed {due:%Y-%m-%d %H:%M} UTC", remedy)
