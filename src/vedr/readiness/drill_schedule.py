"""Drills, by the ledger: which were due, what came of them, and which did not happen.

Guarantees: a drill was held only when the ledger holds one that was opened since it was due, in its own form or by a
rehearsal in its place, and that completed; one that was refused, failed, was given up, or can't be read was not held.
Leaves out: holding it (flows.drills), and what its evidence says (vedr.reports.drill_bundle).
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import Entry, RunId
from vedr.readiness.ages import duration
from vedr.readiness.finding import Part, look_at
from vedr.readiness.run_times import last_due, opened_at, opened_by
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet

Cadence = Literal["weekly", "monthly", "quarterly", "annual"]
CADENCES: Final[tuple[Cadence, ...]] = get_args(Cadence)
REHEARSAL_ID: Final = "drill-rehearsal"
"""The non-disruptive form, whichever drill it stands for."""
TABLETOP_ID: Final = "drill-tabletop"
REHEARSALS_A_YEAR: Final = 80  # all four cadences, and some by hand
MONTHS_A_QUARTER: Final = 3


@dataclass(frozen=True, slots=True)
class Drilled:
    """A drill's run.  `state`: at work, left open, or the outcome that it ended or paused with; `why`: its error."""

    run_id: RunId
    state: str
    why: str

    @property
    def passed(self) -> bool:
        return self.state == "completed"


def drill_crons(site: Site) -> Mapping[Cadence, str]:
    """When each drill is due, UTC."""
    plan = site.schedule
    return {
        "weekly": plan.drill_weekly,
        "monthly": plan.drill_monthly,
        "quarterly": plan.drill_quarterly,
        "annual": plan.drill_annual,
    }


def drills_since(journal: Journal, cadence: Cadence, due: dt.datetime) -> Iterator[Drilled]:
    """The runs that count for a due time, oldest first, read one by one as they are asked for."""
    now = journal.clock()
    own = [run_id for run_id in opened_by(now, journal.runs_of(f"drill-{cadence}")) if opened_at(run_id) >= due]
    rehearsals = opened_by(now, journal.runs_of(REHEARSAL_ID))[-REHEARSALS_A_YEAR:]
    stand_ins = [run_id for run_id in rehearsals if opened_at(run_id) >= due]
    for run_id in sorted({*own, *stand_ins}, key=opened_at):
        try:
            entries = journal.read(run_id).entries
        except VedrError:
            continue  # what can't be read does not count as held
        if entries and (run_id in own or stands_for(entries) == cadence):
            yield _drilled(run_id, entries, now)


def stands_for(entries: tuple[Entry, ...]) -> str:
    """The drill in whose place a rehearsal was held; empty when it does not say."""
    order = entries[0].payload.get("order") if entries else None
    return str(order.get("cadence", "")) if isinstance(order, dict) else ""


def _drilled(run_id: RunId, entries: tuple[Entry, ...], now: dt.datetime) -> Drilled:
    last = entries[-1]
    error = last.payload.get("error")
    why = str(error.get("message", "")) if isinstance(error, dict) else ""
    if last.kind in ("closed", "paused"):
        return Drilled(run_id, str(last.payload.get("outcome", "failed")), why)
    return Drilled(run_id, "left open" if is_quiet(entries, now) else "at work", why)


# --- the parts of the check


def judge_drills(
    site: Site, journal: Journal, before: dt.datetime, *, since: dt.datetime | None, now: dt.datetime
) -> Iterator[Part]:
    """Each drill against the time that it was last due at or before `before`, on a site that runs `since` then."""
    for cadence, cron in drill_crons(site).items():
        judge = partial(_judge, journal, cadence, last_due(cron, before), since=since, now=now)
        yield look_at(f"drill-{cadence}", judge)


def _judge(
    journal: Journal, cadence: Cadence, due: dt.datetime, *, since: dt.datetime | None, now: dt.datetime
) -> Part:
    name = f"drill-{cadence}"
    if since is None or due <= since:
        return Part(name, "passed", "not due yet on a site this young")
    newest: Drilled | None = None
    for newest in drills_since(journal, cadence, due):
        if newest.passed or newest.state == "at work":
            return Part(name, "passed", f"{newest.state}: {newest.run_id}")
    late = f"due {due:%Y-%m-%d %H:%M} UTC, {duration((now - due).total_seconds())} ago"
    if newest is None:
        remedy = f"Run it: vedr drill run {cadence}; then look at its deployment and worker (pool ops)."
        return Part(name, "failed", f"was not held: {late}", remedy)
    said = f"{newest.state}: {newest.why}" if newest.why else newest.state
    remedy = f"See vedr ledger show {newest.run_id}; repair what it names, then vedr drill run {cadence}."
    return Part(name, "failed", f"was not passed: {late}; {newest.run_id} {said}", remedy)


def judge_tabletop(journal: Journal, *, since: dt.datetime | None, now: dt.datetime) -> Part:
    """One is held by people every quarter; none in the last whole quarter, nor since, is a warning."""
    begin = _quarter_before(now)
    if since is None or since >= begin:
        return Part(TABLETOP_ID, "passed", "not due yet on a site this young")
    for run_id in reversed(opened_by(now, journal.runs_of(TABLETOP_ID))):
        if opened_at(run_id) < begin:
            break
        last = journal.last(run_id)
        if last is not None and last.kind == "closed" and last.payload.get("outcome") == "completed":
            return Part(TABLETOP_ID, "passed", f"held {opened_at(run_id):%Y-%m-%d}")
    return Part(
        TABLETOP_ID,
        "warning",
        f"none held since {begin:%Y-%m-%d}",
        "Hold one (vedr drill sheet Q1 … Q4), record it: vedr run drill-tabletop.",
    )


def _quarter_before(now: dt.datetime) -> dt.datetime:
    """When the last whole quarter began."""
    quarters = now.year * 4 + (now.month - 1) // MONTHS_A_QUARTER - 1
    return dt.datetime(quarters // 4, quarters % 4 * MONTHS_A_QUARTER + 1, 1, tzinfo=dt.UTC)
