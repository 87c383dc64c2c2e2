"""Checks of what users and operators reach: nodes, peers, state sync, services, names.

Guarantees: every node, region and name is asked side by side; one that does not answer costs its own deadline.
Leaves out: the meaning of a loss for consensus (topology), and repair.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from itertools import filterfalse
from typing import Final
from urllib.parse import urlsplit

from vedr.chain import quorum
from vedr.chain.block import ValidatorSet
from vedr.chain.light import VerifiedHeader
from vedr.chain.rpc import ChainRpc, NetInfo, Status, signing_lately
from vedr.errors import VerificationFailedError
from vedr.inventory import Dns, Height, Node, Site
from vedr.policies.checks import Checks
from vedr.readiness.ages import duration
from vedr.readiness.examining import examine
from vedr.readiness.finding import Part, Verdict, combine, combine_at_least, look_at, part_of, worst
from vedr.readiness.ports import Headers, NameAnswer, NetworkProbes
from vedr.readiness.side_by_side import Answer, side_by_side

Rpc = Callable[[Node], ChainRpc]
NS_PER_S: Final = 1_000_000_000
_START: Final = "Look at its unit and log; bring it back with vedr run RB-DR-001 --node {}."


# --- node health


def node_health(site: Site, rpc: Rpc, policy: Checks, now: dt.datetime) -> Verdict:
    """Every node answers, is of the chain, in sync, near the tip; the chain moves; enough power signs."""
    answers = _ask(site.nodes, lambda node: rpc(node).status(), policy)
    parts = judge_nodes(answers, chain_id=site.chain.chain_id, policy=policy, now=now)
    if parts:
        parts.append(look_at("consensus", partial(_consensus, site, rpc, answers, policy)))
    return combine(
        parts,
        expected=f"every node in sync, within {policy.warn_behind_blocks} blocks, newest block under "
        f"{policy.tip_max_age_s} s old, {policy.min_power_online:.0%} of the power signing",
        nothing="Name the site's nodes in its file.",
        summary=f"{len(site.nodes)} nodes; {parts[-1].observed if parts else ''}",
    )


def judge_nodes(
    answers: Mapping[str, Answer[Status]], *, chain_id: str, policy: Checks, now: dt.datetime
) -> list[Part]:
    """Pure: what the nodes' statuses amount to."""
    known = [answer.value for answer in answers.values() if answer.value is not None]
    tip = max((status.latest_height for status in known if status.chain_id == chain_id), default=0)
    parts = []
    for name, answer in answers.items():
        if answer.value is None:  # a node that does not answer is not healthy
            why = part_of(name, answer.error or TimeoutError()).observed
            parts.append(Part(name, "failed", why, _START.format(name)))
        elif answer.value.chain_id != chain_id:
            wrong = f"runs chain {answer.value.chain_id}"
            parts.append(Part(name, "failed", wrong, "Correct its address in the site file."))
        else:
            age_s = now.timestamp() - answer.value.latest_time_ns / NS_PER_S
            parts.append(_judge_node(name, answer.value, tip - answer.value.latest_height, age_s, policy))
    return parts


def _judge_node(name: str, status: Status, behind: int, age_s: float, policy: Checks) -> Part:
    if status.catching_up:
        return Part(name, "failed", f"catching up, {behind} blocks behind", _START.format(name))
    if behind > policy.max_behind_blocks:
        return Part(name, "failed", f"{behind} blocks behind", _START.format(name))
    if age_s < -policy.tip_max_age_s:  # by such clocks a chain that stands still looks as if it moved
        remedy = "Set this host's clock right, and the validators', then check again."
        return Part(name, "failed", f"newest block is dated {duration(-age_s)} in the future", remedy)
    if age_s > policy.tip_max_age_s:
        remedy = "Is the chain halted?  Compare all nodes: vedr lab status, or their /status; then RB-DR-003."
        return Part(name, "failed", f"newest block is {duration(age_s)} old", remedy)
    if behind > policy.warn_behind_blocks:
        return Part(name, "warning", f"{behind} blocks behind", "Watch it: it should close the gap by itself.")
    return Part(name, "passed", f"at {status.latest_height}")


def _consensus(site: Site, rpc: Rpc, answers: Mapping[str, Answer[Status]], policy: Checks) -> Part:
    """Who took part in the newest commits, asked of the first node that is at the tip."""
    best = max(
        (node for node in site.nodes if answers[node.name].error is None),
        key=lambda node: answers[node.name].get().latest_height,
        default=None,
    )
    if best is None:
        return Part("consensus", "could not run", "no node answers", "Bring nodes back first.")
    source = rpc(best)
    height = answers[best.name].get().latest_height
    return judge_consensus(site, height, signing_lately(source, height), source.validators(height), policy)


