"""Checks of the backups: whole, fresh, restorable, proven, within their RPO.

Guarantees: reads only (the dry run writes to scratch and clears it); each region's copy is judged by what that region
itself holds.
Leaves out: taking, healing and pruning; key backups' content (custody).
"""

import datetime as dt
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from vedr.backup import restore
from vedr.backup.layout import Kind, SnapshotId, parse_id
from vedr.backup.repository import Listed, Repository, load_manifest
from vedr.backup.verify import Proof, newest_proofs
from vedr.chain.inspection import Inspected
from vedr.errors import NotFoundError, VerificationFailedError
from vedr.inventory import Provider, Site
from vedr.policies.checks import Checks
from vedr.readiness.ages import duration, judge_age
from vedr.readiness.copies import JOBS, TAKE, Newest, check_copy, newest, newest_good, read_sample
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.finding import Part, Verdict, combine, part_of
from vedr.readiness.ports import StoreProbes
from vedr.readiness.side_by_side import side_by_side
from vedr.readiness.validation import Stopwatch

MIB: Final = 1024 * 1024
BOOT_DEPTH: Final = 3
_NOT_COPIED: Final = "See why newer ones do not come to that region: vedr snapshot list, vedr snapshot heal."
_WHOLE: Final[tuple[Kind, ...]] = ("state", "config")


# --- integrity


