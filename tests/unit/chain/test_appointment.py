"""Who is appointed to sign: made in a majority, found by whoever looks, one at a time."""

import datetime as dt
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.appointment import NOBODY, Appointment, Poll, appoint, appointed, decode, encode, key_of
from vedr.chain.register import Validator
from vedr.chain.register_claim import Read, Swap
from vedr.errors import ConflictError, CorruptError, InvalidInputError, UnavailableError
from vedr.ledger import RunId
from vedr.ports import Tagged

NOON = dt.datetime(2026, 11, 2, 12, 0, 0, 123456, tzinfo=dt.UTC)
REGIONS = ("us-east", "eu-west", "ap-south")
VALIDATOR = Validator("chain-1", "AB" * 20)
KEY = key_of(VALIDATOR)
RUN, OTHER_RUN = RunId("inc-20261102-120000-aaaa"), RunId("inc-20261102-120000-bbbb")
HOME = Appointment(3, "us-east-1a", RUN, NOON)
STANDBY = Appointment(4, "eu-west-1a", OTHER_RUN, NOON)
RIVAL = Appointment(4, "ap-south-1a", RUN, NOON)


class Regions(dict[str, MemoryRegisters]):
    """Three regions in memory."""

    def __init__(self) -> None:
        super().__init__({region: MemoryRegisters(region) for region in REGIONS})

    def show(self, *shown: Appointment | bytes | None) -> None:
        for store, one in zip(self.values(), shown, strict=True):
            if one is not None:
                store.overwrite(KEY, one if isinstance(one, bytes) else encode(VALIDATOR, one))

    def shown(self) -> list[Appointment | None]:
        found = [store.read(KEY) for store in self.values()]
        return [decode(VALIDATOR, one.data, where="x") if one else None for one in found]

    def down(self, *regions: str) -> None:
        for region, store in self.items():
            store.faults.down = region in regions

    def appoint(self, name: str, run_id: RunId = RUN, *, deadline_s: float = 5) -> Appointment:
        return appoint(self, VALIDATOR, name, run_id=run_id, at=NOON, deadline_s=deadline_s)

    def appointed(self, *, deadline_s: float = 5) -> Appointment | None:
        return appointed(self, VALIDATOR, deadline_s=deadline_s)


@pytest.fixture
def regions() -> Regions:
    return Regions()


# --- values


def test_what_is_written_is_read_back_and_nothing_else_is() -> None:
    assert decode(VALIDATOR, encode(VALIDATOR, HOME), where="x") == HOME
    assert str(HOME) == "us-east-1a (appointment 3, by inc-20261102-120000-aaaa at 2026-11-02T12:00:00+00:00)"
    for data in (encode(VALIDATOR, HOME) + b"\n", b"", b"[]", b"1", b"[" * 2000, b" " * 3000, b"\xff"):
        with pytest.raises(CorruptError):
            decode(VALIDATOR, data, where="x")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "vedr-signer-appointment/2"},
        {"chain": "chain-2"},
        {"address": "CD" * 20},
        {"seq": 0},
        {"seq": 2**63},
        {"seq": True},
        {"seq": "3"},
        {"name": ""},
        {"name": "us-east/1a"},
        {"name": None},
        {"run_id": "by hand"},
        {"at": "2026-11-02T13:00:00.123456+01:00"},
        {"at": "2026-11-02T12:00:00.123456"},
        {"at": "noon"},
        {"more": 1},
    ],
)
def test_what_is_out_of_range_or_of_another_key_is_damage(change: dict[str, object]) -> None:
    document = {**json.loads(encode(VALIDATOR, HOME)), **change}
    with pytest.raises(CorruptError):
        decode(VALIDATOR, json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), where="x")


def test_a_name_that_no_signer_can_have_is_not_appointed(regions: Regions) -> None:
    with pytest.raises(InvalidInputError, match="no appointment"):
        regions.appoint("us-east/1a")
    assert regions.shown() == [None] * 3


def test_it_lies_where_signers_registers_do_not() -> None:
    assert f"signer-appointment/chain-1/{'AB' * 20}.json" == KEY