def judge_consensus(
    site: Site, height: Height, online: frozenset[bytes], validators: ValidatorSet, policy: Checks
) -> Part:
    """Pure: the power that signed up to this height against the least."""
    impact = quorum.assess(quorum.map_power(site, validators), online)
    share = impact.online / impact.total
    seen = f"{share:.0%} of the power signed at {height}"
    if share < policy.min_power_online:
        return Part("consensus", "failed", seen, "Bring validators back: see vedr lab status, then RB-DR-001 or 003.")
    if impact.online < impact.total:
        return Part("consensus", "warning", seen, "Find the validator that does not sign.")
    return Part("consensus", "passed", seen)


def _ask(nodes: Iterable[Node], ask: Callable[[Node], Status], policy: Checks) -> dict[str, Answer[Status]]:
    calls = {node.name: partial(ask, node) for node in nodes}
    return side_by_side(calls, deadline_s=policy.subject_deadline_s)


# --- cross-region connectivity


def cross_region_connectivity(site: Site, rpc: Rpc, policy: Checks) -> Verdict:
    """Each region's nodes have peers in other regions."""
    places = {node.name: node.region for node in site.nodes}

    def ask(node: Node) -> tuple[Status, NetInfo]:
        source = rpc(node)
        return source.status(), source.net_info()

    calls = {node.name: partial(ask, node) for node in site.nodes}
    answers = side_by_side(calls, deadline_s=policy.subject_deadline_s)
    ids = {answer.value[0].node_id: places[name] for name, answer in answers.items() if answer.value is not None}
    seen: dict[str, set[str]] = {region: set() for region in site.regions_by_priority}
    for name, answer in answers.items():
        if answer.value is not None:
            region = places[name]
            peers = answer.value[1].peers
            seen[region] |= {ids.get(peer.node_id) or places.get(peer.moniker, "") for peer in peers} - {"", region}
    return judge_connectivity(seen, policy.peers_min_regions)


def judge_connectivity(seen: Mapping[str, set[str]], least: int) -> Verdict:
    """Pure: from each region, the other regions that its nodes have peers in."""
    parts = []
    for region, others in seen.items():
        lacking = [other for other in seen if other != region and other not in others]
        if lacking:
            remedy = f"Look at the network between {region} and {', '.join(lacking)}, and at its nodes' p2p addresses."
            parts.append(Part(region, "failed", f"no peer in {', '.join(lacking)}", remedy))
        else:
            parts.append(Part(region, "passed", f"peers in {', '.join(sorted(others))}"))
    linked = sum(bool(others) for others in seen.values())
    verdict = combine(
        parts,
        expected=f"peers between all regions; {least} of {len(seen)} at least",
        nothing="Name the site's regions in its file.",
    )
    if verdict.status == "failed" and linked >= least:
        return Verdict("warning", verdict.observed, verdict.expected, verdict.remedy)
    return verdict


# --- state-sync endpoints


def state_sync_endpoints(site: Site, rpc: Rpc, headers: Callable[[], Headers], policy: Checks) -> Verdict:
    """In each region a full node in sync serves the header that was verified, which a joining node asks for."""
    tip = headers().verified_tip()
    nodes = [node for node in site.nodes if not node.is_validator]
    looks = {node.name: partial(_serves, node, rpc, tip, site.chain.chain_id) for node in nodes}
    seen_of = {part.subject: part for part in examine(looks, deadline_s=policy.subject_deadline_s)}
    parts = []
    for region in site.regions_by_priority:
        seen = [seen_of[node.name] for node in nodes if node.region == region]
        good = [part for part in seen if part.status == "passed"]
        if good:
            parts.append(Part(region, "passed", f"{len(good)} of {len(seen)}"))
        else:
            why = "; ".join(f"{part.subject}: {part.observed}" for part in seen) or "no full node"
            worst_of = worst(part.status for part in seen) if seen else "failed"
            parts.append(Part(region, worst_of, why, f"Bring back a full node of {region}: RB-DR-001."))
    verdict = combine_at_least(
        parts,
        policy.state_sync_min_regions,
        expected=f"a full node in sync in {policy.state_sync_min_regions} of {len(parts)} regions or more",
        nothing="Name full nodes in the site file.",
    )
    if verdict.status == "passed" and not site.chain.state_sync_interval:
        return Verdict(
            "warning",
            f"{verdict.observed}; the nodes make no snapshots",
            verdict.expected,
            "Set snapshot-interval on full nodes, and state_sync_interval in the site file.",
        )
    return verdict


