"""Scheduled jobs: whether there is anything to do now.

Guarantees: a job is called fresh only when the ledger holds a completed run of the same job and region that did the
job's work and ended less than half a period ago; a run that itself only found another one fresh is no such run, and
what can't be read does not count.  When the ledger can't tell, the job runs.
Leaves out: when jobs are due and what past runs came to (vedr.readiness.schedule).  Nothing here needs Prefect.
"""

from tasks.orders import RegionJob
from vedr.adapters.site import open_site
from vedr.ledger import RunId
from vedr.readiness.run_times import period
from vedr.readiness.schedule import PastRun, crons, past_runs
from vedr.runbook.journal import Journal
from vedr.runbook.steps import Context, Retry, step


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
