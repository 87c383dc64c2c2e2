"""Metrics of the backups: the newest copy that proves itself, of every component; copies that regions lack; proofs.

Guarantees: a component without a good copy is infinitely old, not silent, and so is one whose newest copy is dated in
the future: its age would be below every limit; when a majority of the stores can't be
asked, nothing is said at all.  Reads only, and no secret's value.
Leaves out: judging ages (deployments/prometheus); content, which the daily checks and snapshot-verify read.
"""

import dataclasses
import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from vedr.backup.layout import Kind, SnapshotId, parse_id
from vedr.backup.manifest import Manifest
from vedr.backup.repository import Repository, list_snapshots
from vedr.backup.verify import newest_proofs
from vedr.custody import key_backup_catalogue, key_backup_store
from vedr.custody.key_backup_collect import Owner
from vedr.custody.key_backup_store import Found, KeyRepository
from vedr.custody.key_material import KeyKind
from vedr.errors import NotFoundError, UnavailableError, VerificationFailedError
from vedr.inventory import Site
from vedr.readiness import rpo
from vedr.readiness.ages import is_to_come
from vedr.readiness.backups import BOOT_DEPTH
from vedr.readiness.copies import Newest, newest_good
from vedr.readiness.custody import in_files
from vedr.readiness.ports import Ports
from vedr.readiness.side_by_side import Answer, side_by_side
from vedr.reports import metrics
from vedr.reports.metrics import NEVER, Sample
from vedr.targets import HOUR_S, Subject

_COMPONENTS: Final[dict[Kind, Subject]] = {
    "state": Subject.CHAIN_STATE,
    "config": Subject.CONFIGURATION,
    "provider": Subject.PROVIDER_STATE,
}
_OF_EVERY_REGION: Final[tuple[Kind, ...]] = ("state", "config")
_KEY_COMPONENTS: Final[dict[Subject, tuple[KeyKind, ...]]] = {
    Subject.VALIDATOR_KEYS: ("validator", "node"),
    Subject.PROVIDER_KEYS: ("provider",),
}
_RESTORE_STORES: Final = "Bring the regions' stores back: RB-DR-003 says in which order."


# --- snapshots


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a copy is wanted of: a region's state or configuration, or a provider daemon's state."""

    region: str
    kind: Kind
    name: str


def backups(at: Ports) -> Iterator[Sample]:
    """Copies of chain state, configuration and provider state, in all regions.

    Raises:
        UnavailableError: no majority of the stores answers.
    """
    repository, limit_s = at.opened.repository, at.policy.subject_deadline_s
    wanted = _wanted(at.site)
    origins = list(dict.fromkeys((one.region, one.kind) for one in wanted))
    calls = {
        (*origin, region): partial(_held, repository, region, *origin)
        for origin in origins
        for region in repository.regions
    }
    answers = side_by_side(calls, deadline_s=limit_s)
    yield from _of_stores(repository, answers)
    listings = {origin: _listing(repository, answers, *origin) for origin in origins}
    before = at.clock() - dt.timedelta(seconds=at.policy.grace_s)
    for held in listings.values():
        yield from _of_copies(held, before)
    looks = {one: partial(_newest, repository, listings[one.region, one.kind], one, limit_s) for one in wanted}
    for one, answer in side_by_side(looks, deadline_s=2 * limit_s).items():
        yield from _of_newest(one, answer.get(), at.clock())
    for component in Subject:
        if component is not Subject.METRICS:
            yield metrics.COPY_MAX_AGE(at.policy.rpo(component), component)


def _wanted(site: Site) -> list[_Wanted]:
    of_regions = [_Wanted(region, kind, region) for region in site.regions_by_priority for kind in _OF_EVERY_REGION]
    return of_regions + [_Wanted(one.region, "provider", one.name) for one in site.providers if not one.reserve]


def _held(repository: Repository, region: str, origin: str, kind: Kind) -> frozenset[SnapshotId]:
    alone = dataclasses.replace(repository, stores={region: repository.stores[region]})
    return frozenset(one.id for one in list_snapshots(alone, origin, kind).snapshots)


_Answers = Mapping[tuple[str, Kind, str], Answer[frozenset[SnapshotId]]]


def _of_stores(repository: Repository, answers: _Answers) -> Iterator[Sample]:
    silent = {region for (_, _, region), answer in answers.items() if answer.error is not None}
    for region in repository.regions:
        yield metrics.STORE_ANSWERS(region not in silent, region)
    if len(repository.regions) - len(silent) < repository.majority:
        raise UnavailableError(f"the stores of {', '.join(sorted(silent))} do not answer", remedy=_RESTORE_STORES)


@dataclass(frozen=True, slots=True)
class _Listing:
    """Which region lists which snapshots of an origin's kind."""

    newest: Newest
    by_region: Mapping[str, frozenset[SnapshotId]]


def _listing(repository: Repository, answers: _Answers, origin: str, kind: Kind) -> _Listing:
    of_it = {region: answers[origin, kind, region] for region in repository.regions}
    by_region = {region: answer.value for region, answer in of_it.items() if answer.value is not None}
    silent = {region: answer.error for region, answer in of_it.items() if answer.error is not None}
    ids = frozenset[SnapshotId]().union(*by_region.values())
    return _Listing(Newest(origin, kind, tuple(sorted(ids, reverse=True)), silent), by_region)


