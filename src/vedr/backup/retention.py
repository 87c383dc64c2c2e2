"""What is kept, and removing what is not, without ever taking an object that a snapshot needs.

    (1) List manifests in every region; if one does not answer, nothing is removed anywhere.
    (2) Decide: all of the last `keep_all_days`, then the newest of each day, until the kind's age limit; and always the
        newest snapshot of each source, and the newest that was verified.
    (3) Remove manifests, then placements, of what is not kept, in every region.
    (4) In closed epochs, give up snapshots that have a placement and no manifest: an empty object created under the
        manifest's key makes sure that a writer that stood still since can't commit any more.
    (5) List manifests again.  In every *closed* epoch, remove the objects that no manifest of any region refers to.

Guarantees: objects of an open epoch are never removed, so a writer can rely on what it has found.  A closed epoch gets
no new manifests: a writer puts its placement, looks at the clock, then creates the manifest; so it is refused by the
clock, or seen by (4) and stopped there, or has committed before (5) and is spared.  Clocks may differ by an hour.
Killed anywhere, the next run ends it: what is lost first is always the reference, never the content.  Memory is flat
however many objects there are: references go into a Bloom filter of fixed size, whose rare false answers keep an object
and never remove one.
Leaves out: versions under an object lock, which the bucket's own retention frees (docs/formats/store.md).
"""

import contextlib
import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vedr.backup.layout import (
    DAY,
    PRUNE_SLACK,
    Epoch,
    Kind,
    ObjectName,
    SnapshotId,
    Source,
    closes_at,
    document_id,
    epoch_at,
    manifest_key,
    parse_id,
    parse_object_key,
    placement_key,
)
from vedr.backup.repository import Listed, Listing, Repository, list_snapshots, load_manifest
from vedr.backup.verify import newest_proofs
from vedr.errors import ConflictError, RefusedError, UnavailableError, VedrError
from vedr.ports import ObjectKey, ObjectStore, StoredObject
from vedr.targets import Retention

BATCH: Final = 1000
GIVEN_UP: Final = b""
"""Under a manifest's key: this snapshot was not committed in time and never will be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`expired` go, `kept` stay; both newest first."""

    kept: tuple[Listed, ...]
    expired: tuple[Listed, ...]
    closed_before: Epoch
    """Epochs up to and without this one are closed."""


@dataclass(frozen=True, slots=True)
class Pruned:
    plan: Plan
    removed_objects: int
    removed_bytes: int
    locked: int
    """What an object lock still holds; a later run takes it."""


def max_age(retention: Retention, kind: Kind) -> dt.timedelta:
    days = {
        "state": retention.chain_state_days,
        "provider": retention.provider_state_days,
        "config": retention.configuration_days,
    }
    return days[kind] * DAY


def decide(
    snapshots: Iterable[Listed], *, proven: Iterable[SnapshotId], now: dt.datetime, retention: Retention, kind: Kind
) -> tuple[tuple[Listed, ...], tuple[Listed, ...]]:
    """Kept and expired.  Pure.  The newest of a day is chosen for each source by itself."""
    verified = set(proven)
    kept: list[Listed] = []
    expired: list[Listed] = []
    days: set[tuple[Source, dt.date]] = set()
    newest: set[Source] = set()
    newest_verified: set[Source] = set()
    for listed in sorted(snapshots, key=lambda entry: entry.id, reverse=True):
        age = now - listed.created_at
        day = (listed.source, listed.created_at.date())
        first_of_day = day not in days
        keep = age <= retention.keep_all_days * DAY or (first_of_day and age <= max_age(retention, kind))
        if listed.source not in newest:
            newest.add(listed.source)
            keep = True
        if listed.id in verified and listed.source not in newest_verified:
            newest_verified.add(listed.source)
            keep = True
        days.add(day)
        (kept if keep else expired).append(listed)
    return tuple(kept), tuple(expired)


def plan(repository: Repository, origin: str, kind: Kind) -> Plan:
    """What `prune` would do, now.

    Raises:
        UnavailableError: a region does not answer: what it holds might need what the others would lose.
    """
    listing = _whole_listing(repository, origin, kind)
    now = repository.clock()
    kept, expired = decide(
        listing.snapshots,
        proven=newest_proofs(repository, origin, kind),
        now=now,
        retention=repository.retention,
        kind=kind,
    )
    return Plan(kept, expired, _closed_before(repository, now))


def prune(repository: Repository, origin: str, kind: Kind) -> Pruned:
    """Remove what the plan lets go.  Safe to repeat, and beside backups, restores and other prunes."""
    decided = plan(repository, origin, kind)
    locked = sum(not _remove_documents(repository, listed) for listed in decided.expired)
    sweep = _Sweep(repository, origin, kind, decided.closed_before)
    sweep.give_up({listed.id for listed in _whole_listing(repository, origin, kind).snapshots})
    remaining = _whole_listing(repository, origin, kind)
    sweep.documents({listed.id for listed in remaining.snapshots})
    sweep.objects(remaining.snapshots)
    return Pruned(decided, sweep.removed, sweep.removed_bytes, sweep.locked + locked)


def _whole_listing(repository: Repository, origin: str, kind: Kind) -> Listing:
    listing = list_snapshots(repository, origin, kind)
    if listing.unreachable:
        reasons = "; ".join(f"{region}: {error.message}" for region, error in listing.unreachable.items())
        raise UnavailableError(
            f"nothing was removed from {origin}/{kind}: not every region can be asked what it holds ({reasons})",
            remedy="Run it again when all regions answer.",
        )
    return listing


