"""Checks of keys and secrets: backed up and openable, in hardware twice, shared among people, not expired.

Guarantees: no secret value is kept or shown; a key that nobody backed up, or that no token signs with, is a failure.
Leaves out: rotation and repair.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from vedr.custody import key_backup_store
from vedr.custody.hsm_check import Replication
from vedr.custody.key_backup_catalogue import Backup, entry_key, envelope_key, open_entry, parse_id
from vedr.custody.key_backup_collect import Owner, owners
from vedr.custody.key_backup_store import Found, KeyRepository
from vedr.custody.key_material import KeyKind
from vedr.custody.shares_record import MAX_BYTES, ShareRecord, is_signed, open_record
from vedr.errors import CorruptError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.inventory import Site
from vedr.policies.checks import Checks
from vedr.ports import ObjectStore
from vedr.readiness.ages import duration, is_to_come, judge_age
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.finding import Part, Verdict, combine, look_at, part_of
from vedr.readiness.side_by_side import side_by_side

BACK_UP: Final = "Take one: vedr run key-backup --region {} --even-if-fresh; then see why the schedule did not."


# --- key backups


def key_backups(site: Site, repository: KeyRepository, policy: Checks, now: dt.datetime) -> Verdict:
    """Every key that is in a file has a young backup, whole in every region; one of each kind and region opens."""
    wanted = [owner for region in site.regions_by_priority for owner in in_files(site, region)]
    newest = newest_of_owners(repository, site.regions_by_priority)

    def look(owner: Owner) -> Part:
        name, remedy = _name(owner), BACK_UP.format(owner.region)
        if (latest := newest.get((owner.kind, owner.name))) is None:
            return Part(name, "failed", "never backed up", remedy)
        backup = key_backup_store.load(repository, latest)
        _require_copies(repository, backup, policy)
        limit_s = policy.keys_max_age_s
        return judge_age(name, backup.created_at, now, warn_s=limit_s, limit_s=limit_s, remedy=remedy)

    limit_s = policy.deadline_of("key-backups") * MARGIN
    parts = examine({_name(owner): partial(look, owner) for owner in wanted}, deadline_s=limit_s)
    opened = {(found.origin, kind): found for (kind, _), found in reversed(newest.items())}
    parts += examine({"escrow": partial(_open_each, repository, tuple(opened.values()))}, deadline_s=limit_s)
    return combine(
        parts if wanted else [],
        expected=f"every key backed up within {duration(policy.keys_max_age_s)}, whole in every region, openable",
        nothing="Name nodes and providers in the site file.",
        summary=f"keys of {len(wanted)} owners, whole in every region; {parts[-1].observed}",
    )


def in_files(site: Site, region: str) -> tuple[Owner, ...]:
    """Owners whose keys are in files; validators that sign remotely have theirs in hardware (hsm-replication)."""
    return tuple(
        owner for owner in owners(site, region) if owner.kind != "validator" or not site.signers_of(owner.name)
    )


def _name(owner: Owner) -> str:
    return f"{owner.name} ({owner.kind})"


def newest_of_owners(repository: KeyRepository, origins: Sequence[str]) -> dict[tuple[KeyKind, str], Found]:
    found, _ = key_backup_store.list_backups(repository, origins)  # silent regions fail as copies
    newest: dict[tuple[KeyKind, str], Found] = {}
    for one in found:  # newest first
        parsed = parse_id(one.id)
        newest.setdefault((parsed.kind, parsed.owner), one)
    return newest


def _require_copies(repository: KeyRepository, backup: Backup, policy: Checks) -> None:
    if wrong := copies_wrong(repository, backup, policy):
        raise as_error(wrong, backup)


def copies_wrong(repository: KeyRepository, backup: Backup, policy: Checks) -> list[Part]:
    """Entry and envelope in every region, signed and byte for byte; the regions where they are not."""
    calls = {region: partial(_require_copy, repository, store, backup) for region, store in repository.stores.items()}
    answers = side_by_side(calls, deadline_s=policy.subject_deadline_s)
    return [part_of(region, answer.error) for region, answer in answers.items() if answer.error is not None]


def as_error(wrong: Sequence[Part], backup: Backup) -> UnavailableError | VerificationFailedError:
    """The regions that lack a backup's copy, or do not answer."""
    silent = all(part.status == "could not run" for part in wrong)
    kind = UnavailableError if silent else VerificationFailedError
    reasons = "; ".join(f"{part.subject}: {part.observed}" for part in wrong)
    return kind(reasons, remedy=wrong[0].remedy if silent else BACK_UP.format(backup.origin))


