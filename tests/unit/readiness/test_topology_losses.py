"""The calculus of losses and layouts, against counting everything."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain.quorum import OUTSIDE, Domain, Member, PowerMap, assess, needed_power
from vedr.readiness.topology_layout import NEW_DOMAIN, limit_of, smallest_change, survives_any
from vedr.readiness.topology_losses import MAX_PAIRS, Exposure, Standby, expose

REGIONS = ("r1", "r2", "r3")


def member(number: int, power: int, zone: str) -> Member:
    """Zones are named `r1a`; a zone `outside` is nobody's of ours."""
    if zone == OUTSIDE:
        return Member(bytes([number]), power, OUTSIDE, OUTSIDE, OUTSIDE)
    return Member(bytes([number]), power, f"v{number}", zone, zone[:2])


def power_map(*placed: tuple[int, str]) -> PowerMap:
    return PowerMap(tuple(member(number, power, zone) for number, (power, zone) in enumerate(placed)))


def everybody(powers: PowerMap) -> list[bytes]:
    return [one.address for one in powers.members]


def named(exposure: Exposure) -> set[str]:
    return {str(loss) for loss in exposure.halting}


ZONES = st.sampled_from(["r1a", "r1b", "r2a", "r2b", "r3a", OUTSIDE])
FLEETS = st.lists(st.tuples(st.integers(1, 9), ZONES), min_size=1, max_size=7).map(lambda placed: power_map(*placed))
NODES = tuple(Standby("", f"n{zone}", zone, zone[:2]) for zone in ("r1a", "r1b", "r2a", "r3a"))


@st.composite
def situations(draw: st.DrawFn) -> tuple[PowerMap, list[bytes], list[Standby]]:
    powers = draw(FLEETS)
    online = [one for one in everybody(powers) if draw(st.booleans()) or draw(st.booleans())]
    standbys = [
        Standby(one.node, host.node, host.zone, host.region)
        for one in powers.members
        if one.node != OUTSIDE
        for host in NODES
        if draw(st.booleans())
    ]
    return powers, online, standbys


def left_after(powers: PowerMap, online: Sequence[bytes], losses: Sequence[Domain]) -> int:
    return sum(
        one.power
        for one in powers.members
        if one.address in online and not any(one.within(domain) for domain in losses)
    )


def most_back(gone: Sequence[Member], losses: Sequence[Domain], standbys: Sequence[Standby]) -> dict:
    """By number of promoted validators the most power that they can have: every way to give each its own node."""
    best = {0: 0}

    def go(index: int, used: frozenset[str], count: int, power: int) -> None:
        best[count] = max(best.get(count, 0), power)
        for at in range(index, len(gone)):
            for standby in standbys:
                if standby.validator == gone[at].node and standby.node not in used and standby.survives(losses):
                    go(at + 1, used | {standby.node}, count + 1, power + gone[at].power)

    go(0, frozenset(), 0, 0)
    return best


@settings(deadline=None, max_examples=80)
@given(situations())
def test_every_single_loss_is_told_as_counting_tells_it(
    situation: tuple[PowerMap, list[bytes], list[Standby]],
) -> None:
    powers, online, standbys = situation
    exposure = expose(powers, online, standbys=standbys)
    needed = needed_power(powers.total)
    assert exposure.halted == (left_after(powers, online, []) < needed)
    for loss in exposure.singles:
        left = left_after(powers, online, loss.domains)
        assert (loss.halts, loss.margin, loss.lost) == (left < needed, left - needed, exposure.online - left)
        assert (loss.restoration is None) == (left >= needed)
    regions = {one.region for one in powers.members}
    zones = {one.zone for one in powers.members} - {OUTSIDE}
    nodes = {one.node for one in powers.members} - {OUTSIDE}
    assert len(exposure.singles) == len(regions) + len(zones) + len(nodes)


@settings(deadline=None, max_examples=80)
@given(situations())
def test_the_validators_named_to_restore_quorum_are_the_fewest_that_can(
    situation: tuple[PowerMap, list[bytes], list[Standby]],
) -> None:
    powers, online, standbys = situation
    exposure = expose(powers, online, standbys=standbys)
    ways = [((), exposure.restoration), *((loss.domains, loss.restoration) for loss in exposure.singles)]
    for losses, way in ways:
        if way is None:
            continue
        gone = [
            one
            for one in powers.members
            if one.node != OUTSIDE and (one.address not in online or any(one.within(domain) for domain in losses))
        ]
        best = most_back(gone, losses, standbys)
        enough = [count for count, power in best.items() if power >= way.missing]
        assert way.possible == bool(enough)
        assert len(way.promote) == (min(enough) if enough else max(best))
        assert way.still_missing == max(0, way.missing - sum(one.power for one in way.promote))
        if not enough:
            assert sum(one.power for one in way.promote) == max(best.values())
        assert len({one.node for one in way.promote}) == len(way.promote)
        for one in way.promote:
            assert any(s.validator == one.validator and s.node == one.node and s.survives(losses) for s in standbys)


@settings(deadline=None, max_examples=100)
@given(situations())
def test_a_pair_is_named_when_both_together_halt_and_neither_does_alone(
    situation: tuple[PowerMap, list[bytes], list[Standby]],
) -> None:
    powers, online, _ = situation
    exposure = expose(powers, online)
    needed = needed_power(powers.total)
    expected = set()
    for one, other in combinations((loss.domains[0] for loss in exposure.singles), 2):
        alone = [left_after(powers, online, [domain]) >= needed for domain in (one, other)]
        if one.kind == other.kind and all(alone) and left_after(powers, online, [one, other]) < needed:
            expected.add(frozenset((one, other)))
    assert {frozenset(loss.domains) for loss in exposure.pairs} == expected
    assert sum(exposure.pair_counts.values()) == len(expected)


