"""Ends what is stuck and finds what did not happen.

1. What Prefect shows is set to what the ledger says (tasks.reconcile).
2. A flow run that has been Pending for PENDING_LIMIT_S holds its concurrency slot for good: crashed.
3. A flow run that has been Running for UNKNOWN_LIMIT_S and that no ledger knows never began its work: crashed.
4. Regions that were away are brought up to date with the week's runs (vedr.runbook.catching_up).
5. A scheduled job whose newest completed run is older than its last due time, and a grace, was missed.  It is reported
   and not started: the schedule's next run does the work, and a storm after an outage helps nobody.

Findings become events, and one closed run of the ledger; when there are none, nothing is written but once an hour that
a round was made (vedr.readiness.rounds).
Leaves out: the cure of what it finds.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from tasks.reconcile import Correction, recent_runs, reconcile
from vedr.adapters.site import open_site
from vedr.inventory import Site
from vedr.ledger import RunId
from vedr.readiness.rounds import WATCHDOG, tell_round
from vedr.readiness.run_times import last_due, opened_at
from vedr.readiness.schedule import crons, newest_good
from vedr.runbook.catching_up import A_WEEK_DAYS, catch_up
from vedr.runbook.journal import Journal
from vedr.runbook.order import new_run_id
from vedr.signature import Json

PENDING_LIMIT_S: Final = 120.0
UNKNOWN_LIMIT_S: Final = 600.0
GRACE: Final = dt.timedelta(minutes=30)  # from due to reported: a run needs time to start and to end
_PAST_ROUNDS: Final = 30  # of our own, to tell what was reported already
_RUNBOOK: Final = "watchdog"


@dataclass(frozen=True, slots=True)
class Reaped:
    """A stuck flow run that was set to Crashed."""

    flow_run_id: str
    name: str
    was: str
    stuck_s: int


@dataclass(frozen=True, slots=True)
class Missed:
    """A scheduled job that did not happen."""

    flow: str
    region: str
    due: dt.datetime
    last_good: RunId | None


@dataclass(frozen=True, slots=True)
class Watched:
    """What one round found."""

    corrected: tuple[Correction, ...]
    reaped: tuple[Reaped, ...]
    missed: tuple[Missed, ...]
    recorded_as: RunId | None

    @property
    def quiet(self) -> bool:
        return not (self.corrected or self.reaped or self.missed)


def watch(site_name: str = "", *, own_flow_run: str = "") -> Watched:
    """One round over a site.

    Args:
        site_name: As for `open_site`.
        own_flow_run: The flow run that this is called from, which is left alone.
    """
    with open_site(site_name or None) as site, get_client(sync_client=True) as client:
        return watch_over(site.site, site.journal, client, own_flow_run=own_flow_run)


def watch_over(site: Site, journal: Journal, client: SyncPrefectClient, *, own_flow_run: str = "") -> Watched:
    """One round with what it needs."""
    catch_up(journal, days=A_WEEK_DAYS)
    corrected = reconcile(journal, client)
    known = {str(entry.payload.get("flow_run_id")) for entries in recent_runs(journal) for entry in entries}
    reaped = reap(client, known | {own_flow_run}, journal.clock())
    missed = find_missed(journal, crons(site), tuple(site.regions))
    found = Watched(corrected, reaped, missed, None)
    tell_round(journal, WATCHDOG)
    return found if found.quiet else _report(journal, found)


# --- stuck flow runs


def reap(client: SyncPrefectClient, known: set[str], now: dt.datetime) -> tuple[Reaped, ...]:
    """Crash what is stuck; `known` are the flow runs that the ledger speaks for."""
    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
    reaped = []
    for flow_run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=wanted), limit=200):
        stuck_s = _stuck_s(flow_run, now)
        if flow_run.state is None or not is_stuck(flow_run.state.type, stuck_s, known=str(flow_run.id) in known):
            continue
        why = f"Set by vedr: {flow_run.state.name} for {stuck_s:.0f} s"
        if _crash(client, flow_run.id, why):
            reaped.append(Reaped(str(flow_run.id), flow_run.name, flow_run.state.name or "", round(stuck_s)))
    return tuple(reaped)


def is_stuck(state: StateType, stuck_s: float, *, known: bool) -> bool:
    """Pending too long, or Running for long without a trace in the ledger."""
    if state is StateType.PENDING:
        return stuck_s > PENDING_LIMIT_S
    return state is StateType.RUNNING and not known and stuck_s > UNKNOWN_LIMIT_S


def _stuck_s(flow_run: FlowRun, now: dt.datetime) -> float:
    return (now - flow_run.state.timestamp).total_seconds() if flow_run.state else 0.0


def _crash(client: SyncPrefectClient, flow_run_id: UUID, why: str) -> bool:
    try:
        client.set_flow_run_state(flow_run_id, State(type=StateType.CRASHED, message=why), force=True)
    except ObjectNotFound:
        return False
    return True


# --- missed schedules


def find_missed(journal: Journal, plan: Mapping[str, str], regions: Sequence[str]) -> tuple[Missed, ...]:
    """The jobs whose last due time passed without a run that completed since."""
    now = journal.clock()
    first = next(iter(journal.runs()), None)
    if first is None:
        return ()  # nothing ever ran here: a new site, not an outage
    since = opened_at(first)
    told = _told(journal)
    missed = []
    for flow, cron in plan.items():
        due = last_due(cron, now - GRACE)
        newest = newest_good(journal, flow, regions)
        for region in regions:
            good = newest.get(region)
            if due > since and (good is None or good.last.time < due) and (flow, region, due.isoformat()) not in told:
                missed.append(Missed(flow, region, due, good.run_id if good else None))
    return tuple(missed)


def _told(journal: Journal) -> set[tuple[str, str, str]]:
    """What earlier rounds reported as missed: flow, region, due."""
    notes = (
        entry.payload
        for run_id in journal.runs_of(_RUNBOOK)[-_PAST_ROUNDS:]
        for entry in journal.read(run_id).entries
        if entry.kind == "note" and "due" in entry.payload
    )
    return {(str(note.get("flow")), str(note.get("region")), str(note.get("due"))) for note in notes}


# --- telling


def _report(journal: Journal, found: Watched) -> Watched:
    now = journal.clock()
    run_id = new_run_id("run", now)
    opening: dict[str, Json] = {"title": "watchdog", "detected_at": now.isoformat(), "target_ms": 0, "steps": []}
    writer = journal.open(run_id, _RUNBOOK, opening)
    for correction in found.corrected:
        writer.append("note", {"text": "Prefect's state corrected", **asdict(correction)})
    for reaped in found.reaped:
        writer.append("note", {"text": "stuck flow run ended", **asdict(reaped)})
    for missed in found.missed:
        facts: dict[str, Json] = {"flow": missed.flow, "region": missed.region, "due": missed.due.isoformat()}
        writer.append("note", {"text": "schedule missed", **facts, "last_good": missed.last_good})
        emit_event(
            event="vedr.schedule.missed",
            resource={"prefect.resource.id": f"vedr.schedule.{missed.flow}.{missed.region}", "vedr.site": journal.site},
            payload=facts,
        )
    writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "steps": {}})
    return Watched(found.corrected, found.reaped, found.missed, run_id)