def _require_copy(repository: KeyRepository, store: ObjectStore, backup: Backup) -> None:
    stored = store.get(entry_key(backup.origin, backup.id, backup.generation))
    entry = open_entry(stored, repository.trusted, origin=backup.origin, backup=backup.id, generation=backup.generation)
    if entry != backup or hashlib.sha256(store.get(envelope_key(backup))).hexdigest() != backup.sha256:
        raise CorruptError(f"{backup.id} is not what was stored", remedy="Use another region's copy.")


def _open_each(repository: KeyRepository, chosen: Sequence[Found]) -> Part:
    """One after the other: the vault is asked from one thread, and each derivation takes 64 MiB."""
    for found in chosen:
        key_backup_store.open_from(repository, key_backup_store.load(repository, found))
    return Part("escrow", "passed", f"{len(chosen)} opened with the escrow's passphrases")


# --- hardware


def hsm_replication(site: Site, replications: Iterable[Replication]) -> Verdict:
    """Every key with a reference signs on all its tokens; every validator that signs remotely has such a key."""
    seen = tuple(replications)
    parts = [part for replication in seen for part in judge_replication(replication)]
    known = {replication.reference.consensus_address for replication in seen}
    parts += [
        Part(node.name, "failed", "no reference of its key", "Make it: vedr hsm reference LABEL.")
        for node in site.nodes
        if node.is_validator and site.signers_of(node.name) and node.address not in known
    ]
    return combine(
        parts,
        expected="every key in hardware signs a fresh challenge on every token that its reference names, two or more",
        nothing="Make references of the keys in hardware: vedr hsm reference LABEL.",
    )


def judge_replication(found: Replication) -> Iterator[Part]:
    """Pure: the key as a whole, then each token that failed."""
    label = found.reference.name.label
    failed = [token for token in found.tokens if not token.passed]
    if found.problem:
        yield Part(label, "failed", found.problem, "Make a new reference, or correct the site file.")
    for token in failed:
        yield Part(f"{label} in {token.region}", "failed", token.problem, token.remedy)
    if not found.problem and not found.tokens:
        yield Part(label, "failed", "no token was asked", "Make a new reference: vedr hsm reference LABEL.")
    elif not found.problem and not failed:
        yield Part(label, "passed", f"signed in {', '.join(token.region for token in found.tokens)}")


# --- people


def share_custody(site: Site, policy: Checks, now: dt.datetime) -> Verdict:
    """The record of the recovery key's shares: ours, not too old, every custodian heard of lately."""
    expected = (
        f"a signed record of the site's recovery key, under {duration(policy.shares_max_age_s)} old, every custodian "
        f"heard of within {duration(policy.shares_max_silence_s)}"
    )
    nothing = "Hold the ceremony (vedr shares ceremony), and name its record: [checks] share_record."
    path = policy.share_record
    parts = [] if path is None else [look_at("record", partial(_judge_record, path, site, policy, now))]
    return combine(parts, expected=expected, nothing=nothing)


def _judge_record(path: Path, site: Site, policy: Checks, now: dt.datetime) -> Part:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy="Put a copy there: every custodian has one.") from error
    record = open_record(data)
    if not is_signed(data):
        part = judge_shares(record, site.custody.recovery_public_key, policy, now)
        sign = "Have it signed at its next confirmation: vedr shares verify --note --sign-with."
        return part if part.status != "passed" else Part("record", "warning", f"not signed; {part.observed}", sign)
    record = open_record(data, trusted=site.signing.trusted)
    return judge_shares(record, site.custody.recovery_public_key, policy, now)


def judge_shares(record: ShareRecord, recovery_public_key: str | None, policy: Checks, now: dt.datetime) -> Part:
    """Pure: whose key it stands for, its age, and the longest silence of a custodian."""
    if record.public_key.hex() != recovery_public_key:
        remedy = "Put the record of the present ceremony there, or its public key into [custody]."
        return Part("record", "failed", "stands for another key than the site's", remedy)
    renew = "Hold a new ceremony: vedr shares rotate."
    age = judge_age(
        "record", record.created, now, warn_s=policy.shares_max_age_s, limit_s=policy.shares_max_age_s, remedy=renew
    )
    if age.status != "passed":
        return age
    ahead = [custodian.name for custodian in record.custodians if is_to_come(custodian.confirmed, now)]
    if ahead:
        remedy = f"Set that clock right, and have {ahead[0]} verify the share again: vedr shares verify --note."
        return Part("record", "failed", f"{', '.join(ahead)} showed a share in the future", remedy)
    silence_s = record.unconfirmed_for(now).total_seconds()
    longest = min(record.custodians, key=lambda custodian: custodian.confirmed)
    if silence_s > policy.shares_max_silence_s:
        remedy = f"Have {longest.name} verify the share: vedr shares verify --note."
        return Part("record", "failed", f"{longest.name} showed no share for {duration(silence_s)}", remedy)
    return Part("record", "passed", f"{record.threshold} of {len(record.custodians)} shares, {age.observed}")
