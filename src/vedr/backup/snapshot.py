"""Creating a snapshot: from files on disk to a signed manifest in every region.

    (1) List the epoch in every region: what is there need not be sent.
    (2) Find the newest manifest of the source in this epoch: files it describes unchanged are not read.
    (3) Read, hash, seal and send the rest; a region that fails is left alone from then on.
    (4) List again: every object that the snapshot needs must stand there, at its size.
    (5) Where that holds, write the placement, then the manifest: from that moment the snapshot exists in that region.

Guarantees: nothing is visible before it is whole; a run that is killed leaves only objects that the next run finds and
uses; a writer whose epoch has closed commits nothing.
Leaves out: making the files stand still (capture.py), and proving that they boot (verify.py).
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vedr.backup.layout import (
    Epoch,
    ObjectName,
    SnapshotId,
    Source,
    closes_at,
    epoch_at,
    epoch_prefix,
    manifest_key,
    parse_object_key,
    placement_key,
    snapshot_id,
)
from vedr.backup.manifest import (
    Facts,
    Manifest,
    PlacedObject,
    Placement,
    VerifiedManifest,
    seal_manifest,
    seal_placement,
)
from vedr.backup.mending import heal_command, mendable, repair_command
from vedr.backup.reading import Reading
from vedr.backup.repository import (
    Repository,
    list_snapshots,
    load_manifest,
    load_placement,
    no_region,
    put_once,
)
from vedr.backup.tree import Tree
from vedr.backup.upload import Landing, Uploader, spread, survey, trust_earlier
from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.inventory import Height
from vedr.ports import ObjectStore

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from several threads."""

SAME_MOMENT: Final = dt.timedelta(seconds=10)  # further ahead is a clock that is wrong, and not to be followed
NO_PROGRESS: Final[Progress] = lambda _done, _total: None  # noqa: E731 (a value that has a name)


