"""The whole lab: real nodes in three regions, cut, killed and brought back."""

import json
import time
from collections.abc import Callable

import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import httpx
import pytest

from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.secrets import resolve
from vedr.adapters.site import open_site
from vedr.errors import UnavailableError
from vedr.inventory import Site
from vedr.lab import corruption, faults, lifecycle
from vedr.lab.plan import Plan
from vedr.lab.status import LabStatus, NodeRow, observe
from vedr.ports import ObjectKey

pytestmark = pytest.mark.lab

WITHIN_S = 120.0  # on a busy machine; on an idle one seconds


def quiet(_title: str, _detail: str, _took_s: float) -> None:
    pass


def eventually(plan: Plan, what: str, holds: Callable[[LabStatus], bool]) -> LabStatus:
    deadline = time.monotonic() + WITHIN_S
    while True:
        seen = observe(plan)
        if holds(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}; last seen: {seen}"
        time.sleep(0.2)


def row(seen: LabStatus, name: str) -> NodeRow:
    return next(node for node in seen.nodes if node.name == name)


def healthy(seen: LabStatus) -> bool:
    level = max(node.height or 0 for node in seen.nodes)
    return all(node.height and node.peers and node.height > level - 5 and not node.catching_up for node in seen.nodes)


def grown(seen: LabStatus, since: LabStatus, blocks: int = 2) -> bool:
    return (seen.height or 0) >= (since.height or 0) + blocks


@pytest.fixture
def calm(lab: Site, lab_plan: Plan) -> Site:
    """The lab with every node up and level, before and for each test."""
    for region in lab_plan.regions:
        faults.heal(lab_plan, faults.find(lab_plan, region))
        faults.start(lab_plan, faults.find(lab_plan, region))
    eventually(lab_plan, "every node runs and is level", healthy)
    return lab


@pytest.mark.usefixtures("calm")
def test_every_node_has_its_part_and_the_chain_moves(lab_plan: Plan) -> None:
    before = observe(lab_plan)
    assert (before.online_power, before.total_power, before.can_commit) == (50, 50, True)
    eventually(lab_plan, "two more blocks", lambda seen: grown(seen, before))


@pytest.mark.usefixtures("calm")
def test_everything_beside_the_nodes_answers(lab_plan: Plan) -> None:
    eventually(
        lab_plan,
        "all parts run and answer",
        lambda seen: all(
            part.state == "running" and part.answers is not False for part in seen.parts if not part.reserve
        ),
    )


def test_a_cut_zone_is_unreachable_its_processes_go_on_and_it_rejoins(calm: Site, lab_plan: Plan) -> None:
    zone = faults.find(lab_plan, "eu-west-1b")
    faults.cut(lab_plan, zone)
    cut = eventually(lab_plan, "unreachable", lambda seen: row(seen, "validator-eu-west-1").height is None)
    assert row(cut, "validator-eu-west-1").state == "running"
    assert next(z for z in cut.zones if z.name == "eu-west-1b").cut
    with open_site(calm.name) as opened, pytest.raises(UnavailableError):
        opened.fleet.status("validator-eu-west-1", "eu-west-1b")
    eventually(lab_plan, "four of five validators go on", lambda seen: grown(seen, cut))
    faults.heal(lab_plan, zone)
    eventually(lab_plan, "level again", healthy)


@pytest.mark.usefixtures("calm")
def test_losing_a_region_with_two_validators_halts_the_chain_until_it_is_back(lab_plan: Plan) -> None:
    region = faults.find(lab_plan, "eu-west")
    faults.cut(lab_plan, region)
    halted = eventually(lab_plan, "too little power", lambda seen: not seen.can_commit)
    assert (halted.online_power, halted.total_power) == (30, 50)
    faults.heal(lab_plan, region)
    eventually(lab_plan, "blocks again", lambda seen: grown(seen, halted))


@pytest.mark.usefixtures("calm")
def test_a_killed_node_stays_down_until_somebody_starts_it(lab_plan: Plan) -> None:
    node = faults.find(lab_plan, "fullnode-ap-south-0")
    faults.kill(lab_plan, node)
    dead = observe(lab_plan)
    assert row(dead, "fullnode-ap-south-0").state == "failed"
    eventually(lab_plan, "the others go on", lambda seen: grown(seen, dead))
    assert row(observe(lab_plan), "fullnode-ap-south-0").height is None
    faults.start(lab_plan, node)
    eventually(lab_plan, "level again", healthy)


