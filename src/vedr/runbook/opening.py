"""Begin a run, or go on with one: from an order to a `Run`, and its end in the ledger whatever happens.

Guarantees: an order is checked before anything is written; a run that somebody works on is not entered; a resumed run
has the order, the detection time and the target that it was opened with.
Leaves out: where stores and keys come from (vedr.adapters.site).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Final

import vedr
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, VedrError
from vedr.ledger import Entry, RunId, is_closed
from vedr.policies.approval import Approval
from vedr.runbook import timing
from vedr.runbook.asking import Inbox
from vedr.runbook.catching_up import LATELY_DAYS, catch_up
from vedr.runbook.execution import Executor, Listener, Plainly
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import Process, await_quiet, this_process
from vedr.runbook.order import detection_time, new_run_id
from vedr.runbook.overtaking import overtaken_by
from vedr.runbook.run import Run
from vedr.runbook.steps import O, Runbook, without_floats
from vedr.runbook.writer import Writer
from vedr.signature import Json
from vedr.targets import RUNBOOK_RTO_S, TargetOverrides

WATCHERS: Final = ContextVar[tuple[Listener, ...]]("watchers", default=())
"""Listeners of every run that is opened in this context: how a terminal watches a body that opens its run itself."""

_PAST_RUNS: Final = 10  # medians are over the newest completed ones
_HEALING_S: Final = 3.0
_OWN_FIELDS: Final = frozenset({"incident", "detected_at"})


@contextlib.contextmanager
def opened_run(
    runbook: Runbook[O],
    order: O,
    journal: Journal,
    *,
    overrides: TargetOverrides | None = None,
    approval: Approval | None = None,
    run_id: RunId | None = None,
    origin: Mapping[str, Json] | None = None,
    executor: Executor | None = None,
    listeners: Sequence[Listener] = (),
    inboxes: Sequence[Inbox] = (),
    wait_quiet: Callable[..., None] = await_quiet,
    process: Process | None = None,
) -> Iterator[Run[O]]:
    """The run, open; closed when the block ends, left to be resumed when it ends in an error.

    Args:
        runbook: What is run.
        order: Its parameters; with `incident` set, the run of that id goes on.
        journal: The site's ledger.
        overrides: The site's own targets.
        approval: Whom the site asks before a plan is carried out; default nobody.
        run_id: The id that a new run gets; an existing one goes on (an orchestrator restarted its flow).
        origin: Who started it, recorded (`flow_run_id`, `user`).
        executor: How steps are executed; default plainly.
        listeners: Who is told.
        inboxes: Where people answer besides `vedr approve`.
        wait_quiet: How it is made sure that nobody else works on it.
        process: What this process says it is.
    """
    target_s = target_of(runbook, overrides)
    runbook.check_budgets(target_s)
    about: dict[str, Json] = {**(origin or {}), "process": (process or this_process()).payload()}
    writer, order = _enter(runbook, order, journal, run_id, about, target_s=target_s, wait_quiet=wait_quiet)
    run = Run(
        runbook,
        order,
        writer,
        journal,
        executor=executor or Plainly(),
        listeners=(*listeners, *WATCHERS.get()),
        medians=_medians(journal, runbook, writer.run_id),
        approval=approval,
        inboxes=inboxes,
    )
    try:
        with run.ticking():
            for subject in runbook.subjects(order):
                run.hold(subject)
            yield run
    except BaseException as error:
        with contextlib.suppress(VedrError):  # the error itself matters more than that it could not be recorded
            run.stop(error)
        raise
    else:
        run.complete()
    finally:
        _heal_briefly(journal, writer.run_id)


def _heal_briefly(journal: Journal, run_id: RunId) -> None:
    """Bring regions up to date that missed entries of this run, or of those of the last days, which may have ended
    while a region was away; without keeping anybody waiting: the watchdog does the rest.
    """

    def heal() -> None:
        with contextlib.suppress(VedrError):
            journal.heal(run_id)
            catch_up(journal, days=LATELY_DAYS)

    healing = threading.Thread(target=heal, name=f"healing-{run_id}", daemon=True)
    healing.start()
    healing.join(_HEALING_S)


def target_of(runbook: Runbook[O], overrides: TargetOverrides | None) -> float:
    """The site's target for it, else its own."""
    known = next((known for known in RUNBOOK_RTO_S if known == runbook.id), None)
    return float(overrides.rto_s.get(known, runbook.target_s)) if overrides and known else runbook.target_s


