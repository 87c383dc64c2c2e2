"""Checks of nodes, peers, state sync, services and names, on a made chain."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from network_world import FIVE, FORK, LENGTH, NOW, NOW_NS, POLICY, Net, chainmaker

from vedr.chain.light import LightClient
from vedr.errors import VerificationFailedError
from vedr.inventory import Dns, Site
from vedr.readiness import network
from vedr.readiness.finding import Verdict
from vedr.readiness.ports import NameAnswer

# --- node health


def test_a_healthy_chain_passes(net: Net) -> None:
    verdict = net.health_of_nodes()
    assert verdict.status == "passed", verdict
    assert "100% of the power signed" in verdict.observed


def _kill(node: Any) -> None:
    node.down = True


def _sync(node: Any) -> None:
    node.behind = True


def _far_behind(node: Any) -> None:
    node.tip = LENGTH - 11


def _stranger(node: Any) -> None:
    node.chain_id = "other-1"


def _broken(node: Any) -> None:
    node.fault = ZeroDivisionError("a parser's fault")


@pytest.mark.parametrize("fault", [_kill, _sync, _far_behind, _stranger, _broken])
def test_one_sick_node_fails_and_is_named(net: Net, fault: Callable[[Any], None]) -> None:
    fault(net.nodes["full-eu-west-1a"])
    verdict = net.health_of_nodes()
    assert verdict.status == "failed", verdict
    assert verdict.observed.startswith("full-eu-west-1a: ")
    assert "full-eu-west-1a" in verdict.remedy or "address" in verdict.remedy


def test_a_node_somewhat_behind_is_a_warning(net: Net) -> None:
    net.nodes["full-eu-west-1a"].tip = LENGTH - 6
    assert net.health_of_nodes().status == "warning"


def test_a_halted_chain_fails_although_every_node_answers(net: Net) -> None:
    verdict = network.node_health(net.site, net.rpc, POLICY, NOW + dt.timedelta(seconds=60))
    assert verdict.status == "failed"
    assert "newest block is" in verdict.observed


def test_a_halted_chain_does_not_pass_by_a_clock_that_is_behind(net: Net) -> None:
    """The newest block's age was below nothing, and so below every limit."""
    verdict = network.node_health(net.site, net.rpc, POLICY, NOW - dt.timedelta(minutes=30))
    assert (verdict.status, "in the future" in verdict.observed) == ("failed", True), verdict
    assert "clock" in verdict.remedy


@pytest.mark.parametrize(("silent", "status"), [(1, "warning"), (2, "failed")])
def test_validators_that_do_not_sign_warn_until_too_much_power_is_gone(net: Net, silent: int, status: str) -> None:
    signers = range(1, 6 - silent)
    chain = chainmaker.make_chain(LENGTH, lambda _height: FIVE, signers_at=lambda _height: signers)
    for node in net.nodes.values():
        node.blocks = chain
    verdict = net.health_of_nodes()
    assert (verdict.status, "of the power signed" in verdict.observed) == (status, True), verdict


def test_a_vote_that_came_after_the_newest_commit_was_complete_is_no_absence(net: Net) -> None:
    chain = chainmaker.make_chain(
        LENGTH, lambda _height: FIVE, signers_at=lambda height: range(1, 6) if height < LENGTH else range(1, 5)
    )
    for node in net.nodes.values():
        node.blocks = chain
    assert net.health_of_nodes().status == "passed"


def test_with_no_node_answering_nothing_passes(net: Net) -> None:
    for node in net.nodes.values():
        node.down = True
    assert net.health_of_nodes().status == "failed"
    assert net.connectivity().status == "failed"


# --- connectivity


def test_peers_everywhere_pass(net: Net) -> None:
    assert net.connectivity().status == "passed"


def test_one_region_cut_off_is_a_warning_and_named_two_are_a_failure(net: Net) -> None:
    def cut(*regions: str) -> None:
        for node in net.site.nodes:
            inside = [one.name for one in net.site.nodes if one.region == node.region]
            near = [one.name for one in net.site.nodes if one.region not in regions]
            net.nodes[node.name].peers = tuple(inside if node.region in regions else near)

    cut("ap-south")
    verdict = net.connectivity()
    assert verdict.status == "warning"
    assert "ap-south: no peer in us-east, eu-west" in verdict.observed
    assert verdict.remedy
    cut("ap-south", "eu-west")
    assert net.connectivity().status == "failed"


def test_a_strangers_peers_are_no_regions(net: Net) -> None:
    for node in net.nodes.values():
        node.peers = ("somebody", "else")
    assert net.connectivity().status == "failed"


# --- state sync


@pytest.fixture
def look_at_state_sync(net: Net, tmp_path: Path) -> Callable[[], Verdict]:
    def headers() -> LightClient:
        sources = [net.nodes[node.name] for node in net.site.nodes if not node.is_validator]
        return LightClient(net.site.chain, sources, tmp_path / "trust", now_ns=lambda: NOW_NS, wait_s=0.0)

    return lambda: network.state_sync_endpoints(net.site, net.rpc, headers, POLICY)


def test_full_nodes_in_every_region_serve_state_sync(look_at_state_sync: Callable[[], Verdict]) -> None:
    assert look_at_state_sync().status == "passed"


