"""RB-DR-002, RB-DR-003 and the failback on the real lab: planned, killed, and cut off but alive.

The tests share one lab and run in this order, after those of test_runbooks.py; each ends with everything at home.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flows import failback, failover_watch, failovers, provider_state_backup
from tasks.failover_orders import Failback, RegionFailover, ZoneFailover
from tasks.key_hosts import holders_in_ledger
from tasks.observing import ask, in_sync
from tasks.orders import RegionJob
from tasks.outages import holders_of
from vedr.adapters.site import OpenSite
from vedr.chain.quorum import online_addresses
from vedr.custody import escrow_rotation
from vedr.custody.key_backup_collect import Owner, back_up, collect
from vedr.errors import RefusedError
from vedr.failover.key_disk import address_on
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS
from vedr.inventory import Height, Site
from vedr.lab import faults
from vedr.lab.plan import Plan
from vedr.runbook.order import Order
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

pytestmark = pytest.mark.lab

WAIT_S = 120.0
AIM_REGION_S = 180.0
QUIET_BLOCKS = 45  # 22 of quiet, and those of a node's start, its catching up and its first vote


@pytest.fixture(scope="module")
def opened(lab: Site, lab_plan: Plan) -> Iterator[OpenSite]:
    """The lab with every part running and the providers' state in the stores."""
    for region in lab_plan.regions:
        faults.heal(lab_plan, faults.find(lab_plan, region))
        faults.start(lab_plan, faults.find(lab_plan, region))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        perform(provider_state_backup.RUNBOOK, RegionJob(region="us-east", even_if_fresh=True))
        with OpenSite(lab) as site:
            yield site


def perform(runbook: Runbook[Any], order: Any) -> Outcome:
    """Run it plainly; it has to be completed within its target."""
    outcome = runbook.perform(order)
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    assert outcome.met
    return outcome


def results(opened: OpenSite, outcome: Outcome) -> dict[str, Any]:
    entries = opened.journal.read(outcome.run_id).entries
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}


def at_home(opened: OpenSite) -> bool:
    return all(holder == f"{validator}-signer" for validator, holder in holders_of(opened).items())


def witness(opened: OpenSite) -> Any:
    return opened.rpc(opened.site.node("fullnode-ap-south-1"), deadline_s=5)


def missed(opened: OpenSite, validator: str, first: int, last: int) -> list[int]:
    """The blocks in which its signature is missing."""
    address = bytes.fromhex(opened.site.node(validator).address)
    rpc = witness(opened)
    heights = map(Height, range(first, last + 1))
    return [h for h in heights if address not in online_addresses(rpc.commit(h).commit)]


def evidence(opened: OpenSite, first: int) -> list[int]:
    rpc = witness(opened)
    return [h for h in range(first, rpc.status().latest_height + 1) if rpc.block(Height(h)).evidence]


def await_standstill(opened: OpenSite) -> Height:
    """The height at which the chain halted."""
    rpc, deadline = witness(opened), time.monotonic() + WAIT_S
    since, height = time.monotonic(), rpc.status().latest_height
    while time.monotonic() - since < 8 * opened.site.chain.block_time_s:
        assert time.monotonic() < deadline, "the chain goes on"
        if (now := rpc.status().latest_height) != height:
            since, height = time.monotonic(), now
        time.sleep(0.25)
    return height


def await_sync(opened: OpenSite, place: str) -> None:
    """Until the full nodes of a zone or region are level with the others."""
    names = {n.name for n in opened.site.nodes if place in (n.zone, n.region) and not n.is_validator}
    deadline = time.monotonic() + WAIT_S
    while True:
        seen = in_sync(ask(opened, opened.site.nodes))
        tip = max(one.status.latest_height for one in seen)
        level = {one.node.name for one in seen if tip - one.status.latest_height <= MAX_HEALTHY_LAG_BLOCKS}
        if names <= level:
            return
        assert time.monotonic() < deadline, f"{sorted(names - level)} do not catch up"
        time.sleep(0.5)


def acknowledged(lab_plan: Plan) -> list[str]:
    lines = (lab_plan.folder / "load" / "acked.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines if line.endswith("}")]


def are_there(opened: OpenSite, keys: list[str]) -> bool:
    """Whether the state has every key, as a node far from the failure says."""
    url = opened.site.node("fullnode-ap-south-1").rpc
    with httpx.Client(timeout=5, trust_env=False) as client:
        return all(
            client.get(f"{url}/abci_query", params={"path": '"/key"', "data": f"0x{key.encode().hex()}"}).json()[
                "result"
            ]["response"]["code"]
            == 0
            for key in keys
        )


def test_a_healthy_region_is_not_failed_over(opened: OpenSite) -> None:
    before = holders_of(opened)
    with pytest.raises(RefusedError, match="serves"):
        failovers.REGION.perform(RegionFailover(region="us-east"))
    assert holders_of(opened) == before


def test_a_zone_is_emptied_for_maintenance_with_at_most_one_block_missed(opened: OpenSite) -> None:
    first = witness(opened).status().latest_height
    outcome = perform(failovers.ZONE, ZoneFailover(zone="us-east-1b", mode="planned"))
    last = witness(opened).status().latest_height
    assert holders_of(opened)["validator-us-east-1"] == "validator-us-east-1-at-fullnode-us-east-2"
    assert len(missed(opened, "validator-us-east-1", first + 1, last - 1)) <= 1
    assert results(opened, outcome)["shift_traffic"]["backends"]
    perform(failback.RUNBOOK, Failback(place="us-east-1b"))
    assert at_home(opened)
    assert not evidence(opened, first)


