"""The lab on paper: topology, addresses and what is derived from them."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vedr.errors import InvalidInputError
from vedr.lab import agents, gateway, names, network, orchestrator, prefect_front, status_page, testnet, units
from vedr.lab.addresses import P2P_PORT, RPC_PORT, Addresses, Mode
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Member, Plan, Zone

MODES: tuple[Mode, ...] = ("namespaces", "relays")
LONGEST_DEVICE_NAME = 15  # IFNAMSIZ - 1


def in_mode(plan: Plan, mode: Mode) -> Plan:
    return Plan(replace(plan.settings, mode=mode), plan.template)


def members(plan: Plan) -> list[Member]:
    return [*plan.nodes, *plan.providers, *plan.gateways, *plan.stores.values()]


def test_the_topology_is_virtengines(plan: Plan) -> None:
    assert {region: sum(z.region == region for z in plan.zones) for region in plan.regions} == dict.fromkeys(
        ("us-east", "eu-west", "ap-south"), 2
    )
    assert [len(plan.nodes_in(r, "validator")) for r in plan.regions] == [2, 2, 1]
    assert [len(plan.nodes_in(r, "full", "archive")) for r in plan.regions] == [3, 2, 2]
    assert [len(plan.nodes_in(r, "archive")) for r in plan.regions] == [1, 1, 1]
    assert [sum(p.zone.region == r and not p.reserve for p in plan.providers) for r in plan.regions] == [2, 1, 1]
    assert {g.zone.region for g in plan.gateways} == set(plan.regions)
    assert {node.power for node in plan.nodes if node.role == "validator"} == {10}


@pytest.mark.parametrize("mode", MODES)
def test_no_two_parts_listen_on_one_address(plan: Plan, mode: Mode) -> None:
    chosen = in_mode(plan, mode)
    taken = Counter(chosen.listen(member, RPC_PORT) for member in members(chosen))
    assert max(taken.values()) == 1


def test_relays_cover_every_way_between_zones_and_share_no_address_with_a_part(plan: Plan) -> None:
    chosen = in_mode(plan, "relays")
    doors = [door for zone in chosen.zones for door in agents.relays(chosen, zone)]
    listening = [door["listen"] for door in doors]
    assert len(set(listening)) == len(listening)
    assert not set(listening) & {chosen.listen(m, port) for m in members(chosen) for port in (P2P_PORT, RPC_PORT)}
    for member in members(chosen)[: len(chosen.nodes)]:
        assert chosen.published(member, RPC_PORT) in listening
        for zone in chosen.zones:
            if zone != member.zone:
                assert chosen.dialled(member, P2P_PORT, from_zone=zone) in listening


def test_a_peer_in_another_zone_is_dialled_through_a_relay_of_the_dialling_zone(plan: Plan) -> None:
    chosen = in_mode(plan, "relays")
    for described in testnet.network_plan(chosen)["nodes"]:
        own = next(node for node in chosen.nodes if node.name == described["name"])
        outward = {door["listen"] for door in agents.relays(chosen, own.zone)}
        for peer in chosen.nodes:
            if peer.zone != own.zone:
                assert described["dial_via"][peer.name] in outward


@pytest.mark.parametrize("network_name", ["10.77", "172.16", "192.168"])
def test_device_names_fit_the_kernel(plan: Plan, network_name: str) -> None:
    chosen = Plan(replace(plan.settings, network=network_name), plan.template)
    names_of_devices = [network.bridge(chosen), *(network.port(chosen, zone) for zone in chosen.zones)]
    assert max(map(len, names_of_devices)) <= LONGEST_DEVICE_NAME


@pytest.mark.parametrize("wrong", ["8.8", "10", "10.77.0", "10.300", "a.b", "127.1.2"])
def test_a_network_that_is_not_private_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="private network"):
        Addresses(wrong, "namespaces")


def test_two_labs_share_no_address_and_no_device(plan: Plan) -> None:
    other = Plan(replace(plan.settings, name="other", network="10.80", port_base=4500), plan.template)
    for mode in MODES:
        mine, theirs = in_mode(plan, mode), in_mode(other, mode)
        assert not {mine.listen(m, 1) for m in members(mine)} & {theirs.listen(m, 1) for m in members(theirs)}
    assert network.bridge(plan) != network.bridge(other)


def test_every_path_lies_in_the_labs_folder(plan: Plan) -> None:
    LabSecrets(plan.folder).create_missing(plan)
    for zone in (*plan.zones, None):
        for unit in units.of_zone(plan, zone):
            assert unit.log.is_relative_to(plan.folder)
            assert unit.cwd.is_relative_to(plan.folder) or unit.cwd == plan.settings.project


def test_no_secret_stands_on_a_command_line(plan: Plan) -> None:
    secrets = LabSecrets(plan.folder)
    secrets.create_missing(plan)
    words = " ".join(word for z in (*plan.zones, None) for unit in units.of_zone(plan, z) for word in unit.argv)
    values = [path.read_text(encoding="utf-8").strip() for path in secrets.folder.iterdir()]
    values += [secret for region in plan.regions for secret in secrets.read_store_credentials(region)]
    assert values
    assert not [value for value in values if value in words]


def test_each_region_has_one_store_and_one_worker_in_its_first_zone(plan: Plan) -> None:
    LabSecrets(plan.folder).create_missing(plan)
    where: dict[str, list[Zone]] = {}
    for zone in plan.zones:
        for unit in units.of_zone(plan, zone):
            where.setdefault(unit.name, []).append(zone)
    for region in plan.regions:
        assert where[f"s3-{region}"] == [plan.first_zone(region)]
        assert where[units.worker_name(region)] == [plan.first_zone(region)]


def test_every_host_that_a_key_file_may_be_on_has_a_shipper_for_it_beside_its_disk(plan: Plan) -> None:
    LabSecrets(plan.folder).create_missing(plan)
    shipping = {
        (unit.argv[unit.argv.index("--host") + 1], validator): zone
        for zone in plan.zones
        for unit in units.of_zone(plan, zone)
        if "sign-state" in unit.argv
        for word, validator in itertools.pairwise(unit.argv)
        if word == "--validator"
    }
    by_name = {node.name: node for node in plan.nodes}
    in_files = [node for node in plan.nodes if node.role == "validator" and not node.standbys]
    hosts = [(host, node.name) for node in in_files for host in (node.name, *node.key_hosts)]
    assert shipping == {(host, validator): by_name[host].zone for host, validator in hosts}
    assert len(shipping) > len(in_files)


def test_nodes_are_restarted_when_their_zone_boots_and_never_behind_a_runbooks_back(plan: Plan) -> None:
    LabSecrets(plan.folder).create_missing(plan)
    node_names = {node.name for node in plan.nodes}
    found = [unit for zone in plan.zones for unit in units.of_zone(plan, zone) if unit.name in node_names]
    assert {unit.restart for unit in found} == {"at-boot"}


def test_a_gateway_serves_from_its_own_regions_full_nodes_only(plan: Plan) -> None:
    entry = plan.gateways[0]
    text = gateway.nginx_config(plan, entry, Path("/x"), as_root=True)
    for node in plan.nodes:
        served = node.zone.region == entry.zone.region and node.role != "validator"
        assert (plan.published(node, RPC_PORT) in text) == served


def test_the_zone_answers_for_every_region_and_the_api(plan: Plan) -> None:
    text = names.zone_file(plan)
    for name in (*(f"rpc-{region}" for region in plan.regions), "rpc", "api"):
        assert f"{name}.paper.virtengine.test." in text


def test_metrics_and_the_status_page_stand_outside_all_zones_each_at_a_port_of_its_own(plan: Plan) -> None:
    outside = {unit.name: unit for unit in units.of_zone(plan, None)}
    assert plan.metrics_address in outside[units.METRICS_UNIT].argv
    assert not outside[units.METRICS_UNIT].reserve
    served = f"listen {plan.addresses.ops}:{plan.status_page_port} ssl;"
    assert served in status_page.nginx_config(plan, as_root=True)
    ports = [plan.settings.port_base, plan.dns_port, plan.vault_port, plan.status_page_port]
    ports.append(plan.orchestrator_server_port)
    ports += [int(address.rpartition(":")[2]) for address in (plan.metrics_address, plan.agent_address(None))]
    assert len(set(ports)) == len(ports)


def test_prefect_is_reached_through_its_front_at_the_port_that_users_know_and_never_without_it(plan: Plan) -> None:
    outside = {unit.name: unit for unit in units.of_zone(plan, None)}
    front, server = outside[units.FRONT_UNIT], outside[units.SERVER_UNIT]
    prefect_front.write_config(plan)
    written = Path(front.argv[front.argv.index("-c") + 1]).read_text(encoding="utf-8")
    known, behind = (f"{plan.addresses.ops}:{port}" for port in (4400, 4457))
    assert plan.orchestrator_url == f"http://{known}"
    assert f"listen {known};" in written
    assert written.count(f"server {behind} max_fails=0;") == prefect_front.TRIES
    assert server.argv[-4:] == ("--host", plan.addresses.ops, "--port", "4457")
    assert orchestrator.environment(plan)["PREFECT_API_URL"] == f"http://{known}/api"
    assert (front.wave, front.reserve, front.restart) == (server.wave, False, "on-failure")
