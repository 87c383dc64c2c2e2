"""A run that stopped half-way, and another that acted meanwhile: what the first may still do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from ledger_world import World

from vedr.errors import ConflictError, RefusedError, UnavailableError
from vedr.ledger import RunId
from vedr.runbook.abandoning import Abandoned, abandon
from vedr.runbook.execution import Plainly
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.overtaking import has_acted
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step

DONE: list[str] = []


class Leave(Order):
    """Leave the place."""


@step(title="Look", budget_s=5, acts=False)
def look(ctx: Context[Leave]) -> str:
    """Nothing changes."""
    return ctx.run_id


def put_back(ctx: Context[Leave], _: str | None) -> str:
    """As it was."""
    DONE.append(f"back by {ctx.run_id}")
    return "as it was"


@step(title="Move", budget_s=5, undo=put_back)
def move(ctx: Context[Leave]) -> str:
    """It is elsewhere."""
    DONE.append(f"moved by {ctx.run_id}")
    return ctx.run_id


@step(title="Verify", budget_s=5, acts=False)
def verify(ctx: Context[Leave]) -> str:
    """Nothing changes."""
    return ctx.run_id


PAGE = Runbook("RB-DR-002", "test", Leave, [look, move, verify], subjects=lambda _: ["failover", "signer/a"])


@pytest.fixture(autouse=True)
def forget() -> None:
    DONE.clear()


@contextmanager
def running(world: World, incident: str = "") -> Iterator[Run[Leave]]:
    with opened_run(PAGE, Leave(incident=incident), world.journal(), wait_quiet=lambda *_, **__: None) as run:
        yield run


def failing(world: World, body: Callable[[Run[Leave]], None]) -> RunId:
    entered: list[Run[Leave]] = []
    with suppress(UnavailableError, RefusedError), running(world) as run:
        entered.append(run)
        body(run)
    return entered[0].run_id


def stopped_after_moving(world: World) -> RunId:
    def body(run: Run[Leave]) -> None:
        run.step(look)
        run.step(move)
        raise UnavailableError("the name server is silent")

    return failing(world, body)


def refused_before_it_acted(world: World) -> RunId:
    def body(run: Run[Leave]) -> None:
        run.step(look)
        raise RefusedError("it serves")

    return failing(world, body)


def give_up(world: World, run_id: RunId) -> Abandoned:
    return abandon(
        PAGE, world.journal(), run_id, "too late", executor=Plainly(lambda _: None), wait_quiet=lambda *_, **__: None
    )


def test_a_run_is_not_gone_on_with_when_another_acted_on_its_subjects_since(world: World) -> None:
    first = stopped_after_moving(world)
    with running(world) as second:
        second.step(move)
    refused_before_it_acted(world)  # the newest lease is of a run that did nothing: the one before counts
    with pytest.raises(RefusedError, match=f"failover has passed to run {second.run_id} since, and acted") as caught:
        running(world, first).__enter__()
    assert f"vedr abandon {first}" in caught.value.remedy
    assert world.journal().read(first).entries[-1].kind == "paused"  # as it was
    assert [f"moved by {first}", f"moved by {second.run_id}"] == DONE
    assert give_up(world, first).taken_back == ()


def test_a_run_is_gone_on_with_after_others_that_did_nothing(world: World) -> None:
    first = stopped_after_moving(world)
    refused_before_it_acted(world)
    with running(world, first) as again:
        again.step(look)
        again.step(move)
        again.step(verify)
    assert again.outcome.outcome == "completed"
    assert [f"moved by {first}"] == DONE


def test_what_is_given_up_is_taken_back_after_others_that_did_nothing(world: World) -> None:
    first = stopped_after_moving(world)
    refused_before_it_acted(world)
    assert [one.step for one in give_up(world, first).taken_back] == ["move"]


def test_a_run_that_never_came_to_a_step_because_another_is_at_work_is_closed(world: World) -> None:
    with running(world) as first:
        second = opened_run(PAGE, Leave(), world.journal())
        with pytest.raises(ConflictError, match=f"failover is held by run {first.run_id}"):
            second.__enter__()
    (late,) = {run for run in world.journal().runs_of(PAGE.id) if run != first.run_id}
    last = world.journal().read(late).entries[-1]
    assert (last.kind, last.payload["outcome"]) == ("closed", "refused")


def test_a_closed_run_says_how_to_begin_anew(world: World) -> None:
    closed = refused_before_it_acted(world)
    with pytest.raises(RefusedError, match="is closed: refused") as caught:
        running(world, closed).__enter__()
    assert "Order it anew, without --incident" in caught.value.remedy
    with running(world) as anew:
        anew.step(look)
    assert anew.outcome.outcome == "completed"


def test_a_ledger_of_an_older_version_tells_that_a_step_acted(world: World) -> None:
    """It does not say which of its steps do."""
    journal = world.journal()
    run_id = RunId("inc-20260214-031500-aaaa")
    writer = journal.open(run_id, "RB-DR-002", {"steps": [{"key": "look", "title": "Look", "budget_ms": 5}]})
    assert not has_acted(journal.read(run_id).entries)
    writer.append("step_started", {"step": "look"})
    assert has_acted(journal.read(run_id).entries)
    assert not has_acted(())
