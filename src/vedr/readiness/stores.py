"""Checks of the regions' buckets: they take and give, and keep what they were told to keep.

Guarantees: a probe object is removed again; where an object lock is to hold it, that it does is the proof, and a later
check removes it when the lock has ended.
Leaves out: backups in them (backups), and setting buckets up.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from vedr.backup.layout import DAY, KINDS, Kind, parse_id, stamp
from vedr.backup.repository import Repository
from vedr.backup.retention import max_age
from vedr.backup.retention import plan as retention_plan
from vedr.errors import ConflictError, RefusedError, VerificationFailedError
from vedr.inventory import Site
from vedr.policies.checks import Checks
from vedr.ports import ObjectKey, ObjectStore, Registers
from vedr.readiness.ages import duration
from vedr.readiness.copies import newest
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.expirations import registers_taken, too_soon
from vedr.readiness.finding import Part, Verdict, combine
from vedr.readiness.ports import BucketState, StoreProbes
from vedr.targets import Retention

PROBES: Final = "checks/probe/"
REGISTER: Final = ObjectKey("checks/register")
LOCK_MODE: Final = "COMPLIANCE"
LEFT_OVER: Final = dt.timedelta(hours=1)  # older probe objects are of checks that are over
_TRIES: Final = 3  # beside other checks that use the same register
_POLICY: Final = "Check the bucket's policy, its credentials, and that its server honours conditional writes."
_REMOVE_RULE: Final = "Remove the rule at once, and find out who made it; set ours: vedr snapshot buckets --apply."


# --- read and write


def bucket_read_write(
    site: Site,
    stores: Mapping[str, ObjectStore],
    registers: Mapping[str, Registers],
    token: bytes,
    now: dt.datetime,
) -> Verdict:
    """In every region: write, refuse to overwrite, read back, remove; and swap a register, not from a stale tag."""
    looks: dict[str, Callable[[], Part]] = {}
    for region, store in stores.items():
        locked = site.regions[region].store.object_lock_days > 0
        looks[region] = partial(_try_bucket, store, token, now, locked=locked)
        looks[f"registers of {region}"] = partial(_try_register, registers[region], token)
    return combine(
        examine(looks, deadline_s=site.checks.subject_deadline_s),
        expected="every region's bucket takes, keeps, gives and removes an object; its registers swap",
        nothing="Name the regions' stores in the site file.",
    )


def _try_bucket(store: ObjectStore, content: bytes, now: dt.datetime, *, locked: bool) -> Part:
    key = ObjectKey(f"{PROBES}{stamp(now)}-{content.hex()}")
    store.create(key, content)
    try:
        if (read := store.get(key)) != content:
            raise VerificationFailedError(f"{len(read)} other bytes came back than were written", remedy=_POLICY)
        with contextlib.suppress(ConflictError):
            store.create(key, b"over it")
            raise VerificationFailedError("an existing object could be overwritten", remedy=_POLICY)
    finally:
        removed = _remove(store, key)
    if removed == locked:
        found = "an object that its lock should hold could be removed" if locked else "an object could not be removed"
        raise VerificationFailedError(found, remedy="Set the bucket's default retention to what the site file says.")
    for old in list(store.list(PROBES)):
        if old.modified < now - LEFT_OVER:
            _remove(store, old.key)
    return Part(store.region, "passed", "takes and gives")


def _remove(store: ObjectStore, key: ObjectKey) -> bool:
    """False when a lock holds it."""
    try:
        store.delete(key)
    except RefusedError:
        return False
    return True


def _try_register(registers: Registers, token: bytes) -> Part:
    name = f"registers of {registers.region}"
    for _ in range(_TRIES):
        before = registers.read(REGISTER)
        stale = before.tag if before else None
        try:
            tag = registers.swap(REGISTER, token, expected=stale)
        except ConflictError:
            continue
        after = registers.read(REGISTER)
        if after is None or (after.tag == tag and after.data != token):
            raise VerificationFailedError("what was swapped in is not there", remedy=_POLICY)
        with contextlib.suppress(ConflictError):
            registers.swap(REGISTER, token, expected=stale)
            raise VerificationFailedError(
                "a stale writer could swap", remedy="Never sign with these registers: report it."
            )
        return Part(name, "passed", "swap")
    return Part(name, "could not run", "another check swapped each time", "Check again.")


# --- retention and object lock


def retention(site: Site, repository: Repository, probes: StoreProbes, policy: Checks) -> Verdict:
    """Buckets versioned and locked as the site asks (bucket-read-write tries a lock); only what is over is removed."""
    limit_s = policy.deadline_of("retention") * MARGIN
    looks: dict[str, Callable[[], Part]] = {}
    for name in site.regions_by_priority:
        looks[f"bucket of {name}"] = partial(_bucket, name, site, probes)
        looks[f"registers of {name}"] = partial(_register_bucket, name, probes)
        looks |= {f"{name}/{kind}": partial(_pruned, repository, name, kind, policy) for kind in KINDS}
    parts = examine(looks, deadline_s=limit_s)
    return combine(
        parts,
        expected="every bucket versioned and locked as the site asks, no lifecycle rule that takes what is needed, "
        "nothing kept long past its retention",
        nothing="Name the regions' stores in the site file.",
        summary="; ".join(part.observed for part in parts if part.subject.startswith("bucket")),
    )


def _bucket(name: str, site: Site, probes: StoreProbes) -> Part:
    state, store = probes.bucket_state(name), site.regions[name].store
    part = judge_bucket(name, store.object_lock_days, state)
    return part if part.status != "passed" else judge_expirations(part, state, site.retention, site.regions_by_priority)


def judge_bucket(name: str, wanted_days: int, state: BucketState) -> Part:
    """Pure: the bucket as it is against the site's file."""
    subject, remedy = f"bucket of {name}", "Set versioning and default retention again, and find out who changed them."
    if not state.versioned:
        return Part(subject, "failed", "not versioned", remedy)
    if state.lock_days < wanted_days or (wanted_days and state.lock_mode != LOCK_MODE):
        found = f"{state.lock_mode} {state.lock_days} days" if state.lock_days else "no object lock"
        return Part(subject, "failed", f"{found}, the site asks for {LOCK_MODE} {wanted_days} days", remedy)
    locked = f"locked {state.lock_days} days" if wanted_days else "no lock asked for"
    return Part(subject, "passed", f"{name} versioned, {locked}")