def _of_copies(held: _Listing, before: dt.datetime) -> Iterator[Sample]:
    settled = [snapshot for snapshot in held.newest.ids if parse_id(snapshot).created_at < before]
    lacking = sum(any(snapshot not in ids for ids in held.by_region.values()) for snapshot in settled)
    yield metrics.SNAPSHOTS(len(held.newest.ids), held.newest.origin, held.newest.kind)
    yield metrics.UNDER_REPLICATED(lacking, held.newest.origin, held.newest.kind)


def _newest(repository: Repository, held: _Listing, wanted: _Wanted, limit_s: float) -> Manifest | None:
    """The newest that is whole in a majority of the regions, or None; UnavailableError when that can't be told."""
    ids = held.newest.of(wanted.name) if wanted.kind == "provider" else held.newest.ids
    try:
        return newest_good(repository, held.newest, ids, deadline_s=limit_s).verified.manifest
    except NotFoundError as error:
        if ids and held.newest.silent:
            raise UnavailableError(error.message, remedy=_RESTORE_STORES) from error
        return None


def _of_newest(one: _Wanted, manifest: Manifest | None, now: dt.datetime) -> Iterator[Sample]:
    taken_s = NEVER if manifest is None else _past(manifest.created_at, now)
    age_h = math.inf if taken_s == NEVER else (now.timestamp() - taken_s) / HOUR_S
    yield metrics.COPY_TIME(taken_s, _COMPONENTS[one.kind], one.name, one.region)
    if one.kind == "state":
        yield metrics.DR_BACKUP_AGE(age_h, one.region)
        yield metrics.DR_BACKUP_SIZE(0 if manifest is None else manifest.total_bytes, one.region)
        yield metrics.DR_LAST_BACKUP(taken_s, one.region)
    if one.kind == "provider":
        yield metrics.DR_PROVIDER_AGE(age_h, one.name, one.region)


def _past(moment: dt.datetime, now: dt.datetime) -> float:
    """A timestamp; NEVER for what is dated in the future."""
    return NEVER if is_to_come(moment, now) else moment.timestamp()


def proofs(at: Ports) -> Iterator[Sample]:
    """When a node was last booted from a snapshot of each region, by the signed records."""
    repository, regions = at.opened.repository, at.site.regions_by_priority
    calls = {region: partial(_held, repository, region, regions[0], "state") for region in repository.regions}
    answers = side_by_side(calls, deadline_s=at.policy.subject_deadline_s)
    silent = sorted(region for region, answer in answers.items() if answer.error is not None)
    if len(repository.regions) - len(silent) < repository.majority:
        raise UnavailableError(f"the stores of {', '.join(silent)} do not answer", remedy=_RESTORE_STORES)
    for region in regions:
        booted = [proof for proof in newest_proofs(repository, region, "state").values() if proof.depth >= BOOT_DEPTH]
        yield metrics.PROOF_TIME(max((_past(proof.at, at.clock()) for proof in booted), default=NEVER), region)


# --- keys


def keys(at: Ports) -> Iterator[Sample]:
    """The oldest of the newest key backups of each region; never, when an owner has none."""
    repository = at.opened.keys
    newest = _newest_keys(repository, at.site.regions_by_priority)
    for region in at.site.regions_by_priority:
        for component, kinds in _KEY_COMPONENTS.items():
            of_it = [owner for owner in in_files(at.site, region) if owner.kind in kinds]
            if of_it:
                yield metrics.COPY_TIME(_oldest(at, newest, of_it), component, region, region)


def _newest_keys(repository: KeyRepository, origins: Sequence[str]) -> dict[tuple[KeyKind, str], Found]:
    found, silent = key_backup_store.list_backups(repository, origins)
    if 2 * len(silent) > len(repository.stores):
        raise UnavailableError(f"the stores of {', '.join(silent)} do not answer", remedy=_RESTORE_STORES)
    newest: dict[tuple[KeyKind, str], Found] = {}
    for one in found:  # newest first
        parsed = key_backup_catalogue.parse_id(one.id)
        newest.setdefault((parsed.kind, parsed.owner), one)
    return newest


def _oldest(at: Ports, newest: Mapping[tuple[KeyKind, str], Found], owners: Sequence[Owner]) -> float:
    if any((owner.kind, owner.name) not in newest for owner in owners):
        return NEVER
    return min(_kept_since(at, newest[owner.kind, owner.name]) for owner in owners)


def _kept_since(at: Ports, found: Found) -> float:
    """When a backup was made of which a majority of the regions has entry and envelope; UnavailableError in doubt."""
    try:
        return _past(rpo.whole_since(at.opened.keys, found, at.policy), at.clock())
    except VerificationFailedError:
        return NEVER


def escrow(at: Ports) -> Iterator[Sample]:
    """The newest passphrase of each kind of key that is in files: its number and its age, never its value."""
    regions = at.site.regions_by_priority
    for kind in sorted({owner.kind for region in regions for owner in in_files(at.site, region)}):
        epochs = at.opened.keys.escrow.epochs(kind)
        yield metrics.ESCROW_EPOCH(epochs[-1] if epochs else 0, kind)
        made = _past(at.custody.passphrase_made(kind, epochs[-1]), at.clock()) if epochs else NEVER
        yield metrics.ESCROW_EPOCH_TIME(made, kind)
