"""Proving that a snapshot can be restored, at three depths, and keeping the proof.

Depth 1: manifest signed, placement signed, every object listed at its size, in every region.
Depth 2: every byte of every object read by version, opened, hashed.
Depth 3: restored to scratch, booted without key and peers, its app hash compared with a light-verified header.

Guarantees: a check that could not run has failed; the record of a verification is signed and stored in every region
that answers, so that the age of the newest verified snapshot can be read by anybody at any time.
Leaves out: how a node is booted (chain/boot.py).
"""

import datetime as dt
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vedr.backup.documents import Reader, rfc3339
from vedr.backup.fetching import FETCHERS, FORMS, ObjectReader
from vedr.backup.layout import SnapshotId, Source, document_id, from_stamp, verification_key
from vedr.backup.manifest import Placement, VerifiedManifest
from vedr.backup.repository import Listed, Repository, load_own_manifest, load_placement, put_once
from vedr.backup.rooms import Workspace
from vedr.backup.snapshot import NO_PROGRESS, Progress, check_presence
from vedr.chain.boot import BootProof
from vedr.errors import ConflictError, CorruptError, VedrError, VerificationFailedError
from vedr.ports import ObjectKey, ObjectStore, StoredObject
from vedr.signature import Json, open_document

RECORD_FORMAT: Final = "vedr-verification/1"
SAME_SECOND: Final = 5  # verifications of one snapshot at once; more is a fault
_RECORD: Final = re.compile(r"/(\d{8}T\d{6}Z)-(\d)\.json$")
Depth = Literal[1, 2, 3]


Booter = Callable[[Path], BootProof]
"""Boots restored data in place and compares it with the chain: chain.boot.prove, with its light client and runner."""


@dataclass(frozen=True, slots=True)
class RegionCheck:
    region: str
    error: VedrError | None


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of one verification; `require` turns a failure into an error."""

    snapshot: SnapshotId
    source: Source
    depth: Depth
    at: dt.datetime
    regions: tuple[RegionCheck, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def failures(self) -> tuple[RegionCheck, ...]:
        return tuple(check for check in self.regions if check.error is not None)

    @property
    def ok(self) -> bool:
        """Of no region nothing is proven."""
        return bool(self.regions) and not self.failures

    def require(self) -> "Verification":
        """Itself, or VerificationFailedError naming every region's trouble."""
        if not self.regions:
            raise _nothing_seen(self.snapshot)
        if self.failures:
            errors = {check.region: check.error for check in self.failures if check.error is not None}
            reasons = "; ".join(f"{region}: {error.message}" for region, error in errors.items())
            raise VerificationFailedError(
                f"snapshot {self.snapshot} failed verification at depth {self.depth} ({reasons})",
                remedy=" ".join(dict.fromkeys(error.remedy for error in errors.values())),
            )
        return self


def verify(
    repository: Repository,
    listed: Listed,
    *,
    depth: Literal[1, 2],
    regions: Iterable[str] | None = None,
    progress: Progress = NO_PROGRESS,
) -> Verification:
    """Check each region's copy and store the record; every named region counts, whether it answers or not.

    Raises:
        VerificationFailedError: no region is named; nothing is recorded.
    """
    began = time.monotonic()
    wanted = tuple(repository.regions if regions is None else regions)
    if not wanted:
        raise _nothing_seen(listed.id)
    tally = _Tally(progress)
    workspace = Workspace()

    def check(store: ObjectStore) -> None:
        verified, placement = check_copy(repository, listed.source, listed.id, store.region)
        if depth > 1:
            _read_all(repository, verified, placement, store, tally=tally, workspace=workspace)

    chosen = Repository(
        {region: repository.store(region) for region in wanted}, repository.signer, repository.trusted,
        repository.codec, repository.retention, repository.clock,
    )  # fmt: skip
    tally.regions = len(wanted)
    answers = chosen.in_every_region(check)
    outcome = Verification(
        listed.id,
        listed.source,
        depth,
        repository.clock().replace(microsecond=0),
        tuple(RegionCheck(region, answer) for region, answer in answers.items()),
        took_s=time.monotonic() - began,
    )
    record(repository, outcome)
    return outcome


