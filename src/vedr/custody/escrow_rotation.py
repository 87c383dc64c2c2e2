"""Rotating a backup passphrase: from one escrow epoch to the next, without ever being unable to open a backup.

1. The next epoch is created, unless the newest one is still being introduced.
2. It is read, with one value, in **all** regions.
3. Every backup under an older epoch is wrapped anew, and to the site's recovery key where that has changed: a new
   generation, checked and opened before it counts.
4. Every backup is opened under the new epoch, with the passphrase read in another region than before.
5. Every region is given what it lacks, then generations under older epochs are removed; an older epoch that no
   committed envelope refers to any more is retired.

Guarantees: every step looks at what is there, so that a rotation killed anywhere goes on where it stood; an old epoch
stays in use for as long as any region holds, or might hold, an envelope that needs it.
Leaves out: revocation.  Whoever copied an old envelope and its passphrase can still open that copy.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vedr.custody.envelope import inspect, rewrap
from vedr.custody.envelope_format import RecoverySlot
from vedr.custody.envelope_slots import PassphraseOpener, PassphraseSeal, RecoverySeal, Seal
from vedr.custody.escrow import Epoch
from vedr.custody.key_backup_catalogue import Backup, entry_key, envelope_key, parse_entry_key
from vedr.custody.key_backup_store import (
    Found,
    KeyRepository,
    commit,
    good_copy,
    heal,
    list_backups,
    load,
    open_from,
    rewrapped,
)
from vedr.custody.key_material import KeyKind
from vedr.errors import RefusedError, UnavailableError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rotated:
    """Where a rotation ended.  `kept` names older epochs that stay in use, with the reason."""

    kind: KeyKind
    epoch: Epoch
    created: bool
    rewrapped: int
    verified: int
    retired: tuple[Epoch, ...]
    kept: tuple[tuple[Epoch, str], ...]


def rotate(repository: KeyRepository, kind: KeyKind, origins: Iterable[str], say: Say = lambda _: None) -> Rotated:
    """Go through the five steps; safe to repeat.

    A rotation that was killed in its last step is only ended: `created` is False then; run it again for a new epoch.

    Raises:
        UnavailableError: a region's secrets manager or bucket does not answer; what was done stays, run it again.
        VerificationFailedError: a backup does not open; nothing of the old epoch was removed.
    """
    origins = tuple(origins)
    backups = _all(repository, kind, origins)
    if finished := _finished(repository, kind, origins, backups):
        return finished
    epoch, created = _epoch(repository, kind, backups)  # (1)
    say(f"epoch {epoch} of {kind} keys " + ("is new" if created else "goes on"))
    copies = repository.escrow.spread(kind, epoch)  # (2)
    if not copies.everywhere:
        silent = "; ".join(f"{region}: {error.message}" for region, error in copies.refusals.items())
        raise UnavailableError(
            f"passphrase epoch {epoch} of {kind} keys is not readable in every region ({silent})",
            remedy="No backup was wrapped anew.  Run it again when every region's secrets manager answers.",
        )
    old = [backup for backup in backups if repository.escrow.epoch_of(kind, backup.reference) != epoch]
    for backup in old:  # (3)
        commit(repository, *_wrap_anew(repository, backup, epoch))
        say(f"{backup.id} is under epoch {epoch}")
    _heal(repository, kind, origins)
    present = _all(repository, kind, origins)
    last = copies.regions[-1]
    for backup in present:  # (4)
        open_from(repository, backup, prefer=last)
    retired, kept = _retire(repository, kind, present, epoch)  # (5)
    return Rotated(kind, epoch, created, len(old), len(present), retired, kept)


def _finished(
    repository: KeyRepository, kind: KeyKind, origins: tuple[str, ...], backups: list[Backup]
) -> Rotated | None:
    """The end of a rotation that was killed in step 5; None when there is nothing of that kind to do."""
    epochs = repository.escrow.epochs(kind)
    newest = epochs[-1] if epochs else None
    if epochs[:-1] == () or any(repository.escrow.epoch_of(kind, one.reference) != newest for one in backups):
        return None
    _heal(repository, kind, origins)
    retired, kept = _retire(repository, kind, backups, epochs[-1])
    return Rotated(kind, epochs[-1], False, 0, 0, retired, kept) if retired else None


def _epoch(repository: KeyRepository, kind: KeyKind, backups: list[Backup]) -> tuple[Epoch, bool]:
    """The epoch to introduce: the newest, when some backup is not under it or a region lacks it; else a new one."""
    epochs = repository.escrow.epochs(kind)
    if epochs:
        unfinished = any(repository.escrow.epoch_of(kind, backup.reference) != epochs[-1] for backup in backups)
        if unfinished or not repository.escrow.copies(kind, epochs[-1]).everywhere:
            return epochs[-1], False
    return repository.escrow.open_epoch(kind), True


def _wrap_anew(repository: KeyRepository, backup: Backup, epoch: Epoch) -> tuple[Backup, bytes]:
    """Both passphrases are fetched, used and dropped here."""
    escrow = repository.escrow
    before = escrow.epoch_of(backup.kind, backup.reference)
    if before is None:
        raise RefusedError(
            f"key backup {backup.id} was sealed under {backup.reference}, which is not this site's escrow",
            remedy="Correct [custody.escrow] prefix; nothing was changed.",
        )
    opener = PassphraseOpener(escrow.fetch(backup.kind, before), reference=backup.reference)
    reference = escrow.reference(backup.kind, epoch)
    add: list[Seal] = [PassphraseSeal(escrow.fetch(backup.kind, epoch), reference=reference)]
    sealed, recovery = good_copy(repository, backup), repository.recovery()
    slots = inspect(sealed).slots
    keep = [slot.slot_id for slot in slots if isinstance(slot, RecoverySlot) and slot.public_key == recovery]
    if not keep:  # the custodians hold another key by now
        add.append(RecoverySeal(recovery))
    changed = rewrap(sealed, opener, keep=keep, add=add)
    return rewrapped(backup, changed, reference=reference, recovery_public_key=recovery.hex()), changed


def _all(repository: KeyRepository, kind: KeyKind, origins: tuple[str, ...]) -> list[Backup]:
    """Every backup of the kind; UnavailableError when a region cannot be asked, since it might hold more."""
    found, silent = list_backups(repository, origins, kind=kind)
    if silent:
        reasons = "; ".join(f"{region}: {error.message}" for region, error in silent.items())
        raise UnavailableError(
            f"not every region can be asked for its key backups ({reasons})", remedy="Run it again when they answer."
        )
    return [load(repository, one) for one in found]


def _heal(repository: KeyRepository, kind: KeyKind, origins: tuple[str, ...]) -> None:
    """Every region has the newest generation before an older one goes; UnavailableError when one cannot get it."""
    found, _ = list_backups(repository, origins, kind=kind)
    for one in found:
        if wrong := heal(repository, one):
            reasons = "; ".join(f"{region}: {error.message}" for region, error in wrong.items())
            raise UnavailableError(f"{one.id} is not in every region ({reasons})", remedy="Run it again.")


def _retire(
    repository: KeyRepository, kind: KeyKind, present: list[Backup], epoch: Epoch
) -> tuple[tuple[Epoch, ...], tuple[tuple[Epoch, str], ...]]:
    """Retire every older epoch but those that an envelope still needs, because an object lock holds it."""
    needed: dict[Epoch, str] = {}
    for backup in present:
        for old in _older(repository, backup):
            reason = _removed(repository, old)
            before = repository.escrow.epoch_of(kind, old.reference)
            if reason and before is not None:
                needed[before] = reason
    older = [one for one in repository.escrow.epochs(kind) if one < epoch]
    retired = tuple(one for one in older if one not in needed)
    for one in retired:
        repository.escrow.retire(kind, one)
    return retired, tuple(sorted(needed.items()))


def _older(repository: KeyRepository, backup: Backup) -> list[Backup]:
    """The generations before the present one that any region still lists."""
    where: dict[int, list[str]] = {}
    for region, store in repository.stores.items():
        for entry in store.list(f"{backup.origin}/keys/c/{backup.id}/"):
            parsed = parse_entry_key(entry.key)
            if parsed is not None and parsed[1] < backup.generation:
                where.setdefault(parsed[1], []).append(region)
    return [load(repository, Found(backup.origin, backup.id, old, tuple(where[old]))) for old in sorted(where)]


def _removed(repository: KeyRepository, old: Backup) -> str:
    """Remove a generation everywhere, its envelope first: what is listed is looked for.  Why not, if not."""
    for store in repository.stores.values():
        try:
            store.delete(envelope_key(old))
            store.delete(entry_key(old.origin, old.id, old.generation))
        except RefusedError as error:
            return error.message
    return ""
