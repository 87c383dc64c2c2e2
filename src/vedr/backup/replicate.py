"""Bringing a region that missed snapshots back to whole.

Guarantees: what is copied was proven against its name before it is written; a region's manifest appears only when all
of the snapshot is there and checked, as at creation; healing what is whole does nothing.
Leaves out: which snapshots deserve it (retention.py decides what is kept).
"""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from vedr.backup.fetching import FORMS, ObjectReader
from vedr.backup.layout import ObjectName, SnapshotId, epoch_prefix, manifest_key, object_key, placement_key
from vedr.backup.manifest import PlacedObject, Placement, VerifiedManifest
from vedr.backup.mending import mendable
from vedr.backup.repository import (
    Listed,
    Repository,
    list_snapshots,
    load_manifest,
    load_own_manifest,
    load_placement,
    no_region,
    require_readable,
)
from vedr.backup.rooms import Workspace
from vedr.backup.snapshot import NO_PROGRESS, Progress, check_presence, commit_in
from vedr.backup.upload import inspect_object
from vedr.errors import ConflictError, CorruptError, NotFoundError, UnavailableError, VedrError
from vedr.ports import ObjectKey, ObjectStore

COPIERS: Final = 4


@dataclass(frozen=True, slots=True)
class Healed:
    """`copied_objects` is 0 where only documents were missing."""

    snapshot: SnapshotId
    region: str
    copied_objects: int
    copied_bytes: int
    error: VedrError | None


def heal(
    repository: Repository, snapshots: Iterable[Listed], *, progress: Progress = NO_PROGRESS
) -> tuple[Healed, ...]:
    """Copy each snapshot to every region whose listing lacks it; a failure is in its result and stops no other's.

    Oldest first: what later snapshots share is then there already.
    """
    healed: list[Healed] = []
    for listed in sorted(snapshots, key=lambda entry: entry.id):
        lacking = [region for region in repository.regions if region not in listed.regions]
        if not lacking:
            continue
        try:
            verified = load_manifest(repository, listed, prefer=listed.regions)
        except VedrError as error:  # forged, damaged, or signed by a key that was revoked since
            healed.extend(Healed(listed.id, region, 0, 0, error) for region in lacking)
            continue
        healed.extend(_heal_region(repository, verified, region, listed.regions, progress) for region in lacking)
    return tuple(healed)


def repair(repository: Repository, listed: Listed, region: str, *, progress: Progress = NO_PROGRESS) -> Healed:
    """Replace what is damaged or missing in a region that lists the snapshot, from the other regions.

    Nothing is removed before each replacement was read elsewhere and proven.  Then the region's manifest is withdrawn,
    so that nobody reads a half-mended copy; killed half-way, `heal` ends it.  Snapshots that share a replaced object
    are told where it stands now; killed before that, repairing again ends it.
    Under an object lock this is refused: the other regions serve restores until the epoch has passed.
    """
    others = tuple(other for other in repository.regions if other != region)
    verified = load_manifest(repository, listed, prefer=others)
    store = repository.store(region)
    try:
        _require_elsewhere(repository, verified, others)
        damaged = _damaged(repository, verified, store)
        _require_good_elsewhere(repository, verified, damaged, others)
        store.delete(manifest_key(verified.source, verified.id))
        store.delete(placement_key(verified.source, verified.id))
        for number in damaged:
            name = verified.manifest.objects[number].name
            store.delete(object_key(verified.source, verified.manifest.epoch, name))
    except VedrError as error:
        return Healed(verified.id, region, 0, 0, error)
    healed = _heal_region(repository, verified, region, others, progress)
    if healed.error is None:
        try:
            _tell_sharers(repository, verified, store)
        except VedrError as error:
            return replace(healed, error=error)
    return healed


def _damaged(repository: Repository, verified: VerifiedManifest, store: ObjectStore) -> list[int]:
    """Numbers of the objects that stand there and are not what their name says; those that are absent are copied."""
    require_readable(repository.codec, verified)
    numbers = []
    for number, entry in enumerate(verified.manifest.objects):
        try:
            inspect_object(store, repository.codec, verified.source, verified.manifest.epoch, entry.name)
        except CorruptError:
            numbers.append(number)
        except NotFoundError:
            continue
    return numbers


def _require_good_elsewhere(
    repository: Repository, verified: VerifiedManifest, numbers: Iterable[int], regions: Iterable[str]
) -> None:
    """Read each of the objects in another region.  Raises what reading raises: what looks damaged is then kept."""
    elsewhere = replace(repository, stores={region: repository.stores[region] for region in regions})
    reader, workspace = ObjectReader(elsewhere, verified), Workspace()
    for number in numbers:
        with workspace.loan(FORMS * verified.manifest.objects[number].size_bytes) as loan:
            reader.read_sealed(number, loan)


def _tell_sharers(repository: Repository, verified: VerifiedManifest, store: ObjectStore) -> None:
    """Renew the region's placements that name versions which the repair has replaced.

    They are of snapshots that share objects with this one; the next snapshot believes the newest of them.
    """
    placed = _placed(load_placement(repository, verified, store.region), verified)
    source = verified.source
    for listed in list_snapshots(repository, source.origin, source.kind).snapshots:
        if store.region not in listed.regions or listed.id == verified.id:
            continue
        try:
            sharer = load_own_manifest(repository, listed.source, listed.id, store.region)
            known = _placed(load_placement(repository, sharer, store.region), sharer)
        except UnavailableError:
            raise
        except VedrError:
            continue  # that copy is damaged itself: verification tells, its own repair mends it
        renewed = {name: placed.get(name, one) for name, one in known.items()}
        if sharer.manifest.epoch == verified.manifest.epoch and renewed != known:
            _recommit(repository, sharer, store, renewed)