# --- appointing and looking


def test_nobody_is_appointed_at_first_and_then_the_newest_is(regions: Regions) -> None:
    assert regions.appointed() is None
    first = regions.appoint("us-east-1a")
    assert (first.seq, first.name, first.run_id, first.at) == (1, "us-east-1a", RUN, NOON)
    second = regions.appoint("eu-west-1a")
    assert second.seq == 2
    assert regions.appointed() == second
    assert regions.shown() == [second] * 3


def test_the_same_run_may_repeat_itself(regions: Regions) -> None:
    first = regions.appoint("us-east-1a")
    swaps = [store.faults.seen["swap"] for store in regions.values()]
    assert regions.appoint("us-east-1a") == first
    assert swaps == [store.faults.seen["swap"] for store in regions.values()]
    assert regions.appoint("us-east-1a", OTHER_RUN).seq == 2, "another run's order is another one"


def test_a_region_that_is_down_holds_up_nobody_and_is_caught_up_by_the_next(regions: Regions) -> None:
    regions.down("us-east")
    began = time.monotonic()
    first = regions.appoint("us-east-1a")
    assert regions.appointed() == first
    assert time.monotonic() - began < 4
    regions.down()
    assert regions.appointed() == first
    assert regions.appoint("us-east-1a") == first
    assert regions.shown() == [first] * 3


def test_without_a_majority_nothing_is_appointed_nor_known(regions: Regions) -> None:
    regions.appoint("us-east-1a")
    regions.down("us-east", "eu-west")
    with pytest.raises(UnavailableError, match=r"no majority.*us-east does not answer.*ap-south: us-east-1a"):
        regions.appointed(deadline_s=0.2)
    with pytest.raises(UnavailableError, match="no majority"):
        regions.appoint("eu-west-1a", deadline_s=0.2)
    regions.down()
    found = regions.appointed()
    assert found is not None
    assert found.name == "us-east-1a"


def test_regions_lost_between_looking_and_writing_leave_an_order_that_its_run_can_complete(regions: Regions) -> None:
    regions.appoint("us-east-1a")
    for region in REGIONS[1:]:
        regions[region].faults.maps["swap"] = "." + "e" * 50
    with pytest.raises(UnavailableError, match=r"took who is to sign.*eu-west does not answer \(swap\)"):
        regions.appoint("eu-west-1a", OTHER_RUN, deadline_s=0.3)
    half_way = regions.shown()
    assert [one.seq if one else 0 for one in half_way] == [2, 1, 1]
    for region in REGIONS[1:]:
        regions[region].faults.maps.clear()
    assert regions.appoint("eu-west-1a", OTHER_RUN) == regions.appointed()
    assert len(set(regions.shown())) == 1


@pytest.mark.parametrize("fault", ["e", "l", "d"])
@pytest.mark.parametrize("call", range(3))
def test_an_answer_lost_anywhere_changes_nothing(regions: Regions, fault: str, call: int) -> None:
    for region in REGIONS[:2]:
        regions[region].faults.maps["swap"] = "." * call + fault
    for number, name in enumerate(("us-east-1a", "eu-west-1a", "ap-south-1a"), 1):
        made = regions.appoint(name)
        assert (made.seq, made.name) == (number, name)
        assert regions.appointed() == made
    for store in regions.values():
        store.deliver()  # refused, or just what was appointed last, where its region had not been asked again by then
    assert regions.appointed() == made
    assert regions.shown().count(made) >= len(REGIONS) - 1


def test_what_is_damaged_counts_for_nothing_and_is_replaced_by_the_next(regions: Regions) -> None:
    regions.show(b"{", HOME, HOME)
    assert regions.appointed() == HOME
    regions.show(None, b"{", None)
    with pytest.raises(UnavailableError, match=r"eu-west: not an appointment.*ap-south: us-east-1a"):
        regions.appointed(deadline_s=0.2)
    made = regions.appoint("eu-west-1a")
    assert made.seq == 4
    assert regions.shown() == [made] * 3


