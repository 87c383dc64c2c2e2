"""Runs that are given up: what is taken back, what is left to people, and what is recorded."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from ledger_world import World

from tasks.reconcile import verdicts
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.ledger import RunId
from vedr.runbook.abandoning import Abandoned, abandon, ways_back
from vedr.runbook.execution import Plainly
from vedr.runbook.lease import Leases
from vedr.runbook.liveness import this_process
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Retry, Runbook, step
from vedr.runbook.timing import measure


class Move(Order):
    node: str = "validator-0"


@dataclass(frozen=True, slots=True)
class Moved:
    came_from: str
    ttl_s: float


@dataclass
class Deeds:
    """What really happened in the world."""

    done: list[str] = field(default_factory=list)
    fail: list[BaseException] = field(default_factory=list)


DEEDS = Deeds()


@pytest.fixture(autouse=True)
def deeds() -> Deeds:
    DEEDS.__init__()  # type: ignore[misc]
    return DEEDS


@step(title="Look", budget_s=5, acts=False)
def look(ctx: Context[Move]) -> str:
    """Nothing changes."""
    return ctx.order.node


def point_back(ctx: Context[Move], moved: Moved | None) -> str:
    """The name points where it pointed before."""
    what = f"{ctx.named} " if ctx.named and moved is None else ""
    DEEDS.done.append(f"{what}back to {moved.came_from if moved else 'unknown'}{' again' if ctx.resuming else ''}")
    if DEEDS.fail:
        raise DEEDS.fail.pop(0)
    return f"points to {moved.came_from if moved else 'what DNS says'}"


@step(title="Move the name", budget_s=20, retry=Retry(attempts=2, delay_s=0), undo=point_back)
def move(ctx: Context[Move]) -> Moved:
    """The name points elsewhere."""
    DEEDS.done.append("move")
    if DEEDS.fail:
        raise DEEDS.fail.pop(0)
    return Moved(f"us-east of {ctx.order.node}", 0.5)


@step(title="Promote", budget_s=30, cannot_undo="the key signs in eu-west now: fail back with RB-DR-003's own failback")
def promote(ctx: Context[Move]) -> str:
    """The standby signs."""
    DEEDS.done.append("promote")
    return ctx.run_id


@step(title="Tell people", budget_s=5)
def tell(ctx: Context[Move]) -> None:
    """They know."""
    DEEDS.done.append(f"tell {ctx.order.node}")
    if DEEDS.fail:
        raise DEEDS.fail.pop(0)


RB = Runbook("RB-DR-002", "test", Move, [look, move, promote, tell], subjects=lambda order: [f"node/{order.node}"])
Body = Callable[[Run[Move]], object]


def dies(world: World, body: Body, *, node: str = "validator-0", flow_run: str = "") -> RunId:
    """A run whose process dies after this."""
    here = this_process()
    dead = type(here)(here.host, here.boot, here.namespace, 2**22 - 1, 1)
    origin = {"flow_run_id": flow_run} if flow_run else {}
    entered = opened_run(RB, Move(node=node), world.journal(), process=dead, origin=origin)
    run = entered.__enter__()
    with suppress(VerificationFailedError, UnavailableError):
        body(run)
    return run.run_id


def everything(run: Run[Move]) -> None:
    run.step(look)
    run.step(move.named("api"))
    run.step(move.named("rpc"))
    run.step(promote)
    run.step(tell)


def give_up(world: World, run_id: RunId, **more: object) -> Abandoned:
    return abandon(RB, world.journal(), run_id, "false alarm", executor=Plainly(lambda _: None), **more)  # type: ignore[arg-type]


def test_what_can_be_taken_back_is_newest_first_and_the_rest_is_named(world: World, deeds: Deeds) -> None:
    run_id = dies(world, everything)
    deeds.done.clear()
    done = give_up(world, run_id)
    assert deeds.done == ["back to us-east of validator-0"] * 2
    assert [one.step for one in done.taken_back] == ["move:rpc", "move:api"]
    assert [(one.step, one.why.split(":")[0]) for one in done.by_hand] == [
        ("tell", "no way back is declared"),
        ("promote", "the key signs in eu-west now"),
    ]
    last = world.journal().read(run_id).entries[-1]
    assert (last.kind, last.payload["outcome"], last.payload["reason"]) == ("closed", "abandoned", "false alarm")
    assert last.payload["taken_back"] == [{"step": one.step, "done": one.done} for one in done.taken_back]
    assert done.outcome.outcome == "abandoned"
    world.journal().verify()
    assert Leases(world.journal()).acquire("node/validator-0", RunId("inc-20260214-031501-next")).epoch == 2


def test_a_step_that_was_begun_and_not_completed_is_taken_back_too(world: World, deeds: Deeds) -> None:
    deeds.fail = [VerificationFailedError("half done")]
    run_id = dies(world, lambda run: run.step(move.named("api")))
    [way] = ways_back(RB, world.journal().read(run_id).entries)
    assert (way.completed, way.recorded, way.by_hand) == (False, None, "")
    give_up(world, run_id)
    assert deeds.done == ["move", "api back to unknown"]


def test_a_run_that_only_looked_is_only_closed(world: World, deeds: Deeds) -> None:
    run_id = dies(world, lambda run: run.step(look))
    done = give_up(world, run_id)
    assert (done.taken_back, done.by_hand, deeds.done) == ((), (), [])


def test_taking_back_is_repeated_where_it_stopped_and_never_done_twice(world: World, deeds: Deeds) -> None:
    run_id = dies(world, everything)
    deeds.done.clear()
    first = [UnavailableError("slow")]  # tried again as the step's policy says
    deeds.fail = [*first, VerificationFailedError("DNS still says otherwise")]
    with pytest.raises(VerificationFailedError, match="DNS still says otherwise"):
        give_up(world, run_id)
    kinds = [entry.kind for entry in world.journal().read(run_id).entries]
    assert kinds[-3:] == ["undo_started", "undo_failed", "paused"]
    with (
        pytest.raises(RefusedError, match="is being abandoned"),
        opened_run(RB, Move(incident=run_id), world.journal()),
    ):
        pytest.fail("entered")
    deeds.done.clear()
    done = give_up(world, run_id)
    assert deeds.done == ["back to us-east of validator-0 again", "back to us-east of validator-0"]
    assert [one.step for one in done.taken_back] == ["move:rpc", "move:api"]


def test_an_abandoning_that_was_killed_is_gone_on_with(world: World, deeds: Deeds) -> None:
    class Killed(BaseException):
        pass

    run_id = dies(world, everything)
    deeds.fail = [Killed()]
    with pytest.raises(Killed):
        give_up(world, run_id)
    deeds.done.clear()
    give_up(world, run_id)
    assert deeds.done == ["back to us-east of validator-0 again", "back to us-east of validator-0"]


def test_a_run_that_is_at_work_or_closed_or_another_s_is_not_given_up(world: World, deeds: Deeds) -> None:
    with opened_run(RB, Move(), world.journal()) as run:
        with pytest.raises(ConflictError, match="is being worked on"):
            give_up(world, run.run_id)
        run.step(tell)
    with pytest.raises(RefusedError, match="is closed: completed"):
        give_up(world, run.run_id)
    assert deeds.done == ["tell validator-0"]
    other = RunId("inc-20260214-031500-aaaa")
    writer = world.journal().open(other, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    writer.append("paused", {"outcome": "failed"})
    with pytest.raises(InvalidInputError, match="is one of RB-DR-001"):
        give_up(world, other)


def test_a_run_without_an_order_or_with_steps_of_another_version_is_left_as_it_is(world: World) -> None:
    bare = RunId("inc-20260214-031500-bare")
    writer = world.journal().open(bare, "RB-DR-002", {"detected_at": world.clock.now.isoformat()})
    writer.append("paused", {"outcome": "failed"})
    with pytest.raises(InvalidInputError, match="has no order"):
        give_up(world, bare)
    entry = dataclasses.replace(writer.entries[-1], kind="step_started", payload={"step": "gone"})
    with pytest.raises(InvalidInputError, match="began step gone"):
        ways_back(RB, [entry])


def test_nothing_is_taken_back_when_another_run_has_acted_since(world: World, deeds: Deeds) -> None:
    run_id = dies(world, everything)
    with opened_run(RB, Move(), world.journal()) as newer:
        newer.step(tell)
    deeds.done.clear()
    done = give_up(world, run_id)
    assert deeds.done == []
    assert done.taken_back == ()
    assert {one.why for one in done.by_hand} == {
        f"node/validator-0 has passed to run {newer.run_id} since: left as that run has it"
    }


def test_the_one_who_gives_up_fences_the_process_that_was_thought_dead(world: World) -> None:
    held: list[Run[Move]] = []

    def body(run: Run[Move]) -> None:
        held.append(run)
        run.step(move)

    give_up(world, dies(world, body))
    with pytest.raises(ConflictError):
        held[0].step(tell)


def test_taking_back_is_timed_apart_from_the_steps(world: World, deeds: Deeds) -> None:
    del deeds
    run_id = dies(world, everything)
    give_up(world, run_id)
    entries = list(world.journal().read(run_id).entries)
    undone = [index for index, entry in enumerate(entries) if entry.kind == "undo_completed"]
    entries[undone[0]] = dataclasses.replace(entries[undone[0]], payload={**entries[undone[0]].payload, "took_ms": 700})
    assert measure(entries).undoing_ms >= 700
    assert ("taking steps back", measure(entries).undoing_ms) in measure(entries).critical_path


def test_prefect_is_told_that_a_run_was_abandoned_and_not_that_it_waits_for_a_resume(world: World) -> None:
    run_id = dies(world, everything, flow_run="11111111-1111-1111-1111-111111111111")
    give_up(world, run_id)
    entries = world.journal().read(run_id).entries
    told, by_shell = verdicts(entries, world.clock.now)
    assert (told.truth, told.flow_run_id) == ("abandoned", "11111111-1111-1111-1111-111111111111")
    assert told.why == f"abandoned: false alarm (ledger {run_id})"
    assert by_shell.flow_run_id == ""
