"""Key backups in the regions' buckets: stored, listed, opened, healed, and keys revoked.

A backup is made in this order:

1. The passphrase of the newest epoch is read from escrow; the site's recovery key is at hand.
2. The bundle is sealed; the envelope and the decrypter are put into every region, create-only.
3. Every region's copy is read back and compared by hash.
4. One copy is opened with a passphrase that is fetched again, and compared with the live keys by public key.
5. The signed entry is put into the regions whose copies were checked: only now does the backup count.

Guarantees: a backup that counts opened, and held the owner's keys; passphrases live in single functions here and are
neither returned nor stored.
Leaves out: reading keys from hosts, schedules, and what is let go of (key_backup_retention).
"""

import datetime as dt
import hashlib
import importlib.resources
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vedr.backup.repository import no_region, ordered, put_once
from vedr.custody import key_backup
from vedr.custody.envelope_slots import Opener, PassphraseOpener, PassphraseSeal, RecoverySeal
from vedr.custody.escrow import Epoch, Escrow
from vedr.custody.key_backup import Bundle
from vedr.custody.key_backup_catalogue import (
    Backup,
    BackupId,
    Revocation,
    backup_id,
    decrypter_key,
    entry_key,
    envelope_key,
    open_entry,
    open_revocation,
    parse_entry_key,
    parse_id,
    revocation_key,
    seal_entry,
    seal_revocation,
)
from vedr.custody.key_material import KeyFile, KeyKind
from vedr.errors import (
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.ports import Clock, ObjectKey, ObjectStore
from vedr.signature import Signer
from vedr.targets import Retention


@dataclass(frozen=True, slots=True)
class KeyRepository:
    """The site's buckets, escrow and recovery key, as key backups need them."""

    stores: Mapping[str, ObjectStore]
    signer: Signer
    trusted: tuple[str, ...]
    escrow: Escrow
    recovery_public_key: bytes | None
    chain_id: str
    retention: Retention
    clock: Clock

    @property
    def majority(self) -> int:
        return len(self.stores) // 2 + 1

    def recovery(self) -> bytes:
        """The recovery public key; InvalidInputError when the site has none yet."""
        if self.recovery_public_key is None:
            raise InvalidInputError(
                "[custody] has no recovery_public_key: backups could only be opened through escrow",
                remedy="Hold the ceremony (vedr shares ceremony), then put the public key that it prints there.",
            )
        return self.recovery_public_key


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of one backup: the regions that hold a checked copy, and those that do not, with the reason."""

    backup: Backup
    regions: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A backup as a region's listing shows it, newest generation; nothing of it is proven."""

    origin: str
    id: BackupId
    generation: int
    regions: tuple[str, ...]


def store_bundle(
    repository: KeyRepository,
    origin: str,
    bundle: Bundle,
    *,
    previous: Backup | None,
    since: Mapping[str, dt.datetime],
    sign_state: str = "",
) -> Kept:
    """Seal, store, open again, compare, commit; the numbers are those of the module's text.

    Args:
        repository: Where to.
        origin: The owner's region.
        bundle: What to keep.
        previous: The owner's newest backup before this one, whose history goes on.
        since: Age of keys that are new to the catalogue, by fingerprint.
        sign_state: Text evidence of what a validator had signed.

    Raises:
        NotFoundError, UnavailableError: escrow has no passphrase, or fewer than a majority of regions took it.
        VerificationFailedError: what was stored does not open as what was sealed; no entry was written.
    """
    now = created = repository.clock().astimezone(dt.UTC).replace(microsecond=0)
    if previous is not None:  # ids are to the second, and the newest has to be the newest
        created = max(created, previous.created_at + dt.timedelta(seconds=1))
    backup = backup_id(bundle.kind, bundle.owner, created)
    epoch = repository.escrow.current(bundle.kind).epoch  # (1)
    keys, replaced = key_backup.history(bundle.files, previous, since, now)
    sealed = _sealed(repository, bundle, backup, origin=origin, epoch=epoch, created=created)  # (2)
    entry = Backup(
        id=backup,
        generation=1,
        origin=origin,
        kind=bundle.kind,
        owner=bundle.owner,
        chain_id=bundle.chain_id,
        created_at=created,
        keys=keys,
        replaced=replaced,
        sha256=hashlib.sha256(sealed).hexdigest(),
        size_bytes=len(sealed),
        reference=repository.escrow.reference(bundle.kind, epoch),
        recovery_public_key=repository.recovery().hex(),
        decrypter=decrypter_key(origin, hashlib.sha256(decrypter()).hexdigest()),
        sign_state=sign_state,
    )
    return commit(repository, entry, sealed, live=bundle.files)


def commit(repository: KeyRepository, entry: Backup, sealed: bytes, *, live: Sequence[KeyFile] | None = None) -> Kept:
    """Steps 2 to 5 for an envelope that is sealed; without `live` it is compared with its entry only."""
    tool = decrypter()

    def put(store: ObjectStore) -> None:
        put_once(store, envelope_key(entry), sealed)
        put_once(store, decrypter_key(entry.origin, hashlib.sha256(tool).hexdigest()), tool)
        _checked_copy(store, entry)  # (3)

    missing = _in_every_region(repository, put)
    held = tuple(region for region in repository.stores if region not in missing)
    _require_majority(repository, entry.id, missing)
    bundle = open_from(repository, entry, prefer=held[-1])  # (4)
    if live is not None:
        key_backup.compare_live(live, bundle)
    document = seal_entry(entry, repository.signer)
    uncommitted = _in_every_region(
        repository,
        lambda store: put_once(store, entry_key(entry.origin, entry.id, entry.generation), document),
        only=held,
    )  # (5)
    missing |= uncommitted
    _require_majority(repository, entry.id, missing)
    return Kept(
        entry,
        tuple(region for region in held if region not in uncommitted),
        {region: error.message for region, error in missing.items()},
    )


def list_backups(
    repository: KeyRepository, origins: Iterable[str], *, kind: KeyKind | None = None, owner: str | None = None
) -> tuple[tuple[Found, ...], Mapping[str, VedrError]]:
    """Newest first, each with its newest generation; and the regions that could not be asked.

    Raises:
        UnavailableError: no region answers.
    """
    where: dict[tuple[str, BackupId], dict[int, list[str]]] = {}
    refusals: dict[str, VedrError] = {}
    for region, store in repository.stores.items():
        for origin in origins:
            try:
                keys = [entry.key for entry in store.list(f"{origin}/keys/c/")]
            except VedrError as error:
                refusals[region] = error
                break
            for parsed in map(parse_entry_key, keys):
                if parsed is not None and _wanted(parsed[0], kind, owner):
                    where.setdefault((origin, parsed[0]), {}).setdefault(parsed[1], []).append(region)
    if len(refusals) == len(repository.stores):
        raise no_region("key backups", refusals)
    found = [
        Found(origin, backup, max(generations), tuple(generations[max(generations)]))
        for (origin, backup), generations in where.items()
    ]
    return tuple(sorted(found, key=lambda one: one.id, reverse=True)), refusals


def load(repository: KeyRepository, found: Found) -> Backup:
    """The signed entry, from the first region whose copy proves itself."""
    refusals: dict[str, VedrError] = {}
    for region in ordered(repository.stores, found.regions):
        try:
            stored = repository.stores[region].get(entry_key(found.origin, found.id, found.generation))
            return open_entry(
                stored, repository.trusted, origin=found.origin, backup=found.id, generation=found.generation
            )
        except VedrError as error:
            refusals[region] = error
    raise no_region(f"catalogue entry {found.id}", refusals)


def newest(repository: KeyRepository, origin: str, kind: KeyKind, owner: str) -> Backup | None:
    """The newest backup of an owner, None when there is none."""
    found, _ = list_backups(repository, (origin,), kind=kind, owner=owner)
    return load(repository, found[0]) if found else None


def newest_of_each(repository: KeyRepository, origin: str) -> tuple[Backup, ...]:
    """The newest backup of every owner and kind: all that is known of the keys of a region.

    Raises:
        UnavailableError: no region answers.
    """
    found, _ = list_backups(repository, (origin,))
    newest_ids: dict[tuple[KeyKind, str], Found] = {}
    for one in found:
        parsed = parse_id(one.id)
        newest_ids.setdefault((parsed.kind, parsed.owner), one)
    return tuple(load(repository, one) for one in newest_ids.values())


def open_from(
    repository: KeyRepository, backup: Backup, *, prefer: str | None = None, opener: Opener | None = None
) -> Bundle:
    """The bundle, from the first region whose copy opens.

    Args:
        repository: Where it is kept.
        backup: A proven entry.
        prefer: The region that is asked first, for the envelope and for the passphrase.
        opener: A recovery key or passphrase at hand; default: the passphrase is fetched from escrow, used, dropped.
    """
    using = opener or _escrowed(repository, backup, prefer)
    refusals: dict[str, VedrError] = {}
    for region in ordered(repository.stores, [prefer] if prefer else []):
        try:
            stored = repository.stores[region].get(envelope_key(backup))
            return key_backup.open_bundle(stored, using, backup)
        except VedrError as error:
            refusals[region] = error
    raise no_region(f"key backup {backup.id}", refusals)


def verify(repository: KeyRepository, backup: Backup, *, opener: Opener | None = None) -> dict[str, VedrError]:
    """Every region's envelope, entry and decrypter compared, and the envelope opened once: what is wrong, by region.

    Empty when all is well.  `opener` as for `open_from`.
    """
    wrong = _in_every_region(repository, lambda store: _check_region(repository, store, backup))
    if len(wrong) < len(repository.stores):
        sound = next(region for region in repository.stores if region not in wrong)
        open_from(repository, backup, prefer=sound, opener=opener)
    return wrong


def _check_region(repository: KeyRepository, store: ObjectStore, backup: Backup) -> None:
    """All that a restore from this region alone would need."""
    _checked_copy(store, backup)
    stored = store.get(entry_key(backup.origin, backup.id, backup.generation))
    own = open_entry(stored, repository.trusted, origin=backup.origin, backup=backup.id, generation=backup.generation)
    tool = store.get(ObjectKey(backup.decrypter))
    if own != backup or decrypter_key(backup.origin, hashlib.sha256(tool).hexdigest()) != backup.decrypter:
        raise VerificationFailedError(
            f"the {'decrypter' if own == backup else 'entry'} of key backup {backup.id} in {store.region} is another",
            remedy="Use another region's copy.",
        )


def heal(repository: KeyRepository, found: Found) -> dict[str, VedrError]:
    """Copy a backup to the regions that lack it; why not, by region, where that failed."""
    backup = load(repository, found)
    lacking = [region for region in repository.stores if region not in found.regions]
    if not lacking:
        return {}
    sealed = good_copy(repository, backup)
    document = seal_entry(backup, repository.signer)
    tool = decrypter()

    def put(store: ObjectStore) -> None:
        put_once(store, envelope_key(backup), sealed)
        put_once(store, decrypter_key(backup.origin, hashlib.sha256(tool).hexdigest()), tool)
        _checked_copy(store, backup)
        put_once(store, entry_key(backup.origin, backup.id, backup.generation), document)

    return _in_every_region(repository, put, only=lacking)


def revoke(repository: KeyRepository, origin: str, revocation: Revocation) -> tuple[str, ...]:
    """Record in every region that a key may never be used again; the regions that have it.  Safe to repeat.

    Raises:
        UnavailableError: fewer than a majority of the regions took it.
    """
    document = seal_revocation(revocation, repository.signer)
    key = revocation_key(origin, revocation.fingerprint)

    def put(store: ObjectStore) -> None:
        try:  # the first one said it; who repeats it has another time
            open_revocation(store.get(key), repository.trusted, fingerprint=revocation.fingerprint)
        except NotFoundError:
            put_once(store, key, document)

    missing = _in_every_region(repository, put)
    _require_majority(repository, f"the revocation of {revocation.fingerprint[:16]}", missing)
    return tuple(region for region in repository.stores if region not in missing)


def revocations(repository: KeyRepository, origin: str, fingerprints: Iterable[str]) -> tuple[Revocation, ...]:
    """Those of the keys that are revoked.

    Raises:
        UnavailableError: fewer than a majority of the regions answer: a revocation might be in the others.
    """
    found: dict[str, Revocation] = {}
    for fingerprint in fingerprints:
        refusals: dict[str, VedrError] = {}
        for region, store in repository.stores.items():
            try:
                stored = store.get(revocation_key(origin, fingerprint))
                found[fingerprint] = open_revocation(stored, repository.trusted, fingerprint=fingerprint)
            except NotFoundError:
                continue
            except VedrError as error:
                refusals[region] = error
        if fingerprint not in found:
            _require_majority(repository, f"revocations of {fingerprint[:16]}", refusals)
    return tuple(found.values())


def good_copy(repository: KeyRepository, backup: Backup) -> bytes:
    """The envelope from the first region whose copy has the entry's hash."""
    refusals: dict[str, VedrError] = {}
    for region, store in repository.stores.items():
        try:
            return _checked_copy(store, backup)
        except VedrError as error:
            refusals[region] = error
    raise no_region(f"key backup {backup.id}", refusals)


def decrypter() -> bytes:
    """The one-file program that opens an envelope without vedr."""
    return importlib.resources.files("vedr.custody").joinpath("break_glass.py").read_bytes()


def rewrapped(backup: Backup, sealed: bytes, *, reference: str, recovery_public_key: str) -> Backup:
    """The next generation's entry."""
    return replace(
        backup,
        generation=backup.generation + 1,
        sha256=hashlib.sha256(sealed).hexdigest(),
        size_bytes=len(sealed),
        reference=reference,
        recovery_public_key=recovery_public_key,
    )


def _sealed(
    repository: KeyRepository, bundle: Bundle, backup: BackupId, *, origin: str, epoch: Epoch, created: dt.datetime
) -> bytes:
    """The passphrase is fetched, used and dropped here."""
    seal = PassphraseSeal(
        repository.escrow.fetch(bundle.kind, epoch), reference=repository.escrow.reference(bundle.kind, epoch)
    )
    slots = (seal, RecoverySeal(repository.recovery()))
    return key_backup.seal_bundle(bundle, backup, origin=origin, slots=slots, created=created)


def _escrowed(repository: KeyRepository, backup: Backup, prefer: str | None) -> PassphraseOpener:
    epoch = repository.escrow.epoch_of(backup.kind, backup.reference)
    if epoch is None:
        raise InvalidInputError(
            f"key backup {backup.id} was sealed under {backup.reference}, which is not this site's escrow",
            remedy="Correct [custody.escrow] prefix, or open it with the custodians' shares.",
        )
    return PassphraseOpener(repository.escrow.fetch(backup.kind, epoch, prefer=prefer), reference=backup.reference)


def _checked_copy(store: ObjectStore, backup: Backup) -> bytes:
    stored = store.get(envelope_key(backup))
    if hashlib.sha256(stored).hexdigest() != backup.sha256:
        raise VerificationFailedError(
            f"key backup {backup.id} in {store.region} is not what was stored", remedy="Use another region's copy."
        )
    return stored


def _in_every_region(
    repository: KeyRepository, act: Callable[[ObjectStore], object], *, only: Iterable[str] | None = None
) -> dict[str, VedrError]:
    """One region after the other; what went wrong, by region."""
    wrong: dict[str, VedrError] = {}
    for region in repository.stores if only is None else only:
        try:
            act(repository.stores[region])
        except VedrError as error:
            wrong[region] = error
    return wrong


def _require_majority(repository: KeyRepository, what: str, missing: Mapping[str, VedrError]) -> None:
    if len(repository.stores) - len(missing) < repository.majority:
        reasons = "; ".join(f"{region}: {error.message}" for region, error in missing.items())
        transient = any(error.transient for error in missing.values())
        kind = UnavailableError if transient else VerificationFailedError
        raise kind(f"{what}: not in a majority of the regions ({reasons})", remedy="Run it again when they answer.")


def _wanted(backup: BackupId, kind: KeyKind | None, owner: str | None) -> bool:
    parsed = parse_id(backup)
    return kind in (None, parsed.kind) and owner in (None, parsed.owner)
