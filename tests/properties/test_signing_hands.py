"""Hands that reach into the registers' buckets: what the signers withstand, what is excluded, and that it is found.

The scenes are played in the bench's simulated regions with the program's own claims.  What is excluded is the rule of
`bench.signing.buckets`; each scene that rests on it is played without it too, and signs twice.
"""

from collections.abc import Iterator

import pytest

from bench.signing import rules
from bench.signing.buckets import VALIDATOR, Buckets, Region, covers, founded
from bench.signing.copies import Copies
from bench.signing.register_schedule import RegisterSchedule, SignerProcess
from bench.signing.world import Folder, Host
from bench.signing_simulator import play, replay
from vedr.chain.register import Content, Epoch, Position
from vedr.chain.register_claim import Read, Swap
from vedr.chain.sign_state import SignState
from vedr.failover.signer_disk import OPEN
from vedr.inventory import Height

EAST, WEST, SOUTH = REGIONS = ("us-east", "eu-west", "ap-south")
OLD_RULE = frozenset({"register-put-back", "register-together"})
UNEXCLUDED = frozenset({"put-back-unseen"})


class Scene:
    """Signers over three regions, one step after the other."""

    def __init__(self, off: frozenset[str] = frozenset()) -> None:
        self.schedule = RegisterSchedule(0, off)
        self.schedule.draw = lambda: 0.5  # no fault, and what is durable is released

    def work(self, process: SignerProcess, *regions: str) -> None:
        for _ in range(6):
            for region in regions:
                self.schedule.work(process, region)

    def begin(self, host: str, epoch: int, *regions: str) -> SignerProcess:
        process = self.schedule.claim(host, epoch)
        self.work(process, *regions)
        return process

    def sign(self, process: SignerProcess, height: int, block: int, *regions: str) -> None:
        self.schedule.want(process, (height, 0, 2), block)
        self.work(process, *regions)

    def content(self, region: str) -> bytes:
        held = self.schedule.regions[region].held
        assert held is not None
        return held.data

    def put(self, region: str, data: bytes | None) -> None:
        self.schedule.regions[region].put(data)

    @property
    def signed(self) -> dict[tuple[int, int, int], int]:
        return {hrs: release.block for hrs, release in self.schedule.oracle.released.items()}

    @property
    def broken(self) -> str:
        return self.schedule.oracle.broken


@pytest.fixture(params=[frozenset(), UNEXCLUDED, OLD_RULE], ids=["all-rules", "nothing-excluded", "old-rule"])
def off(request: pytest.FixtureRequest) -> Iterator[frozenset[str]]:
    with rules.without(request.param):
        yield request.param


def passed_while_south_lags(off: frozenset[str]) -> tuple[Scene, SignerProcess, list[bytes]]:
    """`a` signed 4 and 5, and `b` took over and signed 6 with us-east and eu-west; us-east's contents, oldest first."""
    scene, past = Scene(off), list[bytes]()
    passed = scene.begin("a", 1, *REGIONS)
    for height in (4, 5):
        scene.sign(passed, height, 0, *REGIONS)
        past.append(scene.content(EAST))
    scene.sign(scene.begin("b", 2, EAST, WEST), 6, 1, EAST, WEST)
    return scene, passed, past


def test_a_region_put_back_below_what_a_passed_signer_saw_is_noticed_and_was_not_by_the_old_rule(
    off: frozenset[str],
) -> None:
    """Nothing of it is excluded: the passed signer is answered."""
    scene, passed, past = passed_while_south_lags(off)
    scene.put(EAST, past[0])
    scene.sign(passed, 6, 2, EAST, SOUTH)
    assert bool(scene.broken) == (off == OLD_RULE)


def test_a_region_put_back_to_just_what_a_passed_signer_wrote_is_excluded_and_would_be_found(
    off: frozenset[str],
) -> None:
    scene, passed, past = passed_while_south_lags(off)
    scene.put(EAST, past[-1])
    scene.sign(passed, 6, 2, EAST, SOUTH)
    assert bool(scene.broken) == (off == UNEXCLUDED)


def test_a_signer_that_begins_just_then_is_excluded_and_would_be_found(off: frozenset[str]) -> None:
    scene, _, past = passed_while_south_lags(off)
    scene.put(EAST, past[0])
    scene.sign(scene.begin("c", 3, EAST, SOUTH), 6, 2, EAST, SOUTH)
    assert bool(scene.broken) == (off == UNEXCLUDED)


@pytest.fixture(params=[frozenset(), UNEXCLUDED | {"register-together"}], ids=["all-rules", "confirmed-any-while-ago"])
def together(request: pytest.FixtureRequest) -> Iterator[frozenset[str]]:
    with rules.without(request.param):
        yield request.param