def test_a_lost_region_halts_the_chain_and_everything_comes_back_elsewhere(opened: OpenSite, lab_plan: Plan) -> None:
    first = witness(opened).status().latest_height
    region = faults.find(lab_plan, "us-east")
    faults.kill(lab_plan, region)
    halted = await_standstill(opened)
    acked = acknowledged(lab_plan)
    outcome = perform(failovers.REGION, RegionFailover(region="us-east"))
    assert outcome.total_ms / 1000 <= AIM_REGION_S
    done = results(opened, outcome)
    assert done["verify_service"]["signing"] == ["validator-us-east-0", "validator-us-east-1"]
    assert set(done["verify_service"]["providers"]) == {"provider-eu-west-1", "provider-ap-south-1"}
    assert witness(opened).status().latest_height > halted
    assert are_there(opened, acked[-200:])  # no acknowledged transaction is lost
    faults.start(lab_plan, region)
    await_sync(opened, "us-east")
    perform(failback.RUNBOOK, Failback(place="us-east"))
    assert at_home(opened)
    assert not evidence(opened, first)


def test_a_zone_that_is_only_cut_off_never_signs_again_with_a_key_that_was_moved(
    opened: OpenSite, lab_plan: Plan
) -> None:
    """It is alive behind the cut, and comes back in the middle of everything."""
    first = witness(opened).status().latest_height
    zone = faults.find(lab_plan, "us-east-1b")
    faults.cut(lab_plan, zone)
    try:
        perform(failovers.ZONE, ZoneFailover(zone="us-east-1b"))
    finally:
        faults.heal(lab_plan, zone)
    height = witness(opened).status().latest_height
    deadline = time.monotonic() + WAIT_S
    unit = opened.site.signers_of("validator-us-east-1")[0].unit
    while opened.fleet.status(unit, "us-east-1b").state == "running":  # it learns from the registers that it is over
        assert time.monotonic() < deadline, "the old signer goes on"
        time.sleep(0.5)
    assert holders_of(opened)["validator-us-east-1"] == "validator-us-east-1-at-fullnode-us-east-2"
    assert not missed(opened, "validator-us-east-1", height, witness(opened).status().latest_height - 1)
    await_sync(opened, "us-east-1b")
    perform(failback.RUNBOOK, Failback(place="us-east-1b"))
    assert at_home(opened)
    assert not evidence(opened, first)


def test_a_key_file_leaves_a_zone_that_is_emptied_and_comes_home_silent_only_as_long_as_quiet_takes(
    opened: OpenSite,
) -> None:
    validator, home = "validator-eu-west-1", opened.site.node("validator-eu-west-1")
    back_up_key(opened, validator)
    first = witness(opened).status().latest_height
    perform(failovers.ZONE, ZoneFailover(zone="eu-west-1b", mode="planned"))
    away = witness(opened).status().latest_height
    assert holders_in_ledger(opened) == {validator: "fullnode-ap-south-0"}
    assert not (home.home / "data").exists()
    assert len(missed(opened, validator, first + 1, away - 1)) <= QUIET_BLOCKS
    perform(failback.RUNBOOK, Failback(place="eu-west-1b"))
    last = witness(opened).status().latest_height
    assert holders_in_ledger(opened) == {validator: validator}
    assert len(missed(opened, validator, away + 1, last - 1)) <= QUIET_BLOCKS
    assert address_on(opened.site.node("fullnode-ap-south-0").home) != home.address
    assert not evidence(opened, first)


def test_a_key_file_of_a_killed_zone_stays_and_the_rest_completes(opened: OpenSite, lab_plan: Plan) -> None:
    zone = faults.find(lab_plan, "eu-west-1b")
    faults.kill(lab_plan, zone)
    try:
        outcome = perform(failovers.ZONE, ZoneFailover(zone="eu-west-1b"))
    finally:
        faults.start(lab_plan, zone)
    left = {one["name"]: one["reason"] for one in results(opened, outcome)["decide"]["left"]}
    assert "nothing can prove its hosts fenced" in left["validator-eu-west-1"]
    await_sync(opened, "eu-west-1b")
    perform(failback.RUNBOOK, Failback(place="eu-west-1b"))
    assert at_home(opened)


def back_up_key(opened: OpenSite, validator: str) -> None:
    if not opened.keys.escrow.epochs("validator"):  # a lab that is only just up
        escrow_rotation.rotate(opened.keys, "validator", opened.site.regions_by_priority, print)
    one = Owner("validator", validator, opened.site.node(validator).region)
    collected = collect(opened.site, opened.files, one, now=opened.keys.clock())
    back_up(opened.keys, one, collected, even_if_fresh=True)


def test_what_was_moved_is_watched_afterwards(opened: OpenSite) -> None:
    outcome = perform(failover_watch.RUNBOOK, Order())
    looked = results(opened, outcome)["look_after"]
    assert len(looked["runs"]) >= 6
    assert set(looked["validators"]) == {"validator-us-east-0", "validator-us-east-1", "validator-eu-west-1"}


def test_the_record_of_all_of_this_is_whole(opened: OpenSite) -> None:
    for run_id in opened.journal.runs():
        opened.journal.heal(run_id)
    assert opened.journal.verify().entries
