"""One key never signs one height, round and type twice, whatever happens; and each rule is there for a reason.

Seeded schedules play the program's own promotion, fences, floors, leases and registers in the bench's simulated world;
a state machine lets Hypothesis choose what happens next, and shrinks what it finds.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from bench.signing import file_schedule, rules
from bench.signing.file_schedule import FileSchedule
from bench.signing.oracle import Oracle
from bench.signing.register_schedule import RegisterSchedule
from bench.signing_simulator import main, play, replay, schedule_of

SCHEDULES = 400
FIRST_SEED = 1_000_000


def test_no_schedule_signs_twice() -> None:
    tally = play(range(FIRST_SEED, FIRST_SEED + SCHEDULES))

    assert tally.broken == []
    assert tally.schedules == SCHEDULES
    assert tally.promoted > SCHEDULES // 20
    assert tally.released > SCHEDULES * 5


def test_a_seed_is_a_schedule() -> None:
    def told(seed: int) -> list[str]:
        log: list[str] = []
        with rules.without(frozenset()):
            schedule_of(seed, frozenset(), log).run()
        return log

    for seed in (3, 4):
        assert told(seed) == told(seed)
        assert told(seed) != told(seed + 3)


# Found by `python -m bench.signing_simulator --table`; they change with the simulated world, not with the program.
SEEDS_WITHOUT = {
    "fence": 2941,
    "disk": 203,
    "all-hosts": 1322,
    "floor": 56,
    "halted": 1805,
    "copies": 743,
    "history": 103898,
    "recheck": 77,
    "ticket": 1672,
    "fence+quiet": 13,
    "epoch+ticket": 2486,
    "recheck+ticket": 239,
    "own-state+tip": 482,
    "register-majority": 18,
    "register-epoch": 45,
    "register-cas": 243,
}


@pytest.mark.parametrize("off", SEEDS_WITHOUT)
def test_a_rule_that_is_switched_off_is_missed(off: str) -> None:
    seed, without = SEEDS_WITHOUT[off], frozenset(off.split("+"))
    assert play([seed]).broken == []
    assert [found for found, _ in play([seed], without).broken] == [seed]


def test_a_double_sign_is_told_with_its_seed_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    seed = SEEDS_WITHOUT["floor"]
    assert "signed twice" in replay(seed, frozenset({"floor"}))
    assert "disaster" in capsys.readouterr().out


def test_rules_come_back_after_a_run_without_them() -> None:
    before = rules.promotion.recheck
    with rules.without(frozenset({"recheck"})):
        assert rules.promotion.recheck is not before
    assert rules.promotion.recheck is before


def test_the_oracle_sees_another_message_and_a_broken_promise() -> None:
    oracle = Oracle()
    oracle.release("a", (5, 0, 2), 1, 10)
    oracle.release("b", (5, 0, 2), 1, 20)
    assert not oracle.broken
    oracle.release("b", (5, 0, 2), 0, 30)
    assert oracle.broken == "5/0/2 signed twice: block 1 by a at 10 s, block 0 by b at 30 s"
    promised = Oracle()
    promised.release("b", (5, 0, 2), 1, 20, promised=(5, 0, 2))
    promised.release("b", (5, 0, 1), 1, 20, promised=(5, 0, 2))
    assert promised.broken.startswith("5/0/1 signed by b")


def test_the_bench_ends_with_its_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["signing_simulator", "--replay", "7"])
    assert main() == 0
    assert "nothing was signed twice" in capsys.readouterr().out


# --- Hypothesis chooses


class SigningMachine(RuleBasedStateMachine):
    """The simulated world, one event at a time; time passes between any two."""

    schedule: FileSchedule

    @initialize(seed=st.integers(0, 2**16), moves=st.booleans())
    def begin(self, seed: int, moves: bool) -> None:
        self.schedule = FileSchedule(seed)
        self.schedule.set_up()
        self.schedule.plan.clear()
        self.schedule.world.chain.moves = moves
        self.schedule.play(3)

    @rule(fault=st.sampled_from(file_schedule.FAULTS))
    def break_something(self, fault: Callable[[Any], None]) -> None:
        fault(self.schedule)

    @rule()
    def reach_in(self) -> None:
        self.schedule.reach_in()

    @rule()
    def lose_the_signer(self) -> None:
        self.schedule.disaster()

    @rule(standby=st.sampled_from("abc"))
    def promote(self, standby: str) -> None:
        if len(self.schedule.runs) < 4:
            self.schedule.order(standby)

    @rule()
    def resume(self) -> None:
        self.schedule.resume()

    @rule()
    def bring_everything_back(self) -> None:
        for host in self.schedule.hosts.values():
            host.is_reachable = host.is_connected = True
        for store in self.schedule.stores.values():
            store.is_down = False

    @rule(ticks=st.sampled_from([1, 2, 5, 30]))
    def pass_time(self, ticks: int) -> None:
        self.schedule.play(ticks)

    @invariant()
    def nothing_is_signed_twice(self) -> None:
        if hasattr(self, "schedule"):
            assert not self.schedule.world.oracle.broken

    def teardown(self) -> None:
        if hasattr(self, "schedule"):
            self.schedule.play(30)
            self.schedule.end()
            assert not self.schedule.world.oracle.broken


class RegisterMachine(RuleBasedStateMachine):
    """Remote signers: who speaks to which region next, and what becomes of it."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.schedule = RegisterSchedule(seed)
        self.schedule.take_over("a")

    @rule(host=st.sampled_from("abc"))
    def take_over(self, host: str) -> None:
        self.schedule.take_over(host)

    @rule(steps=st.sampled_from([1, 5, 20]), faults=st.sampled_from([0.0, 0.5]))
    def work(self, steps: int, faults: float) -> None:
        self.schedule.work_on(steps, faults)

    @rule(steps=st.sampled_from([1, 5]))
    def ask(self, steps: int) -> None:
        for _ in range(steps):
            self.schedule.ask_somebody()

    @rule()
    def finish(self) -> None:
        for process in self.schedule.processes:
            self.schedule.finish(process)

    @rule()
    def break_something(self) -> None:
        self.schedule.break_something()

    @rule()
    def reach_in(self) -> None:
        self.schedule.reach_in()

    @rule()
    def stretch(self) -> None:
        self.schedule.stretch()

    @invariant()
    def nothing_is_signed_twice(self) -> None:
        if hasattr(self, "schedule"):
            assert not self.schedule.oracle.broken


SETTINGS = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [SigningMachine, RegisterMachine])
def test_no_order_of_events_makes_a_key_sign_twice(machine: type[RuleBasedStateMachine]) -> None:
    random.seed(0)
    with rules.without(frozenset()):
        run_state_machine_as_test(machine, settings=SETTINGS)
