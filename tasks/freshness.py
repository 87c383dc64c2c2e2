"""Is there anything to do?  The question that every scheduled job asks the ledger first.

Guarantees: a job is only called fresh when the ledger holds a completed run of the same job and region that is younger
than half the period; when the ledger can't tell, the job runs.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final

from cronsim import CronSim

from tasks.orders import RegionJob
from vedr.adapters.site import OpenSite, open_site
from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import RunId
from vedr.runbook.journal import Journal
from vedr.runbook.steps import Context, Retry, step

JOBS: Final[Mapping[str, str]] = {
    "chain-snapshot": "chain_state",
    "provider-state-backup": "provider_state",
    "config-backup": "configuration",
    "snapshot-verify": "snapshot_verify",
}
"""Scheduled runbooks, and the field of the site's schedule that says when."""

LOOK_BACK_RUNS: Final = 30  # newest runs of a job that are looked at, over all regions


@step(title="See whether the last one is fresh", budget_s=20, retry=Retry(attempts=2), acts=False)
def find_fresh(ctx: Context[RegionJob]) -> str:
    """Ends the run at once when a completed one is younger than half the period: missed schedules run once."""
    if ctx.order.even_if_fresh:
        return ""
    with open_site(ctx.order.site) as opened:
        job = job_of(opened, ctx.run_id)
        fresh = newest_completed(opened, job, ctx.order.region)
        if fresh is None:
            return ""
        run_id, ended = fresh
        age = opened.journal.clock() - ended
        if age >= period(opened.site, job) / 2:
            return ""
    ctx.say(f"{run_id} ended {age.total_seconds() / 60:.0f} min ago: nothing to do")
    return run_id


def job_of(opened: OpenSite, run_id: RunId) -> str:
    """Which runbook a run is one of."""
    return str(opened.journal.read(run_id).entries[0].payload["runbook"])


def newest_completed(opened: OpenSite, job: str, region: str) -> tuple[RunId, dt.datetime] | None:
    """The newest completed run of a job in a region, and when it ended; None when there is none to be found."""
    journal = opened.journal
    for run_id in reversed(journal.runs_of(job)[-LOOK_BACK_RUNS:]):
        try:
            ended = _completed_at(journal, run_id, region)
        except VedrError:
            continue  # what can't be read does not count as done
        if ended is not None:
            return run_id, ended
    return None


def _completed_at(journal: Journal, run_id: RunId, region: str) -> dt.datetime | None:
    last = journal.last(run_id)
    if last is None or last.kind != "closed" or last.payload.get("outcome") != "completed":
        return None
    if not last.payload.get("steps", {}).keys() - {find_fresh.key}:  # type: ignore[union-attr] # written by Run._close
        return None  # it found another one fresh and did nothing itself
    order = journal.read(run_id).entries[0].payload.get("order")
    return last.time if isinstance(order, dict) and order.get("region") == region else None


def cron_of(site: Site, job: str) -> str:
    """The site's cron expression for a job."""
    return str(getattr(site.schedule, JOBS[job]))


def period(site: Site, job: str) -> dt.timedelta:
    """The time between two runs, as the cron expression has it now."""
    times = CronSim(cron_of(site, job), dt.datetime.now(dt.UTC))
    first = next(times)
    return next(times) - first