@dataclass(frozen=True, slots=True)
class RegionOutcome:
    """`error` is None where the snapshot is whole, checked and committed."""

    region: str
    error: VedrError | None
    new_objects: int
    sent_bytes: int

    @property
    def checked(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Created:
    """A committed snapshot."""

    verified: VerifiedManifest
    regions: tuple[RegionOutcome, ...]
    read_bytes: int
    took_s: float

    @property
    def id(self) -> SnapshotId:
        return self.verified.id

    @property
    def under_replicated(self) -> tuple[str, ...]:
        return tuple(outcome.region for outcome in self.regions if not outcome.checked)


def create(
    repository: Repository,
    source: Source,
    tree: Tree,
    facts: Facts,
    *,
    rehash: bool = False,
    min_regions: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Created:
    """Store the files and commit the snapshot.

    Args:
        repository: The regions.
        source: Whose files these are.
        tree: The files, which must not change until this returns.
        facts: What capture found out.
        rehash: Read everything again, whatever the earlier manifest says.
        min_regions: Fewer whole regions than this are an error; default: a majority.
        progress: Told of bytes read or recognised.

    Raises:
        UnavailableError: too few regions are whole; the message says which are, and there it is committed.
        RefusedError: the epoch closed meanwhile, or a file changed while it was read.
    """
    began = time.monotonic()
    created_at = repository.clock().replace(microsecond=0)
    epoch = epoch_at(created_at, repository.retention.epoch_days)
    landings = survey(repository, source, epoch)  # (1)
    earlier = _earlier(repository, source, epoch, landings)  # (2)
    height = facts.chain.height if facts.chain else Height(0)
    if earlier is not None and earlier.height == height:
        created_at = _after(earlier.created_at, created_at)
    with Uploader(repository.codec, source, epoch, landings) as uploader:  # (3)
        reading = Reading(tree, None if rehash else earlier, uploader, repository.codec, progress)
        spread(reading.tasks())
    objects, files = reading.result()
    manifest = Manifest(
        id=snapshot_id(source, created_at, height),
        source=source,
        epoch=epoch,
        created_at=created_at,
        facts=facts,
        encryption=repository.codec.encryption,
        objects=objects,
        files=files,
        folders=tree.folders,
        key_id=repository.codec.key_id,
    )
    verified = seal_manifest(manifest, repository.signer)
    outcomes = commit(repository, verified, landings)
    _require(outcomes, verified, repository.majority if min_regions is None else min_regions)
    return Created(verified, outcomes, reading.read_bytes, time.monotonic() - began)


def _after(earlier: dt.datetime, now: dt.datetime) -> dt.datetime:
    """Ids are to the second: the next one, where the earlier snapshot of this moment has this one."""
    return earlier + dt.timedelta(seconds=1) if dt.timedelta() <= earlier - now < SAME_MOMENT else now


def commit(
    repository: Repository, verified: VerifiedManifest, landings: Mapping[str, Landing]
) -> tuple[RegionOutcome, ...]:
    """Check each region and, where it holds everything, write placement and manifest.  Safe to repeat."""

    def finish(store: ObjectStore) -> None:
        landing = landings[store.region]
        if landing.error is not None:
            with mendable(verified.source, verified.id, store.region):
                raise landing.error
        check_presence(store, verified, landing.placed)  # (4)
        commit_in(repository, verified, store, landing.placed)  # (5)

    answers = repository.in_every_region(finish)
    return tuple(
        RegionOutcome(region, answers[region], landing.new_objects, landing.sent_bytes)
        for region, landing in landings.items()
    )


def check_presence(store: ObjectStore, verified: VerifiedManifest, placed: Mapping[ObjectName, PlacedObject]) -> None:
    """Compare the bucket's own listing with what the snapshot needs.

    Raises:
        NotFoundError: objects are absent.
        CorruptError: objects have another size.
    """
    manifest = verified.manifest
    needed = {entry.name for entry in manifest.objects}
    wrong: list[ObjectName] = []
    for listed in store.list(epoch_prefix(verified.source, manifest.epoch)):
        parsed = parse_object_key(listed.key)
        if parsed is not None and parsed[1] in needed:
            needed.discard(parsed[1])
            expected = placed.get(parsed[1])
            if expected is None or expected.stored_bytes != listed.size_bytes:
                wrong.append(parsed[1])
    what = f"snapshot {verified.id} in {store.region}"
    remedy = f"Mend it from another region's: {repair_command(verified.source, verified.id, store.region)}"
    if needed:
        raise NotFoundError(f"{what}: {len(needed)} of {len(manifest.objects)} objects are absent", remedy=remedy)
    if wrong:
        raise CorruptError(f"{what}: {len(wrong)} objects have another size, {wrong[0]} for one", remedy=remedy)


def commit_in(
    repository: Repository,
    verified: VerifiedManifest,
    store: ObjectStore,
    placed: Mapping[ObjectName, PlacedObject],
    *,
    late: bool = False,
) -> None:
    """Placement first, manifest last; refuses where the epoch has closed.

    `late` is for copies of a snapshot that another region lists: retention then spares its objects in every region.
    """
    manifest = verified.manifest
    placement = Placement(
        verified.id,
        store.region,
        manifest.epoch,
        verified.sha256,
        tuple(placed[entry.name] for entry in manifest.objects),
    )
    put_once(store, placement_key(verified.source, verified.id), seal_placement(placement, repository.signer))
    if not late:
        require_open(manifest.epoch, repository)
    put_once(store, manifest_key(verified.source, verified.id), verified.stored)


def require_open(epoch: Epoch, repository: Repository) -> None:
    """RefusedError when no writer may commit into the epoch any more."""
    closes = closes_at(epoch, repository.retention.epoch_days)
    now = repository.clock()
    if now >= closes:
        raise RefusedError(
            f"epoch {epoch} closed at {closes.isoformat()}, it is {now.isoformat()}: objects may be gone by now",
            remedy="Take a new snapshot: it begins in the present epoch.",
        )


def _earlier(repository: Repository, source: Source, epoch: Epoch, landings: Mapping[str, Landing]) -> Manifest | None:
    """The newest manifest of the source in this epoch; each region's own newest placement goes into its landing."""
    try:
        listing = list_snapshots(repository, source.origin, source.kind, name=source.name)
    except VedrError:
        return None  # the survey has met the same
    newest: Manifest | None = None
    proven: dict[SnapshotId, VerifiedManifest] = {}
    for region, landing in landings.items():
        if landing.error is not None:
            continue
        for listed in listing.snapshots:
            if region not in listed.regions or epoch_of(listed.created_at, repository) != epoch:
                continue
            try:
                verified = proven.get(listed.id) or load_manifest(repository, listed, prefer=(region,))
                placement = load_placement(repository, verified, region)
            except VedrError:
                continue  # an older one may do; without any, everything is sent again
            if verified.manifest.epoch != epoch:
                continue  # made under another epoch_days: what it placed stands under other keys
            proven[listed.id] = verified
            names = (entry.name for entry in verified.manifest.objects)
            trust_earlier(landing, dict(zip(names, placement.objects, strict=True)))
            if newest is None or verified.id > newest.id:
                newest = verified.manifest
            break
    ours = repository.codec.encryption, repository.codec.key_id
    return newest if newest is not None and (newest.encryption, newest.key_id) == ours else None


def epoch_of(moment: dt.datetime, repository: Repository) -> Epoch:
    return epoch_at(moment, repository.retention.epoch_days)


def _require(outcomes: tuple[RegionOutcome, ...], verified: VerifiedManifest, needed: int) -> None:
    whole = [outcome.region for outcome in outcomes if outcome.checked]
    failures = {outcome.region: outcome.error for outcome in outcomes if outcome.error is not None}
    if not whole:
        final = [error for error in failures.values() if isinstance(error, (RefusedError, ConflictError))]
        nowhere = f"snapshot {verified.id}: committed nowhere"
        raise final[0] if len(final) == len(failures) else no_region(nowhere, failures)
    if len(whole) < needed:
        reasons = "; ".join(f"{region}: {error.message}" for region, error in failures.items())
        raise UnavailableError(
            f"snapshot {verified.id} is whole in {', '.join(whole)} only, {needed} regions are needed ({reasons})",
            remedy=f"When the regions are back: {heal_command(verified.source)}",
        )
