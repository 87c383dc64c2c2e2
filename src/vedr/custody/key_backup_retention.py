"""Which key backups are let go of, and their removal.

Guarantees: the newest backup of an owner, and the newest of every validator key, is never removed; while a region does
not answer nothing is.  Leaves out: making backups (key_backup_store), and object locks, which may hold one for longer.
"""

import datetime as dt
from collections.abc import Sequence

from vedr.backup.layout import DAY
from vedr.backup.repository import no_region
from vedr.custody.key_backup_catalogue import Backup, BackupId, parse_id
from vedr.custody.key_backup_store import KeyRepository, list_backups, load
from vedr.custody.key_material import KeyKind
from vedr.errors import RefusedError
from vedr.targets import Retention


def expired(backups: Sequence[Backup], now: dt.datetime, retention: Retention) -> tuple[Backup, ...]:
    """What retention lets go.  Pure.

    Kept: what is younger than a year (`provider_keys_days`), the newest of every owner, and the newest that holds any
    one validator key, indefinitely.
    """
    kept_keys: set[tuple[KeyKind, str, str]] = set()
    owners: set[tuple[str, KeyKind, str]] = set()
    gone = []
    for backup in sorted(backups, key=lambda one: one.id, reverse=True):
        owner = (backup.origin, backup.kind, backup.owner)
        keys = {(backup.kind, backup.owner, fingerprint) for fingerprint in backup.fingerprints}
        young = now - backup.created_at <= retention.provider_keys_days * DAY
        needed = owner not in owners or (backup.kind == "validator" and not keys <= kept_keys)
        if not young and not needed:
            gone.append(backup)
        owners.add(owner)
        kept_keys |= keys
    return tuple(gone)


def apply_retention(repository: KeyRepository, origin: str) -> tuple[tuple[BackupId, ...], tuple[BackupId, ...]]:
    """Remove what retention lets go; what went, and what an object lock still holds.

    Raises:
        UnavailableError: a region does not answer: nothing was removed.
    """
    found, silent = list_backups(repository, (origin,))
    if silent:
        raise no_region(f"nothing was removed from {origin}/keys", silent)
    now = repository.clock()
    limit = repository.retention.provider_keys_days * DAY
    aged = {parse_id(one.id).owner for one in found if now - parse_id(one.id).created_at > limit}
    backups = [load(repository, one) for one in found if parse_id(one.id).owner in aged]
    gone: list[BackupId] = []
    locked: list[BackupId] = []
    for backup in expired(backups, now, repository.retention):
        (gone if remove(repository, backup) else locked).append(backup.id)
    return tuple(gone), tuple(locked)


def remove(repository: KeyRepository, backup: Backup) -> bool:
    """Every generation, entries before envelopes, in every region; False where an object lock still holds one.

    Raises:
        UnavailableError: a region does not answer; run it again.
    """
    for letter in ("c", "b"):
        for store in repository.stores.values():
            for entry in list(store.list(f"{backup.origin}/keys/{letter}/{backup.id}/")):
                try:
                    store.delete(entry.key)
                except RefusedError:
                    return False
    return True