def _serves(node: Node, rpc: Rpc, tip: VerifiedHeader, chain_id: str) -> Part:
    source = rpc(node)
    status = source.status()
    if status.chain_id != chain_id:
        return Part(node.name, "failed", f"runs chain {status.chain_id}", "Correct its address in the site file.")
    if status.catching_up:
        return Part(node.name, "failed", "catching up")
    served = source.commit(tip.height).header.hash()
    if served != tip.header.hash():
        raise VerificationFailedError(
            f"serves another header at {tip.height} than the verified one",
            remedy="Stop it and keep its data: it is on a fork, or lies.",
        )
    return Part(node.name, "passed", f"serves {tip.height}")


# --- services and names


def service_health(site: Site, network: NetworkProbes, policy: Checks) -> Verdict:
    """Every API gateway and provider daemon says that it is well."""
    serving = [
        *((one.name, one.url) for one in site.gateways if not one.reserve),
        *((one.name, one.url) for one in site.providers if not one.reserve),
    ]
    looks = {name: partial(_is_well, network, name, url, policy) for name, url in serving}
    parts = examine(looks, deadline_s=policy.subject_deadline_s)
    return combine(
        [replace(part, status="failed") if part.status == "could not run" else part for part in parts],
        expected=f"{policy.health_path} of every gateway and provider daemon answers with success",
        nothing="Name the site's gateways and providers in its file.",
        summary=f"{len(serving)} gateways and provider daemons",
    )


def _is_well(network: NetworkProbes, name: str, url: str, policy: Checks) -> Part:
    network.health(f"{url.rstrip('/')}{policy.health_path}")
    return Part(name, "passed", "well")


def dns_health(site: Site, network: NetworkProbes, policy: Checks) -> Verdict:
    """The names that users resolve have addresses, of gateways of ours, for no longer than a failover allows."""
    expected = "every name resolves to a gateway of the site, within the site's TTL"
    if site.dns is None:
        return Verdict("failed", "nothing to look at", expected, "Describe the zone in the site file: [dns].")
    names = policy.dns_names or ("api", "rpc", *(f"rpc-{region}" for region in site.regions_by_priority))
    wanted = [f"{name}.{site.dns.zone}" for name in names]
    hosts = [urlsplit(gateway.url).hostname or "" for gateway in site.gateways]
    calls = {name: partial(network.resolve_name, name) for name in {*wanted, *filterfalse(_is_address, hosts)}}
    answers = side_by_side(calls, deadline_s=policy.subject_deadline_s)
    ours = Gateways(
        frozenset(filter(_is_address, hosts)),
        {host: () if (found := answers[host].value) is None else found.addresses for host in hosts if host in answers},
    )
    parts = [
        look_at(name, partial(_judge_name, name, full, answers[full], site.dns, ours))
        for name, full in zip(names, wanted, strict=True)
    ]
    return combine(parts, expected=expected, nothing="Name what has to resolve: [checks] dns_names.")


@dataclass(frozen=True, slots=True)
class Gateways:
    """Where the site's gateways are: by address, and by name with the addresses that the name has now, if any."""

    addresses: frozenset[str]
    named: Mapping[str, Sequence[str]]

    @property
    def known(self) -> frozenset[str]:
        return self.addresses.union(*self.named.values())

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(host for host, addresses in self.named.items() if not addresses)


def _judge_name(name: str, full: str, answer: Answer[NameAnswer], dns: Dns, ours: Gateways) -> Part:
    found = answer.get()
    if not found.addresses:
        return Part(name, "failed", "no address", "Put its records back: see docs/runbooks/RB-DR-003.md.")
    if not ours.known and not ours.unknown:
        return Part(name, "failed", "the site names no gateway to compare with", "Name its gateways: [[gateways]].")
    # a gateway's own name is the only thing that tells where it is; whether it is one, service-health sees by its TLS
    strangers = [] if full in ours.named else [one for one in found.addresses if one not in ours.known]
    if strangers and ours.unknown:
        remedy = "See why these names have no address at the zone's server; name those gateways by address else."
        lacking = f"{', '.join(ours.unknown)} can't be resolved"
        return Part(name, "could not run", f"points to {', '.join(strangers)}, and {lacking}", remedy)
    if strangers:
        remedy = f"Nobody of the site answers at {strangers[0]}: find out who changed the zone."
        return Part(name, "failed", f"points to {', '.join(strangers)}", remedy)
    if found.ttl_s > dns.ttl_s:
        remedy = f"Lower the TTL to {dns.ttl_s} s, or users stay with a dead region for longer."
        return Part(name, "warning", f"TTL {found.ttl_s} s", remedy)
    return Part(name, "passed", f"{len(found.addresses)} addresses")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
