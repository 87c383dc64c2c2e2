"""A site's regions are changed: a host that has the old file yet, and one with the new, never both sign."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from held_registers import VALIDATOR, at

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import (
    NEVER_SIGNED,
    Content,
    Epoch,
    Position,
    StaleEpochError,
    decode,
    encode,
    name_of_places,
    places_in,
)
from vedr.chain.register_claim import Change, Claim, Read, Swap
from vedr.chain.register_holding import Holding, SignStateRegister
from vedr.chain.register_move import move
from vedr.chain.register_survey import Seen
from vedr.errors import CorruptError, RefusedError, UnavailableError
from vedr.ports import Tagged

WAS = dict.fromkeys(("us-east", "eu-west", "ap-south"), "registers")
NOW = dict.fromkeys(("us-east", "eu-west", "sa-east"), "registers")


class Hosts:
    """Regions, and signers on hosts with one site file or another."""

    def __init__(self, stack: ExitStack) -> None:
        self.regions = {region: MemoryRegisters(region) for region in {**WAS, **NOW, "af-south": ""}}
        self._stack = stack

    def register(self, file: Mapping[str, str]) -> SignStateRegister:
        return SignStateRegister({region: self.regions[region] for region in file}, VALIDATOR)

    def begin(self, file: Mapping[str, str], name: str, **more: Any) -> Holding:
        register = self.register(file)
        holder = f"{name}/1#0@{name_of_places(file)}"
        held = register.take_over(register.glance(deadline_s=1).next_epoch, holder, **{"deadline_s": 1, **more})
        return self._stack.enter_context(held)

    def move(self, was: Mapping[str, str], now: Mapping[str, str], unique: str = "a1") -> Seen:
        return move(self.register(now), was=was, now=now, unique=unique, deadline_s=0.5)

    def down(self, *regions: str) -> None:
        for region, store in self.regions.items():
            store.faults.down = region in regions

    def shown(self, region: str) -> Position:
        found = self.regions[region].read(VALIDATOR.key)
        assert found is not None
        return decode(VALIDATOR, found.data, where=region).position


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(stack)


@pytest.fixture
def home(hosts: Hosts) -> Holding:
    """Signed up to height 4 with the old file."""
    hosts.register(WAS).found(NEVER_SIGNED)
    home = hosts.begin(WAS, "home")
    home.advance(at(4))
    assert home.wait_until_everywhere(deadline_s=5)
    return home


def test_a_host_with_the_old_file_takes_nothing_over_from_one_with_the_new(hosts: Hosts, home: Holding) -> None:
    """Else each finds a majority, us-east and ap-south here, eu-west and sa-east there, and signs what it likes."""
    hosts.down("ap-south")
    hosts.move(WAS, NOW)
    standby = hosts.begin(NOW, "standby")
    assert standby.wait_until_everywhere(deadline_s=5)
    hosts.down("us-east")
    standby.advance(at(9, b"block X"))
    hosts.down("eu-west", "sa-east")
    with pytest.raises(UnavailableError, match="in other regions or buckets"):
        hosts.begin(WAS, "late", deadline_s=0.2)
    hosts.down()
    with pytest.raises(RefusedError, match="kept elsewhere"):
        hosts.begin(WAS, "late")
    with pytest.raises(StaleEpochError):
        home.advance(at(9, b"block Y"))
    standby.advance(at(10))


def test_a_host_with_a_new_file_takes_nothing_over_before_the_registers_were_moved(hosts: Hosts, home: Holding) -> None:
    with pytest.raises(RefusedError, match="kept elsewhere") as refused:
        hosts.begin(NOW, "standby")
    assert "vedr signer regions --was" in refused.value.remedy
    home.advance(at(5))


def test_another_bucket_in_the_same_region_is_another_place() -> None:
    assert name_of_places(WAS) == name_of_places(dict(reversed(WAS.items())))
    assert name_of_places(WAS) != name_of_places({**WAS, "us-east": "other"})
    assert places_in(f"eu-west-1a/4711#9f3c@{name_of_places(WAS)}") == name_of_places(WAS)


@pytest.mark.parametrize("holder", ["", "home/1#a", "home@3-0123456789ab/1#a", "home/1#a@3-0123", "nobody/run-1"])
def test_a_holder_that_does_not_tell_its_regions_is_taken_over_as_before(hosts: Hosts, holder: str) -> None:
    hosts.register(WAS).found(NEVER_SIGNED)
    if holder:
        hosts.register(WAS).take_over(1, holder).close()
    assert places_in(holder) == ""
    assert hosts.begin(WAS, "standby").position == NEVER_SIGNED


def test_a_move_passes_the_holder_and_loses_nothing_that_it_may_have_signed(hosts: Hosts, home: Holding) -> None:
    hosts.down("us-east", "sa-east")
    home.advance(at(6))
    hosts.down()
    seen = hosts.move(WAS, NOW)
    assert {region: content.position for region, content in seen.contents.items()} == dict.fromkeys(NOW, at(6))
    assert seen.newest is not None
    assert seen.newest.is_held_by("home"), "it is started anew by its own name"
    with pytest.raises(StaleEpochError):
        home.advance(at(7))
    assert hosts.begin(NOW, "home").position == at(6)


@pytest.mark.usefixtures("home")
def test_a_move_is_made_once_and_repeated_without_harm(hosts: Hosts) -> None:
    first = hosts.move(WAS, NOW)
    assert hosts.move(WAS, NOW, "a2") == first
    held = hosts.begin(NOW, "home")
    hosts.move(WAS, NOW, "a3")
    held.advance(at(5))


def test_a_register_that_nobody_held_goes_with_any_file(hosts: Hosts) -> None:
    hosts.register(WAS).found(at(3))
    hosts.move(WAS, NOW)
    assert hosts.begin(NOW, "home").position == at(3)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (WAS, {"us-east": "registers", "sa-east": "registers", "af-south": "registers"}),
        (WAS, {**WAS, "us-east": "other", "eu-west": "other"}),
        ({**WAS, "sa-east": "registers", "af-south": "registers"}, WAS),
    ],
)
def test_so_much_at_once_that_two_majorities_could_share_no_region_is_refused(
    hosts: Hosts, was: dict[str, str], now: dict[str, str]
) -> None:
    hosts.register(was).found(NEVER_SIGNED)
    hosts.begin(was, "home").wait_until_everywhere(deadline_s=5)
    for region in now:  # else there is no majority to look at
        if hosts.regions[region].read(VALIDATOR.key) is None:
            found = hosts.regions["us-east"].read(VALIDATOR.key)
            assert found is not None
            hosts.regions[region].swap(VALIDATOR.key, found.data, expected=None)
    with pytest.raises(RefusedError, match="two majorities could share none"):
        hosts.move(was, now)


@pytest.mark.parametrize("now", [{**WAS, "sa-east": "registers"}, dict(WAS)])
def test_a_region_more_and_a_region_less_can_be_moved_to(hosts: Hosts, now: dict[str, str]) -> None:
    was = WAS if len(now) > len(WAS) else {**WAS, "sa-east": "registers"}
    hosts.register(was).found(at(2))
    old = hosts.begin(was, "home")
    old.advance(at(3))
    hosts.move(was, now)
    assert hosts.begin(now, "home").position == at(3)
    with pytest.raises(StaleEpochError):
        old.advance(at(4))
    with pytest.raises(RefusedError, match="kept elsewhere"):
        hosts.begin(was, "home")


@pytest.mark.usefixtures("home")
def test_a_region_that_comes_back_with_what_it_knew_long_ago_is_no_witness(hosts: Hosts) -> None:
    """ap-south was replaced while it was lost; taken in again as it was, it made a majority with one that lagged."""
    hosts.down("ap-south")
    hosts.move(WAS, NOW)
    held = hosts.begin(NOW, "home")
    hosts.down("us-east")
    held.advance(at(9))
    hosts.down()
    with pytest.raises(RefusedError, match=r"ap-south comes in and is not empty: 4/0/2") as refused:
        hosts.move(NOW, WAS)
    assert f"Delete {VALIDATOR.key} there" in refused.value.remedy
    hosts.regions["ap-south"].wipe(VALIDATOR.key)
    hosts.move(NOW, WAS)
    assert hosts.begin(WAS, "home").position == at(9)


def test_a_region_that_comes_in_and_does_not_answer_is_not_taken_for_empty(hosts: Hosts, home: Holding) -> None:
    hosts.down("sa-east")
    with pytest.raises(UnavailableError, match="sa-east comes in, and is not known to be empty"):
        hosts.move(WAS, NOW)
    hosts.down("eu-west", "us-east")
    with pytest.raises(UnavailableError, match="no majority of the regions shows the register"):
        hosts.move(WAS, NOW)
    hosts.down()
    home.advance(at(5))


def test_the_wrong_old_file_moves_nothing(hosts: Hosts, home: Holding) -> None:
    with pytest.raises(RefusedError, match="kept elsewhere"):
        hosts.move({**WAS, "ap-south": "other"}, NOW)
    home.advance(at(5))


def test_a_region_that_missed_the_move_is_written_by_whoever_holds_the_key_next(hosts: Hosts) -> None:
    was = {**WAS, "sa-east": "registers"}
    hosts.register(was).found(NEVER_SIGNED)
    old = hosts.begin(was, "home")
    old.advance(at(3))
    assert old.wait_until_everywhere(deadline_s=5)
    hosts.down("ap-south")
    seen = hosts.register(WAS).look(deadline_s=0.2)
    held = hosts.register(WAS).take_over(
        seen.next_epoch, f"home/regions#a@{name_of_places(WAS)}", change=Change(name_of_places(was), frozenset())
    )
    held.close()
    hosts.down()
    again = hosts.begin(WAS, "home")
    again.advance(at(4))
    assert again.wait_until_everywhere(deadline_s=5)
    assert hosts.shown("ap-south") == at(4)


@pytest.mark.parametrize(
    ("epoch", "position", "is_written"), [(1, NEVER_SIGNED, True), (99, NEVER_SIGNED, False), (1, at(8), False)]
)
def test_a_region_of_others_is_written_once_held_and_left_where_its_epoch_or_position_is_higher(
    epoch: int, position: Position, *, is_written: bool
) -> None:
    here, there = (f"home/1#a@{name_of_places(file)}" for file in (WAS, NOW))
    claim = Claim(VALIDATOR, tuple(WAS), epoch=7, holder=here, at_least=at(3))
    shown = {
        "ap-south": Content(Epoch(epoch), there, position),
        "us-east": Content(Epoch(6), here, at(3)),
        "eu-west": Content(Epoch(6), here, at(3)),
    }
    for region, content in shown.items():
        assert isinstance(claim.next_call(region), Read)
        claim.on_read(region, Tagged(encode(VALIDATOR, content), "before"))
    assert claim.next_call("ap-south") is None, "it does not decide"
    for region in ("us-east", "eu-west"):
        assert isinstance(claim.next_call(region), Swap)
        claim.on_swapped(region, "after")
    assert claim.is_held
    assert isinstance(claim.next_call("ap-south"), Swap) == is_written


@pytest.mark.usefixtures("home")
def test_a_register_lost_in_a_majority_is_not_moved(hosts: Hosts) -> None:
    for region in ("us-east", "eu-west"):
        hosts.regions[region].overwrite(VALIDATOR.key, b"{")
    with pytest.raises((UnavailableError, CorruptError)):
        hosts.move(WAS, NOW)
