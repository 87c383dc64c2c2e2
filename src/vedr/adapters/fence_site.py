"""How each host of a key file is fenced, as the site's file says: its ways, composed.

Guarantees: nothing is contacted before a fence is closed or proven; a host without a named way has process and disk.
Leaves out: the order in which hosts are fenced (vedr.failover.promotion); asking people (`statements`); what is
still heard of a host whose network is denied (`reached`).
"""

import functools
from collections.abc import Callable, MutableMapping, Sequence

from vedr.adapters.site import OpenSite, utc_now
from vedr.chain.attestation import Statement
from vedr.chain.fence import Fence
from vedr.errors import VedrError
from vedr.failover.fencing import FirstWay, InstanceStopped, NetworkDenied, ProcessAndDisk
from vedr.failover.signer_disk import LocalSignerDisk, Ticket
from vedr.inventory import Node
from vedr.policies.key_files import FenceWay, KeyFile

Statements = Callable[[str], Sequence[Statement]]
Reached = Callable[[Node], str]


def process_and_disk(opened: OpenSite, node: Node, ticket: Ticket) -> ProcessAndDisk:
    """By its supervisor and its disk: what the host that is to sign is always fenced by."""
    return ProcessAndDisk(opened.fleet, node, LocalSignerDisk(opened.files, node), ticket)


def fence_of(
    opened: OpenSite,
    key_file: KeyFile,
    host: str,
    ticket: Ticket,
    *,
    reached: Reached,
    statements: Statements,
    chosen: MutableMapping[str, int],
) -> FirstWay:
    """The host's ways in their order; `chosen` is kept over all looks of one process."""
    node = opened.site.node(host)
    ways = [_way(opened, node, way, ticket, reached, statements) for way in key_file.ways(host)]
    return FirstWay(host, ways, chosen)


def _way(  # noqa: PLR0917
    opened: OpenSite, node: Node, way: FenceWay, ticket: Ticket, reached: Reached, statements: Statements
) -> Fence:
    match way:
        case "process-and-disk":
            return process_and_disk(opened, node, ticket)
        case "instance":
            return InstanceStopped(opened.instances(node.region), node.name, opened.site.fleet.instances[node.name])
        case "network":
            network = opened.network(node.region)
            return NetworkDenied(network, node.name, functools.partial(reached, node), statements, utc_now)


def why_not(opened: OpenSite, node: Node, way: FenceWay) -> str:
    """Why this way can't fence the host now, asked without changing anything; empty: what it rests on answers."""
    try:
        match way:
            case "process-and-disk":
                opened.fleet.status(node.unit, node.zone)
                LocalSignerDisk(opened.files, node).place()
            case "instance":
                opened.instances(node.region).state(opened.site.fleet.instances[node.name])
            case "network":
                opened.network(node.region).denied_since(node.name)
    except VedrError as error:
        return f"{way}: {error.message}"
    return ""
