"""Whatever fails: a minority starts nothing, an outage is answered once, and nothing flaps.

Hypothesis chooses what happens to a world of three real controllers (tests/unit/controller/simulator.py): zones that go
and come, hosts and stores that are cut off, processes that are killed or stand still at any call, answers that are
lost, a Prefect that is down, deaf or mute, clocks that are wrong.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sim: Any = beside("controller_simulator", Path(__file__).parents[1] / "unit" / "controller" / "simulator.py")
EXAMPLES = int(os.environ.get("VEDR_CONTROLLER_EXAMPLES", "10"))  # the long form: 300
REGIONS = st.sampled_from(sim.REGIONS)
STEPS = st.integers(1, 45)
SKEW = st.floats(-5, 5)
HAPPENINGS = st.one_of(
    st.tuples(st.just("rounds"), st.integers(1, 4)),
    st.tuples(st.just("alone"), REGIONS, st.integers(1, 4)),
    st.tuples(st.just("fail_zone"), st.sampled_from(list(sim.ZONES))),
    st.tuples(st.just("fail_region"), REGIONS, st.booleans()),
    st.tuples(st.just("heal")),
    st.tuples(st.just("cut_off"), REGIONS),
    st.tuples(st.just("mend")),
    st.tuples(st.just("store"), REGIONS, st.booleans()),
    st.tuples(st.just("answers"), REGIONS, st.text("led.", min_size=1, max_size=6)),
    st.tuples(st.just("crash"), REGIONS, STEPS),
    st.tuples(st.just("freeze"), REGIONS, STEPS, st.integers(1, 8)),
    st.tuples(st.just("prefect"), st.sampled_from(["up", "down", "deaf", "mute"])),
    st.tuples(st.just("ledger"), st.booleans()),
)


class Play:
    """Makes what was chosen happen."""

    def __init__(self, world: Any) -> None:
        self.world = world

    def rounds(self, count: int) -> None:
        self.world.rounds(count)

    def alone(self, region: str, count: int) -> None:
        self.world.rounds(count, region)

    def fail_zone(self, zone: str) -> None:
        self.world.fail(zone)

    def fail_region(self, region: str, halts: bool) -> None:
        self.world.fail(*(zone for zone, of in sim.ZONES.items() if of == region))
        self.world.truth.halted = halts

    def heal(self) -> None:
        self.world.heal()
        self.world.truth.halted = False

    def cut_off(self, region: str) -> None:
        self.world.cut_off(region)

    def mend(self) -> None:
        self.world.mend()

    def store(self, region: str, down: bool) -> None:
        self.world.registers[region].faults.down = down

    def answers(self, region: str, letters: str) -> None:
        faults = self.world.registers[region].faults
        faults.maps["swap"] = "." * faults.seen["swap"] + letters

    def crash(self, region: str, step: int) -> None:
        self.world.crash(region, at_step=step)

    def freeze(self, region: str, step: int, rounds: int) -> None:
        self.world.freeze(region, at_step=step, meanwhile=lambda: self.world.rounds(rounds))

    def prefect(self, mode: str) -> None:
        self.world.truth.prefect = mode

    def ledger(self, away: bool) -> None:
        self.world.truth.ledger_away = away

    def everything_comes_back(self) -> None:
        for registers in self.world.registers.values():
            registers.faults.down = False
            registers.deliver()
        self.mend()
        self.world.truth.prefect, self.world.truth.ledger_away = "up", False


def play(policy: Any, skews: list[float], happenings: list[tuple[Any, ...]]) -> Any:
    world = sim.World(policy, skews)
    acts = Play(world)
    world.rounds(2)
    for name, *arguments in happenings:
        getattr(acts, name)(*arguments)
        world.round()
    acts.everything_comes_back()
    world.rounds(6)
    return world


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    skews=st.lists(SKEW, min_size=3, max_size=3),
    happenings=st.lists(HAPPENINGS, min_size=4, max_size=10),
)
def test_at_most_one_run_for_an_outage_and_none_without_two_vantage_points(
    skews: list[float], happenings: list[tuple[Any, ...]]
) -> None:
    world = play(sim.STARTS.model_copy(update={"cool_down_s": 0}), skews, happenings)
    runs = Counter(request.outage_id for request in world.truth.runs)
    assert [outage for outage, count in runs.items() if count > 1] == []
    assert world.broken == []


@settings(max_examples=max(5, EXAMPLES // 3), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(happenings=st.lists(HAPPENINGS, min_size=4, max_size=10))
def test_a_place_that_comes_and_goes_is_failed_over_once_in_a_cool_down(happenings: list[tuple[Any, ...]]) -> None:
    world = play(sim.STARTS.model_copy(update={"cool_down_s": 10**6}), [0.0, 0.0, 0.0], happenings)
    places = Counter(request.order.get("zone") or request.order["region"] for request in world.truth.runs)
    assert [place for place, count in places.items() if count > 1] == []


@pytest.mark.parametrize("step", range(2, 44, 6))
@pytest.mark.parametrize("prefect", ["up", "down"])
def test_a_holder_that_dies_at_any_call_of_its_start_leaves_one_run_in_the_end(step: int, prefect: str) -> None:
    world = sim.World()
    world.rounds(4)
    holder = world.holder()
    world.truth.prefect = prefect
    world.fail("ap-south-1a")
    world.rounds(2)
    while not world.truth.runs and world.hosts[holder].lives == 1 and world.truth.height < 10_000:
        world.crash(holder, at_step=step)
        world.round()
    world.truth.prefect = "up"
    world.rounds(16)
    runs = len(world.truth.runs)
    told = world.told()
    assert runs == 1 or (runs == 0 and told["start-failed"] == 1), (runs, told)
    assert world.broken == []