def test_what_a_majority_shows_outweighs_a_try_that_failed(regions: Regions) -> None:
    regions.show(STANDBY, HOME, HOME)
    assert regions.appointed() == HOME
    assert regions.appoint("ap-south-1a").seq == 5


def test_with_a_region_gone_and_no_majority_for_one_the_highest_is_believed(regions: Regions) -> None:
    regions.show(HOME, STANDBY, None)
    regions.down("ap-south")
    assert regions.appointed() == STANDBY


def test_regions_that_lost_the_order_do_not_bring_back_a_key_that_was_revoked(regions: Regions) -> None:
    revoked = Appointment(3, NOBODY, RUN, NOON)
    regions.show(None, None, revoked)
    assert regions.appointed() == revoked
    regions.down("us-east")
    assert regions.appointed() == revoked


def test_of_two_made_at_once_it_is_said_when_they_cannot_be_told_apart_and_the_next_settles_it(
    regions: Regions,
) -> None:
    regions.show(STANDBY, RIVAL, HOME)
    with pytest.raises(ConflictError, match=r"decided twice at once: ap-south-1a .* eu-west-1a") as caught:
        regions.appointed()
    assert "Appoint again" in caught.value.remedy
    made = regions.appoint("eu-west-1a", OTHER_RUN)
    assert made.seq == 5
    assert regions.shown() == [made] * 3


def test_many_at_once_never_succeed_with_one_number_and_the_next_is_found(regions: Regions) -> None:
    gate = threading.Barrier(6)
    made: list[Appointment] = []

    def try_all(me: int) -> None:
        gate.wait()
        for _ in range(10):
            try:
                made.append(regions.appoint(f"signer-{me}", RunId(f"run-20261102-120000-{me:04}")))
            except ConflictError:
                continue

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(try_all, me) for me in range(6)]:
            future.result()
    assert len({one.seq for one in made}) == len(set(made))
    last = regions.appoint("the-last", OTHER_RUN)
    assert regions.appointed() == last


# --- the conversation, answer by answer


def answer(poll: Poll, region: str, found: Appointment | None) -> None:
    assert poll.next_call(region) == Read()
    assert poll.next_call(region) is None, "one call at a time"
    poll.on_read(region, Tagged(encode(VALIDATOR, found), f"tag {found.seq}") if found else None)


@pytest.fixture
def poll() -> Poll:
    """Every region shows HOME; STANDBY is proposed."""
    made = Poll(VALIDATOR, REGIONS)
    for region in REGIONS:
        answer(made, region, HOME)
    made.propose(STANDBY.name, STANDBY.run_id, NOON)
    return made


def test_a_region_that_was_written_by_another_one_is_left_to_it_until_a_majority_decides(poll: Poll) -> None:
    swap = Swap(encode(VALIDATOR, STANDBY), "tag 3")
    assert [poll.next_call(region) for region in REGIONS] == [swap] * 3
    poll.on_refused("ap-south")
    answer(poll, "ap-south", RIVAL)
    assert poll.next_call("ap-south") is None
    poll.on_swapped("us-east", "a")
    assert not poll.is_settled
    poll.on_swapped("eu-west", "b")
    assert poll.made() == STANDBY
    assert poll.next_call("ap-south") == Swap(encode(VALIDATOR, STANDBY), "tag 4")
    poll.on_swapped("ap-south", "c")
    assert poll.is_settled


def test_who_comes_second_in_a_majority_is_told_who_came_first(poll: Poll) -> None:
    for region in REGIONS:
        poll.next_call(region)
    poll.on_swapped("us-east", "a")
    for region in REGIONS[1:]:
        poll.on_refused(region)
        answer(poll, region, RIVAL)
    assert poll.is_settled
    with pytest.raises(ConflictError, match="at the same time: ap-south-1a"):
        poll.made()


def test_nothing_is_proposed_before_a_majority_has_answered() -> None:
    poll = Poll(VALIDATOR, REGIONS)
    answer(poll, "us-east", HOME)
    with pytest.raises(UnavailableError, match="eu-west: has not answered yet"):
        poll.propose("eu-west-1a", RUN, NOON)
