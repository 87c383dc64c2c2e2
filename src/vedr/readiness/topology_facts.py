"""What the audit must know of the live chain, asked of two nodes that do not depend on each other.

Steps:
    (1) All nodes of the site are asked for their status, side by side.
    (2) Two full nodes in sync, of two regions where possible, are the sources.
    (3) At the lower of their heights both show the same header, and its commit verifies under its validator set.
    (4) Who takes part: on a moving chain, who signed one of the newest commits; on one that stands still, whose votes
        for the height being decided a source holds, but for validators of the site that sign at a node that is silent.
    (5) Where each validator signs now whose key may be elsewhere: by the holder of its register, in a majority of the
        regions, when signers hold it in turn; by the newest promotion in the ledger, when its key file may be moved.

Guarantees: facts come from two sources that agree, or VerificationFailedError says which did not answer or differed.
Leaves out: the trust anchor.  Two nodes that lie alike with more than 2/3 of real signatures are not found here, but by
the light client.
"""

import datetime as dt
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from vedr.chain.block import ValidatorSet
from vedr.chain.quorum import map_power
from vedr.chain.rpc import ChainRpc, Status, signing_lately
from vedr.chain.verification import LightBlock, check_commit, check_itself
from vedr.chain.wire import to_datetime
from vedr.errors import NotFoundError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.key_holders import KeyHolders
from vedr.failover.key_places import signing_hosts
from vedr.inventory import Height, Node, Site
from vedr.ports import Registers
from vedr.readiness.topology import Audit, audit

SOURCES: Final = 2
STILL_BLOCK_TIMES: Final = 10  # a chain whose newest block is older (and older than clocks may differ) stands still
MAX_ASKED_AT_ONCE: Final = 32


class Opened(Protocol):
    """What is needed of an open site (`vedr.adapters.site.OpenSite`)."""

    @property
    def site(self) -> Site:
        """Its description."""

    @property
    def registers(self) -> Mapping[str, Registers]:
        """The regions' registers."""

    @property
    def key_holders(self) -> KeyHolders:
        """Where key files sign."""

    def rpc(self, node: Node) -> ChainRpc:
        """A node's RPC."""

    def witnesses(self) -> tuple[Node, ...]:
        """Full nodes, one region after the other in turn."""


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """The chain as two sources show it.

    `online` are the addresses that take part, `serving` the nodes of the site that answer and are in sync. `hosts` has,
    by validator, the node where its remote signer or its key file is; None where no majority of the regions tells.
    """

    height: Height
    block_time: dt.datetime
    moving: bool
    validators: ValidatorSet
    online: frozenset[bytes]
    serving: frozenset[str]
    hosts: Mapping[str, str | None]
    sources: tuple[str, ...]


def audit_live(opened: Opened, *, clock: Callable[[], dt.datetime]) -> tuple[LiveFacts, Audit]:
    """The facts and the audit of a site as it stands; VerificationFailedError when the chain could not be asked."""
    facts = observe(opened, clock=clock)
    powers = map_power(opened.site, facts.validators)
    found = audit(opened.site, powers, facts.online, moving=facts.moving, hosts=facts.hosts, serving=facts.serving)
    return facts, found


def observe(opened: Opened, *, clock: Callable[[], dt.datetime]) -> LiveFacts:
    """The facts; VerificationFailedError when they could not be got, or when the sources differ."""
    site = opened.site
    statuses = _statuses(opened)  # (1)
    serving = {name for name, status in statuses.items() if not status.catching_up}
    sources = _sources(opened.witnesses(), serving)  # (2)
    if len(sources) < SOURCES:
        raise VerificationFailedError(
            f"could not ask the chain: {len(sources)} full nodes answer in sync, {SOURCES} are needed",
            remedy="Bring a full node back first (RB-DR-001), in another region than the one that answers.",
        )
    rpcs = [opened.rpc(node) for node in sources]
    height = Height(min(statuses[node.name].latest_height for node in sources))
    block = _agreed(rpcs, height, site.chain.chain_id)  # (3)
    age_s = clock().timestamp() - block.header.time_ns / 1e9
    if (
        age_s < -site.chain.max_clock_drift_s
    ):  # as the light client has it: a chain that stands still would seem to move
        raise VerificationFailedError(
            f"header {height} is dated {-age_s:.0f} s in the future, so nobody can tell whether the chain moves",
            remedy="Set this host's clock right, then ask again.",
        )
    moving = age_s < site.chain.max_clock_drift_s + STILL_BLOCK_TIMES * site.chain.block_time_s
    hosts = signing_hosts(site, opened.registers, opened.key_holders)  # (5)
    online = signing_lately(rpcs[0], height) if moving else _voting(rpcs, block) - _silent(site, hosts, statuses)  # (4)
    return LiveFacts(
        height=height,
        block_time=to_datetime(block.header.time_ns),
        moving=moving,
        validators=block.validators,
        online=online,
        serving=frozenset(serving),
        hosts=hosts,
        sources=tuple(node.name for node in sources),
    )


def _statuses(opened: Opened) -> dict[str, Status]:
    """By name, of the nodes that answer for the site's chain."""

    def ask(node: Node) -> Status | None:
        try:
            status = opened.rpc(node).status()
        except VedrError:
            return None
        return status if status.chain_id == opened.site.chain.chain_id else None

    nodes = opened.site.nodes
    if not nodes:
        return {}
    with ThreadPoolExecutor(min(MAX_ASKED_AT_ONCE, len(nodes)), "topology") as pool:
        answers = list(pool.map(ask, nodes))
    return {node.name: status for node, status in zip(nodes, answers, strict=True) if status is not None}


def _sources(witnesses: Sequence[Node], serving: set[str]) -> list[Node]:
    """Two that serve, of different regions when there are such."""
    able = [node for node in witnesses if node.name in serving]
    elsewhere = [node for node in able[1:] if node.region != able[0].region]
    return [*able[:1], *(elsewhere or able[1:])][:SOURCES]


def _agreed(rpcs: Sequence[ChainRpc], height: Height, chain_id: str) -> LightBlock:
    blocks = []
    for rpc in rpcs:
        try:
            block = LightBlock(rpc.commit(height), rpc.validators(height))
        except (UnavailableError, NotFoundError) as error:
            raise VerificationFailedError(
                f"could not ask the chain: {rpc.name} at height {height}: {error.message}",
                remedy="Ask again; if it repeats, see to that node first.",
            ) from error
        check_itself(block, chain_id)
        check_commit(block, chain_id)
        blocks.append(block)
    first, second = (block.header.hash().hex().upper() for block in blocks)
    if first != second:
        raise VerificationFailedError(
            f"header {height}: {rpcs[0].name} shows {first}, {rpcs[1].name} shows {second}",
            remedy="Trust neither: one is on a fork.  Compare with a third node, and raise an incident.",
        )
    return blocks[0]


def _voting(rpcs: Sequence[ChainRpc], block: LightBlock) -> frozenset[bytes]:
    votes = (vote for rpc in rpcs for vote in rpc.consensus_state().votes)
    return frozenset(vote.address for vote in votes if vote.height > block.header.height)


def _silent(site: Site, hosts: Mapping[str, str | None], answering: Container[str]) -> frozenset[bytes]:
    """Addresses of the site's validators whose node, where they sign now, does not answer."""
    validators = (node for node in site.nodes if node.is_validator)
    return frozenset(
        bytes.fromhex(node.address) for node in validators if (hosts.get(node.name) or node.name) not in answering
    )
