"""A drill's own runs: which ids they get, and what is read of them when the drill goes on."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from ledger_world import World

from tasks.binding import PART, part_of
from tasks.drills import _ended
from vedr.adapters.notify_announcing import EXERCISE
from vedr.errors import RefusedError, VerificationFailedError
from vedr.ledger import RunId
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Runbook, step

DRILL = RunId("run-20260214-031500-k3x9")


class Wanted(Order):
    ends: str = "well"


@step(title="Look", budget_s=10, acts=False)
def look_first(ctx: Context[Wanted]) -> str:
    if ctx.order.ends == "refused":
        raise RefusedError("us-east-1b serves", remedy="Choose another one.")
    if ctx.order.ends == "failed":
        raise VerificationFailedError("two nodes disagree", remedy="Ask a third.")
    return "seen"


ZONE: Runbook[Wanted] = Runbook("RB-DR-002", "zone failover", Wanted, [look_first])
BACK: Runbook[Wanted] = Runbook("failback", "failback", Wanted, [look_first], target_s=60)


def test_a_part_s_id_follows_from_the_drill_so_that_it_is_found_again() -> None:
    ids = []
    for runbook, what in ((ZONE, "a"), (ZONE, "a"), (ZONE, "b"), (BACK, "a")):
        with part_of(DRILL, runbook, what) as run_id:
            part = PART.get()
            assert part is not None
            assert (part.drill, part.run_id) == (DRILL, run_id)
            assert EXERCISE.get()
        ids.append(run_id)
    assert PART.get() is None
    assert not EXERCISE.get()
    assert ids[0] == ids[1]
    assert len(set(ids)) == 2 + 1
    assert [run_id[:19] for run_id in ids] == ["inc-20260214-031500"] * 3 + ["run-20260214-031500"]


@pytest.mark.parametrize(
    ("ends", "told"),
    [("well", ("completed", True, "")), ("refused", ("refused", False, "us-east-1b serves"))],
)
def test_a_part_that_ended_is_not_run_again_but_read(drill_ledger: World, ends: str, told: tuple[Any, ...]) -> None:
    run_id = RunId("inc-20260214-031500-aaaa")
    perform(drill_ledger, run_id, ends)
    answer = _ended(opened(drill_ledger), ZONE, run_id)
    assert answer is not None
    assert (answer.outcome, answer.met and answer.outcome == "completed", answer.error) == told


def test_a_part_that_failed_is_still_open_and_goes_on(drill_ledger: World) -> None:
    run_id = RunId("inc-20260214-031500-bbbb")
    perform(drill_ledger, run_id, "failed")
    assert _ended(opened(drill_ledger), ZONE, run_id) is None
    assert _ended(opened(drill_ledger), ZONE, RunId("inc-20260214-031500-cccc")) is None


def opened(world: World) -> Any:
    return SimpleNamespace(journal=world.journal())


def perform(world: World, run_id: RunId, ends: str) -> None:
    with (
        contextlib.suppress(RefusedError, VerificationFailedError),
        opened_run(ZONE, Wanted(ends=ends), world.journal(), run_id=run_id) as run,
    ):
        run.step(look_first)
    world.settle()