def verify_boot(
    repository: Repository, verified: VerifiedManifest, data: Path, booter: Booter, *, from_regions: Iterable[str]
) -> Verification:
    """Depth 3 on content that restore.fetch has staged at `data`; stores the record, passed or failed.

    Raises:
        VerificationFailedError: no region is named: the content was staged by somebody else, at another time, and may
            have been booted since.  Nothing is recorded.
    """
    began = time.monotonic()
    sources = tuple(from_regions)
    if not sources:
        raise _nothing_seen(verified.id)
    error: VedrError | None = None
    facts: dict[str, str] = {}
    try:
        proof = booter(data)
        _require_state_of(verified, proof)
        facts = {"height": str(proof.height), "app_hash": proof.app_hash, "block_hash": proof.block_hash}
    except VedrError as failure:
        error = failure
    outcome = Verification(
        verified.id,
        verified.source,
        3,
        repository.clock().replace(microsecond=0),
        tuple(RegionCheck(region, error) for region in sources),
        facts,
        time.monotonic() - began,
    )
    record(repository, outcome)
    return outcome


def _nothing_seen(snapshot: SnapshotId) -> VerificationFailedError:
    return VerificationFailedError(
        f"snapshot {snapshot}: no region's copy was read, so nothing is proven",
        remedy="Remove what an earlier restore left in work_dir, and verify it again.",
    )


def _require_state_of(verified: VerifiedManifest, proof: BootProof) -> None:
    """The booted state must be the one that the manifest names, not just any state of the chain."""
    chain = verified.manifest.facts.chain
    named = None if chain is None else (chain.chain_id, chain.height, chain.app_hash)
    found = (proof.chain_id, proof.height, proof.app_hash)
    if named != found:
        raise VerificationFailedError(
            f"snapshot {verified.id} names state {named}, the booted node has {found}",
            remedy="Do not use this snapshot; restore the next older verified one.",
        )


def record(repository: Repository, outcome: Verification) -> None:
    """Sign and store it wherever a store answers.

    Keys are to the second: where another verification of this one has been recorded, the next second is taken.

    Raises:
        VedrError: not one region took it: a verification nobody can read did not happen.
    """
    for later_s in range(SAME_SECOND):
        answers = _record_at(repository, outcome, outcome.at + dt.timedelta(seconds=later_s))
        if not any(isinstance(answer, ConflictError) for answer in answers.values()):
            break
    errors = [answer for answer in answers.values() if isinstance(answer, VedrError)]
    if len(errors) == len(answers):
        raise errors[0]


def _record_at(repository: Repository, outcome: Verification, at: dt.datetime) -> "dict[str, StoredObject | VedrError]":
    failures: dict[str, Json] = {check.region: str(check.error) for check in outcome.failures}
    document = repository.signer.seal_document(
        {
            "format": RECORD_FORMAT,
            "snapshot": outcome.snapshot,
            "origin": outcome.source.origin,
            "kind": outcome.source.kind,
            "depth": outcome.depth,
            "at": rfc3339(at),
            "ok": outcome.ok,
            "regions": [check.region for check in outcome.regions if check.error is None],
            "failures": failures,
            "facts": dict(outcome.facts),
            "took_ms": int(outcome.took_s * 1000),
        }
    )
    key = verification_key(outcome.source, outcome.snapshot, at, outcome.depth)
    return repository.in_every_region(lambda store: put_once(store, key, document))


@dataclass(frozen=True, slots=True)
class Proof:
    """A stored verification that passed and that a trusted key signed."""

    snapshot: SnapshotId
    depth: int
    at: dt.datetime