def test_what_only_a_put_back_region_had_taken_is_not_counted_when_another_takes_it(together: frozenset[str]) -> None:
    """Nobody had it durable when the hand came; the third region confirms it after the other signer has begun."""
    scene = Scene(together)
    slow = scene.begin("a", 1, *REGIONS)
    scene.sign(slow, 4, 0, *REGIONS)
    before = scene.content(EAST)
    scene.sign(slow, 5, 0, EAST)
    scene.put(EAST, before)
    scene.sign(scene.begin("b", 2, EAST, SOUTH), 5, 1, EAST, SOUTH)
    scene.work(slow, WEST)
    assert bool(scene.broken) == bool(together)


def test_a_write_that_was_given_up_and_fits_again_is_excluded_and_would_be_found(off: frozenset[str]) -> None:
    """The passed signer had seen more than what was put there, and finds what it wrote last: its write came late."""
    scene, passed, past = passed_while_south_lags(off)
    scene.schedule.late.append((EAST, Swap(past[1], expected=past[0].decode())))
    scene.put(EAST, past[0])
    scene.schedule.deliver(0)
    scene.sign(passed, 6, 2, EAST, SOUTH)
    assert bool(scene.broken) == (off in (UNEXCLUDED, OLD_RULE))


def test_an_object_that_is_deleted_twice_and_filled_by_a_passed_signer_is_excluded_and_would_be_found(
    off: frozenset[str],
) -> None:
    scene = Scene(off)
    scene.put(EAST, None)
    slow = scene.begin("a", 1, EAST)  # it sees that there is nothing, takes over, and is stopped before it fills it
    scene.work(slow, WEST, SOUTH)
    second = scene.begin("b", 2, *REGIONS)
    scene.sign(second, 6, 1, EAST, WEST)
    scene.put(EAST, None)
    scene.schedule.work(slow, EAST)
    scene.sign(scene.begin("c", 3, EAST, SOUTH), 6, 2, EAST, SOUTH)
    assert bool(scene.broken) == (off == UNEXCLUDED)


def test_an_emptied_region_counts_for_nothing_whatever_the_others_lack(off: frozenset[str]) -> None:
    scene, passed, _ = passed_while_south_lags(off)
    scene.put(EAST, None)
    scene.sign(passed, 6, 2, EAST, SOUTH)
    assert not scene.begin("c", 3, EAST, SOUTH).claim.is_held
    assert not scene.broken


def test_another_validators_content_counts_for_nothing_whatever_the_others_lack(off: frozenset[str]) -> None:
    scene, passed, _ = passed_while_south_lags(off)
    scene.put(EAST, rules.ALIEN)
    scene.sign(passed, 6, 2, EAST, SOUTH)
    assert not scene.begin("c", 3, EAST, SOUTH).claim.is_held
    assert not scene.broken


def test_a_region_put_back_while_the_others_have_all_is_harmless_for_everybody(off: frozenset[str]) -> None:
    """Nothing is excluded where a majority has what was lost: who begins then reads one of the others."""
    scene, passed, past = passed_while_south_lags(off)
    scene.work(scene.schedule.processes[1], SOUTH)
    scene.put(EAST, past[0])
    scene.sign(passed, 6, 2, *REGIONS)
    third = scene.begin("c", 3, EAST, SOUTH)
    assert third.claim.is_held
    assert third.claim.position.hrs == (6, 0, 2)
    scene.sign(third, 7, 2, EAST, SOUTH)
    assert scene.signed[7, 0, 2] == 2
    assert not scene.broken


@pytest.mark.parametrize("off", [frozenset(), frozenset({"register-together"})], ids=["all-rules", "any-while-ago"])
def test_a_signer_that_was_passed_does_not_count_what_a_region_confirmed_before(off: frozenset[str]) -> None:
    """One region is put back while all three have what was signed last."""
    with rules.without(off):
        scene = Scene()
        passed = scene.begin("a", 1, *REGIONS)
        for height in (4, 5):
            scene.sign(passed, height, 0, *REGIONS)
        before = scene.content(SOUTH)
        scene.sign(passed, 6, 2, WEST)  # which confirms it; the others are not reached
        successor = scene.begin("b", 2, EAST, SOUTH)
        scene.sign(successor, 6, 1, EAST, SOUTH)
        scene.sign(successor, 7, 1, *REGIONS)
        assert len({scene.content(region) for region in REGIONS}) == 1
        scene.put(SOUTH, before)
        scene.work(passed, SOUTH, WEST)
        assert bool(scene.broken) == bool(off)


# --- the rule of what is excluded


