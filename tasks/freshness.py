"""Scheduled jobs: when they are due, what past runs came to, and whether there is anything to do now.

Guarantees: a job is called fresh only when the ledger holds a completed run of the same job and region that did the
job's work and ended less than half a period ago; a run that itself only found another one fresh is no such run, and
what can't be read does not count.  When the ledger can't tell, the job runs.
Leaves out: finding schedules that did not happen (tasks.watchdog).  Nothing here needs Prefect.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cronsim import CronSim

from tasks.orders import RegionJob
from vedr.adapters.site import open_site
from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import Entry, RunId
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet
from vedr.runbook.steps import Context, Retry, step

LOOK_BACK_RUNS: Final = 30  # newest runs of a job that are looked at, over all regions
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
    """Cron expression of each scheduled job, by its runbook's id; every job runs in every region."""
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
        region = order.get("region") if isinstance(order, dict) else None
        if isinstance(region, str):
            last = entries[-1]
            yield PastRun(
                run_id=run_id,
                region=region,
                last=last,
                at_work=not is_quiet(entries, journal.clock()),
                completed=_has_completed(last),
                worked=_has_completed(last) and _did_more_than_look(last.payload),
            )


def _has_completed(last: Entry) -> bool:
    return last.kind == "closed" and last.payload.get("outcome") == "completed"


def _did_more_than_look(closing: Mapping[str, object]) -> bool:
    steps = closing.get("steps")
    return isinstance(steps, dict) and bool(steps.keys() - {find_fresh.key})


def newest_fresh(journal: Journal, cron: str, job: str, region: str) -> PastRun | None:
    """The run that makes another one needless now, if there is one."""
    now = journal.clock()
    every = period(cron, now)
    # One that was opened over a period ago and still ended lately took half a period: then running again is right.
    candidates = (past for past in past_runs(journal, job, since=now - every) if past.worked and past.region == region)
    newest = max(candidates, key=lambda past: past.last.time, default=None)
    return newest if newest is not None and now - newest.last.time < every / 2 else None


@step(title="See whether the last one is fresh", budget_s=20, retry=Retry(attempts=2), acts=False)
def find_fresh(ctx: Context[RegionJob]) -> str:
    """Ends the run at once when a completed one is younger than half the period: missed schedules run once."""
    if ctx.order.even_if_fresh:
        return ""
    with open_site(ctx.order.site) as opened:
        journal = opened.journal
        job = _job_of(journal, ctx.run_id)
        fresh = newest_fresh(journal, crons(opened.site)[job], job, ctx.order.region)
        if fresh is None:
            return ""
        age_s = (journal.clock() - fresh.last.time).total_seconds()
    ctx.say(f"{fresh.run_id} ended {age_s / 60:.0f} min ago: nothing to do")
    return fresh.run_id


def _job_of(journal: Journal, run_id: RunId) -> str:
    """Which runbook a run is one of."""
    return str(journal.read(run_id).entries[0].payload["runbook"])
