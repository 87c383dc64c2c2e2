"""What is known of validators' key files: where each signs, which of their hosts can be fenced, what is on their disks.

Guarantees: nothing is changed here; where a key signs is what the ledger's newest promotion says, and a ledger that
can't be read is an error, never "at home".
Leaves out: moving them (tasks.key_files).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from tasks.observing import MAX_ASKED_AT_ONCE, others
from vedr.adapters.fence_site import why_not
from vedr.adapters.site import OpenSite
from vedr.errors import RefusedError, UnavailableError, VedrError
from vedr.failover.fencing import InstanceStopped
from vedr.failover.key_disk import address_on
from vedr.failover.key_holders import MOVERS, KeyHolders
from vedr.failover.promotion_record import stages_in
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.failover.relocation_key_files import KeyHosts
from vedr.failover.signer_disk import LocalSignerDisk
from vedr.inventory import Node
from vedr.policies.key_files import FenceWay, KeyFile


def holders_in_ledger(opened: OpenSite) -> dict[str, str]:
    """The host where each key file signs, or did last; its validator's own when no run ever moved it."""
    return KeyHolders(opened.site.key_files, opened.journal).look()


def earlier_stages(opened: OpenSite, validator: str) -> list[tuple[StageName, Evidence]]:
    """What every run recorded of this key, each run's in order."""
    return [
        stage
        for runbook in MOVERS
        for run_id in opened.journal.runs_of(runbook)
        for stage in stages_in(opened.journal.read(run_id).entries, validator)
    ]


def key_hosts_of(opened: OpenSite) -> KeyHosts:
    """Who holds them, and which hosts can be fenced or given one; every host is asked at once."""
    asked = [(one, opened.site.node(host)) for one in opened.site.key_files for host in one.every_host]
    if not asked:
        return KeyHosts()
    holders = holders_in_ledger(opened)
    with ThreadPoolExecutor(min(MAX_ASKED_AT_ONCE, len(asked)), "key-hosts") as pool:
        ways = pool.map(lambda pair: _answering(opened, *pair), asked)
        unfit = pool.map(lambda pair: why_not(opened, pair[1], "process-and-disk"), asked)
        names = [node.name for _, node in asked]
        found = dict(zip(names, ways, strict=True))
        return KeyHosts(
            holders,
            {name: why for name, (way, why) in found.items() if way is None},
            {name: why for name, why in zip(names, unfit, strict=True) if why},
            frozenset(name for name, (way, _) in found.items() if way == "network"),
        )


def _answering(opened: OpenSite, key_file: KeyFile, node: Node) -> tuple[FenceWay | None, str]:
    """The first way whose ground answers; else none, with every way's reason."""
    reasons = []
    for way in key_file.ways(node.name):
        if not (reason := why_not(opened, node, way)):
            return way, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def still_heard_of(opened: OpenSite, host: Node) -> str:
    """How a host whose network is denied is heard of nevertheless; empty: it does not answer, and is nobody's peer.

    UnavailableError when no other node tells its peers: that can't be told then.
    """
    try:
        opened.rpc(host).status()
    except UnavailableError:
        pass
    except VedrError:  # nonsense is an answer as well
        return f"the RPC of {host.name} answers"
    else:
        return f"the RPC of {host.name} answers"
    asked, connected = 0, []
    for one in others(opened, host):
        try:
            peers = one.rpc.net_info().peers
        except UnavailableError:
            continue
        asked += 1
        connected += [one.node.name for peer in peers if peer.moniker == host.name]
    if not asked:
        raise UnavailableError(
            f"no node tells whether {host.name} is still its peer", remedy="Bring back a node elsewhere: RB-DR-001."
        )
    return f"{', '.join(connected)} still {'has' if len(connected) == 1 else 'have'} it as a peer" if connected else ""


def key_on(opened: OpenSite, node: Node) -> Node | None:
    """The validator whose key file this full node was given; None when it signs with no validator's."""
    for key_file in opened.site.key_files:
        if node.name in key_file.hosts:
            validator = opened.site.node(key_file.validator)
            return validator if address_on(opened.files.home(node)) == validator.address else None
    return None


def check_signs_alone(opened: OpenSite, key_file: KeyFile, holder: str) -> None:
    """Every other host is still kept from signing: it has no key, or its disk is fenced, or its machine is off.

    Raises:
        RefusedError: one could sign.
        UnavailableError: that can't be told of one.
    """
    validator = opened.site.node(key_file.validator)
    for host in key_file.every_host:
        if host != holder:
            _check_kept_from_signing(opened, key_file, validator, opened.site.node(host))


def _check_kept_from_signing(opened: OpenSite, key_file: KeyFile, validator: Node, node: Node) -> None:
    looks: Mapping[FenceWay, Callable[[], None]] = {
        "process-and-disk": lambda: _check_disk(opened, validator, node),
        "instance": lambda: _check_instance(opened, node),
        "network": lambda: _check_denied(opened, node),
    }
    reasons: list[VedrError] = []
    for way in key_file.ways(node.name):
        try:
            looks[way]()
        except VedrError as error:
            reasons.append(error)
        else:
            return
    raise type(reasons[0])("; ".join(error.message for error in reasons), remedy=reasons[-1].remedy)


def _check_disk(opened: OpenSite, validator: Node, node: Node) -> None:
    place = LocalSignerDisk(opened.files, node).place()
    if place.where == "open" and address_on(opened.files.home(node)) == validator.address:
        raise RefusedError(
            f"{node.name}: its signer disk is open and has the key of {validator.name}, which signs elsewhere",
            remedy="Stop its unit at once, then run the failback, which fences it.",
        )


def _check_instance(opened: OpenSite, node: Node) -> None:
    InstanceStopped(opened.instances(node.region), node.name, opened.site.fleet.instances[node.name]).prove()


def _check_denied(opened: OpenSite, node: Node) -> None:
    """Two people saw its process stopped when it was fenced; what a machine can see is that nothing passes since."""
    if opened.network(node.region).denied_since(node.name) is None:
        raise RefusedError(
            f"{node.name}: its network is not denied any more, and two people's word was all that kept it from signing",
            remedy="Deny it again, then see on its console that its unit is masked and its key is gone.",
        )
    if heard := still_heard_of(opened, node):
        raise RefusedError(
            f"{node.name}: its network is denied, and yet {heard}", remedy="Stop the machine; find what let it through."
        )


def is_away(opened: OpenSite, hosts: KeyHosts, validator: Node) -> bool:
    """Whether its key file signs elsewhere, or its disk was fenced on the way there and nobody opened it since."""
    if hosts.holder(validator.name) != validator.name:
        return True
    if validator.name in hosts.unfit:
        return False
    return LocalSignerDisk(opened.files, validator).place().where == "fenced"