@pytest.mark.usefixtures("calm")
def test_a_killed_zone_loses_everything_and_comes_back_as_it_was(lab_plan: Plan) -> None:
    zone = faults.find(lab_plan, "us-east-1a")
    faults.kill(lab_plan, zone)
    dead = observe(lab_plan)
    assert not next(z for z in dead.zones if z.name == "us-east-1a").supervisor
    assert {n.state for n in dead.nodes if n.zone == "us-east-1a"} == {"no supervisor"}
    faults.start(lab_plan, zone)
    eventually(lab_plan, "level again", healthy)


@pytest.mark.usefixtures("calm")
def test_up_again_starts_what_is_missing_and_leaves_the_rest(lab_plan: Plan) -> None:
    faults.kill(lab_plan, faults.find(lab_plan, "ap-south-1b"))
    faults.kill(lab_plan, faults.find(lab_plan, "validator-us-east-0"))
    lifecycle.up(lab_plan, quiet, deploy=False)
    eventually(lab_plan, "all level", healthy)


def test_a_wiped_node_fails_closed_without_sign_state_and_then_fetches_every_block(calm: Site, lab_plan: Plan) -> None:
    name = "fullnode-us-east-2"
    faults.kill(lab_plan, faults.find(lab_plan, name))
    home = calm.node(name).home
    corruption.corrupt(home, "wipe-data", record=lab_plan.folder / "faults.jsonl")
    faults.start(lab_plan, faults.find(lab_plan, name))
    eventually(lab_plan, "it ends by itself", lambda seen: row(seen, name).state == "failed")
    fresh = {"height": "0", "round": 0, "step": 0}  # a full node's key is no validator's: nothing can be signed twice
    (home / "data" / "priv_validator_state.json").write_text(json.dumps(fresh))
    faults.start(lab_plan, faults.find(lab_plan, name))
    eventually(lab_plan, "level again", healthy)


def test_a_gateway_answers_while_one_of_its_nodes_is_dead(calm: Site, lab_plan: Plan) -> None:
    faults.kill(lab_plan, faults.find(lab_plan, "fullnode-eu-west-0"))
    gateway = next(gateway for gateway in calm.gateways if gateway.region == "eu-west")
    for _ in range(6):
        with HttpChainRpc(gateway.url, deadline_s=10) as rpc:
            assert rpc.status().chain_id == calm.chain.chain_id


def test_records_change_with_the_key_and_not_without(calm: Site) -> None:
    assert calm.dns is not None
    assert calm.dns.key is not None
    algorithm, name, secret = resolve(calm.dns.key).decode().split(":")
    ring = dns.tsigkeyring.from_text({name: secret})
    for keyring, expected in ((None, dns.rcode.NOTAUTH), (ring, dns.rcode.NOERROR)):
        update = dns.update.UpdateMessage(calm.dns.zone, keyring=keyring, keyalgorithm=algorithm)
        update.replace("proof", 5, "A", "192.0.2.1")
        answer = dns.query.tcp(update, calm.dns.server, port=calm.dns.port, timeout=5)
        assert answer.rcode() in {expected, dns.rcode.REFUSED if keyring is None else expected}
    question = dns.message.make_query(f"proof.{calm.dns.zone}", "A")
    assert "192.0.2.1" in str(dns.query.udp(question, calm.dns.server, port=calm.dns.port, timeout=5))


def test_stores_are_versioned_and_each_region_has_its_own_keys(calm: Site) -> None:
    with open_site(calm.name) as opened:
        for store in opened.stores.values():
            assert store.create(ObjectKey("lab-test/once"), b"1").version
    assert len({resolve(region.store.credentials or "") for region in calm.regions.values()}) == len(calm.regions)


def test_prefect_has_an_online_worker_in_every_pool(calm: Site) -> None:
    pools = {*(region.work_pool for region in calm.regions.values()), "ops"}
    deadline = time.monotonic() + WITHIN_S
    while True:
        answer = httpx.post(f"{calm.orchestrator.api_url}/work_pools/filter", json={}, trust_env=False, timeout=30)
        online = {pool["name"] for pool in answer.json() if pool["status"] == "READY"}
        if pools <= online:
            return
        assert time.monotonic() < deadline, f"pools with a worker: {online}"
        time.sleep(0.5)
