"""What the site's nodes say right now: small questions that several runbooks ask.

Guarantees: nodes are asked side by side, each for a bounded time; one that is silent is left out, never waited for.
Leaves out: proof: a node is believed here; where it matters, vedr.chain.light verifies.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.site import OpenSite
from vedr.chain.rpc import Status
from vedr.errors import CorruptError, UnavailableError, VerificationFailedError
from vedr.inventory import Height, Node

_Answer = TypeVar("_Answer")
MAX_ASKED_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """A node that answered, and what it said."""

    node: Node
    rpc: HttpChainRpc
    status: Status


def ask(opened: OpenSite, nodes: Iterable[Node]) -> tuple[Seen, ...]:
    """The status of every node that answers, in the given order; nodes of another chain are left out."""

    def one(node: Node) -> Seen | None:
        rpc = opened.rpc(node)
        try:
            status = rpc.status()
        except (UnavailableError, CorruptError):
            return None
        return Seen(node, rpc, status) if status.chain_id == opened.site.chain.chain_id else None

    return tuple(seen for seen in _side_by_side(one, list(nodes)) if seen is not None)


def others(opened: OpenSite, besides: Node) -> tuple[Seen, ...]:
    """All nodes that answer, but for that one."""
    return ask(opened, (node for node in opened.site.nodes if node.name != besides.name))


def tip_of(seen: Iterable[Seen]) -> Height | None:
    """The highest block that any of them shows; None when nobody answered."""
    return max((one.status.latest_height for one in seen), default=None)


def in_sync(seen: Iterable[Seen]) -> tuple[Seen, ...]:
    """Those that serve the chain's present state."""
    return tuple(one for one in seen if not one.status.catching_up)


def references(opened: OpenSite, besides: Node) -> tuple[Seen, ...]:
    """Nodes in sync to compare one with; VerificationFailedError when fewer than two are left."""
    found = in_sync(others(opened, besides))
    if len(found) < 2:  # noqa: PLR2004 - two independent sources, the design's rule
        raise VerificationFailedError(
            f"{len(found)} other nodes answer in sync, two are needed to compare {besides.name} with",
            remedy="Bring back another node first; if the whole chain is down, RB-DR-003 applies.",
        )
    return found


def _side_by_side(question: Callable[[Node], _Answer], nodes: list[Node]) -> list[_Answer]:
    if not nodes:
        return []
    with ThreadPoolExecutor(min(MAX_ASKED_AT_ONCE, len(nodes)), "asking") as pool:
        return list(pool.map(question, nodes))
