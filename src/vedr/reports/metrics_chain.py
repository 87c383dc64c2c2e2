"""Metrics of the chain: nodes and heights, voting power by place, sign states in the regions.

Guarantees: a node that does not answer is down, and says nothing else; voting power is what two sources agree on, as in
the topology audit, or the collection fails.
Leaves out: judging them (deployments/prometheus).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from vedr.chain.quorum import OUTSIDE
from vedr.chain.register import Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.register_survey import Seen
from vedr.chain.rpc import Status
from vedr.chain.shipping_watch import Copies, look_at_copies
from vedr.errors import CorruptError, UnavailableError
from vedr.inventory import Node
from vedr.readiness.ports import OpenedSite, Ports
from vedr.readiness.side_by_side import side_by_side
from vedr.readiness.topology import Audit
from vedr.readiness.topology_facts import LiveFacts, audit_live
from vedr.readiness.topology_findings import SEVERITIES
from vedr.readiness.topology_places import RegionRow
from vedr.reports import metrics
from vedr.reports.metrics import Sample

NODE_DEADLINE_S: Final = 5.0
LOOK_S: Final = 2.0  # that a region has to show a register; one that is down takes all of it, twice with copies
SIGN_STATES_DEADLINE_S: Final = 10.0
_NS_PER_S: Final = 1_000_000_000
_PERMILLE: Final = 1000


# --- nodes


def nodes(at: Ports) -> Iterator[Sample]:
    """Every node's answer; heights by region; the newest block's time."""
    statuses = _statuses(at.opened)
    for node in at.site.nodes:
        status = statuses.get(node.name)
        yield metrics.NODE_UP(status is not None, node.name, node.region, node.role)
        if status is not None:
            yield metrics.NODE_HEIGHT(status.latest_height, node.name, node.region)
            yield metrics.NODE_CATCHING_UP(status.catching_up, node.name, node.region)
    if not statuses:
        return
    heights = {
        region: max(statuses[node.name].latest_height for node in at.site.nodes_in(region) if node.name in statuses)
        for region in at.site.regions_by_priority
        if any(node.name in statuses for node in at.site.nodes_in(region))
    }
    for region, height in heights.items():
        yield metrics.REGION_HEIGHT(height, region)
    yield metrics.HEIGHT_DIFFERENCE(max(heights.values()) - min(heights.values()))
    yield metrics.CHAIN_HEIGHT(max(heights.values()))
    yield metrics.CHAIN_BLOCK_TIME(max(status.latest_time_ns for status in statuses.values()) / _NS_PER_S)


def _statuses(opened: OpenedSite) -> dict[str, Status]:
    """Of the nodes that answer in time for the site's chain."""
    calls = {node.name: partial(_status, opened, node) for node in opened.site.nodes}
    answers = side_by_side(calls, deadline_s=NODE_DEADLINE_S)
    return {name: answer.value for name, answer in answers.items() if answer.value is not None}


def _status(opened: OpenedSite, node: Node) -> Status | None:
    status = opened.rpc(node).status()
    return status if status.chain_id == opened.site.chain.chain_id else None


# --- voting power


def power(at: Ports) -> Iterator[Sample]:
    """Quorum and voting power by region, from the topology audit; VerificationFailedError when it could not be made."""
    facts, found = audit_live(at.opened, clock=at.clock)
    yield from _of_quorum(facts, found)
    for row in found.regions:
        yield from _of_region(row)
    severities = Counter(finding.severity for finding in found.findings)
    for severity in SEVERITIES:
        yield metrics.TOPOLOGY_FINDINGS(severities[severity], severity)


def _of_quorum(facts: LiveFacts, found: Audit) -> Iterator[Sample]:
    yield metrics.CHAIN_MOVING(facts.moving)
    yield metrics.POWER_TOTAL(found.total)
    yield metrics.POWER_NEEDED(found.now.needed)
    yield metrics.POWER_ONLINE(found.now.online)
    yield metrics.POWER_ONLINE_RATIO(round(found.now.online / found.total, 6))
    yield metrics.QUORUM_MARGIN(found.now.margin)


def _of_region(row: RegionRow) -> Iterator[Sample]:
    yield metrics.REGION_POWER(row.power, row.name)
    yield metrics.REGION_POWER_ONLINE(row.online_power, row.name)
    yield metrics.REGION_POWER_RATIO(row.share_permille / _PERMILLE, row.name)
    yield metrics.REGION_HALTS(row.loss.halts, row.name)
    yield metrics.REGION_NO_WAY_BACK(row.loss.halts and not row.loss.restorable, row.name)
    if row.name != OUTSIDE:
        yield metrics.REGION_FULL_NODES(row.full_nodes, row.name)
        if row.serving is not None:
            yield metrics.REGION_SERVING(row.serving, row.name)


# --- sign states


def sign_states(at: Ports) -> Iterator[Sample]:
    """Every validator's register, or the shipped copies of its file, in the regions.

    Raises:
        UnavailableError: no node tells the chain's height.
    """
    statuses = _statuses(at.opened)
    if not statuses:
        raise UnavailableError("no node tells the chain's height", remedy="Bring nodes back first: RB-DR-001.")
    tip = max(status.latest_height for status in statuses.values())
    validators = [node for node in at.site.nodes if node.is_validator]
    calls = {node.name: partial(_look, at.opened, node) for node in validators}
    answers = side_by_side(calls, deadline_s=SIGN_STATES_DEADLINE_S)
    for node in validators:
        seen = answers[node.name].get()
        yield from _of_register(node.name, seen, tip) if isinstance(seen, Seen) else _of_copies(node.name, seen, tip)


def _look(opened: OpenedSite, node: Node) -> Seen | Copies:
    """By the way that the validator signs: its register when signers hold its key in turn."""
    validator = Validator(opened.site.chain.chain_id, node.address)
    seen = SignStateRegister(opened.registers, validator).look(deadline_s=LOOK_S)
    if opened.site.signers_of(node.name) or seen.newest is not None:
        return seen
    try:
        return look_at_copies(validator, opened.registers, deadline_s=LOOK_S)
    except CorruptError as error:
        return Copies({}, dict.fromkeys(opened.registers, error.message))


def _of_register(name: str, seen: Seen, tip: int) -> Iterator[Sample]:
    yield from _of_regions(name, seen.contents, is_majority=seen.is_majority)
    if seen.newest is not None:
        yield metrics.SIGN_STATE_HELD(bool(seen.newest.holder), name)
        yield metrics.SIGN_STATE_EPOCH(seen.newest.epoch, name)
        yield metrics.SIGN_STATE_LAG(max(0, tip - seen.newest.position.height), name)


def _of_copies(name: str, copies: Copies, tip: int) -> Iterator[Sample]:
    yield from _of_regions(name, copies.shipped, is_majority=copies.is_majority)
    if copies.shipped:
        yield metrics.SIGN_STATE_LAG(max(0, tip - max(state.height for state in copies.states)), name)


def _of_regions(name: str, shown: Mapping[str, object], *, is_majority: bool) -> Iterator[Sample]:
    yield metrics.SIGN_STATE_REGIONS(len(shown), name)
    yield metrics.SIGN_STATE_MAJORITY(is_majority, name)