def test_five_equal_validators_2_2_1_halt_without_either_large_region_and_with_any_two_nodes() -> None:
    powers = power_map((10, "r1a"), (10, "r1b"), (10, "r2a"), (10, "r2b"), (10, "r3a"))
    exposure = expose(powers, everybody(powers))
    assert (exposure.margin, named(exposure)) == (16, {"region r1", "region r2"})
    assert exposure.pair_counts == {"region": 0, "zone": 10, "node": 10}


def test_a_restoration_names_validator_node_and_what_has_no_standby() -> None:
    powers = power_map((10, "r1a"), (10, "r1b"), (10, "r2a"), (10, "r2b"), (10, "r3a"))
    standbys = [Standby("v0", "full-2", "r2a", "r2"), Standby("v0", "full-1", "r1b", "r1")]
    exposure = expose(powers, everybody(powers), standbys=standbys, priority=REGIONS)
    lost = {str(loss): loss for loss in exposure.singles}
    assert str(lost["region r1"].restoration) == "promote 1: v0 at full-2"
    assert lost["region r1"].restoration.without_standby == ("v1",)
    assert not lost["region r2"].restorable
    assert "no validator can be promoted, 4 power stays short" in str(lost["region r2"].restoration)


def test_two_validators_are_never_promoted_at_one_node() -> None:
    powers = power_map((10, "r1a"), (10, "r1a"), (4, "r2a"), (4, "r3a"))
    only = [Standby("v0", "n", "r2a", "r2"), Standby("v1", "n", "r2a", "r2")]
    [loss] = [one for one in expose(powers, everybody(powers), standbys=only).halting if str(one) == "region r1"]
    assert len(loss.restoration.promote) == 1
    assert not loss.restorable
    assert "promoting v0 at n is not enough" in str(loss.restoration)


def test_a_thousand_validators_are_assessed_without_listing_half_a_million_pairs() -> None:
    powers = PowerMap(
        tuple(
            Member(number.to_bytes(2), 1, f"v{number}", f"z{number % 150}", f"r{number % 50}") for number in range(999)
        )
    )
    exposure = expose(powers, [one.address for one in powers.members][:667])
    assert exposure.margin == 0
    assert len(exposure.halting) > MAX_PAIRS
    spare = expose(powers, [one.address for one in powers.members][:668])
    assert spare.pair_counts["node"] == 668 * 667 // 2
    assert len(spare.pairs) == MAX_PAIRS


# --- layouts

POWERS = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(0, 12), min_size=1)


@settings(deadline=None, max_examples=100)
@given(POWERS)
def test_survival_agrees_with_the_quorum_of_every_loss(powers: Mapping[str, int]) -> None:
    fleet = PowerMap(tuple(Member(name.encode(), power, name, name, name) for name, power in powers.items() if power))
    if fleet.members:
        regions = [Domain("region", name) for name, power in powers.items() if power]
        each = [assess(fleet, everybody(fleet), losing=[region]).halted for region in regions]
        assert survives_any(powers) == (not any(each))


@pytest.mark.parametrize("total", range(1, 31, 3))
def test_no_three_domains_with_all_the_power_survive_the_loss_of_any(total: int) -> None:
    for first in range(total + 1):
        for second in range(total - first + 1):
            assert not survives_any({"a": first, "b": second, "c": total - first - second})


@settings(deadline=None, max_examples=100)
@given(POWERS, st.sampled_from([33, 25, 20]))
def test_the_proposed_layout_survives_moves_nothing_away_and_nothing_smaller_would_do(
    powers: dict[str, int], max_pct: int
) -> None:
    total = sum(powers.values())
    layout = smallest_change(powers, max_pct=max_pct)
    limit = limit_of(total, max_pct=max_pct)
    if layout is None:
        assert limit < 1
        return
    assert survives_any(layout.powers)
    assert sum(layout.powers.values()) == total
    assert all(100 * power <= max_pct * total for power in layout.powers.values())
    after = dict(powers)
    for move in layout.transfers:
        assert move.power > 0
        after[move.source] -= move.power
        after[move.target] = after.get(move.target, 0) + move.power
    assert after == dict(layout.powers)
    assert layout.moved == sum(max(0, power - limit) for power in powers.values())  # what every layout must take away
    if any(name.startswith(NEW_DOMAIN) for name in layout.powers):
        assert limit * len(powers) < total  # the present domains had no room


@settings(deadline=None, max_examples=80)
@given(POWERS)
def test_the_growth_named_is_the_least_new_power_that_survives(powers: dict[str, int]) -> None:
    layout = smallest_change(powers)
    if layout is None:
        return

    def enough(added: int) -> bool:
        grown = {**powers, "new": added}
        return survives_any(grown) and all(100 * power <= 33 * sum(grown.values()) for power in grown.values())

    least = next((added for added in range(5 * max(powers.values()) + 5) if enough(added)), None)
    assert layout.growth == least


def test_the_reference_s_layout_33_33_33_1_comes_out_of_100_in_three_regions() -> None:
    layout = smallest_change({"us-east": 40, "eu-west": 40, "ap-south": 20})
    assert dict(layout.powers) == {"us-east": 33, "eu-west": 33, "ap-south": 33, NEW_DOMAIN: 1}
    assert (layout.moved, layout.shares) == (14, "33/33/33/1")
    assert smallest_change({"a": 1, "b": 1, "c": 1}) is None
