"""Taking and proving a site's snapshots: which node, captured how, booted where; for the command line and the flows.

Guarantees: only a full node that is in sync is taken; a proof leaves nothing behind.
Leaves out: the engine itself (vedr.backup).
"""

from pathlib import Path
from typing import Final, Literal

from vedr.adapters.site import OpenSite
from vedr.backup import restore
from vedr.backup.capture import NodeCondition
from vedr.backup.chain_snapshot import snapshot_node
from vedr.backup.repository import Listed
from vedr.backup.snapshot import NO_PROGRESS, Created, Progress
from vedr.backup.verify import Verification, verify_boot
from vedr.chain.boot import BootProof
from vedr.errors import UnavailableError, VedrError
from vedr.inventory import Node

SCRATCH: Final = "boot"
"""Folder under the site's work_dir where snapshots are restored to be booted."""


def choose_node(opened: OpenSite, *, node: str | None, region: str | None) -> tuple[Node, NodeCondition]:
    """The named node, or the first full node of the region that answers and is in sync.

    Raises:
        UnavailableError: none does; the message says why for each.
    """
    if node is not None:
        return opened.site.node(node), condition_of(opened, opened.site.node(node))
    where = region or opened.site.regions_by_priority[0]
    opened.site.region(where)
    reasons = []
    for candidate in opened.site.nodes_in(where, "full", "archive"):
        try:
            condition = condition_of(opened, candidate)
        except VedrError as error:
            reasons.append(f"{candidate.name}: {error.message}")
            continue
        if not condition.catching_up and not condition.validator_power:
            return candidate, condition
        reasons.append(f"{candidate.name}: catching up" if condition.catching_up else f"{candidate.name}: validates")
    raise UnavailableError(
        f"no full node of {where} can be taken ({'; '.join(reasons)})", remedy="Name one with --node, or --region."
    )


def condition_of(opened: OpenSite, node: Node) -> NodeCondition:
    """Asked of the node itself."""
    status = opened.rpc(node).status()
    return NodeCondition(catching_up=status.catching_up, validator_power=status.validator_power)


def take(
    opened: OpenSite,
    *,
    node: str | None = None,
    region: str | None = None,
    method: Literal["pause", "stop"] = "pause",
    rehash: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Created:
    """Snapshot a node's chain state into every region; see chain_snapshot.snapshot_node for what it raises."""
    chosen, condition = choose_node(opened, node=node, region=region)
    chain, home = opened.site.chain, opened.files.home(chosen)
    return snapshot_node(
        opened.repository,
        chain,
        chosen,
        home,
        fleet=opened.fleet,
        condition=condition,
        inspector=opened.inspector,
        headers=opened.light_client(near=chosen.region).verified_header,
        method=method,
        rehash=rehash,
        progress=progress,
    )


def prove_by_boot(opened: OpenSite, listed: Listed, *, progress: Progress = NO_PROGRESS) -> Verification:
    """Restore to scratch, boot apart, compare with verified headers, store the record, clean up."""
    verified = restore.open_manifest(opened.repository, listed, chain_id=opened.site.chain.chain_id)
    scratch = opened.site.work_dir / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    incident = f"verify-{listed.id}"
    light = opened.light_client(near=listed.source.origin)

    def booter(data: Path) -> BootProof:
        return opened.isolated_node.prove(data, light)

    try:
        staged = restore.fetch(opened.repository, verified, scratch, incident, progress=progress)
        return verify_boot(opened.repository, verified, staged.path, booter, from_regions=staged.from_regions)
    finally:
        restore.discard_staged(scratch, incident)
