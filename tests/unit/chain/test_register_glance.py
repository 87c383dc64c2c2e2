"""Glances at a register: what a majority of the regions shows, and how long the others are waited for."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from held_registers import REGIONS, VALIDATOR, all_agree, at, position_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import Content, Epoch, encode
from vedr.chain.register_holding import LONGEST_GRACE_S, SHORTEST_GRACE_S, SignStateRegister
from vedr.chain.register_regions import Regions
from vedr.chain.register_survey import Survey
from vedr.ports import ObjectKey, Tagged

CONTENT = Content(Epoch(3), "us-east-1/7#x", position_of((12, 1, 2), b"vote"))


class _Hanging(MemoryRegisters):
    """A region whose reads wait until they are let through."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.let_through = threading.Event()

    def read(self, key: ObjectKey) -> Tagged | None:
        assert self.let_through.wait(20)
        return super().read(key)


@pytest.fixture
def hanging() -> Iterator[tuple[SignStateRegister, dict[str, MemoryRegisters], _Hanging]]:
    """A founded register in three regions, the last of which hangs from here on."""
    last = _Hanging("ap-south")
    stores = {**{name: MemoryRegisters(name) for name in REGIONS[:2]}, "ap-south": last}
    register = SignStateRegister(stores, VALIDATOR)
    last.let_through.set()
    register.found(at(3))
    last.let_through.clear()
    yield register, stores, last
    last.let_through.set()


def test_a_glance_waits_for_no_region_that_is_dead(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    with register.take_over(2, "us-east/1#b"):
        assert all_agree(register)
    regions["us-east"].faults.down = True
    began = time.monotonic()
    seen = register.glance(deadline_s=60)
    assert time.monotonic() - began < LONGEST_GRACE_S
    assert (seen.is_majority, seen.newest and seen.newest.holder) == (True, "us-east/1#b")
    assert set(seen.problems) == {"us-east"}


def test_a_glance_gives_a_region_that_hangs_no_more_than_its_grace(
    hanging: tuple[SignStateRegister, dict[str, MemoryRegisters], _Hanging],
) -> None:
    began = time.monotonic()
    seen = hanging[0].glance(deadline_s=60)
    assert SHORTEST_GRACE_S <= time.monotonic() - began < 5
    assert (set(seen.contents), seen.newest and seen.newest.position) == (set(REGIONS[:2]), at(3))


def test_a_glance_counts_what_a_slower_region_says_within_its_grace(
    hanging: tuple[SignStateRegister, dict[str, MemoryRegisters], _Hanging],
) -> None:
    register, stores, last = hanging
    stores["eu-west"].overwrite(VALIDATOR.key, encode(VALIDATOR, CONTENT))  # they disagree: the longest grace
    last.overwrite(VALIDATOR.key, encode(VALIDATOR, replace(CONTENT, epoch=Epoch(9))))
    threading.Timer(SHORTEST_GRACE_S, last.let_through.set).start()
    seen = register.glance(deadline_s=60)
    assert (len(seen.contents), seen.next_epoch) == (3, 10)


def test_a_glance_without_a_majority_waits_for_one_and_says_that_there_is_none(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    for name in REGIONS[:2]:
        regions[name].faults.down = True
    assert not register.glance(deadline_s=0.3).is_majority
    threading.Timer(0.1, setattr, (regions["eu-west"].faults, "down", False)).start()
    assert register.glance(deadline_s=60).is_majority


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.sampled_from(REGIONS), st.sampled_from(REGIONS), st.integers(0, 2))
def test_whatever_region_is_left_out_a_glance_covers_what_a_majority_confirmed(
    missed_it: str, is_down: str, advances: int
) -> None:
    stores = {name: MemoryRegisters(name) for name in REGIONS}
    register = SignStateRegister(stores, VALIDATOR)
    register.found(at(1))
    stores[missed_it].faults.down = True
    with register.take_over(1, "us-east/1#a") as holding:
        for number in range(advances):
            holding.advance(at(2 + number))
    stores[missed_it].faults.down = False
    stores[is_down].faults.down = True
    newest = register.glance().newest
    assert newest is not None
    assert newest.holder == "us-east/1#a"
    assert newest.position.covers(at(1 + advances))


def test_a_look_keeps_no_thread_of_a_region_that_has_answered() -> None:
    slow = _Hanging("slow-to-tell")
    stores = {**{name: MemoryRegisters(name) for name in ("quick-to-tell", "quicker-to-tell")}, "slow-to-tell": slow}
    survey = Survey(VALIDATOR, tuple(stores))
    with Regions(survey, VALIDATOR.key, stores, only_asks=True) as asked:
        _wait_until(lambda: _asking() == {"register-slow-to-tell"})
        slow.let_through.set()
        assert asked.wait_for(lambda: survey.is_done, deadline_s=20)
        _wait_until(lambda: not _asking())


def test_a_look_asks_a_region_that_gave_no_answer_again(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    faults = regions["eu-west"].faults
    faults.maps["read"] = "." * faults.seen["read"] + "e"
    assert set(register.look().contents) == set(REGIONS)


def _asking() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.endswith("-to-tell")}


def _wait_until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.002)
