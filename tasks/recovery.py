"""What RB-DR-001 and RB-DR-006 do to a node, step by step: stop, bring data, swap, watch, see it serve.

Guarantees: the live data is untouched until a staged copy was booted and its app hash matched a light-verified header;
an older snapshot, and another region's store, take the place of what is missing or damaged, and that is said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.corruption_orders import DataCorruption
from tasks.observing import references
from tasks.orders import BackupRestore, SingleNodeFailure
from tasks.signing import check_recoverable
from vedr.adapters.site import OpenSite
from vedr.backup import restore
from vedr.backup.layout import SnapshotId, Source
from vedr.backup.repository import Listed
from vedr.backup.restore import Staged, Swapped
from vedr.chain import fence, sync
from vedr.chain.block import Flag
from vedr.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.inventory import Height, Node
from vedr.runbook.steps import Context

MAX_CANDIDATES: Final = 20  # snapshots that are tried before giving up: more than three days of them
MAX_SILENT: Final = 3  # snapshots that could not be read; more, and it is no matter of snapshots
NEXT_BLOCK_TIMES: Final = 15.0  # block times that a next block may take before the chain counts as standing
STALL_S: Final = 30.0  # nothing at all changed for this long: a sync has stalled
CATCH_UP_DEADLINE_S: Final = 900.0

NodeContext = Context[BackupRestore] | Context[SingleNodeFailure] | Context[DataCorruption]


@dataclass(frozen=True, slots=True)
class Point:
    """One snapshot that could be restored."""

    origin: str
    name: str
    snapshot: str
    regions: tuple[str, ...]

    def listed(self) -> Listed:
        return Listed(Source(self.origin, "state", self.name), SnapshotId(self.snapshot), self.regions)


@dataclass(frozen=True, slots=True)
class Points:
    """Snapshots to try, the best first."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Proven:
    """A staged copy that was booted and found to be the chain's state at `height`."""

    snapshot: str
    height: int
    app_hash: str
    path: Path
    total_bytes: int
    from_regions: tuple[str, ...]
    fetch_ms: int
    boot_ms: int
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Participating:
    """What was seen of the node in service."""

    height: int
    detail: str


def points_of(opened: OpenSite, *, snapshot: str = "", max_height: int = 0) -> Points:
    """Snapshots of any origin, newest first; NotFoundError when none fits."""
    listed = restore.candidates(
        opened.repository,
        origins=opened.site.regions_by_priority,
        snapshot=snapshot or None,
        max_height=max_height or None,
    )
    tried = listed[:MAX_CANDIDATES]
    return Points(tuple(Point(one.source.origin, one.source.name, one.id, one.regions) for one in tried))


def bring(ctx: NodeContext, opened: OpenSite, node: Node, points: Points) -> Proven:
    """The newest of the points that can be fetched and proves itself; older ones when it does not.

    A snapshot whose only good copies are in silent regions is passed over like one that is damaged: the regions may be
    gone for good.

    Raises:
        VerificationFailedError: not one of them does; every reason is named.
        NoSpaceError: the disk lacks room; nothing was written.
        UnavailableError: stores or chain do not answer: trying again may help.
    """
    home = opened.files.home(node)
    refused: list[str] = []
    silent: list[UnavailableError] = []
    for point in points.points:
        try:
            staged = _fetched(ctx, opened, node, point)
        except UnavailableError as error:
            silent.append(error)
            if len(silent) == MAX_SILENT:
                break
            failure: VedrError = error
        except (VerificationFailedError, NotFoundError, InvalidInputError) as error:
            failure = error
        else:
            try:
                return _proven(ctx, opened, node, staged, tuple(refused))
            except (VerificationFailedError, NotFoundError) as error:
                failure = error
        ctx.say(f"{point.snapshot} is passed over: {failure.message}")
        refused.append(f"{point.snapshot}: {failure.message}")
        restore.discard_staged(home, ctx.run_id)
    if silent:
        raise silent[0]
    raise VerificationFailedError(
        f"none of {len(points.points)} snapshots could be restored and proven: {'; '.join(refused)}",
        remedy="Verify the stores (vedr snapshot verify); RB-DR-001 can bring it back by state sync or block sync.",
    )


def _fetched(ctx: NodeContext, opened: OpenSite, node: Node, point: Point) -> Staged:
    verified = restore.open_manifest(
        opened.repository, point.listed(), chain_id=opened.site.chain.chain_id, prefer=(node.region,)
    )
    megabytes = verified.manifest.total_bytes // 1_000_000
    ctx.say(f"fetching {point.snapshot}: {megabytes} MB, height {verified.manifest.height}")
    return restore.fetch(opened.repository, verified, opened.files.home(node), ctx.run_id, prefer=(node.region,))


