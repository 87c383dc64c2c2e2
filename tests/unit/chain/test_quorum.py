from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from chainmaker import address, make_chain, members
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain.block import ValidatorSet
from vedr.chain.quorum import (
    OUTSIDE,
    Domain,
    PowerMap,
    assess,
    map_power,
    needed_power,
    online_addresses,
)
from vedr.errors import InvalidInputError
from vedr.inventory import Node, Site

PLACES = {1: "us-east-1a", 2: "us-east-1b", 3: "eu-west-1a", 4: "eu-west-1b", 5: "ap-south-1a"}


def powers(numbered: dict[int, int]) -> PowerMap:
    """Validators 1 to 5 are ours, 2/2/1 over three regions; all others are outside."""
    nodes = [
        Node(
            name=f"val{number}",
            region=zone.rsplit("-", 1)[0],
            zone=zone,
            role="validator",
            rpc="http://h:1",
            p2p="h:2",
            home=Path(f"/{number}"),
            unit=f"val{number}",
            power=1,
            address=address(number).hex().upper(),
        )
        for number, zone in PLACES.items()
    ]
    return map_power(cast("Site", SimpleNamespace(nodes=nodes)), members(numbered))


FIVE = powers(dict.fromkeys(range(1, 6), 10))
EVERYBODY = [address(number) for number in range(1, 10)]


def region(name: str) -> Domain:
    return Domain("region", name)


def halts(fleet: PowerMap, losing: list[Domain]) -> bool:
    """With everybody else online."""
    return assess(fleet, [one.address for one in fleet.members], losing=losing).halted


def test_five_equal_validators_2_2_1_survive_only_the_loss_of_the_one() -> None:
    assert halts(FIVE, [region("us-east")])
    assert halts(FIVE, [region("eu-west")])
    assert not halts(FIVE, [region("ap-south")])


def test_a_fourth_domain_of_one_percent_lets_any_region_go() -> None:
    four = powers({1: 33, 3: 33, 5: 33, 9: 1})
    for name in ("us-east", "eu-west", "ap-south", OUTSIDE):
        assert not halts(four, [region(name)])
    assert halts(four, [region("us-east"), region(OUTSIDE)])


@pytest.mark.parametrize(("total", "needed"), [(1, 1), (3, 3), (4, 3), (99, 67), (100, 67), (50, 34)])
def test_the_needed_power_is_strictly_more_than_two_thirds(total: int, needed: int) -> None:
    assert needed_power(total) == needed


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 10**18), power=st.integers(0, 10**18))
def test_needed_power_agrees_with_the_fraction(total: int, power: int) -> None:
    assert (power >= needed_power(total)) == (3 * power > 2 * total)


def test_an_assessment_tells_the_margin_and_what_would_halt_next() -> None:
    impact = assess(FIVE, EVERYBODY, losing=[Domain("node", "val1")])

    assert (impact.total, impact.needed, impact.online, impact.lost) == (50, 34, 40, 10)
    assert impact.margin == 6
    assert not impact.halted
    assert region("ap-south") in impact.halting
    assert Domain("zone", "us-east-1b") in impact.halting
    assert Domain("node", "val1") not in impact.halting
    assert "margin 6; would halt without: node val" in str(impact)


def test_with_everybody_online_no_single_node_halts_the_lab() -> None:
    assert {domain.kind for domain in assess(FIVE, EVERYBODY).halting} == {"region"}


def test_a_halted_chain_says_how_much_must_come_back() -> None:
    impact = assess(FIVE, [address(1), address(2)])
    assert impact.halted
    assert impact.margin == -14
    assert impact.halting == ()
    assert "HALTED, 14 power short" in str(impact)


def test_outside_is_one_domain_of_each_question() -> None:
    mixed = powers({1: 10, 8: 10, 9: 20})
    assert mixed.by("region") == {region(OUTSIDE): 30, region("us-east"): 10}
    assert mixed.of([address(8), address(1)]) == 20
    assert [d for d in assess(mixed, EVERYBODY).halting if d.name == OUTSIDE] == [region(OUTSIDE)]


def test_a_commit_tells_who_is_online() -> None:
    block = make_chain(1, lambda _: {1: 10, 2: 10, 3: 10}, signers_at=lambda _: [1, 3])[1]
    assert online_addresses(block.signed.commit) == {address(1), address(3)}


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        assess(map_power(cast("Site", SimpleNamespace(nodes=[])), ValidatorSet(())), [])