def backup_integrity(repository: Repository, origins: Sequence[str], policy: Checks, choose: random.Random) -> Verdict:
    """The newest chain state and configuration of each region: every region's copy signed, present, readable."""
    wanted: list[tuple[str, Kind]] = [(origin, kind) for origin in origins for kind in _WHOLE]
    limit_s = policy.subject_deadline_s
    lists = side_by_side(
        {one: partial(newest, repository, *one, deadline_s=limit_s) for one in wanted}, deadline_s=limit_s
    )
    looks: dict[str, Callable[[], Part]] = {}
    for (origin, kind), answer in lists.items():
        if answer.value is None:
            looks[f"{origin}/{kind}"] = partial(part_of, f"{origin}/{kind}", answer.error or TimeoutError())
        else:
            read = _Sample(repository, answer.value, policy.read_sample_mib * MIB, choose)
            looks |= _copies_of(read)
    return combine(
        examine(looks, deadline_s=_limit(policy, "backup-integrity")),
        expected="the newest snapshot of each region whole and readable in every region",
        nothing="Take snapshots: vedr run chain-snapshot --region REGION.",
        summary=f"{len(looks)} copies signed, present, and read up to {policy.read_sample_mib} MiB each",
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """What is read of the newest snapshot of an origin's kind, in each region."""

    repository: Repository
    listed: Newest
    limit_bytes: int
    choose: random.Random

    def read(self, region: str) -> Part:
        listed, snapshot = self.listed, self.listed.ids[0]
        copy = check_copy(self.repository, listed.source(snapshot), snapshot, region)
        read = read_sample(self.repository, copy, limit_bytes=self.limit_bytes, choose=self.choose)
        return Part(f"{listed.origin}/{listed.kind} in {region}", "passed", f"{snapshot}, {read} objects read")


def _copies_of(sample: _Sample) -> dict[str, Callable[[], Part]]:
    listed = sample.listed
    what = f"{listed.origin}/{listed.kind}"
    if not listed.ids:
        remedy = TAKE.format(JOBS[listed.kind], listed.origin)
        return {what: partial(Part, what, "failed", "there is none", remedy)}
    return {f"{what} in {region}": partial(sample.read, region) for region in sample.repository.regions}


# --- age


def backup_freshness(repository: Repository, origins: Sequence[str], policy: Checks, now: dt.datetime) -> Verdict:
    """The newest chain state of each region, by its signed manifest, is young enough."""

    def look(origin: str) -> Part:
        listed = newest(repository, origin, "state", deadline_s=policy.subject_deadline_s)
        return judge_age(
            origin,
            _proven_time(repository, listed, listed.ids),
            now,
            warn_s=policy.snapshot_warn_age_s,
            limit_s=policy.snapshot_max_age_s,
            remedy=TAKE.format(JOBS["state"], origin),
        )

    return combine(
        examine({origin: partial(look, origin) for origin in origins}, deadline_s=_limit(policy, "backup-freshness")),
        expected=f"a chain-state snapshot of each region under {duration(policy.snapshot_max_age_s)} old",
        nothing="Name the site's regions in its file.",
    )


def provider_state_backups(
    repository: Repository, providers: Sequence[Provider], policy: Checks, now: dt.datetime
) -> Verdict:
    """Every provider daemon's newest state is signed, whole in a majority of the regions, and young enough."""

    def look(provider: Provider) -> Part:
        listed = newest(repository, provider.region, "provider", deadline_s=policy.subject_deadline_s)
        remedy = TAKE.format(JOBS["provider"], provider.region)
        ids = listed.of(provider.name)
        if not ids:
            return Part(provider.name, "failed", "never backed up", remedy)
        copy = newest_good(repository, listed, ids, deadline_s=policy.subject_deadline_s)
        limit_s = policy.provider_max_age_s
        return judge_age(
            provider.name, copy.verified.manifest.created_at, now, warn_s=limit_s, limit_s=limit_s, remedy=remedy
        )

    return combine(
        examine({p.name: partial(look, p) for p in providers}, deadline_s=_limit(policy, "provider-state-backups")),
        expected=f"a whole copy of each provider daemon's state under {duration(policy.provider_max_age_s)} old",
        nothing="Name the site's providers in its file.",
    )


def _proven_time(repository: Repository, listed: Newest, ids: Sequence[SnapshotId]) -> dt.datetime:
    """When the newest was taken, by its signed manifest."""
    if not ids:
        raise NotFoundError("there is none", remedy=TAKE.format(JOBS[listed.kind], listed.origin))
    return load_manifest(repository, Listed(listed.source(ids[0]), ids[0], ())).manifest.created_at


# --- proof by booting, and the dry run


def boot_verification(repository: Repository, origins: Sequence[str], policy: Checks, now: dt.datetime) -> Verdict:
    """A node was booted from a recent snapshot of each region, and not long ago: snapshot-verify's signed records."""

    def look(origin: str) -> Part:
        newest(repository, origin, "state", deadline_s=policy.subject_deadline_s)  # raises when no region answers
        return judge_proof(origin, newest_proofs(repository, origin, "state"), policy, now)

    looks = {origin: partial(look, origin) for origin in origins}
    return combine(
        examine(looks, deadline_s=_limit(policy, "boot-verification")),
        expected=f"a node booted from each region's newest snapshot within {duration(policy.boot_max_age_s)}",
        nothing="Name the site's regions in its file.",
    )


def judge_proof(origin: str, proofs: Mapping[SnapshotId, Proof], policy: Checks, now: dt.datetime) -> Part:
    """Pure: the newest proof of depth 3, by its own age and by its snapshot's."""
    remedy = f"Prove it now: vedr check boot-verification --boot, or vedr run snapshot-verify --region {origin}."
    booted = [proof for proof in proofs.values() if proof.depth >= BOOT_DEPTH]
    if not booted:
        return Part(origin, "failed", "no snapshot is proven by booting it", remedy)
    best = max(booted, key=lambda proof: proof.at)
    part = judge_age(origin, best.at, now, warn_s=policy.boot_max_age_s, limit_s=policy.boot_max_age_s, remedy=remedy)
    if part.status != "passed":
        return Part(origin, part.status, f"newest proof is {part.observed}", remedy)
    limit_s = policy.boot_max_snapshot_age_s
    taken = parse_id(best.snapshot).created_at
    of = judge_age(origin, taken, now, warn_s=limit_s, limit_s=limit_s, remedy=remedy)
    if of.status != "passed":
        return Part(origin, of.status, f"the snapshot proven is {of.observed}", remedy)
    return Part(origin, "passed", f"{best.snapshot} booted {part.observed.removesuffix(' old')} ago")


def boot_now(repository: Repository, origins: Sequence[str], store: StoreProbes, policy: Checks) -> Verdict:
    """Boot the newest snapshot of each region, one after the other, and keep the records."""
    parts: list[Part] = []
    for origin in origins:
        listed = newest(repository, origin, "state", deadline_s=policy.subject_deadline_s)
        looks = {origin: partial(_boot, repository, listed, store)}
        parts += examine(looks, deadline_s=_limit(policy, "boot-verification") * len(origins))
    return combine(
        parts,
        expected="a node boots from each region's newest snapshot, its app hash the chain's",
        nothing="Name the site's regions in its file.",
    )


def _boot(repository: Repository, listed: Newest, store: StoreProbes) -> Part:
    if not listed.ids:
        raise NotFoundError("there is none", remedy=TAKE.format(JOBS["state"], listed.origin))
    snapshot = listed.ids[0]
    outcome = store.boot(Listed(listed.source(snapshot), snapshot, repository.regions)).require()
    return Part(listed.origin, "passed", f"{snapshot} booted, {duration(outcome.took_s)}")


def restore_dry_run(
    site: Site, repository: Repository, store: StoreProbes, policy: Checks, now: dt.datetime
) -> Verdict:
    """Restore one region's newest snapshot to scratch, from one region's store alone, and read its databases."""
    regions = repository.regions
    region = regions[now.toordinal() % len(regions)]  # another one every day
    alone = Repository(
        {region: repository.stores[region]}, repository.signer, repository.trusted, repository.codec,
        repository.retention, repository.clock,
    )  # fmt: skip
    expected = f"the newest snapshot restores and reads as its manifest says, within {duration(policy.dry_run_max_s)}"
    candidates = restore.candidates(alone, origins=site.regions_by_priority)
    verified = restore.open_manifest(alone, candidates[0], chain_id=site.chain.chain_id)
    clock = Stopwatch()
    with store.scratch() as folder:
        staged = restore.fetch(alone, verified, folder, "dry-run")
        inspected = store.inspect(staged.path)
    chain = verified.manifest.facts.chain
    _require_same(verified.id, inspected, None if chain is None else (chain.chain_id, chain.height, chain.app_hash))
    seen = f"{verified.id} from {region} alone, {staged.total_bytes / MIB:.0f} MiB in {duration(clock.took_s)}"
    limit_s = policy.snapshot_max_age_s
    age = judge_age(region, verified.manifest.created_at, now, warn_s=limit_s, limit_s=limit_s, remedy=_NOT_COPIED)
    if age.status != "passed":
        return Verdict("failed", f"{seen}: it is {age.observed}", expected, age.remedy)
    if clock.took_s > policy.dry_run_max_s:
        return Verdict("failed", seen, expected, "It misses RB-DR-006's target: look at bandwidth and disk.")
    return Verdict("passed", seen, expected)


def _require_same(snapshot: SnapshotId, inspected: Inspected, named: tuple[str, int, str] | None) -> None:
    found = (inspected.chain_id, inspected.state_height, inspected.app_hash)
    if named != found:
        raise VerificationFailedError(
            f"snapshot {snapshot} names state {named}, the restored databases have {found}",
            remedy="Do not use it; verify the next older: vedr snapshot verify.",
        )


def _limit(policy: Checks, check: str) -> float:
    """For all subjects together: what the others said is to be heard before the check's own deadline."""
    return policy.deadline_of(check) * MARGIN
