"""A zone or region is only called lost when sources that fail apart say so."""

import pytest

from vedr.chain.quorum import Domain
from vedr.errors import NotFoundError, RefusedError, VerificationFailedError
from vedr.failover.outage import Sight, judge
from vedr.ports import UnitState

ZONE = Domain("zone", "us-east-1a")


def sight(name: str, *, answers: bool = False, unit: UnitState | None = None, peers: int | None = 0) -> Sight:
    return Sight(name, "node", answers, unit, peers)


def test_a_dead_zone_is_confirmed_with_everything_that_is_gone() -> None:
    found = judge(ZONE, [sight("a"), sight("b"), sight("gateway", peers=None)])
    assert found.gone == ("a", "b", "gateway")
    assert found.total == 3
    assert "supervisor silent, peer of 0" in found.finding


def test_half_of_it_is_no_outage_and_the_silent_ones_are_named() -> None:
    with pytest.raises(RefusedError, match="2 of 4 answer; silent: c, d"):
        judge(ZONE, [sight("a", answers=True), sight("b", answers=True), sight("c"), sight("d")])


def test_a_zone_that_serves_is_refused() -> None:
    with pytest.raises(RefusedError, match="serves: 1 of 1 answer "):
        judge(ZONE, [sight("a", answers=True)])


def test_what_only_this_process_cannot_reach_is_not_lost() -> None:
    at_work = [sight("a", unit="running", peers=4), sight("b", unit="running", peers=3), sight("c")]
    with pytest.raises(VerificationFailedError, match="silent to this process only"):
        judge(ZONE, at_work)


def test_a_unit_that_runs_but_is_nobodys_peer_is_cut_off_and_counts_as_gone() -> None:
    found = judge(ZONE, [sight("a", unit="running", peers=0), sight("b", unit="running", peers=0)])
    assert found.gone == ("a", "b")


def test_a_gateway_that_runs_and_is_silent_does_not_count_as_gone() -> None:
    with pytest.raises(VerificationFailedError):
        judge(ZONE, [sight("gateway", unit="running", peers=None)])


def test_a_place_where_nothing_should_serve_cannot_be_judged() -> None:
    with pytest.raises(NotFoundError, match="nothing serves in zone us-east-1a"):
        judge(ZONE, [])
