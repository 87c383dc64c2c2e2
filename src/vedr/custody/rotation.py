"""When a key is due to be replaced: VirtEngine's rotation policy, as a judgement over the catalogue of key backups.

| | rotate after | warn before | expires after | old key's grace |
|---|---|---|---|---|
| usual | 365 days | 30 days | 730 days | 90 days |
| high security | 90 days | 14 days | 180 days | 30 days |

Guarantees: a key is judged by when vedr first saw it, which is never younger than the truth by more than the time to
its first backup; a key that was replaced is judged by its grace; a date to come is nobody's and judged as the worst: a
key would otherwise not be due for years.  Pure.
Leaves out: replacing it (RB-DR-005, or the chain's own procedure) and the passphrases' rotation (escrow_rotation).
"""

import datetime as dt
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vedr.custody.key_backup_catalogue import Backup, KeyRecord
from vedr.custody.key_material import KeyKind

DAY: Final = dt.timedelta(days=1)
MAX_SKEW: Final = dt.timedelta(minutes=5)  # between the clocks of the hosts that back up and that judge


class Status(StrEnum):
    """From good to bad."""

    OK = "ok"
    WARN = "warn"
    DUE = "due"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Policy:
    """In days."""

    rotate_days: int
    warn_days: int
    expire_days: int
    grace_days: int


USUAL: Final = Policy(rotate_days=365, warn_days=30, expire_days=730, grace_days=90)
HIGH_SECURITY: Final = Policy(rotate_days=90, warn_days=14, expire_days=180, grace_days=30)


@dataclass(frozen=True, slots=True)
class Judged:
    """One key's age, and what that means."""

    origin: str
    owner: str
    kind: KeyKind
    key: KeyRecord
    age_days: int
    status: Status
    reason: str
    backed_up_at: dt.datetime


def judge(
    newest: Iterable[Backup], now: dt.datetime, *, high_security: Iterable[KeyKind] = (), revoked: Container[str] = ()
) -> tuple[Judged, ...]:
    """Every key in use, and every replaced key that was not revoked; the worst first.

    Args:
        newest: The newest backup of each owner and kind, proven.
        now: The time.
        high_security: Kinds under the stricter policy.
        revoked: Fingerprints of keys that were revoked: of those nothing more is to be done, unless they are in use.
    """
    strict = frozenset(high_security)
    judged = []
    for backup in newest:
        policy = HIGH_SECURITY if backup.kind in strict else USUAL
        for key in backup.keys:
            status, reason = _in_use(key, now, policy)
            if key.fingerprint in revoked:
                status, reason = Status.EXPIRED, "revoked, and still in use"
            judged.append(_judged(backup, key, now, status, reason))
        judged += [
            _judged(backup, one.key, now, *_replaced(one.until, now, policy))
            for one in backup.replaced
            if one.key.fingerprint not in revoked
        ]
    order = list(Status)
    return tuple(sorted(judged, key=lambda one: (-order.index(one.status), one.origin, one.owner, one.kind)))


def _judged(backup: Backup, key: KeyRecord, now: dt.datetime, status: Status, reason: str) -> Judged:
    age_days = (now - key.since) // DAY
    return Judged(backup.origin, backup.owner, backup.kind, key, age_days, status, reason, backup.created_at)


def _in_use(key: KeyRecord, now: dt.datetime, policy: Policy) -> tuple[Status, str]:
    if key.since - now > MAX_SKEW:
        return Status.EXPIRED, _to_come(key.since)
    days = (now - key.since) // DAY
    if days >= policy.expire_days:
        return Status.EXPIRED, f"{days} days old, the limit is {policy.expire_days}: replace it now"
    if days >= policy.rotate_days:
        return Status.DUE, f"{days} days old, due after {policy.rotate_days}"
    if days >= policy.rotate_days - policy.warn_days:
        return Status.WARN, f"due in {policy.rotate_days - days} days"
    return Status.OK, f"due in {policy.rotate_days - days} days"


def _replaced(at: dt.datetime, now: dt.datetime, policy: Policy) -> tuple[Status, str]:
    if at - now > MAX_SKEW:
        return Status.EXPIRED, _to_come(at)
    days = (now - at) // DAY
    if days >= policy.grace_days:
        return Status.EXPIRED, f"replaced {days} days ago, its grace of {policy.grace_days} days is over: revoke it"
    return Status.OK, f"replaced; to be revoked within {policy.grace_days - days} days"


def _to_come(at: dt.datetime) -> str:
    return f"dated {at:%Y-%m-%d}, in the future: nobody knows its age; set the clocks right and back it up again"
