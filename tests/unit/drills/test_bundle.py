"""A drill's signed answer, made from ledgers that the real engine wrote."""

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from ledger_world import World

from vedr.errors import CorruptError, InvalidInputError, RefusedError, VerificationFailedError
from vedr.ledger import RunId
from vedr.ports import ObjectKey
from vedr.reports.drill_bundle import Bundle, make_bundle
from vedr.reports.sealing import check_page
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step


class DrillOrder(Order):
    steady: bool = True
    works: bool = True
    part: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    run_id: str


@step(title="Check the steady state", budget_s=10, acts=False)
def check_steady(ctx: Context[DrillOrder]) -> str:
    if not ctx.order.steady:
        raise RefusedError("not run: full-0 does not answer in sync", remedy="Repair it.")
    return "steady"


@step(title="Respond", budget_s=10)
def respond(ctx: Context[DrillOrder]) -> Answer:
    return Answer(ctx.order.part)


@step(title="Conclude", budget_s=10, acts=False)
def conclude(ctx: Context[DrillOrder]) -> str:
    if not ctx.order.works:
        raise VerificationFailedError("the drill failed: unit a: was running, is not running", remedy="Start it.")
    return "clean"


STEPS: Any = [check_steady, respond, conclude]
DRILL: Runbook[DrillOrder] = Runbook("drill-monthly", "zone failover drill", DrillOrder, STEPS, target_s=60)
PART: Runbook[DrillOrder] = Runbook("RB-DR-002", "zone failover", DrillOrder, STEPS)


def run_of(world: World, runbook: Runbook[DrillOrder], **order: Any) -> RunId:
    entered: list[Run[DrillOrder]] = []
    with (
        contextlib.suppress(RefusedError, VerificationFailedError),
        opened_run(runbook, DrillOrder(**order), world.journal(), wait_quiet=lambda *_, **__: None) as run,
    ):
        entered.append(run)
        run.step(check_steady)
        run.step(respond)
        run.step(conclude)
    world.settle()
    return entered[0].run_id


def bundle_of(world: World, run_id: RunId) -> Bundle:
    return make_bundle(world.journal(), run_id, made_at=world.clock())


def test_a_drill_that_passed_is_answered_with_its_own_run_and_the_runbook_s(drill_ledger: World) -> None:
    part = run_of(drill_ledger, PART)
    drill = run_of(drill_ledger, DRILL, part=part)
    made = bundle_of(drill_ledger, drill)
    assert made.verdict == "passed"
    checked = check_page(made.document.decode(), drill_ledger.journal(), what="the answer")
    assert [head.run_id for head in checked.runs] == [drill, part]


def test_a_refused_drill_is_not_run_and_says_why(drill_ledger: World) -> None:
    made = bundle_of(drill_ledger, run_of(drill_ledger, DRILL, steady=False))
    assert made.verdict == "not run"
    assert "does not answer in sync" in made.reason


def test_a_drill_that_left_something_failed(drill_ledger: World) -> None:
    made = bundle_of(drill_ledger, run_of(drill_ledger, DRILL, works=False))
    assert made.verdict == "failed"
    assert "is not running" in made.reason


def test_a_drill_whose_runbook_s_run_can_not_be_shown_is_not_passed(drill_ledger: World) -> None:
    made = bundle_of(drill_ledger, run_of(drill_ledger, DRILL, part="inc-20260214-031500-k3x9"))
    assert made.verdict == "failed"
    assert "inc-20260214-031500-k3x9 cannot be shown" in made.reason


def test_a_drill_whose_runbook_s_run_was_exchanged_failed_or_is_none_is_not_passed(drill_ledger: World) -> None:
    """The drill's own record said that all was well; nobody had looked at what it rests on."""
    part, failed = run_of(drill_ledger, PART), run_of(drill_ledger, PART, works=False)
    drill = run_of(drill_ledger, DRILL, part=part)
    assert bundle_of(drill_ledger, run_of(drill_ledger, DRILL, part=failed)).reason == f"run {failed} is paused"
    assert "no run of a runbook" in bundle_of(drill_ledger, run_of(drill_ledger, DRILL)).reason
    assert bundle_of(drill_ledger, drill).verdict == "passed"
    for store in drill_ledger.stores.values():
        store.damage(ObjectKey(f"ledger/{part}/00000002.json"), b"{}")
    made = bundle_of(drill_ledger, drill)
    assert (made.verdict, f"run {part} does not verify" in made.reason) == ("failed", True)


def test_an_answer_of_which_a_word_was_changed_is_found(drill_ledger: World) -> None:
    made = bundle_of(drill_ledger, run_of(drill_ledger, DRILL, works=False))
    forged = made.document.replace(b'"verdict":"failed"', b'"verdict":"passed"')
    assert forged != made.document
    with pytest.raises((CorruptError, VerificationFailedError)):
        check_page(forged.decode(), drill_ledger.journal(), what="the answer")


def test_a_run_that_is_no_drill_has_no_answer(drill_ledger: World) -> None:
    with pytest.raises(InvalidInputError, match="no drill"):
        bundle_of(drill_ledger, run_of(drill_ledger, PART))
