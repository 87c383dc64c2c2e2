"""Taking and proving a site's snapshots: which node, captured how, booted where; for the command line and the flows.

Guarantees: only a full node that is in sync is taken; a proof leaves nothing behind.
Leaves out: the engine itself (vedr.backup).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from vedr.adapters.site import OpenSite
from vedr.backup import restore
from vedr.backup.capture import NodeCondition
from vedr.backup.chain_snapshot import snapshot_node
from vedr.backup.provider_state import (
    Advance,
    Checkpoint,
    Position,
    locate,
    read_checkpoints,
    reconcile,
    write_advances,
)
from vedr.backup.repository import Listed
from vedr.backup.snapshot import NO_PROGRESS, Created, Progress
from vedr.backup.verify import Verification, verify_boot
from vedr.chain.boot import BootProof
from vedr.chain.inspection import Inspected
from vedr.errors import UnavailableError, VedrError
from vedr.inventory import Height, Node

SCRATCH: Final = "boot"
"""Folder under the site's work_dir where snapshots are restored to be booted."""


NEAR_BLOCKS: Final = 3  # honest nodes in sync differ by a block or two


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
        return opened.isolated_node.prove(data, light, read_state=_state_reader(opened))

    restore.discard_staged(scratch, incident)  # of a proof that was killed: a node may have written into it
    try:
        staged = restore.fetch(opened.repository, verified, scratch, incident, progress=progress)
        return verify_boot(opened.repository, verified, staged.path, booter, from_regions=staged.from_regions)
    finally:
        restore.discard_staged(scratch, incident)


def _state_reader(opened: OpenSite) -> Callable[[Path], Inspected] | None:
    """Reads all keys of restored data; None where the site has no program for that."""
    if not opened.site.chain.inspect_deep:
        return None
    return lambda data: opened.inspector.inspect(data.parent, data, deep=True)


def reconcile_provider(opened: OpenSite, restored: Path, survivor: Path | None) -> tuple[Advance, ...]:
    """Move a restored provider's checkpoints to where its surviving disk proves that it went, before it may start.

    Args:
        opened: The site, whose chain tells the tip.
        restored: The provider's restored home.
        survivor: What is left of its old home; None when nothing is: events since the snapshot are then handled again.

    Raises:
        VerificationFailedError: a checkpoint is ahead of the chain, or the survivor is another provider's.
    """
    surviving = read_checkpoints(survivor / "data") if survivor else ()
    advances = reconcile(read_checkpoints(restored / "data"), surviving)
    per_block = max(provider.sequences_per_block for provider in opened.site.providers)
    reached = tuple(dataclasses.replace(one.restored, last_sequence=one.last_sequence) for one in advances)
    place_checkpoints(opened, reached, near=None, sequences_per_block=per_block)
    write_advances(restored / "data", advances, opened.repository.clock())
    return advances


def place_checkpoints(
    opened: OpenSite, checkpoints: tuple[Checkpoint, ...], *, near: str | None, sequences_per_block: int
) -> tuple[Position, ...]:
    """Where they stand on the verified chain.

    A daemon may have handled a block that the nodes asked here are only about to show: such a block is waited for.

    Raises:
        VerificationFailedError: one is ahead of the chain, or the chain can't be verified.
    """
    light = opened.light_client(near=near)
    tip = light.verified_tip().height
    highest = Height(max(checkpoint.last_sequence for checkpoint in checkpoints) // sequences_per_block)
    if tip < highest <= tip + NEAR_BLOCKS:
        tip = light.verified_header(highest).height
    return locate(checkpoints, tip=tip, sequences_per_block=sequences_per_block)
