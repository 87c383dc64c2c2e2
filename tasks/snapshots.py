"""Steps of the scheduled chain-state snapshot and of its daily proof.

Guarantees: a snapshot counts as taken when a majority of regions hold it whole and checked; as proven when a node was
booted from it and its app hash matched a verified header.
Leaves out: how (vedr.backup, vedr.adapters.snapshots), and which old ones go (vedr.backup.retention).
"""

from dataclasses import dataclass
from typing import Final

from tasks.orders import RegionJob, SnapshotProof
from vedr.adapters import snapshots
from vedr.adapters.site import OpenSite, open_site
from vedr.backup import replicate, restore, retention
from vedr.backup.layout import Kind
from vedr.backup.repository import Listed, list_snapshots
from vedr.backup.snapshot import Created
from vedr.backup.verify import verify
from vedr.errors import NotFoundError
from vedr.runbook.steps import Context, Retry, step

STORE_RETRY: Final = Retry(attempts=4, delay_s=5.0)


@dataclass(frozen=True, slots=True)
class Taken:
    """A committed snapshot."""

    snapshot: str
    height: int
    app_hash: str
    header_verified: bool
    files: int
    total_bytes: int
    read_bytes: int
    pause_ms: int
    regions: tuple[str, ...]
    under_replicated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a verification that passed."""

    snapshot: str
    depth: int
    regions: tuple[str, ...]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """What retention and healing did."""

    kept: int
    expired: int
    removed_objects: int
    healed: tuple[str, ...]
    not_healed: tuple[str, ...]


@step(title="Capture and store", budget_s=1800, retry=STORE_RETRY)
def take_snapshot(ctx: Context[RegionJob]) -> Taken:
    """Pauses a full node well under a second, stores what is new in three regions, checks each, signs the manifest."""
    with open_site(ctx.order.site) as opened:
        taken = taken_of(snapshots.take(opened, region=ctx.order.region))
    ctx.say(f"{taken.snapshot}: paused {taken.pause_ms} ms, {taken.read_bytes} of {taken.total_bytes} bytes were new")
    return taken


def taken_of(created: Created) -> Taken:
    """A created snapshot as the ledger keeps it."""
    manifest, chain = created.verified.manifest, created.verified.manifest.facts.chain
    return Taken(
        snapshot=created.id,
        height=manifest.height,
        app_hash=chain.app_hash if chain else "",
        header_verified=bool(chain and chain.header_hash),
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        read_bytes=created.read_bytes,
        pause_ms=manifest.facts.pause_ms,
        regions=tuple(outcome.region for outcome in created.regions if outcome.checked),
        under_replicated=created.under_replicated,
    )


@step(title="Verify manifest and presence", budget_s=300, retry=STORE_RETRY)
def verify_presence(ctx: Context[RegionJob], taken: Taken) -> Checked:
    """Reads manifest and placement back from each region that holds it, and compares with the bucket's own listing."""
    with open_site(ctx.order.site) as opened:
        listed = find_listed(opened, ctx.order.region, "state", taken.snapshot)
        outcome = verify(opened.repository, listed, depth=1, regions=taken.regions).require()
    return Checked(outcome.snapshot, outcome.depth, tuple(check.region for check in outcome.regions), {})


def find_listed(opened: OpenSite, origin: str, kind: Kind, snapshot: str) -> Listed:
    """A snapshot by its id, the newest when that is empty; NotFoundError when it is not there."""
    found = list_snapshots(opened.repository, origin, kind).snapshots
    for listed in found:
        if snapshot in ("", listed.id):
            return listed
    raise NotFoundError(
        f"{origin} has no {kind} snapshot {snapshot or 'at all'}, of {len(found)}", remedy="See vedr snapshot list."
    )


@step(title="Heal and apply retention", budget_s=600, retry=STORE_RETRY)
def keep_house(ctx: Context[RegionJob]) -> Kept:
    """Copies older snapshots to regions that missed them; removes what is past its retention and needed by nobody."""
    with open_site(ctx.order.site) as opened:
        kept = house_keeping(opened, ctx.order.region, "state")
    if kept.not_healed:
        ctx.say(f"still under-replicated: {', '.join(kept.not_healed)}")
    return kept


def house_keeping(opened: OpenSite, origin: str, kind: Kind) -> Kept:
    """Heal first, then prune; when a region is down nothing is removed and what could not be healed is named."""
    listing = list_snapshots(opened.repository, origin, kind)
    healed = replicate.heal(opened.repository, listing.snapshots)
    done = tuple(f"{one.snapshot} in {one.region}" for one in healed if one.error is None)
    left = tuple(f"{one.snapshot} in {one.region}" for one in healed if one.error is not None)
    if listing.unreachable:
        return Kept(len(listing.snapshots), 0, 0, done, left)
    pruned = retention.prune(opened.repository, origin, kind)
    return Kept(len(pruned.plan.kept), len(pruned.plan.expired), pruned.removed_objects, done, left)


@step(title="Choose what to prove", budget_s=60, retry=STORE_RETRY, acts=False)
def choose_snapshot(ctx: Context[SnapshotProof]) -> str:
    """Takes the named snapshot, or the newest of the region."""
    with open_site(ctx.order.site) as opened:
        return find_listed(opened, ctx.order.region, "state", ctx.order.snapshot).id


@step(title="Read every byte", budget_s=1800, retry=STORE_RETRY)
def verify_bytes(ctx: Context[SnapshotProof], snapshot: str) -> Checked:
    """Reads each region's copy of every object, opens it and compares its hash with its name."""
    with open_site(ctx.order.site) as opened:
        listed = find_listed(opened, ctx.order.region, "state", snapshot)
        outcome = verify(opened.repository, listed, depth=2).require()
    return Checked(outcome.snapshot, outcome.depth, tuple(check.region for check in outcome.regions), {})


@step(title="Boot a node from it", budget_s=1800, retry=STORE_RETRY)
def boot_and_compare(ctx: Context[SnapshotProof], snapshot: str) -> Checked:
    """Restores it to scratch, starts a node without keys or peers, compares its app hash with a verified header."""
    with open_site(ctx.order.site) as opened:
        listed = restore.candidates(opened.repository, origins=[ctx.order.region], snapshot=snapshot)[0]
        outcome = snapshots.prove_by_boot(opened, listed).require()
    ctx.say(f"{snapshot} is proven: app hash {outcome.facts.get('app_hash', '')}")
    return Checked(outcome.snapshot, outcome.depth, tuple(c.region for c in outcome.regions), dict(outcome.facts))
