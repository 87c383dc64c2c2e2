"""Looks that leave nothing in the ledger while all is well, and that therefore tell once an hour that they are made.

`watchdog` and `bcp-status` come every five minutes.  Of the first one in each hour a closed, empty run is kept under
`<job>-rounds`; a schedule that made no runs for hours is found by it, from any machine that reads the ledger.

Guarantees: what is told is told after the look; a round more or less in the ledger changes no other decision.
"""

import datetime as dt
from typing import Final

from vedr.ledger import RunId
from vedr.readiness.ages import duration
from vedr.readiness.finding import Part
from vedr.readiness.run_times import opened_at, opened_by
from vedr.runbook.journal import Journal
from vedr.runbook.order import new_run_id
from vedr.signature import Json
from vedr.targets import HOUR_S

WATCHDOG: Final = "watchdog"
BCP_STATUS: Final = "bcp-status"
ROUNDS: Final = (WATCHDOG, BCP_STATUS)
EVERY: Final = dt.timedelta(seconds=HOUR_S)


def index_of(job: str) -> str:
    """The name under which the ledger keeps a job's rounds."""
    return f"{job}-rounds"


def tell_round(journal: Journal, job: str) -> RunId | None:
    """Say that a round was made; None when one was told of within the hour.

    Raises:
        UnavailableError: the ledger cannot be read or written.
    """
    now = journal.clock()
    newest = _newest(journal, job, now)
    if newest is not None and now - opened_at(newest) < EVERY:
        return None
    run_id = new_run_id("run", now)
    opening: dict[str, Json] = {
        "title": f"rounds of {job}",
        "detected_at": now.isoformat(),
        "target_ms": 0,
        "steps": [],
        "order": {},
    }
    writer = journal.open(run_id, index_of(job), opening)
    writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "met": True, "steps": {}})
    return run_id


def judge_rounds(journal: Journal, job: str, grace_s: int, *, since: dt.datetime | None, now: dt.datetime) -> Part:
    """Somebody told of a round within the hour, and a grace."""
    limit = EVERY + dt.timedelta(seconds=grace_s)
    newest = _newest(journal, job, now)
    if newest is not None and now - opened_at(newest) <= limit:
        return Part(job, "passed", f"told of a round at {opened_at(newest):%Y-%m-%d %H:%M} UTC")
    if since is None or now - since <= limit:
        return Part(job, "passed", "not due yet on a site this young")
    silent = f"for {duration((now - opened_at(newest)).total_seconds())}" if newest is not None else "ever"
    return Part(job, "failed", f"made no round {silent}", f"Look at its deployment {job}/ops and worker (pool ops).")


def _newest(journal: Journal, job: str, now: dt.datetime) -> RunId | None:
    return next(reversed(opened_by(now, journal.runs_of(index_of(job)))), None)
