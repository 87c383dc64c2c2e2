"""All regions' buckets as one place for snapshots: finding them, and opening what was signed.

Guarantees: nothing is returned that a trusted key did not sign; a region that is down or holds a damaged copy is passed
over as long as another answers, and the error names every region when none does.
Leaves out: content (snapshot.py writes it, restore.py and verify.py read it).
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from vedr.backup.layout import SnapshotId, Source, document_id, manifest_key, parse_id, placement_key
from vedr.backup.manifest import Placement, VerifiedManifest, open_manifest, open_placement
from vedr.backup.mending import mendable
from vedr.backup.sealing import Codec
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
)
from vedr.ports import Clock, ObjectKey, ObjectStore, StoredObject
from vedr.signature import MAX_DOCUMENT_BYTES, Signer
from vedr.targets import Retention

_Result = TypeVar("_Result")
_MAX_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class Repository:
    """The site's buckets and everything needed to read and write snapshots in them."""

    stores: Mapping[str, ObjectStore]
    signer: Signer
    trusted: tuple[str, ...]
    codec: Codec
    retention: Retention
    clock: Clock = field(default=lambda: dt.datetime.now(dt.UTC))

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(self.stores)

    @property
    def majority(self) -> int:
        return len(self.stores) // 2 + 1

    def store(self, region: str) -> ObjectStore:
        if region not in self.stores:
            raise NotFoundError(f"no store in region {region!r}", remedy=f"Choose one of: {', '.join(self.stores)}.")
        return self.stores[region]

    def in_every_region(self, act: Callable[[ObjectStore], _Result]) -> "dict[str, _Result | VedrError]":
        """What `act` gives in each region, at once; a region's own trouble is its result, never the others'."""

        def guarded(store: ObjectStore) -> "_Result | VedrError":
            try:
                return act(store)
            except VedrError as error:
                return error

        with ThreadPoolExecutor(min(_MAX_THREADS, len(self.stores)), "region") as pool:
            return dict(zip(self.stores, pool.map(guarded, self.stores.values()), strict=True))


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot as the regions' listings show it; nothing of it is proven yet."""

    source: Source
    id: SnapshotId
    regions: tuple[str, ...]

    @property
    def created_at(self) -> dt.datetime:
        return parse_id(self.id).created_at

    @property
    def height(self) -> int:
        return parse_id(self.id).height


@dataclass(frozen=True, slots=True)
class Listing:
    """Snapshots, newest first, and the regions that could not be asked."""

    snapshots: tuple[Listed, ...]
    unreachable: Mapping[str, VedrError]


def list_snapshots(repository: Repository, origin: str, kind: str, *, name: str | None = None) -> Listing:
    """All committed snapshots of an origin's kind, or only those of one source.

    An empty object under a manifest's key stands for a snapshot that retention gave up before it was committed.

    Raises:
        UnavailableError: no region answers.
    """

    def ids(store: ObjectStore) -> list[SnapshotId]:
        found = (document_id(entry.key) for entry in store.list(f"{origin}/{kind}/m/") if entry.size_bytes)
        return [snapshot for snapshot in found if snapshot is not None]

    answers = repository.in_every_region(ids)
    unreachable = {region: answer for region, answer in answers.items() if isinstance(answer, VedrError)}
    if len(unreachable) == len(answers):
        raise no_region(f"snapshots of {origin}/{kind}", unreachable)
    where: dict[SnapshotId, list[str]] = {}
    for region, answer in answers.items():
        for snapshot in [] if isinstance(answer, VedrError) else answer:
            where.setdefault(snapshot, []).append(region)
    listed = [
        Listed(_source(origin, kind, snapshot), snapshot, tuple(regions))
        for snapshot, regions in where.items()
        if name is None or parse_id(snapshot).name == name
    ]
    return Listing(tuple(sorted(listed, key=lambda entry: entry.id, reverse=True)), unreachable)


def _source(origin: str, kind: str, snapshot: SnapshotId) -> Source:
    return Source(origin, kind, parse_id(snapshot).name)  # type: ignore[arg-type]  # a kind that is none lists nothing


