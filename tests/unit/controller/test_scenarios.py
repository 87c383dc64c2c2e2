"""What the controllers do together, case by case, in the simulated world."""

import datetime as dt
from types import ModuleType
from typing import Any

import pytest

from vedr.chain.quorum import Domain
from vedr.policies.controller import ControllerPolicy, Maintenance

ZONE, REGION = Domain("zone", "us-east-1a"), Domain("region", "us-east")
PROPOSES = ControllerPolicy()


def notices(world: Any, kind: str) -> list[str]:
    return [notice.text for host in world.hosts.values() for notice in host.told if notice.kind == kind]


def test_a_zone_that_is_down_is_failed_over_once_by_the_holder_of_the_lease(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    holder = world.holder()
    world.fail("us-east-1a")
    world.rounds(20)
    (request,) = world.truth.runs
    assert (request.runbook, request.order["zone"]) == ("RB-DR-002", "us-east-1a")
    assert [host.region for host, _ in world.starts] == [holder]
    assert world.told()["started"] == 1


def test_by_default_a_runbook_is_proposed_and_never_started(sim: ModuleType) -> None:
    world = sim.World(PROPOSES)
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(20)
    assert world.truth.runs == []
    assert world.told()["proposed"] == 1
    (outage_id, kind), *rest = world.truth.records
    assert (kind, rest) == ("proposal", [])
    assert outage_id.startswith("out-zone-us-east-1a-2026")


def test_a_region_whose_zones_are_all_down_is_one_outage_of_the_region(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail("us-east-1a", "us-east-1b")
    world.truth.halted = True
    world.rounds(12)
    assert [request.runbook for request in world.truth.runs] == ["RB-DR-003"]
    assert "part of the outage of region us-east" in notices(world, "held-back")[0]


def test_a_zone_waits_for_its_neighbour_which_makes_it_the_regions_outage(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(2)
    world.fail("us-east-1b")
    world.truth.halted = True
    world.rounds(10)
    assert [request.runbook for request in world.truth.runs] == ["RB-DR-003"]
    assert any("fails too" in text for text in notices(world, "held-back"))


@pytest.mark.parametrize("region", ["us-east", "ap-south"])
def test_a_partitioned_minority_sees_everything_down_and_starts_nothing(sim: ModuleType, region: str) -> None:
    world = sim.World()
    world.rounds(3)
    world.cut_off(region)
    world.rounds(10, region)
    cut = world.hosts[region]
    assert {v.confirmed for d, v in cut.last.verdicts.items() if d.name.startswith("eu-west")} == {"down"}
    assert not cut.last.standing.is_held
    assert world.truth.runs == []


def test_the_majority_takes_the_lease_of_a_holder_that_is_cut_off_and_fails_its_region_over(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    lost = world.holder()
    world.cut_off(lost)
    world.truth.halted = True
    world.rounds(14)
    assert world.holder() != lost
    assert [request.order.get("region") for request in world.truth.runs] == [lost]
    world.mend()
    world.rounds(6)
    assert len(world.truth.runs) == 1


def test_one_vantage_point_alone_is_not_believed(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.hosts["eu-west"].cut.add("ap-south")
    world.rounds(12)
    assert world.truth.runs == []
    assert world.told()["opened"] == 0


def test_two_controllers_that_are_gone_leave_a_third_that_does_nothing(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(20, world.holder())
    assert world.truth.runs == []


# --- what holds an action back


@pytest.mark.parametrize("places", [(), ("us-east-1a",), ("us-east",)])
def test_nothing_is_done_in_a_maintenance_window_and_it_says_so(sim: ModuleType, places: tuple[str, ...]) -> None:
    end = sim.BEGINNING + dt.timedelta(minutes=10)
    window = Maintenance(domains=places, reason="new switches", start=sim.BEGINNING, end=end)
    world = sim.World(sim.STARTS.model_copy(update={"maintenance": (window,)}))
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(12)
    assert world.truth.runs == []
    assert any("maintenance until 2026-11-02 12:10 UTC: new switches" in text for text in notices(world, "held-back"))
    world.rounds(8)
    assert len(world.truth.runs) == 1


def test_a_window_that_begins_by_cron_lasts_its_duration(sim: ModuleType) -> None:
    window = Maintenance(reason="backups", cron="0 12 * * *", duration_s=600)
    world = sim.World(sim.STARTS.model_copy(update={"maintenance": (window,)}))
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(12)
    assert world.truth.runs == []
    world.rounds(10)
    assert len(world.truth.runs) == 1


@pytest.mark.parametrize("place", [ZONE, REGION])
def test_nothing_is_done_while_an_incident_is_open_on_the_place(sim: ModuleType, place: Domain) -> None:
    world = sim.World()
    world.open_incident(place)
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(12)
    assert world.truth.runs == []
    assert any(f"is open on {place}" in text for text in notices(world, "held-back"))


def test_an_incident_elsewhere_makes_a_start_a_proposal(sim: ModuleType) -> None:
    world = sim.World()
    world.open_incident(Domain("zone", "eu-west-1a"))
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(16)
    assert world.truth.runs == []
    assert "is under way" in notices(world, "proposed")[0]


def test_nothing_is_done_while_the_ledger_cannot_tell(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.truth.ledger_away = True
    world.fail("us-east-1a")
    world.rounds(8)
    assert world.truth.runs == []
    world.truth.ledger_away = False
    world.rounds(2)
    assert len(world.truth.runs) == 1


def test_a_place_that_fails_again_within_the_cool_down_is_left_alone_until_it_ends(sim: ModuleType) -> None:
    world = sim.World(sim.STARTS.model_copy(update={"cool_down_s": 900}))
    world.rounds(3)
    for _ in range(2):
        world.fail("us-east-1a")
        world.rounds(6)
        world.heal()
        world.rounds(5)
    assert len(world.truth.runs) == 1
    world.fail("us-east-1a")
    world.rounds(6)
    assert any("cool-down of zone us-east-1a" in text for text in notices(world, "held-back"))
    world.rounds(40)
    assert len(world.truth.runs) == 2


def test_a_short_failure_and_a_short_recovery_change_nothing(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    for _ in range(5):
        world.fail("us-east-1a")
        world.rounds(2)
        world.heal()
        world.round()
    assert world.told()["opened"] == 0
    world.fail("us-east-1a")
    world.rounds(5)
    for _ in range(4):
        world.heal()
        world.rounds(2)
        world.fail("us-east-1a")
        world.round()
    assert (world.told()["opened"], world.told()["closed"], len(world.truth.runs)) == (1, 0, 1)


# --- the chain


def test_a_place_whose_validators_still_sign_is_not_failed_over_by_a_machine(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.hosts["eu-west"].cut.add("us-east")
    world.hosts["ap-south"].cut.add("us-east")
    world.hosts["us-east"].controller.tenure.release()  # nobody reaches us-east, and its validators sign
    world.rounds(14, "eu-west", "ap-south")
    assert world.truth.runs == []
    (said,) = notices(world, "proposed")
    assert "still signs, and fencing it would halt the chain" in said
    assert "RB-DR-003 is proposed for region us-east" in said


def test_the_proposal_says_what_the_loss_means_for_the_chain(sim: ModuleType) -> None:
    world = sim.World(PROPOSES)
    world.rounds(3)
    world.fail("us-east-1a", "us-east-1b")
    world.truth.halted = True
    world.rounds(8)
    (said,) = notices(world, "proposed")
    assert "STANDS STILL" in said
    assert "without region us-east: 20 of 40 voting power online, 27 needed: HALTED, 7 power short" in said


# --- starting


def test_without_prefect_the_runbook_is_a_plain_process(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.truth.prefect = "down"
    world.fail("us-east-1a")
    world.rounds(10)
    assert (len(world.truth.plain_runs), len(world.truth.prefect_runs)) == (1, 0)


@pytest.mark.parametrize("mode", ["deaf", "mute"])
def test_a_start_whose_answer_is_lost_is_repeated_with_its_key_and_never_made_plainly(
    sim: ModuleType, mode: str
) -> None:
    world = sim.World()
    world.rounds(3)
    world.truth.prefect = mode
    world.fail("us-east-1a")
    world.rounds(10)
    assert world.truth.plain_runs == []
    assert world.told()["start-unclear"] == 1
    world.truth.prefect = "up"
    world.rounds(2)
    assert (len(world.truth.prefect_runs), world.truth.plain_runs, world.told()["started"]) == (1, [], 1)


def test_a_holder_that_froze_before_its_start_was_recorded_finds_its_epoch_passed(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    holder = world.holder()
    world.fail("us-east-1a")
    world.rounds(3)
    others = [region for region in sim.REGIONS if region != holder]
    world.freeze(holder, at_step=13, meanwhile=lambda: world.rounds(12, *others))
    world.rounds(6)
    assert len(world.truth.runs) == 1
    assert world.holder() != holder
    assert world.hosts[holder].kinds()["started"] == 0


def test_an_announcement_that_fails_stops_nothing(sim: ModuleType) -> None:
    class Dead:
        def announce(self, notice: object) -> None:
            raise RuntimeError(str(notice))

    world = sim.World()
    world.rounds(3)
    for host in world.hosts.values():
        host.controller.announcers = (Dead(), host)
    world.fail("us-east-1a")
    world.rounds(8)
    assert len(world.truth.runs) == 1
    assert world.told()["started"] == 1


def test_a_started_runbook_that_never_shows_in_the_ledger_is_said_once(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(30)
    assert [text for text in notices(world, "start-unclear") if "no run of it has appeared" in text] != []
    assert world.told()["start-unclear"] == 1


def test_the_incident_of_a_start_is_noted_in_the_book(sim: ModuleType) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail("us-east-1a")
    world.rounds(6)
    world.open_incident(ZONE)
    world.rounds(2)
    host = world.hosts[world.holder()]
    assert host.controller.tenure.page.outages[ZONE].note.startswith("incident inc-")
