"""The regions' copies of snapshots, each region asked for itself.

Guarantees: nothing is believed that a trusted key did not sign; a region that is silent, or whose copy is damaged,
spoils no other's answer.  Reads only.
Leaves out: what is old, and what is enough (backups).
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from vedr.backup.fetching import ObjectReader
from vedr.backup.layout import Kind, SnapshotId, Source, document_id, parse_id
from vedr.backup.manifest import Placement, VerifiedManifest
from vedr.backup.repository import Repository
from vedr.backup.verify import check_copy as check
from vedr.errors import NotFoundError, VedrError
from vedr.ports import ObjectStore
from vedr.readiness.side_by_side import side_by_side

MAX_TRIED: Final = 3  # newest snapshots that are looked at before the search for a good one ends
TAKE: Final = "Take one: vedr run {} --region {}; then see why the schedule did not (vedr ledger list)."
JOBS: Final[dict[Kind, str]] = {
    "state": "chain-snapshot",
    "config": "config-backup",
    "provider": "provider-state-backup",
}


@dataclass(frozen=True, slots=True)
class Newest:
    """An origin's snapshots of a kind as the answering regions list them, newest first; nothing of it is proven."""

    origin: str
    kind: Kind
    ids: tuple[SnapshotId, ...]
    silent: Mapping[str, BaseException]

    def of(self, name: str) -> tuple[SnapshotId, ...]:
        """Those of one source."""
        return tuple(snapshot for snapshot in self.ids if parse_id(snapshot).name == name)

    def source(self, snapshot: SnapshotId) -> Source:
        return Source(self.origin, self.kind, parse_id(snapshot).name)


def newest(repository: Repository, origin: str, kind: Kind, *, deadline_s: float) -> Newest:
    """What all regions together list; the silent ones are named.

    Raises:
        VedrError: no region answers.
    """
    calls = {region: partial(_ids, store, origin, kind) for region, store in repository.stores.items()}
    answers = side_by_side(calls, deadline_s=deadline_s)
    silent = {region: answer.error for region, answer in answers.items() if answer.error is not None}
    if len(silent) == len(answers):
        raise next(iter(silent.values()))
    ids = {snapshot for answer in answers.values() for snapshot in answer.value or ()}
    return Newest(origin, kind, tuple(sorted(ids, reverse=True)), silent)


def _ids(store: ObjectStore, origin: str, kind: Kind) -> frozenset[SnapshotId]:
    """An empty object under a manifest's key is a snapshot that was given up."""
    found = (document_id(entry.key) for entry in store.list(f"{origin}/{kind}/m/") if entry.size_bytes)
    return frozenset(snapshot for snapshot in found if snapshot is not None)


@dataclass(frozen=True, slots=True)
class Copy:
    """One region's copy: its own manifest and placement, both proven, every object listed at its size."""

    verified: VerifiedManifest
    placement: Placement


def check_copy(repository: Repository, source: Source, snapshot: SnapshotId, region: str) -> Copy:
    """That region's own documents and listing: another region's would hide their loss.

    Raises:
        NotFoundError, CorruptError, VerificationFailedError, UnavailableError: it is no good copy.
    """
    return Copy(*check(repository, source, snapshot, region))


def read_sample(repository: Repository, copy: Copy, *, limit_bytes: int, choose: random.Random) -> int:
    """Read objects in random order up to about the limit, open them, compare hash and size; how many.

    Raises:
        CorruptError: an object is not what its name says.
    """
    reader = ObjectReader(repository, copy.verified)
    objects = copy.verified.manifest.objects
    order = list(range(len(objects)))
    choose.shuffle(order)
    read, left_bytes = 0, limit_bytes
    for number in order:
        reader.read_from(copy.placement.region, number, copy.placement.objects[number])
        read, left_bytes = read + 1, left_bytes - objects[number].size_bytes
        if left_bytes <= 0:
            break
    return read


def newest_good(repository: Repository, listed: Newest, ids: Iterable[SnapshotId], *, deadline_s: float) -> Copy:
    """The newest of them of which a majority of the regions hold a good copy, looked at now.

    Raises:
        NotFoundError: there is none; the message says why the newest is not, the remedy what mends it.
    """
    bad: list[tuple[str, BaseException]] = []
    for snapshot in islice(ids, MAX_TRIED):
        calls = {
            region: partial(check_copy, repository, listed.source(snapshot), snapshot, region)
            for region in repository.regions
        }
        answers = side_by_side(calls, deadline_s=deadline_s)
        good = [answer.value for answer in answers.values() if answer.value is not None]
        if len(good) >= repository.majority:
            return good[0]
        bad = bad or [(region, answer.error) for region, answer in answers.items() if answer.error is not None]
    why = "; ".join(
        f"{region}: {error.message if isinstance(error, VedrError) else type(error).__name__}" for region, error in bad
    )
    remedies = dict.fromkeys(error.remedy for _, error in bad if isinstance(error, VedrError))
    raise NotFoundError(
        f"no snapshot of {listed.origin}/{listed.kind} is whole in a majority of the regions "
        f"({why or 'none was ever taken'})",
        remedy=" ".join((*remedies, TAKE.format(JOBS[listed.kind], listed.origin))),
    )
