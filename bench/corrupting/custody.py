"""Envelopes, key backups with their catalogue entries, and the records of recovery shares.

The looks are `vedr keys envelope` (opening), `vedr keys verify` and `vedr keys restore` from any region, and what
`vedr shares` reads.  Recovery keys open them, which costs no second each; a share of trials uses the passphrase.

Leaves out: a share record without a signature, which promises its form only; and another whole envelope for the same
key in an envelope's place, which opens as what it is (key backups name their envelope's hash in a signed entry).
"""

import datetime as dt
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.corrupting.damage import Around, Damage, damage, edited
from bench.corrupting.shelf import REGIONS, Shelf, Spoilt, shelves, some_regions, spoil, told
from bench.corrupting.snapshots import Clock
from bench.corrupting.trial import Case, FalsePass, Verdict, require_remedy, tried
from vedr.adapters.secrets_memory import MemoryVault
from vedr.custody import key_backup_store
from vedr.custody.envelope import seal
from vedr.custody.envelope_files import open_file
from vedr.custody.envelope_slots import PassphraseOpener, PassphraseSeal, RecoveryOpener, RecoverySeal, Seal
from vedr.custody.escrow import Escrow
from vedr.custody.key_backup import Bundle, make_bundle
from vedr.custody.key_backup_catalogue import Backup, entry_key, envelope_key
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_material import VALIDATOR_FILE, new_key_file
from vedr.custody.shares import split
from vedr.custody.shares_record import new_record, open_record, seal_record
from vedr.errors import VedrError
from vedr.ports import ObjectKey
from vedr.signature import Signer, open_document
from vedr.targets import Retention

PASSPHRASE: Final = b"a passphrase of some length"
PASSPHRASE_SHARE: Final = 1 / 40  # each costs 64 MiB and some tenths of a second