def content(epoch: int, height: int) -> Content:
    return Content(Epoch(epoch), f"a/{epoch}", Position(Height(height), 0, 1, "ab" * 32))


def swap(region: Region, to: Content) -> None:
    expected = region.held.tag if region.held else None
    assert region.swap(Swap(rules.write_token(VALIDATOR, to), expected), compares=True)


def buckets_that_lost() -> Buckets:
    """us-east has gone back to (1, 4); eu-west alone still has (2, 6)."""
    regions = {name: founded() for name in REGIONS}
    for region in regions.values():
        swap(region, content(1, 4))
    for name in (EAST, WEST):
        swap(regions[name], content(2, 6))
    regions[EAST].put(regions[EAST].past[1])
    return Buckets(regions)


def test_what_a_majority_lacks_is_withheld_from_who_had_not_seen_more_there_and_from_nobody_else() -> None:
    buckets = buckets_that_lost()
    for seen in (None, content(1, 3), content(1, 4)):
        assert buckets.answer(EAST, Read(), seen, compares=True) is None
    for seen in (content(1, 5), content(2, 4), content(2, 6)):
        assert buckets.answer(EAST, Read(), seen, compares=True) == (buckets.regions[EAST].held,)
    for other in (WEST, SOUTH):
        assert buckets.answer(other, Read(), None, compares=True) == (buckets.regions[other].held,)


def test_nothing_is_withheld_once_a_majority_or_the_region_itself_has_it_again() -> None:
    caught_up, undone = buckets_that_lost(), buckets_that_lost()
    swap(caught_up.regions[SOUTH], content(2, 6))
    undone.regions[EAST].put(undone.regions[EAST].past[-1])
    for buckets in (caught_up, undone):
        assert buckets.answer(EAST, Read(), None, compares=True) == (buckets.regions[EAST].held,)
        assert buckets.regions[EAST].losses == []


def test_a_write_that_was_given_up_does_not_fit_again_where_its_old_content_came_back() -> None:
    buckets = buckets_that_lost()
    late = Swap(rules.write_token(VALIDATOR, content(1, 6)), expected=buckets.regions[EAST].past[1].decode())
    assert buckets.answer(EAST, late, None, compares=True) is None
    assert Buckets(buckets.regions, excludes=False).answer(EAST, late, None, compares=True) == (late.data.decode(),)


def test_emptiness_and_damage_are_shown_to_everybody_and_filled_by_nobody() -> None:
    for data in (None, rules.ALIEN):
        buckets = buckets_that_lost()
        region = buckets.regions[EAST]
        region.put(data)
        assert buckets.answer(EAST, Read(), None, compares=True) == (region.held,)
        fill = Swap(region.past[1], region.held.tag if region.held else None)
        assert buckets.answer(EAST, fill, None, compares=True) is None


def test_what_covers_what_was_there_is_no_loss() -> None:
    region = founded()
    swap(region, content(1, 4))
    region.put(rules.write_token(VALIDATOR, content(2, 6)))
    assert region.losses == []
    assert covers(region.shown, content(1, 4))


# --- seeds, found by `python -m bench.signing_simulator --without ...`


UNEXCLUDED_SEED, OLD_RULE_SEED = 8724, 9354


@pytest.mark.parametrize(("off", "seed"), [(UNEXCLUDED, UNEXCLUDED_SEED), (OLD_RULE, OLD_RULE_SEED)])
def test_schedules_find_what_is_excluded_and_what_the_old_rule_missed(
    off: frozenset[str], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play([seed]).broken == []
    assert "signed twice" in replay(seed, off)
    assert "a hand changes" in capsys.readouterr().out


# --- shipped copies


def test_hands_change_shipped_copies_and_the_shipper_brings_them_back() -> None:
    with rules.without(frozenset()):
        schedule = RegisterSchedule(0)
        copies = Copies(REGIONS, schedule.reaching)
        host = Host("a", Folder(OPEN, SignState(Height(7), 0, 3)), has_key=True, wants_running=True)
        for second in range(20):
            copies.ship(host, frozenset(), second)
        assert [state.height for state in copies.look(frozenset())] == [7, 7, 7]
        told = {copies.reach_in().rpartition(": ")[2] for _ in range(60)}
        assert told == {"any", "recent", "emptied", "another region's", "another validator's"}
        for kept in copies.kept.values():
            kept.put(rules.ALIEN)
        assert copies.look(frozenset()) == []
        copies.shippers.clear()  # it was started anew, and reads
        for second in range(20):
            copies.ship(host, frozenset({EAST}), second)
        assert [state.height for state in copies.look(frozenset())] == [7, 7]
