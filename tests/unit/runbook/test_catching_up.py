"""Regions that were away while a run ended get its entries from whoever looks next."""

import pytest
from ledger_world import World

from vedr.errors import UnavailableError
from vedr.ledger import RunId
from vedr.runbook.catching_up import A_WEEK_DAYS, LATELY_DAYS, behind, catch_up

INCIDENT = RunId("inc-20260214-031600-aaaa")
DAY_S = 24 * 3600


def lost_region(world: World, lost: str, *, run_id: RunId = INCIDENT) -> RunId:
    """An incident in which the region is lost, and that ends before it is back."""
    writer = world.journal().open(run_id, "RB-DR-003", {})
    world.settle()
    world.down(lost)
    writer.append("note", {"text": "the region is lost"})
    writer.append("closed", {"outcome": "completed"})
    world.settle()
    return run_id


@pytest.mark.parametrize("lost", ["us-east", "eu-west", "ap-south"])
def test_a_region_that_was_lost_when_its_incident_ended_gets_the_rest_when_it_is_back(world: World, lost: str) -> None:
    run_id = lost_region(world, lost)
    fresh = world.journal()
    assert behind(fresh, days=LATELY_DAYS) == ()  # it does not answer: nothing can be given
    world.down()
    fresh = world.journal()
    assert behind(fresh, days=LATELY_DAYS) == (run_id,)
    [healed] = catch_up(fresh, days=LATELY_DAYS)
    assert (healed.run_id, healed.given[lost]) == (run_id, 2)
    assert (behind(fresh, days=LATELY_DAYS), catch_up(fresh, days=LATELY_DAYS)) == ((), ())
    assert fresh.verify().entries == 3


def test_a_week_is_looked_at_by_who_looks_often_and_two_days_by_who_only_ends(world: World) -> None:
    run_id = lost_region(world, "us-east")
    world.down()
    world.clock.move(4 * DAY_S)
    assert behind(world.journal(), days=LATELY_DAYS) == ()
    assert behind(world.journal(), days=A_WEEK_DAYS) == (run_id,)


def test_a_run_whose_copies_do_not_hold_keeps_no_other_one_back(world: World) -> None:
    broken = lost_region(world, "us-east", run_id=RunId("inc-20260214-031500-bbbb"))
    world.down()
    run_id = lost_region(world, "us-east")
    world.down()
    for region in ("eu-west", "ap-south"):
        world.put(region, f"ledger/{broken}/00000001.json", b"rot")
    assert behind(world.journal(), days=LATELY_DAYS) == (broken, run_id)
    assert [one.run_id for one in catch_up(world.journal(), days=LATELY_DAYS)] == [run_id]
    assert world.held("us-east", f"ledger/{broken}/00000001.json") is None


def test_without_a_majority_nothing_is_compared(world: World) -> None:
    lost_region(world, "us-east")
    world.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        catch_up(world.journal(), days=LATELY_DAYS)