def load_manifest(repository: Repository, listed: Listed, *, prefer: Iterable[str] = ()) -> VerifiedManifest:
    """The signed manifest, from the first region whose copy proves itself."""
    refusals: dict[str, VedrError] = {}
    for region in ordered(repository.regions, prefer):
        try:
            return load_own_manifest(repository, listed.source, listed.id, region)
        except VedrError as error:
            refusals[region] = error
    raise no_region(f"manifest {listed.id}", refusals)


def require_readable(codec: Codec, verified: VerifiedManifest) -> None:
    """Whether its objects can be opened here: without this, another key's would all look damaged.

    Raises:
        InvalidInputError: it is encrypted and the site is not, the other way round, or it is under another key.
    """
    manifest = verified.manifest
    if manifest.encryption != codec.encryption:
        raise InvalidInputError(
            f"snapshot {manifest.id} has encryption {manifest.encryption}, this site {codec.encryption}",
            remedy="Give the site file the [encryption] that the snapshot was made with.",
        )
    if manifest.key_id not in (None, codec.key_id):
        raise InvalidInputError(
            f"snapshot {manifest.id} is encrypted under key {manifest.key_id}, this site has key {codec.key_id}",
            remedy="Its objects are proven by that key alone; without it they are neither read nor copied to another "
            "region.  Use a copy of the site file whose [encryption] key is the one of that time: --site FILE.",
        )


def load_own_manifest(repository: Repository, source: Source, snapshot: SnapshotId, region: str) -> VerifiedManifest:
    """That region's own copy: another's would hide its loss."""
    with mendable(source, snapshot, region):
        stored = repository.store(region).get(manifest_key(source, snapshot), limit_bytes=MAX_DOCUMENT_BYTES)
        return open_manifest(stored, repository.trusted, source_prefix=source.prefix, snapshot=snapshot)


def load_placement(repository: Repository, verified: VerifiedManifest, region: str) -> Placement:
    """Where that region keeps the snapshot's objects."""
    with mendable(verified.source, verified.id, region):
        key = placement_key(verified.source, verified.id)
        stored = repository.store(region).get(key, limit_bytes=MAX_DOCUMENT_BYTES)
        return open_placement(stored, repository.trusted, verified=verified, region=region)


def put_once(store: ObjectStore, key: ObjectKey, data: bytes) -> StoredObject:
    """Create, or find exactly these bytes there already: an answer lost on the way, or a run that was killed.

    Raises:
        ConflictError: other bytes are there.
    """
    try:
        return store.create(key, data)
    except ConflictError:
        existing = store.head(key)
        same_size = existing.size_bytes == len(data)
        if not same_size or store.get(key, version=existing.version, limit_bytes=len(data)) != data:
            raise ConflictError(
                f"{key} in {store.region} was written by somebody else", remedy="Another run made it first: run again."
            ) from None
        return existing


def ordered(regions: Iterable[str], prefer: Iterable[str]) -> tuple[str, ...]:
    """The preferred ones first, nobody left out."""
    known = tuple(regions)
    first = [region for region in prefer if region in known]
    return (*first, *(region for region in known if region not in first))


def no_region(what: str, refusals: Mapping[str, VedrError]) -> VedrError:
    """One error for all regions, of the kind that says whether trying again can help."""
    reasons = "; ".join(f"{region}: {error.message}" for region, error in refusals.items())
    message = f"{what}: no region has a good copy ({reasons})"
    errors = list(refusals.values())
    if any(isinstance(error, UnavailableError) for error in errors):
        return UnavailableError(message, remedy="Bring a region's store back, and run it again.")
    if errors and all(isinstance(error, NotFoundError) for error in errors):
        return NotFoundError(message, remedy="See `vedr snapshot list`.")
    if errors and all(isinstance(error, RefusedError) for error in errors):
        return RefusedError(message, remedy=" ".join(dict.fromkeys(error.remedy for error in errors)))
    return CorruptError(message, remedy="Choose an older snapshot.")