def _proven(ctx: NodeContext, opened: OpenSite, node: Node, staged: Staged, passed_over: tuple[str, ...]) -> Proven:
    ctx.say(f"booting {staged.snapshot} apart from everything")
    proof = opened.isolated_node.prove(staged.path, opened.light_client(near=node.region, besides=node.name))
    ctx.say(f"proven: app hash {proof.app_hash[:16]}… at height {proof.height} is the chain's")
    return Proven(
        snapshot=staged.snapshot,
        height=proof.height,
        app_hash=proof.app_hash,
        path=staged.path,
        total_bytes=staged.total_bytes,
        from_regions=staged.from_regions,
        fetch_ms=round(staged.took_s * 1000),
        boot_ms=round(proof.took_s * 1000),
        passed_over=passed_over,
    )


def swap(ctx: NodeContext, opened: OpenSite, node: Node, proven: Proven) -> Swapped:
    """Put the proven copy in the live data's place, by rename; the sign-state is carried over and never lowered.

    Stopped once more right before: since it was, somebody may have started the node, or its host.
    """
    ensure_stopped(ctx, opened, node)
    snapshot = SnapshotId(proven.snapshot)
    home = opened.files.home(node)
    return restore.swap_in(
        Staged(home, ctx.run_id, snapshot, proven.path, proven.total_bytes, proven.from_regions, took_s=0.0),
        validator=node.is_validator,
    )


def ensure_stopped(ctx: NodeContext, opened: OpenSite, node: Node) -> str:
    """Stopped, and meant to stay so.  A node frozen or hung is killed, which its databases are made for.

    RefusedError for a full node that signs with a validator's key file, and a validator whose key file is away.
    """
    check_recoverable(opened, node)
    status = opened.fleet.status(node.unit, node.zone)
    if status.state == "paused":
        ctx.say(f"{node.name} is frozen: it is killed, not thawed, so that it signs nothing on the way")
        opened.fleet.kill(node.unit, node.zone)
    try:
        ended = opened.fleet.stop(node.unit, node.zone)
    except DeadlineError:
        ctx.say(f"{node.name} does not end by itself: it is killed")
        opened.fleet.kill(node.unit, node.zone)
        ended = opened.fleet.stop(node.unit, node.zone)
    return f"{ended.state} since {ended.since.isoformat()}"


def wait_in_sync(ctx: NodeContext, opened: OpenSite, node: Node) -> sync.CatchUp:
    said = -1

    def tell(seen: sync.CatchUp) -> None:
        nonlocal said
        if seen.height // 100 != said // 100 or said < 0:
            ctx.say(f"{node.name} is at {seen.height}, the tip at {seen.tip}")
            said = seen.height

    peers = [one.rpc for one in references(opened, node)]
    return sync.wait_caught_up(opened.rpc(node), peers, deadline_s=CATCH_UP_DEADLINE_S, stall_s=STALL_S, progress=tell)


def participation(opened: OpenSite, node: Node) -> Participating:
    """Compare its newest block and app hash with a verified header; for a validator, await its signature.

    Raises:
        VerificationFailedError: they differ, or its signature does not come.
    """
    rpc = opened.rpc(node)
    light = opened.light_client(near=node.region, besides=node.name)
    status = rpc.status()
    header = light.verified_header(status.latest_height)
    observed = (status.latest_block_hash.hex().upper(), status.latest_app_hash.hex().upper())
    if observed != (header.hash, header.app_hash):
        raise VerificationFailedError(
            f"{node.name} shows block {observed[0]} and app hash {observed[1]} at height {status.latest_height}, "
            f"the verified header has {header.hash} and {header.app_hash}",
            remedy="Stop it; restore an older snapshot (RB-DR-006).",
        )
    if not node.is_validator:
        return Participating(status.latest_height, f"block and app hash of height {header.height} are the chain's")
    signed = _await_signature(opened, node, Height(status.latest_height + 1))
    return Participating(signed, f"its signature is in the commit of height {signed}, no evidence against it")


def _await_signature(opened: OpenSite, node: Node, after: Height) -> Height:
    """The first height whose canonical commit holds the validator's signature; stops the node on evidence.

    Raises:
        VerificationFailedError: evidence of a double signature, or no signature within the limit.
    """
    address = bytes.fromhex(node.address)
    witness = references(opened, node)[0].rpc
    for height in map(Height, range(after, after + fence.MIN_QUIET_COMMITS)):
        sync.wait_for_height(witness, Height(height + 1), deadline_s=NEXT_BLOCK_TIMES * opened.site.chain.block_time_s)
        if any(address in one.addresses for one in witness.block(height).evidence):
            opened.fleet.kill(node.unit, node.zone)
            raise VerificationFailedError(
                f"block {height} holds evidence against {node.name}: it was stopped at once",
                remedy="Keep it stopped and raise a key-compromise incident (RB-DR-005).",
            )
        commit = witness.commit(height).commit
        if any(sig.address == address and sig.flag is Flag.COMMIT for sig in commit.signatures):
            return height
    raise VerificationFailedError(
        f"{node.name} is in sync, but none of {fence.MIN_QUIET_COMMITS} commits from {after} on holds its signature",
        remedy="Check that it is in the validator set and not jailed, and its log.",
    )