def test_state_sync_in_two_of_three_regions_is_a_warning_in_one_a_failure(
    net: Net, look_at_state_sync: Callable[[], Verdict]
) -> None:
    for node in net.region("ap-south"):
        node.behind = True
    verdict = look_at_state_sync()
    assert verdict.status == "warning", verdict
    assert "ap-south" in verdict.observed
    for node in net.region("eu-west"):
        node.behind = True
    assert look_at_state_sync().status == "failed"


def test_a_forked_endpoint_never_counts(net: Net, look_at_state_sync: Callable[[], Verdict]) -> None:
    for region in ("eu-west", "ap-south"):
        for node in net.region(region):
            node.blocks = FORK
    with pytest.raises(VerificationFailedError):  # the runner makes a failed finding of it
        look_at_state_sync()


def test_nodes_without_snapshots_are_a_warning(net: Net, look_at_state_sync: Callable[[], Verdict]) -> None:
    chain = net.site.chain.model_copy(update={"state_sync_interval": 0})
    net.site = net.site.model_copy(update={"chain": chain})
    assert look_at_state_sync().status == "warning"


# --- services and names


def test_every_service_must_be_well(net: Net) -> None:
    assert network.service_health(net.site, net, POLICY).status == "passed"
    net.sick.add("provider-eu-west")
    verdict = network.service_health(net.site, net, POLICY)
    assert verdict.status == "failed"
    assert "provider-eu-west: HTTP 503" in verdict.observed


def test_reserves_may_be_stopped_but_not_all_services_may_be_reserves(net: Net) -> None:
    net.sick.add("provider-eu-west")

    def reserved(names: tuple[str, ...]) -> Site:
        providers = tuple(p.model_copy(update={"reserve": p.name in names}) for p in net.site.providers)
        return net.site.model_copy(update={"providers": providers})

    assert network.service_health(reserved(("provider-eu-west",)), net, POLICY).status == "passed"
    nobody = reserved(tuple(p.name for p in net.site.providers)).model_copy(update={"gateways": ()})
    assert network.service_health(nobody, net, POLICY).status == "failed"


def test_names_that_resolve_to_our_gateways_pass(net: Net) -> None:
    assert network.dns_health(net.site, net, POLICY).status == "passed"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (NameAnswer((), 0), "failed", "no address"),
        (NameAnswer(("6.6.6.6",), 60), "failed", "points to 6.6.6.6"),
        (NameAnswer(("10.0.1.1", "6.6.6.6"), 60), "failed", "points to 6.6.6.6"),
        (NameAnswer(("10.0.1.1",), 3600), "warning", "TTL 3600 s"),
    ],
)
def test_a_wrong_answer_for_one_name_is_found(net: Net, answer: NameAnswer, status: str, words: str) -> None:
    net.names["rpc-eu-west.test"] = answer
    verdict = network.dns_health(net.site, net, POLICY)
    assert (verdict.status, words in verdict.observed) == (status, True), verdict


def named_gateways(net: Net) -> Site:
    """As in production: gateways by name, one of them by the very name that users ask for."""
    for gateway in net.site.gateways:
        net.names[f"{gateway.name}.test"] = NameAnswer((urlsplit(gateway.url).hostname or "",), 60)
    urls = {gateway.name: f"https://{gateway.name}.test:8443" for gateway in net.site.gateways}
    urls["gateway-us-east"] = "https://rpc-us-east.test"
    gateways = tuple(gateway.model_copy(update={"url": urls[gateway.name]}) for gateway in net.site.gateways)
    return net.site.model_copy(update={"gateways": gateways})


def test_strangers_are_found_also_where_gateways_have_names(net: Net) -> None:
    """Where any gateway had a name, no answer was compared with anything."""
    site = named_gateways(net)
    assert network.dns_health(site, net, POLICY).status == "passed"
    net.names["api.test"] = NameAnswer(("6.6.6.6",), 60)
    verdict = network.dns_health(site, net, POLICY)
    assert (verdict.status, verdict.observed.startswith("api: points to 6.6.6.6")) == ("failed", True), verdict


def test_names_that_can_be_compared_with_nothing_do_not_pass(net: Net) -> None:
    site = named_gateways(net)
    del net.names["gateway-eu-west.test"]
    verdict = network.dns_health(site, net, POLICY)
    assert (verdict.status, "gateway-eu-west.test can't be resolved" in verdict.observed) == ("could not run", True)
    nobody = network.dns_health(net.site.model_copy(update={"gateways": ()}), net, POLICY)
    assert (nobody.status, "names no gateway" in nobody.observed) == ("failed", True)


def test_a_site_without_a_zone_has_nothing_to_look_at(net: Net) -> None:
    verdict = network.dns_health(net.site.model_copy(update={"dns": None}), net, POLICY)
    assert (verdict.status, verdict.observed) == ("failed", "nothing to look at")


def test_a_zones_names_may_be_the_sites_own(net: Net) -> None:
    policy = POLICY.model_copy(update={"dns_names": ("www",)})
    assert network.dns_health(net.site, net, policy).status == "failed"
    net.names["www.test"] = NameAnswer(("10.0.0.1",), 60)
    assert network.dns_health(net.site, net, policy).status == "passed"
    assert isinstance(net.site.dns, Dns)