class Envelopes:
    """A sealed file, opened to another file."""

    name = "envelopes"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "envelopes"
        self._folder.mkdir()
        chance = random.Random("envelopes")
        self._payload = chance.randbytes(5000)
        self._key = X25519PrivateKey.from_private_bytes(chance.randbytes(32))
        slots: list[Seal] = [PassphraseSeal(PASSPHRASE), RecoverySeal(self._key.public_key().public_bytes_raw())]
        created = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)

        def sealed(payload: bytes, meta: str) -> bytes:
            return seal(payload, slots=slots, meta={"of": meta}, created=created, chunk_bytes=1024)

        self._sealed = sealed(self._payload, "validator")
        self._others = [sealed(chance.randbytes(5000), "validator"), sealed(self._payload[::-1], "node")]
        stranger = [RecoverySeal(X25519PrivateKey.generate().public_key().public_bytes_raw())]
        self._foreign = [seal(self._payload, slots=stranger, meta={}, created=created, chunk_bytes=1024)]

    def case(self, chance: random.Random) -> Case:
        around = Around(siblings=self._foreign, foreign=self._foreign)
        hurt = self._chunks_moved(chance) if chance.random() < 1 / 5 else None
        done = Damage("chunks moved", hurt) if hurt else damage(self._sealed, chance, around)
        data = done.data
        passphrase = chance.random() < PASSPHRASE_SHARE
        opener = PassphraseOpener(PASSPHRASE) if passphrase else RecoveryOpener(self._key.private_bytes_raw())
        source = self._folder / "sealed"
        source.unlink(missing_ok=True)
        if data is not None:
            source.write_bytes(data)

        def look() -> Verdict:
            target = self._folder / "opened"
            try:
                open_file(source, target, opener)
                if target.read_bytes() != self._payload:
                    raise FalsePass("it opened to another payload")
            finally:
                target.unlink(missing_ok=True)
            return "harmless"

        return Case(done.kind, f"{len(data or b'')} bytes, {type(opener).__name__}", look)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _chunks_moved(self, chance: random.Random) -> bytes:
        """A chunk doubled, left out, exchanged with another or with another envelope's at the same place."""
        size = 1024 + 16
        count = -(-len(self._payload) // 1024)
        start = len(self._sealed) - len(self._payload) - 16 * count
        body = [self._sealed[start + n * size : start + (n + 1) * size] for n in range(count)]
        other = self._others[0][-(len(self._payload) + 16 * count) :]
        one, two = chance.sample(range(count), 2)
        match chance.randrange(4):
            case 0:
                body[one], body[two] = body[two], body[one]
            case 1:
                body.insert(one, body[one])
            case 2:
                del body[one]
            case _:
                body[one] = other[one * size : (one + 1) * size]
        return self._sealed[:start] + b"".join(body)


class KeyBackups:
    """Envelopes, catalogue entries and the decrypter that lies beside them, in three regions."""

    name = "key backups"

    def __init__(self, _: Path) -> None:
        self._clock = Clock()
        self._stores = shelves(self._clock)
        chance = random.Random("key backups")
        self._recovery = X25519PrivateKey.from_private_bytes(chance.randbytes(32))
        self._repository = self._repository_over(self._stores)
        self._bundle = self._make("val-0", self._repository)
        older = key_backup_store.store_bundle(self._repository, "us-east", self._bundle, previous=None, since={}).backup
        self._clock.advance(24)
        self._backup = key_backup_store.store_bundle(
            self._repository, "us-east", self._bundle, previous=older, since={}
        ).backup
        self._older = older
        foreign = shelves(self._clock)
        other = self._repository_over(foreign)
        key_backup_store.store_bundle(other, "us-east", self._make("val-0", other), previous=None, since={})
        self._foreign = foreign["us-east"]
        for store in (*self._stores.values(), self._foreign):
            store.keep()

    def _repository_over(self, stores: dict[str, Shelf]) -> KeyRepository:
        signer = Signer(Ed25519PrivateKey.generate())
        repository = KeyRepository(
            stores=stores,
            signer=signer,
            trusted=(signer.public_hex,),
            escrow=Escrow(MemoryVault(*REGIONS), "dr/backup-passphrase"),
            recovery_public_key=self._recovery.public_key().public_bytes_raw(),
            chain_id="chain-1",
            retention=Retention(),
            clock=self._clock,
        )
        repository.escrow.open_epoch("validator")
        return repository

    @staticmethod
    def _make(owner: str, repository: KeyRepository) -> Bundle:
        return make_bundle("validator", owner, repository.chain_id, (new_key_file("validator", VALIDATOR_FILE),))

    def case(self, chance: random.Random) -> Case:
        for store in self._stores.values():
            store.put_back()
        backup = self._backup
        entry = entry_key("us-east", backup.id, backup.generation)
        key = chance.choices((envelope_key(backup), entry, ObjectKey(backup.decrypter)), weights=(5, 4, 1))[0]
        regions = some_regions(chance)
        if key == entry and chance.random() < 1 / 5:
            return self._signed_again(key, chance, regions)
        # Of an entry that is gone everywhere nothing is left that could tell: bucket versions and locks are for that.
        without = ("missing",) if key == entry and len(regions) == len(REGIONS) else ()
        spoilt = spoil(self._stores, key, chance, self._around(key), regions=regions, without=without)
        with_passphrase = chance.random() < PASSPHRASE_SHARE
        return Case(*told(spoilt), lambda: self._look(spoilt, with_passphrase=with_passphrase))

    def close(self) -> None:
        """Nothing is held."""

    def _around(self, key: ObjectKey) -> Around:
        store = self._stores["us-east"]
        siblings = [data for one in store.all_keys() if one != key and (data := store.held(one))]
        foreign = [data for one in self._foreign.all_keys() if (data := self._foreign.held(one))]
        alike = (
            envelope_key(self._older) if key == envelope_key(self._backup) else entry_key("us-east", self._older.id, 1)
        )
        return Around(siblings=siblings, older=[store.held(alike) or b""], foreign=foreign)

    def _look(self, spoilt: Sequence[Spoilt], *, with_passphrase: bool) -> Verdict:
        verified = tried(self._verify)
        opener = None if with_passphrase else RecoveryOpener(self._recovery.private_bytes_raw())
        loaded = tried(lambda: key_backup_store.newest(self._repository, "us-east", "validator", "val-0"))
        if isinstance(verified, dict):
            for region in sorted({one.region for one in spoilt} - set(verified)):
                raise FalsePass(f"verify does not name {region}, whose copy of {spoilt[0].key} is damaged")
            for error in verified.values():
                require_remedy(error)
        if isinstance(loaded, VedrError):
            require_remedy(loaded)
            return "refused"
        if loaded != self._backup:
            raise FalsePass(f"the newest backup is {loaded.id if loaded else None}, not {self._backup.id}")
        bundle = tried(lambda: key_backup_store.open_from(self._repository, self._backup, opener=opener))
        if isinstance(bundle, VedrError):
            require_remedy(bundle)
            return "refused"
        if bundle != self._bundle:
            raise FalsePass("the keys that come out are not those that were backed up")
        return "healed"

    def _verify(self) -> dict[str, VedrError]:
        return key_backup_store.verify(
            self._repository, self._backup, opener=RecoveryOpener(self._recovery.private_bytes_raw())
        )

    def _signed_again(self, key: ObjectKey, chance: random.Random, regions: tuple[str, ...]) -> Case:
        repository = self._repository
        for region in regions:
            signed = open_document(self._stores[region].held(key) or b"", repository.trusted, what="the original")
            self._stores[region].spoil(key, repository.signer.seal_document(edited(signed, chance)))

        def look() -> Verdict:
            opener = RecoveryOpener(self._recovery.private_bytes_raw())
            loaded = tried(lambda: key_backup_store.newest(repository, "us-east", "validator", "val-0"))
            if isinstance(loaded, Backup):
                opened = tried(lambda: key_backup_store.open_from(repository, loaded, opener=opener))
                if isinstance(opened, VedrError):
                    require_remedy(opened)
            elif isinstance(loaded, VedrError):
                require_remedy(loaded)
            return "as signed"

        return Case("signed nonsense", f"{key} in {', '.join(regions)}", look)


class ShareRecords:
    """The signed record of who holds which share."""

    name = "share records"

    def __init__(self, _: Path) -> None:
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        stranger = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
        self._signer, self._trusted = signer, (signer.public_hex,)
        shares = split(bytes(range(32)))
        names = ("ada", "bob", "cleo", "dan", "eve")
        now = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
        self._record = new_record(shares, names, public_key=bytes(range(32)), now=now)
        self._data = seal_record(self._record, signer)
        older = new_record(shares, names, public_key=bytes(range(32)), now=now - dt.timedelta(days=400))
        self._older = seal_record(older, signer)
        self._foreign = [seal_record(self._record, stranger), seal_record(self._record)]

    def case(self, chance: random.Random) -> Case:
        if chance.random() < 1 / 5:
            document = edited(open_document(self._data, self._trusted, what="the original"), chance)
            data = self._signer.seal_document(document)
            return Case("signed nonsense", "the record", lambda: self._look_at_signed(data))
        # An older record is genuine, and says its date: people compare it with the page that a custodian holds.
        around = Around(siblings=self._foreign, foreign=self._foreign)
        hurt = damage(self._data, chance, around, without=("missing",))
        return Case(hurt.kind, "the record", lambda: self._look(hurt.data or b""))

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, data: bytes) -> Verdict:
        if open_record(data, trusted=self._trusted) != self._record:
            raise FalsePass("the record names others than it did")
        raise FalsePass("other bytes pass for the record")

    def _look_at_signed(self, data: bytes) -> Verdict:
        open_record(data, trusted=self._trusted)
        return "as signed"
