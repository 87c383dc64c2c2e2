"""Make Prefect show what the ledger says, after an outage of its API, a crash, or a run that went on plainly.

Guarantees: the ledger decides; a state is changed only where it contradicts; doing it again changes nothing.
Leaves out: flow runs that the ledger does not know (tasks.watchdog).
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound

from vedr.ledger import Entry, RunId
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet

LOOK_BACK_DAYS: Final = 2
Truth = Literal["completed", "failed", "crashed", "abandoned", "running"]

_AGREES: Final[Mapping[Truth, frozenset[StateType]]] = {
    "completed": frozenset({StateType.COMPLETED}),
    "failed": frozenset({StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}),
    "crashed": frozenset({StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}),
    "abandoned": frozenset({StateType.CANCELLED}),
    "running": frozenset({StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING}),
}
_BECOMES: Final[Mapping[Truth, StateType]] = {
    "completed": StateType.COMPLETED,
    "failed": StateType.FAILED,
    "crashed": StateType.CRASHED,
    "abandoned": StateType.CANCELLED,
    "running": StateType.RUNNING,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one flow run came to, by the ledger."""

    flow_run_id: str
    run_id: RunId
    truth: Truth
    why: str


@dataclass(frozen=True, slots=True)
class Correction:
    """A flow run whose state was set."""

    flow_run_id: str
    run_id: RunId
    was: str
    now: str


def verdicts(entries: Sequence[Entry], now: dt.datetime) -> tuple[Verdict, ...]:
    """What each flow run of this ledger run came to: earlier ones were superseded, the last one is what the run is.

    A run is abandoned from a shell; then its last flow run says so, or Prefect would go on asking for a resume.
    """
    run_id = entries[0].run_id
    flow_runs = [flow_run for entry in entries if (flow_run := _flow_run_of(entry)) is not None]
    result = []
    for place, flow_run_id in enumerate(flow_runs):
        if flow_run_id in flow_runs[place + 1 :]:
            continue  # the same flow run went on with it
        last = place == len(flow_runs) - 1 or (_is_abandoned(entries) and not any(flow_runs[place + 1 :]))
        truth, why = _truth(entries, now) if last else ("crashed", "superseded: another process went on with the run")
        result.append(Verdict(flow_run_id, run_id, truth, f"{why} (ledger {run_id})"))
    return tuple(result)


def _flow_run_of(entry: Entry) -> str | None:
    """The flow run that began an epoch; empty when it was begun without Prefect; None for all other entries."""
    if entry.kind not in ("opened", "resumed"):
        return None
    flow_run_id = entry.payload.get("flow_run_id")
    return flow_run_id if isinstance(flow_run_id, str) else ""


def _is_abandoned(entries: Sequence[Entry]) -> bool:
    return entries[-1].kind == "closed" and entries[-1].payload.get("outcome") == "abandoned"


def _truth(entries: Sequence[Entry], now: dt.datetime) -> tuple[Truth, str]:
    last = entries[-1]
    outcome = str(last.payload.get("outcome"))
    if _is_abandoned(entries):
        return "abandoned", f"abandoned: {last.payload.get('reason')}"
    if last.kind == "closed":
        return ("completed" if outcome == "completed" else "failed"), f"closed as {outcome}"
    if last.kind == "paused":
        return "failed", f"{outcome}, waiting to be resumed"
    if is_quiet(entries, now):
        return "crashed", f"silent since {last.time:%H:%M:%S} UTC"
    return "running", "at work"


def recent_runs(journal: Journal, days: int = LOOK_BACK_DAYS) -> Iterator[tuple[Entry, ...]]:
    """The entries of every run opened in the last days."""
    today = journal.clock().date()
    for back in range(days, -1, -1):
        day = f"{today - dt.timedelta(days=back):%Y%m%d}"
        for run_id in (*journal.runs(f"inc-{day}"), *journal.runs(f"run-{day}")):
            if entries := journal.read(run_id).entries:
                yield entries


def reconcile(journal: Journal, client: SyncPrefectClient) -> tuple[Correction, ...]:
    """Set every flow run of the last days that contradicts the ledger."""
    now = journal.clock()
    judged = (verdict for entries in recent_runs(journal) for verdict in verdicts(entries, now) if verdict.flow_run_id)
    corrections = (_correct(verdict, client) for verdict in judged)
    return tuple(correction for correction in corrections if correction is not None)


def _correct(verdict: Verdict, client: SyncPrefectClient) -> Correction | None:
    flow_run_id = UUID(verdict.flow_run_id)
    try:
        shown = client.read_flow_run(flow_run_id).state
    except ObjectNotFound:
        return None  # Prefect's database was lost or cleaned; the ledger was not
    if shown is not None and shown.type in _AGREES[verdict.truth]:
        return None
    wanted: State[None] = State(type=_BECOMES[verdict.truth], message=f"Set by vedr: {verdict.why}")
    client.set_flow_run_state(flow_run_id, wanted, force=True)
    return Correction(verdict.flow_run_id, verdict.run_id, shown.name or "" if shown else "", wanted.name or "")
