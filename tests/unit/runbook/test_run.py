"""Runs of a small runbook over the fake regions; a process that dies is one whose Run is simply left."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from ledger_world import World

from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.ledger import RunId
from vedr.runbook.execution import Plainly
from vedr.runbook.lease import Lease, Leases
from vedr.runbook.liveness import this_process
from vedr.runbook.opening import opened_run, recorded_order
from vedr.runbook.order import Order
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Retry, Runbook, step
from vedr.runbook.timing import measure
from vedr.targets import TargetOverrides


class Recovery(Order):
    node: str = "validator-0"


@dataclass(frozen=True, slots=True)
class Found:
    height: int
    lag_s: float
    at: dt.datetime


@dataclass
class Deeds:
    """What really happened in the world."""

    done: list[str] = field(default_factory=list)
    resuming: list[bool] = field(default_factory=list)
    fail: list[BaseException] = field(default_factory=list)


DEEDS = Deeds()


@pytest.fixture(autouse=True)
def deeds() -> Deeds:
    DEEDS.__init__()  # type: ignore[misc]
    return DEEDS


@step(title="Look at the node", budget_s=10, acts=False)
def look(ctx: Context[Recovery]) -> Found:
    """Nothing changes."""
    DEEDS.done.append(f"look {ctx.order.node}")
    if DEEDS.fail:
        raise DEEDS.fail.pop(0)
    return Found(7, 0.25, dt.datetime(2026, 2, 14, tzinfo=dt.UTC))


@step(title="Start the node", budget_s=60, retry=Retry(attempts=3, delay_s=0))
def start(ctx: Context[Recovery], found: Found) -> int:
    """The node runs."""
    DEEDS.done.append(f"start at {found.height}")
    DEEDS.resuming.append(ctx.resuming)
    ctx.say("starting")
    if DEEDS.fail:
        raise DEEDS.fail.pop(0)
    return found.height + 1


@step(title="See blocks", budget_s=30, acts=False)
def see(ctx: Context[Recovery], height: int) -> str:
    DEEDS.done.append(f"see {height}")
    return f"{ctx.order.node} at {height}"


RB = Runbook("RB-DR-001", "test", Recovery, [look, start, see], subjects=lambda order: [f"node/{order.node}"])


@contextmanager
def running(world: World, order: Recovery | None = None, **more: object) -> Iterator[Run[Recovery]]:
    with opened_run(RB, order or Recovery(), world.journal(), wait_quiet=lambda *_: None, **more) as run:  # type: ignore[arg-type]
        yield run


def failing(
    world: World, error: type[BaseException], body: Callable[[Run[Recovery]], object], order: Recovery | None = None
) -> tuple[Run[Recovery], str]:
    """A run whose body ends in this error; the run, and what the error said."""
    entered: list[Run[Recovery]] = []
    try:
        with running(world, order) as run:
            entered.append(run)
            body(run)
    except error as caught:
        return entered[0], str(caught)
    raise AssertionError(f"no {error.__name__}")


def whole(run: Run[Recovery]) -> str:
    return run.step(see, run.step(start, run.step(look)))


def kinds(world: World, run_id: RunId) -> list[str]:
    return [entry.kind for entry in world.journal().read(run_id).entries]


def test_a_run_does_its_steps_in_order_and_closes_as_completed(world: World, deeds: Deeds) -> None:
    with running(world) as run:
        assert whole(run) == "validator-0 at 8"
    assert deeds.done == ["look validator-0", "start at 7", "see 8"]
    outcome = run.outcome
    assert (outcome.outcome, outcome.met, outcome.target_ms) == ("completed", True, 300_000)
    assert kinds(world, run.run_id) == ["opened", *["step_started", "step_completed"] * 3, "closed"]
    assert world.journal().verify().entries == 8


def test_a_failed_run_stays_open_and_resumes_after_its_last_completed_step(world: World, deeds: Deeds) -> None:
    def body(run: Run[Recovery]) -> None:
        found = run.step(look)
        deeds.fail = [VerificationFailedError("bad")]
        run.step(start, found)

    run, _ = failing(world, VerificationFailedError, body)
    with pytest.raises(InvalidInputError, match="has not ended"):
        _ = run.outcome
    assert kinds(world, run.run_id)[-2:] == ["step_failed", "paused"]
    with running(world, Recovery(incident=run.run_id)) as again:
        assert whole(again) == "validator-0 at 8"
    assert again.run_id == run.run_id
    assert deeds.done == ["look validator-0", "start at 7", "start at 7", "see 8"]
    assert deeds.resuming == [False, True]
    assert again.outcome.outcome == "completed"


def test_a_killed_run_is_gone_on_with_and_never_repeats_a_completed_step(world: World, deeds: Deeds) -> None:
    first = opened_run(RB, Recovery(), world.journal(), process=_dead())
    run = first.__enter__()
    found = run.step(look)
    assert run.step(start, found) == 8  # and here the process dies: nothing of it runs any more
    with running(world, Recovery(incident=run.run_id)) as again:
        whole(again)
    assert deeds.done == ["look validator-0", "start at 7", "see 8"]
    with pytest.raises(ConflictError):  # the first one was not dead after all: it is fenced
        run.step(see, 8)
    assert not first.__exit__(ConflictError, ConflictError("fenced"), None)
    assert "paused" not in kinds(world, run.run_id)


def _dead() -> object:
    here = this_process()
    return type(here)(here.host, here.boot, here.namespace, 2**22 - 1, 1)


def test_transient_errors_are_tried_again_and_other_steps_are_not(world: World, deeds: Deeds) -> None:
    with running(world) as run:
        found = run.step(look)
        deeds.fail = [UnavailableError("a"), UnavailableError("b")]
        run.step(start, found)
    assert run.timing.rows[1].attempts == 3
    deeds.fail = [UnavailableError("a")] * 3
    failing(world, UnavailableError, lambda run: run.step(start, found))
    deeds.fail = [KeyError("a secret might be here")]
    run, _ = failing(world, KeyError, lambda run: run.step(start, found))
    failed = world.journal().read(run.run_id).entries[-2].payload
    assert failed["error"] == {"type": "KeyError"}


def test_a_run_refused_before_anything_acted_is_closed_and_a_later_refusal_leaves_it_open(
    world: World, deeds: Deeds
) -> None:
    deeds.fail = [RefusedError("two live signers")]
    run, _ = failing(world, RefusedError, lambda run: run.step(look))
    assert run.outcome.outcome == "refused"
    deeds.fail = [RefusedError("too late")]
    run, _ = failing(world, RefusedError, lambda run: run.step(start, Found(1, 0.0, dt.datetime.now(dt.UTC))))
    assert world.journal().read(run.run_id).entries[-1].payload["outcome"] == "refused"
    assert kinds(world, run.run_id)[-1] == "paused"


def test_two_runs_never_hold_one_node(world: World) -> None:
    with running(world):
        second = opened_run(RB, Recovery(), world.journal())
        with pytest.raises(ConflictError, match="node/validator-0 is held by run"):
            second.__enter__()
    with running(world, Recovery(node="validator-1")):
        pass


def test_a_step_whose_node_was_taken_over_is_refused(world: World, deeds: Deeds) -> None:
    def body(run: Run[Recovery]) -> None:
        Leases(world.journal())._propose(Lease("node/validator-0", 2, RunId("inc-20260214-031500-zzzz")))
        run.step(look)

    _, said = failing(world, ConflictError, body)
    assert "has passed to run inc-20260214-031500-zzzz" in said
    assert deeds.done == []


def test_an_overrun_is_announced_before_it_happens_and_ends_nothing(world: World) -> None:
    with running(world) as run:
        run.tick()
        found = run.step(look)
        world.clock.move(250)
        run.tick()
        run.tick()
        run.step(start, found)
        world.clock.move(100)
        run.tick()
        run.tick()
    seen = kinds(world, run.run_id)
    assert seen.count("overrun_predicted") == 1
    assert seen.count("overrun") == 1
    assert seen.index("overrun_predicted") < seen.index("overrun")
    assert run.outcome.outcome == "completed"
    assert not run.outcome.met


def test_a_clock_that_is_set_back_meets_no_target(world: World) -> None:
    run_id = RunId("inc-20260214-031500-back")
    writer = world.journal().open(
        run_id, "RB-DR-001", {"detected_at": world.clock.now.isoformat(), "target_ms": 300_000}
    )
    steady = iter(range(0, 100_000, 301))  # five minutes pass between two looks at the clock that never goes back
    run = Run(RB, Recovery(), writer, world.journal(), executor=Plainly(), monotonic=lambda: next(steady))
    run.step(look)
    world.clock.move(-3600)
    assert not run.complete().met
    closed = world.journal().read(run_id).entries
    assert (closed[-1].payload["met"], measure(closed).met) == (False, False)


def test_the_clock_starts_at_detection_and_impossible_times_are_refused(world: World) -> None:
    early = Recovery(detected_at=world.clock.now - dt.timedelta(seconds=100))
    with running(world, early) as run:
        pass
    assert run.outcome.total_ms == 100_000
    for wrong in (dt.timedelta(minutes=5), dt.timedelta(hours=-25)):
        with pytest.raises(InvalidInputError), running(world, Recovery(detected_at=world.clock.now + wrong)):
            pytest.fail("entered")


def test_waiting_for_people_counts_and_is_shown_apart(world: World) -> None:
    with running(world) as run, run.waiting("approval"):
        pass
    measured = run.timing
    assert kinds(world, run.run_id)[1:3] == ["waiting", "waited"]
    assert measured.waiting_ms >= 0


def test_a_resumed_run_keeps_its_order_and_refuses_another(world: World, deeds: Deeds) -> None:
    deeds.fail = [VerificationFailedError("bad")]
    run, _ = failing(world, VerificationFailedError, lambda run: run.step(look), Recovery(node="validator-1"))
    other = Recovery(incident=run.run_id, node="validator-0")
    with pytest.raises(InvalidInputError, match="node is 'validator-1', now 'validator-0'"), running(world, other):
        pytest.fail("entered")
    with running(world, Recovery(incident=run.run_id)) as again:
        assert again.order.node == "validator-1"
    with pytest.raises(NotFoundError), running(world, Recovery(incident="inc-20260101-000000-aaaa")):
        pytest.fail("entered")


def test_a_step_called_twice_or_unknown_is_refused_unless_named(world: World) -> None:
    _, said = failing(world, InvalidInputError, lambda run: (run.step(look), run.step(look)))
    assert "called twice" in said
    with running(world) as run:
        run.step(look.named("a"))
        run.step(look.named("b"))
    stranger = step(title="Other", budget_s=1)(other_step)
    _, said = failing(world, InvalidInputError, lambda run: run.step(stranger))
    assert "not a step of this runbook" in said


def other_step(ctx: Context[Recovery]) -> None:
    raise AssertionError(ctx.run_id)


def test_budgets_above_the_target_cannot_be_made_nor_opened(world: World) -> None:
    big = step(title="Big", budget_s=301)(other_step)
    with pytest.raises(InvalidInputError, match="together, its target is 300 s"):
        Runbook("RB-DR-001", "x", Recovery, [big])
    low = TargetOverrides(rto_s={"RB-DR-001": 60})
    with pytest.raises(InvalidInputError, match="100 s together, its target is 60 s"), running(world, overrides=low):
        pytest.fail("entered")


def test_a_result_that_does_not_survive_recording_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="does not survive"):
        start.encode(1.5)  # type: ignore[arg-type]


def test_a_listener_that_fails_is_let_go_and_the_run_goes_on(world: World) -> None:
    class Broken:
        told = 0

        def entry(self, *_: object) -> None:
            Broken.told += 1
            raise OSError

        def say(self, message: str) -> None: ...

    with running(world, listeners=[Broken()]) as run:
        whole(run)
    assert Broken.told == 1


def test_the_run_stands_still_for_a_majority_and_goes_on_when_it_is_back(world: World) -> None:
    naps: list[float] = []

    def wake(_: float) -> None:
        naps.append(1)
        for store in world.stores.values():
            store.faults.down = False

    with running(world) as run:
        run._sleep = wake
        found = run.step(look)
        world.stores["us-east"].faults.down = world.stores["eu-west"].faults.down = True
        run.step(start, found)
    assert naps
    assert run.outcome.outcome == "completed"


def test_medians_of_past_runs_are_believed_rather_than_budgets(world: World) -> None:
    for _ in range(3):
        with running(world) as run:
            whole(run)
        world.clock.move(60)
    with running(world) as run:
        forecast = run.forecast()
    assert forecast.basis == "medians"
    assert forecast.predicted_ms < 100_000


def test_a_silent_run_gives_a_sign_of_life_and_notes_are_kept(world: World) -> None:
    with running(world) as run:
        run.note("seen", height=7)
        run._last_append_s -= 100
        run.tick()
    assert kinds(world, run.run_id) == ["opened", "note", "heartbeat", "closed"]
    assert world.journal().read(run.run_id).entries[1].payload == {"text": "seen", "height": 7}


class CutsOff:
    """A listener that cuts two regions off as soon as a step says something."""

    def __init__(self, world: World) -> None:
        self._world = world

    def entry(self, *_: object) -> None: ...

    def say(self, message: str) -> None:
        del message
        self._world.down("us-east", "eu-west")


def test_a_step_s_own_error_is_raised_when_it_cannot_be_recorded(world: World, deeds: Deeds) -> None:
    deeds.fail = [VerificationFailedError("bad")]
    time_s = iter(range(0, 10**6, 40))

    def body(run: Run[Recovery]) -> None:
        run._listeners.append(CutsOff(world))
        run._sleep, run._monotonic = lambda _: None, lambda: next(time_s)
        run.step(start, Found(7, 0.0, dt.datetime.now(dt.UTC)))

    run, _ = failing(world, VerificationFailedError, body)
    world.down()
    assert kinds(world, run.run_id)[-1] in ("step_started", "step_failed")
    with running(world, Recovery(incident=run.run_id)) as again:
        again.step(start, Found(7, 0.0, dt.datetime.now(dt.UTC)))
    assert deeds.resuming == [False, True]


def test_a_ticking_run_bears_an_outage_and_stops_ticking_when_it_was_taken_over(world: World) -> None:
    told: list[str] = []

    class Hears:
        def entry(self, *_: object) -> None: ...

        def say(self, message: str) -> None:
            told.append(message)

    def body(run: Run[Recovery]) -> None:
        run._listeners.append(Hears())
        world.journal().resume(run.run_id, {})
        world.down("us-east", "eu-west")
        with run.ticking(every_s=0.01):
            run._last_append_s -= 100
            deadline = time.monotonic() + 20
            while not told and time.monotonic() < deadline:
                world.down()
                time.sleep(0.01)
        run.step(look)

    failing(world, ConflictError, body)
    assert "must not act any more" in told[0]


def test_a_restarted_flow_goes_on_with_the_run_that_it_began(world: World, deeds: Deeds) -> None:
    run_id = RunId("inc-20260214-031500-flow")
    dies = opened_run(RB, Recovery(), world.journal(), run_id=run_id, process=_dead())
    dies.__enter__().step(look)
    with running(world, run_id=run_id) as again:
        whole(again)
    assert again.run_id == run_id
    assert deeds.done == ["look validator-0", "start at 7", "see 8"]


def test_a_run_of_another_runbook_or_without_an_order_is_not_gone_on_with(world: World) -> None:
    journal = world.journal()
    for runbook, said in (("RB-DR-006", "is one of RB-DR-006"), ("RB-DR-001", "has no order")):
        run_id = RunId(f"inc-20260214-031500-{runbook[-4:].replace('-', 'x').lower()}")
        journal.open(run_id, runbook, {"detected_at": world.clock.now.isoformat()})
        with pytest.raises(InvalidInputError, match=said), running(world, Recovery(incident=run_id)):
            pytest.fail("entered")
    with pytest.raises(NotFoundError, match="has no order"):
        recorded_order(journal, run_id)


def test_a_run_whose_first_entry_is_not_decided_yet_is_not_entered(world: World) -> None:
    run_id = RunId("inc-20260214-031500-half")
    world.journal().open(run_id, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    world.settle()
    for region in ("us-east", "eu-west"):
        world.put(region, f"ledger/{run_id}/00000000.json", None)
    with pytest.raises(ConflictError, match="just being opened"), running(world, Recovery(incident=run_id)):
        pytest.fail("entered")
    leases = Leases(world.journal())
    leases.acquire("node/validator-0", run_id)
    assert Leases(world.journal()).acquire("node/validator-0", RunId("inc-20260214-031501-next")).epoch == 2
    world.journal().heal(run_id)