def _enter(
    runbook: Runbook[O],
    order: O,
    journal: Journal,
    run_id: RunId | None,
    about: Mapping[str, Json],
    *,
    target_s: float,
    wait_quiet: Callable[..., None],
) -> tuple[Writer, O]:
    now = journal.clock()
    if order.incident:
        return _go_on(runbook, order, journal, RunId(order.incident), about, wait_quiet=wait_quiet)
    if run_id and journal.last(run_id):
        return _go_on(runbook, order, journal, run_id, about, wait_quiet=wait_quiet)
    new_id = run_id or new_run_id("inc" if runbook.is_incident else "run", now)
    payload: dict[str, Json] = {
        **about,
        "version": vedr.__version__,
        "title": runbook.title,
        "detected_at": detection_time(order, now).isoformat(),
        "target_ms": round(target_s * 1000),
        "order": without_floats(order.model_dump(mode="json", exclude=set(_OWN_FIELDS))),
        "steps": [
            {"key": one.key, "title": one.title, "budget_ms": round(one.budget_s * 1000), "acts": one.acts}
            for one in runbook.steps
        ],
    }
    return journal.open(new_id, runbook.id, payload), order


def _go_on(
    runbook: Runbook[O],
    order: O,
    journal: Journal,
    run_id: RunId,
    about: Mapping[str, Json],
    *,
    wait_quiet: Callable[..., None],
) -> tuple[Writer, O]:
    recorded = journal.read(run_id)
    if not recorded.entries:
        raise ConflictError(f"run {run_id} is just being opened", remedy="Wait a few seconds and try again.")
    first = recorded.entries[0].payload
    if first.get("runbook") != runbook.id:
        raise InvalidInputError(
            f"run {run_id} is one of {first.get('runbook')}, not of {runbook.id}", remedy="Check the incident's id."
        )
    if any(entry.kind == "abandoning" for entry in recorded.entries):
        raise RefusedError(
            f"run {run_id} is being abandoned: its steps are taken back",
            remedy=f"Repeat vedr abandon {run_id}, or start a new run.",
        )
    wait_quiet(journal, run_id, recorded.entries)
    mine = without_floats(order.model_dump(mode="json", exclude=set(_OWN_FIELDS), exclude_unset=True))
    theirs = first.get("order")
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        raise InvalidInputError(f"run {run_id} has no order", remedy="Start a new run.")
    if other := sorted(name for name, value in mine.items() if theirs.get(name) != value):
        raise InvalidInputError(
            f"run {run_id} was ordered with other values: "
            + ", ".join(f"{name} is {theirs.get(name)!r}, now {mine[name]!r}" for name in other),
            remedy="Give only the incident's id to go on with it, or start a new run.",
        )
    resumed = runbook.order.model_validate({**theirs, "incident": run_id})
    if (runbook.is_incident or runbook.plan) and (passed := _overtaken(runbook, resumed, journal, recorded.entries)):
        raise RefusedError(
            f"run {run_id} is not gone on with: {passed}, and acted: what this one saw and did is no longer so",
            remedy=f"Close it: vedr abandon {run_id}.  If its work is still needed, order it anew.",
        )
    return journal.resume(run_id, about), resumed


def _overtaken(runbook: Runbook[O], order: O, journal: Journal, entries: Sequence[Entry]) -> str:
    """Which of its subjects has passed to whom; a run that is closed is refused as such."""
    return "" if is_closed(entries) else overtaken_by(journal, runbook.subjects(order), entries[0].run_id)


def recorded_order(journal: Journal, run_id: RunId) -> Mapping[str, Json]:
    """What a run was ordered with; NotFoundError when there is no such run."""
    entries = journal.read(run_id).entries
    order = entries[0].payload.get("order") if entries else None
    if not isinstance(order, dict):
        raise NotFoundError(f"run {run_id} has no order", remedy="Give the order's fields.")
    return order


def _medians(journal: Journal, runbook: Runbook[O], besides: RunId) -> dict[str, int]:
    """From the newest completed runs; empty when the ledger can't tell now: budgets are used then."""
    closings = []
    with contextlib.suppress(VedrError):
        for run_id in journal.runs_of(runbook.id)[-_PAST_RUNS:]:
            last = journal.last(run_id) if run_id != besides else None
            if last and last.kind == "closed":
                closings.append(last.payload)
    return timing.medians(closings)