def newest_proofs(repository: Repository, origin: str, kind: str) -> dict[SnapshotId, Proof]:
    """For each snapshot its deepest, newest passed verification, from all regions that answer.

    A snapshot whose newest record at some depth is a failure is not proven by an older pass of that depth or less.  A
    record that is good in no region counts as a failure: it may have been one.
    """
    records: dict[SnapshotId, dict[tuple[dt.datetime, int], list[bool]]] = {}
    opened: dict[tuple[ObjectKey, bytes], bool | None] = {}  # regions hold the same bytes: their signature is read once
    answers = repository.in_every_region(lambda store: list(_records(repository, store, origin, kind, opened)))
    for answer in answers.values():
        for place, passed in [] if isinstance(answer, VedrError) else answer:
            verdicts = records.setdefault(place.snapshot, {}).setdefault((place.at, place.depth), [])
            verdicts.extend([] if passed is None else [passed])
    proofs: dict[SnapshotId, Proof] = {}
    for snapshot, outcomes in records.items():
        proven: Proof | None = None
        for (at, depth), verdicts in sorted(outcomes.items()):
            passed = bool(verdicts) and all(verdicts)
            if passed and (proven is None or depth >= proven.depth):
                proven = Proof(snapshot, depth, at)
            elif not passed and proven is not None and depth <= proven.depth:
                proven = None
        if proven is not None:
            proofs[snapshot] = proven
    return proofs


def _records(
    repository: Repository,
    store: ObjectStore,
    origin: str,
    kind: str,
    opened: "dict[tuple[ObjectKey, bytes], bool | None]",
) -> Iterator[tuple[Proof, bool | None]]:
    """Every record of a region: what its key says it is of, and whether it passed; None where it is not that."""
    for entry in store.list(f"{origin}/{kind}/v/"):
        place = _place(entry.key)
        if place is None:
            continue
        try:
            copy = entry.key, store.get(entry.key)
        except CorruptError:  # far too large
            yield place, None
            continue
        if copy not in opened:
            try:
                opened[copy] = _passed(repository, copy[1], place, f"verification record {entry.key}")
            except (CorruptError, VerificationFailedError):
                opened[copy] = None
        yield place, opened[copy]


def _place(key: ObjectKey) -> Proof | None:
    """The inverse of layout.verification_key; None for another's key."""
    snapshot, match = document_id(key), _RECORD.search(key)
    if snapshot is None or match is None:
        return None
    try:
        return Proof(snapshot, int(match[2]), from_stamp(match[1]))
    except ValueError:
        return None


def _passed(repository: Repository, stored: bytes, place: Proof, what: str) -> bool:
    reader = Reader(open_document(stored, repository.trusted, what=what), what)
    reader.expect("format", RECORD_FORMAT)
    reader.expect("snapshot", place.snapshot)
    reader.expect("depth", place.depth)
    reader.expect("at", rfc3339(place.at))
    return reader.flag("ok") and bool(reader.texts("regions"))  # of no region nothing was proven


def check_copy(
    repository: Repository, source: Source, snapshot: SnapshotId, region: str
) -> tuple[VerifiedManifest, Placement]:
    """That region's own documents, both proven, and every object listed there at its size.

    Raises:
        NotFoundError, CorruptError, VerificationFailedError, UnavailableError: it is no good copy.
    """
    verified = load_own_manifest(repository, source, snapshot, region)
    placement = load_placement(repository, verified, region)
    placed = {entry.name: p for entry, p in zip(verified.manifest.objects, placement.objects, strict=True)}
    check_presence(repository.stores[region], verified, placed)
    return verified, placement


def _read_all(
    repository: Repository,
    verified: VerifiedManifest,
    placement: Placement,
    store: ObjectStore,
    *,
    tally: "_Tally",
    workspace: Workspace,
) -> None:
    reader = ObjectReader(repository, verified)
    total = sum(entry.size_bytes for entry in verified.manifest.objects)

    def read(number: int) -> None:
        entry = verified.manifest.objects[number]
        with workspace.loan(FORMS * entry.size_bytes) as loan:
            reader.read_from(store.region, number, placement.objects[number], loan)
        tally.add(entry.size_bytes, total)

    with ThreadPoolExecutor(FETCHERS, f"verify-{store.region}") as pool:
        for _ in pool.map(read, range(len(verified.manifest.objects))):
            pass


class _Tally:
    """Progress over regions that work at once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done_bytes = 0
        self.regions = 1

    def add(self, amount_bytes: int, total_bytes: int) -> None:
        self._done_bytes += amount_bytes
        self._progress(min(self._done_bytes, total_bytes * self.regions), total_bytes * self.regions)