def judge_expirations(sound: Part, state: BucketState, retention: Retention, origins: Sequence[str]) -> Part:
    """Pure: the bucket's lifecycle rules against what is still needed of it; `sound` is what else was seen of it."""
    if state.expirations is None:
        return replace(sound, observed=f"{sound.observed}, its server knows no lifecycle rules")
    if bad := too_soon(state.expirations, retention, origins):
        return Part(sound.subject, "failed", "; ".join(bad), _REMOVE_RULE)
    return replace(sound, observed=f"{sound.observed}, no lifecycle rule takes what is needed")


def _register_bucket(name: str, probes: StoreProbes) -> Part:
    """Where it is the bucket of the backups, that one's rules are judged."""
    subject = f"registers of {name}"
    if bad := registers_taken(probes.register_expirations(name) or ()):
        return Part(subject, "failed", "; ".join(bad), _REMOVE_RULE)
    return Part(subject, "passed", "no lifecycle rule takes a register")


def _pruned(repository: Repository, origin: str, kind: Kind, policy: Checks) -> Part:
    """What is past its age and slack, and that retention would let go, if it ran."""
    name, now = f"{origin}/{kind}", repository.clock()
    listed = newest(repository, origin, kind, deadline_s=policy.subject_deadline_s)
    limit = now - max_age(repository.retention, kind) - policy.retention_slack_days * DAY
    if not any(parse_id(snapshot).created_at < limit for snapshot in listed.ids):
        return Part(name, "passed", f"{len(listed.ids)} kept")
    overdue = [one for one in retention_plan(repository, origin, kind).expired if one.created_at < limit]
    if overdue:
        age = duration((now - overdue[-1].created_at).total_seconds())
        remedy = f"See why {kind} backups of {origin} do not prune; by hand: vedr snapshot prune."
        return Part(name, "failed", f"{len(overdue)} past their retention, the oldest {age} old", remedy)
    return Part(name, "passed", f"{len(listed.ids)} kept")
