"""Giving a run up: what is safe to take back is taken back, the rest is named, the run is closed as abandoned.

1. Nobody works on the run; this process takes it over as a resume does, and from then on it can't be resumed.
2. What the run acted on is still its own: a subject that passed to another run since, which acted, is that run's, and
   then nothing is taken back.
3. The steps that acted are taken back, newest first, each in the ledger before and after.
4. The run is closed with both lists: what was taken back, and what a person has to look after.

Guarantees: a step is taken back at most once to its end, also over several attempts at abandoning; a step that cannot
be taken back keeps the run open, so that it is repeated or looked after.
Leaves out: what going back means (each step's `undo`, which must be safe to repeat).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from vedr.errors import InvalidInputError, RefusedError, VedrError
from vedr.ledger import Entry, RunId, is_closed
from vedr.runbook.execution import Executor, Listener, Plainly
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import Process, await_quiet, this_process
from vedr.runbook.overtaking import overtaken_by
from vedr.runbook.run import Outcome, Run
from vedr.runbook.steps import AnyStep, O, Runbook
from vedr.signature import Json

NOT_DECLARED = "no way back is declared: see the runbook's page"


@dataclass(frozen=True, slots=True)
class Way(Generic[O]):
    """A step that acted, and its way back.

    `recorded`: its result; None when it was begun and not completed.  `done`: what taking it back did, when that is
    behind us.
    """

    step: AnyStep[O]
    completed: bool
    recorded: Json
    done: str | None

    @property
    def by_hand(self) -> str:
        """Why a person has to look after it; empty when it can be taken back."""
        return "" if self.step.undo else self.step.cannot_undo or NOT_DECLARED


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A step that was taken back, and what that did."""

    step: str
    title: str
    done: str


@dataclass(frozen=True, slots=True)
class ByHand:
    """A step that stands, and why: what a person has to look after."""

    step: str
    title: str
    why: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """How a run was given up."""

    outcome: Outcome
    taken_back: tuple[TakenBack, ...]
    by_hand: tuple[ByHand, ...]


def ways_back(runbook: Runbook[O], entries: Sequence[Entry]) -> tuple[Way[O], ...]:
    """The steps of a run that acted or may have, newest first."""
    begun: dict[str, Entry] = {}
    results: dict[str, Json] = {}
    undone: dict[str, str] = {}
    for entry in entries:
        key = str(entry.payload.get("step"))
        match entry.kind:
            case "step_started":
                begun.pop(key, None)
                begun[key] = entry
            case "step_completed":
                results[key] = entry.payload.get("result")
            case "undo_completed":
                undone[key] = str(entry.payload.get("done"))
            case _:
                pass
    steps = {one.base_key: one for one in runbook.steps}
    ways = []
    for key in reversed(begun):
        base, _, what = key.partition(":")
        if (known := steps.get(base)) is None:
            raise InvalidInputError(
                f"run {entries[0].run_id} began step {key}, which runbook {runbook.id} no longer has",
                remedy="Use the version that began it, or close it with vedr ledger abandon and look after it by hand.",
            )
        if known.acts:
            one = known.named(what) if what else known
            ways.append(Way(one, key in results, results.get(key), undone.get(key)))
    return tuple(ways)


def check_open(runbook: Runbook[O], entries: Sequence[Entry], run_id: RunId) -> None:
    """RefusedError when there is nothing to give up, InvalidInputError when it is another runbook's."""
    if not entries:
        raise RefusedError(f"run {run_id} is just being opened", remedy="Wait a few seconds and try again.")
    if is_closed(entries):
        raise RefusedError(
            f"run {run_id} is closed: {entries[-1].payload.get('outcome')}", remedy="There is nothing to abandon."
        )
    if (name := entries[0].payload.get("runbook")) != runbook.id:
        raise InvalidInputError(f"run {run_id} is one of {name}, not of {runbook.id}", remedy="Check the id.")


def abandon(
    runbook: Runbook[O],
    journal: Journal,
    run_id: RunId,
    reason: str,
    *,
    executor: Executor | None = None,
    listeners: Sequence[Listener] = (),
    wait_quiet: Callable[..., None] = await_quiet,
    process: Process | None = None,
) -> Abandoned:
    """Give the run up, as the module's text says.

    Raises:
        RefusedError: it is closed.
        ConflictError: somebody works on it.
        VedrError: a step could not be taken back; the run stays open and abandoning can be repeated.
    """
    recorded = journal.read(run_id)
    check_open(runbook, recorded.entries, run_id)
    wait_quiet(journal, run_id, recorded.entries)  # (1)
    order = runbook.order.model_validate({**_order_of(recorded.entries[0]), "incident": run_id})
    writer = journal.resume(run_id, {"process": (process or this_process()).payload()})
    run = Run(runbook, order, writer, journal, executor=executor or Plainly(), listeners=listeners)
    try:
        with run.ticking():
            run.begin_abandoning(reason)
            passed = _passed_on(runbook, run, journal)  # (2)
            back, left = _go_back(run, ways_back(runbook, run.entries), passed)  # (3)
            facts: dict[str, Json] = {
                "reason": reason,
                "taken_back": [{"step": one.step, "done": one.done} for one in back],
                "by_hand": [{"step": one.step, "why": one.why} for one in left],
            }
            return Abandoned(run.abandon(facts), back, left)  # (4)
    except BaseException as error:
        with contextlib.suppress(VedrError):  # the error itself matters more than that it could not be recorded
            run.pause(error)
        raise


def _order_of(opened: Entry) -> dict[str, Json]:
    order = opened.payload.get("order")
    if not isinstance(order, dict):
        raise InvalidInputError(
            f"run {opened.run_id} has no order", remedy=f"Close it: vedr ledger abandon {opened.run_id}."
        )
    return order


def _passed_on(runbook: Runbook[O], run: Run[O], journal: Journal) -> str:
    """Why nothing may be taken back: another run acted on our subjects since; empty when they are still ours."""
    if passed := overtaken_by(journal, runbook.subjects(run.order), run.run_id):
        return f"{passed}: left as that run has it"
    for subject in runbook.subjects(run.order):
        run.hold(subject)
    return ""


def _go_back(run: Run[O], ways: Sequence[Way[O]], passed: str) -> tuple[tuple[TakenBack, ...], tuple[ByHand, ...]]:
    back, left = [], []
    for way in ways:
        one = way.step
        if way.done is not None:
            back.append(TakenBack(one.key, one.title, way.done))
        elif one.undo is None or passed:
            left.append(ByHand(one.key, one.title, passed or way.by_hand))
        else:
            back.append(TakenBack(one.key, one.title, run.undo(one, one.undo, way.recorded)))
    return tuple(back), tuple(left)