def _placed(placement: Placement, verified: VerifiedManifest) -> dict[ObjectName, PlacedObject]:
    names = (entry.name for entry in verified.manifest.objects)
    return dict(zip(names, placement.objects, strict=True))


def _recommit(
    repository: Repository,
    verified: VerifiedManifest,
    store: ObjectStore,
    placed: Mapping[ObjectName, PlacedObject],
) -> None:
    """Put other documents in the place of a region's: without its manifest nobody reads them meanwhile."""
    store.delete(manifest_key(verified.source, verified.id))
    store.delete(placement_key(verified.source, verified.id))
    commit_in(repository, verified, store, placed, late=True)


def _require_elsewhere(repository: Repository, verified: VerifiedManifest, regions: Iterable[str]) -> None:
    """Before a copy is withdrawn, another must be proven to be there.  Raises what its check raises."""
    refusals: dict[str, VedrError] = {}
    for region in regions:
        try:
            placement = load_placement(repository, verified, region)
            check_presence(repository.stores[region], verified, _placed(placement, verified))
        except VedrError as error:
            refusals[region] = error
        else:
            return
    raise no_region(f"another copy of snapshot {verified.id}", refusals)


def _heal_region(
    repository: Repository, verified: VerifiedManifest, region: str, good: Iterable[str], progress: Progress
) -> Healed:
    store = repository.stores[region]
    try:
        copy = _Copy(repository, verified, store, tuple(good), progress)
    except VedrError as error:
        return Healed(verified.id, region, 0, 0, error)
    try:
        with mendable(verified.source, verified.id, region):
            placed = copy.run()
        check_presence(store, verified, placed)
        try:
            commit_in(repository, verified, store, placed, late=True)
        except ConflictError:  # a writer's placement under an earlier key, or retention's mark: both end with this
            _recommit(repository, verified, store, placed)
        _withdraw_if_expired(repository, verified, store, tuple(good))
    except VedrError as error:
        return Healed(verified.id, region, copy.objects, copy.bytes, error)
    return Healed(verified.id, region, copy.objects, copy.bytes, None)


def _withdraw_if_expired(
    repository: Repository, verified: VerifiedManifest, store: ObjectStore, good: tuple[str, ...]
) -> None:
    """Retention may have removed the snapshot while it was copied: then its objects may be gone here, too.

    Raises:
        NotFoundError: it has expired.
        UnavailableError: nobody can say; this may be the only copy by now, so it stays.
    """
    key = manifest_key(verified.source, verified.id)
    silent: dict[str, VedrError] = {}
    for region in good:
        try:
            repository.stores[region].head(key)
        except NotFoundError:
            continue
        except VedrError as error:
            silent[region] = error
            continue
        return
    if silent:
        reasons = "; ".join(f"{region}: {error.message}" for region, error in silent.items())
        raise UnavailableError(
            f"snapshot {verified.id} is copied to {store.region}, whether it has expired meanwhile can't be seen "
            f"({reasons})",
            remedy=f"The copy stays.  When the regions are back, verify it: vedr snapshot verify {verified.id}",
        )
    store.delete(key)
    store.delete(placement_key(verified.source, verified.id))
    raise NotFoundError(
        f"snapshot {verified.id} is in no other region any more: it was not healed", remedy="Nothing: it has expired."
    )


class _Copy:
    """One snapshot's objects into one region."""

    def __init__(
        self,
        repository: Repository,
        verified: VerifiedManifest,
        store: ObjectStore,
        good: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self._repository, self._verified, self._store = repository, verified, store
        self._reader = ObjectReader(repository, verified, prefer=good)
        self._progress = progress
        self._workspace = Workspace()
        self._lock = threading.Lock()
        self._total_bytes = sum(entry.size_bytes for entry in verified.manifest.objects)
        self._done_bytes = 0
        self.objects = 0
        self.bytes = 0

    def run(self) -> dict[ObjectName, PlacedObject]:
        manifest = self._verified.manifest
        listed = {entry.key for entry in self._store.list(epoch_prefix(self._verified.source, manifest.epoch))}
        with ThreadPoolExecutor(COPIERS, f"heal-{self._store.region}") as pool:
            placed = pool.map(lambda number: self._place(number, listed), range(len(manifest.objects)))
            return {entry.name: one for entry, one in zip(manifest.objects, placed, strict=True)}

    def _place(self, number: int, listed: set[ObjectKey]) -> PlacedObject:
        source, manifest = self._verified.source, self._verified.manifest
        entry = manifest.objects[number]
        key = object_key(source, manifest.epoch, entry.name)
        placed = None if key in listed else self._create(key, number)
        if placed is None:
            placed = inspect_object(self._store, self._repository.codec, source, manifest.epoch, entry.name)
        with self._lock:
            self._done_bytes += entry.size_bytes
            self._progress(self._done_bytes, self._total_bytes)
        return placed

    def _create(self, key: ObjectKey, number: int) -> PlacedObject | None:
        with self._workspace.loan(FORMS * self._verified.manifest.objects[number].size_bytes) as loan:
            sealed = self._reader.read_sealed(number, loan)  # proven, so it is not sealed anew
        try:
            created = self._store.create(key, sealed)
        except ConflictError:
            return None
        with self._lock:
            self.objects += 1
            self.bytes += len(sealed)
        return PlacedObject(created.version, len(sealed))