def _closed_before(repository: Repository, now: dt.datetime) -> Epoch:
    """The oldest epoch that may still get manifests, with some slack for clocks that disagree."""
    days = repository.retention.epoch_days
    epoch = epoch_at(now, days)
    while closes_at(Epoch(epoch - days), days) + PRUNE_SLACK > now:
        epoch = Epoch(epoch - days)
    return epoch


def _remove_documents(repository: Repository, listed: Listed) -> bool:
    """The manifest from every region before anything else from any; false where an object lock still holds one."""
    try:
        for store in repository.stores.values():
            store.delete(manifest_key(listed.source, listed.id))
        for store in repository.stores.values():
            store.delete(placement_key(listed.source, listed.id))
    except RefusedError:
        return False
    return True


class _Sweep:
    """Removal of what nothing refers to, in closed epochs only."""

    def __init__(self, repository: Repository, origin: str, kind: Kind, closed_before: Epoch) -> None:
        self._repository = repository
        self._prefix = f"{origin}/{kind}"
        self._closed_before = closed_before
        self._unsure: set[Epoch] = set()
        self.removed = 0
        self.removed_bytes = 0
        self.locked = 0

    def give_up(self, remaining: set[SnapshotId]) -> None:
        """Close the door on writers that put a placement and then stood still until their epoch had closed."""
        for store in self._repository.stores.values():
            for entry in store.list(f"{self._prefix}/p/"):
                snapshot = document_id(entry.key)
                if snapshot is not None and snapshot not in remaining and self._is_closed(snapshot):
                    with contextlib.suppress(ConflictError):  # it has just been committed, or given up before
                        store.create(ObjectKey(f"{self._prefix}/m/{snapshot}.json"), GIVEN_UP)

    def documents(self, remaining: set[SnapshotId]) -> None:
        """Placements and verification records whose snapshot is gone, but for those that a writer may yet follow."""
        for store in self._repository.stores.values():
            for letter in ("p", "v"):
                for entry in store.list(f"{self._prefix}/{letter}/"):
                    snapshot = document_id(entry.key)
                    if snapshot is not None and snapshot not in remaining and self._is_closed(snapshot):
                        self._delete(store, entry)

    def objects(self, remaining: Iterable[Listed]) -> None:
        """In every region what no region's manifest refers to."""
        references = self._references(remaining)
        for store in self._repository.stores.values():
            for batch in _batches(store.list(f"{self._prefix}/e/")):
                for entry in batch:
                    parsed = parse_object_key(entry.key)
                    if parsed is not None and self._may_go(*parsed) and parsed not in references:
                        self._delete(store, entry)

    def _references(self, remaining: Iterable[Listed]) -> "References":
        references = References()
        for listed in remaining:
            try:
                manifest = load_manifest(self._repository, listed, prefer=listed.regions).manifest
            except UnavailableError:
                raise
            except VedrError:
                # Nobody can tell what it refers to: spare whatever its time can mean, until its age removes it.
                epoch, days = self._epoch_of(listed), self._repository.retention.epoch_days
                self._unsure.update(Epoch(epoch + step) for step in range(-days, days + 1))
                continue
            for entry in manifest.objects:
                references.add(manifest.epoch, entry.name)
        return references

    def _epoch_of(self, listed: Listed) -> Epoch:
        return epoch_at(listed.created_at, self._repository.retention.epoch_days)

    def _may_go(self, epoch: Epoch, _name: ObjectName) -> bool:
        return epoch < self._closed_before and epoch not in self._unsure

    def _is_closed(self, snapshot: SnapshotId) -> bool:
        """No writer of that time may commit any more."""
        return epoch_at(parse_id(snapshot).created_at, self._repository.retention.epoch_days) < self._closed_before

    def _delete(self, store: ObjectStore, entry: StoredObject) -> None:
        try:
            store.delete(entry.key)
        except RefusedError:
            self.locked += 1
            return
        self.removed += 1
        self.removed_bytes += entry.size_bytes


class References:
    """A Bloom filter of (epoch, object): of fixed size; says "not there" only when it is true."""

    __slots__ = ("_bits",)

    SIZE_BYTES: Final = 32 * 1024 * 1024  # with 20 million references 1 object in 40 that could go is kept
    PROBES: Final = 6

    def __init__(self) -> None:
        self._bits = bytearray(self.SIZE_BYTES)

    def add(self, epoch: Epoch, name: ObjectName) -> None:
        for place in self._places(epoch, name):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, reference: tuple[Epoch, ObjectName]) -> bool:
        return all(self._bits[place >> 3] >> (place & 7) & 1 for place in self._places(*reference))

    def _places(self, epoch: Epoch, name: ObjectName) -> Iterator[int]:
        digest = hashlib.sha256(f"{epoch}/{name}".encode()).digest()
        for probe in range(self.PROBES):
            yield int.from_bytes(digest[4 * probe : 4 * probe + 4], "big") % (8 * self.SIZE_BYTES)


def _batches(entries: Iterator[StoredObject]) -> Iterator[list[StoredObject]]:
    """So that no page of a listing is asked for while the one before is being removed."""
    while batch := list(itertools.islice(entries, BATCH)):
        yield batch
