"""Snapshots in three regions: packs, manifests, placements, and the records that they were verified.

The look is `vedr snapshot verify` (every byte of every region) and then `vedr snapshot restore` (whatever region has
good bytes), or for records what the daily check of proven snapshots reads.  The judge compares with the files that were
backed up and with every region's stored bytes.

Leaves out: a snapshot whose manifest is gone in every region: nothing is left that could tell of it.
"""

import datetime as dt
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.corrupting.damage import Around, edited
from bench.corrupting.shelf import REGIONS, Spoilt, shelves, some_regions, spoil, told
from bench.corrupting.trial import Case, FalsePass, Verdict, require_remedy, tried
from vedr.backup import restore
from vedr.backup.layout import Kind, Source
from vedr.backup.manifest import ChainPoint, Facts, Manifest
from vedr.backup.repository import Listed, Repository, list_snapshots
from vedr.backup.sealing import Codec
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.backup.verify import Proof, RegionCheck, Verification, newest_proofs, record, verify
from vedr.errors import VedrError, VerificationFailedError
from vedr.inventory import Height
from vedr.ports import ObjectKey, ObjectStore
from vedr.signature import Signer, open_document
from vedr.targets import Retention

BEGINNING: Final = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
LONG_AGO_NS: Final = 1_700_000_000 * 10**9
FILES: Final = 3
FILE_BYTES: Final = 24_000
DOCUMENTS: Final = ("m", "p", "v")

Fill = Callable[[Path, random.Random], None]


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, hours: float) -> None:
        self.now += dt.timedelta(hours=hours)


class Site:
    """Three regions with two snapshots of one source."""

    def __init__(
        self, folder: Path, stores: Mapping[str, ObjectStore], clock: Clock, seed: str, source: Source, *,
        key: bytes | None, fill: Fill, chain_id: str = "chain-1",
    ) -> None:  # fmt: skip
        chance = random.Random(seed)
        signer = Signer(Ed25519PrivateKey.from_private_bytes(chance.randbytes(32)))
        self.chain_id, self.source, self.clock, self.data = chain_id, source, clock, folder / seed
        self.repository = Repository(stores, signer, (signer.public_hex,), Codec(key), Retention(), clock)
        self.data.mkdir()
        for height in (100, 200):
            fill(self.data, chance)
            create(self.repository, source, read_tree(self.data), self._facts(height))
            clock.advance(4)

    def _facts(self, height: int) -> Facts:
        point = ChainPoint(self.chain_id, Height(height), "AB" * 32, None, None, Height(height), Height(height))
        return Facts(chain=point, software=(("app", "1"),), database_backend="goleveldb", method="pause", pause_ms=12)

    @property
    def listed(self) -> tuple[Listed, ...]:
        """Newest first."""
        return list_snapshots(self.repository, self.source.origin, self.source.kind).snapshots


def fill_tables(data: Path, chance: random.Random) -> None:
    """Tables as a node leaves them: half of each compresses, one file is empty; an older table stays."""
    folder = data / "application.db"
    folder.mkdir(exist_ok=True)
    first = len(list(folder.glob("*.ldb")))
    for number in range(first, first + FILES):
        _write(folder / f"{number:06}.ldb", chance.randbytes(FILE_BYTES // 2) + bytes(FILE_BYTES // 2))
    _write(folder / "CURRENT", b"MANIFEST-000001\n")
    _write(data / "empty", b"")


def fill_config(data: Path, chance: random.Random) -> None:
    """Small text files, which are packed into one object."""
    for name in ("config/config.toml", "config/app.toml", "config/genesis.json"):
        (data / name).parent.mkdir(exist_ok=True)
        _write(
            data / name,
            f"[p2p]\nseeds = '{chance.randbytes(chance.randint(500, 900)).hex()}'\n".encode(),
            chance.randrange(10**9),
        )


def fill_provider(data: Path, chance: random.Random) -> None:
    """A provider daemon's checkpoints."""
    (data / "data").mkdir(exist_ok=True)
    for name in ("bids", "leases"):
        place = chance.randint(1, 10**6)
        text = f'{{"subscriber_id":"{name}","last_sequence":{place},"updated_at":"2026-11-02T12:00:00Z"}}'
        _write(data / "data" / f"{name}_checkpoint.json", text.encode(), chance.randrange(10**9))


def _write(path: Path, content: bytes, later_ns: int = 0) -> None:
    """A file that is not fresh: the next snapshot may know it by its size and time."""
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS + later_ns))


class Snapshots:
    """Objects and documents of snapshots of one kind."""

    def __init__(
        self, folder: Path, *, name: str, kind: Kind, fill: Fill, key: bytes | None, seed: str = "site"
    ) -> None:
        self.name = name
        self._folder = folder / name.replace(" ", "-")
        self._folder.mkdir()
        source = Source("us-east", kind, "full-0")
        self._clock = Clock()
        self._stores = shelves(self._clock)
        self._site = Site(self._folder, self._stores, self._clock, f"{seed}-{name}", source, key=key, fill=fill)
        others = shelves(self._clock)
        Site(
            self._folder, others, Clock(), f"other-{name}", source, key=None if key is None else bytes(32),
            fill=fill, chain_id="chain-2",
        )  # fmt: skip
        self._foreign = others["us-east"]
        self._content = _content(self._site.data)
        self._newest = self._site.listed[0]
        self._at = self._clock.now
        for store in (*self._stores.values(), self._foreign):
            store.keep()

    def case(self, chance: random.Random) -> Case:
        self._clock.now = self._at
        for store in self._stores.values():
            store.put_back()
        key = self._choose(chance)
        regions = some_regions(chance)
        if _letter(key) in DOCUMENTS and chance.random() < 1 / 6:
            return self._signed_again(key, chance, regions)
        spoilt = spoil(self._stores, key, chance, self._around(key), regions=regions)
        return Case(*told(spoilt), lambda: self._look(spoilt))

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _choose(self, chance: random.Random) -> ObjectKey:
        """Something that the newest snapshot needs."""
        keys = self._stores["us-east"].all_keys()
        letter = chance.choices(("e", "m", "p"), weights=(6, 3, 2))[0]
        needed = {entry.name for entry in self._manifest().objects} if letter == "e" else {f"{self._newest.id}.json"}
        return chance.choice([key for key in keys if _letter(key) == letter and key.rsplit("/", 1)[1] in needed])

    def _manifest(self) -> Manifest:
        return restore.open_manifest(self._site.repository, self._newest, chain_id="chain-1").manifest

    def _around(self, key: ObjectKey) -> Around:
        store, letter = self._stores["us-east"], _letter(key)
        alike = [one for one in store.all_keys() if _letter(one) == letter and one != key]
        return Around(
            siblings=[data for one in store.all_keys() if one != key and (data := store.held(one)) is not None],
            older=[data for one in alike if one < key and (data := store.held(one)) is not None],
            foreign=[
                data for one in self._foreign.all_keys() if _letter(one) == letter and (data := self._foreign.held(one))
            ],
        )

    # --- the look

    def _look(self, spoilt: tuple[Spoilt, ...]) -> Verdict:
        verified = tried(lambda: verify(self._site.repository, self._newest, depth=2).require())
        restored = tried(self._restore)
        hurt = {one.region for one in spoilt if not self._read_by_version(one)}
        if isinstance(verified, Verification):
            if hurt:
                raise FalsePass(f"verify passed, though {', '.join(sorted(hurt))} is damaged")
        else:
            unnamed = [region for region in hurt if region not in str(verified)]
            if unnamed:
                raise FalsePass(f"verify does not name {', '.join(unnamed)}: {verified}")
            require_remedy(verified)
        if isinstance(restored, VedrError):
            require_remedy(restored)
            return "refused"
        if restored != self._content:
            raise FalsePass("what was restored is not what was backed up")
        return "harmless" if isinstance(verified, Verification) else "healed"

    @staticmethod
    def _read_by_version(one: Spoilt) -> bool:
        """An object under a newer version is still there: placements name versions."""
        return one.on_top and _letter(one.key) == "e"

    def _restore(self) -> Mapping[str, bytes]:
        manifest = restore.open_manifest(self._site.repository, self._newest, chain_id="chain-1")
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        try:
            staged = restore.fetch(self._site.repository, manifest, home, "inc")
            return _content(staged.path)
        finally:
            restore.discard_staged(home, "inc")

    # --- documents that a trusted key signed with nonsense in them

    def _signed_again(self, key: ObjectKey, chance: random.Random, regions: tuple[str, ...]) -> Case:
        repository = self._site.repository
        for region in regions:
            held = self._stores[region].held(key)
            signed = open_document(held or b"", repository.trusted, what="the original")
            document = edited(signed, chance)
            self._stores[region].spoil(key, repository.signer.seal_document(document))

        def look() -> Verdict:
            verified = tried(lambda: verify(repository, self._newest, depth=2).require())
            restored = tried(self._restore)
            for outcome in (verified, restored):
                if isinstance(outcome, VedrError):
                    require_remedy(outcome)
            return "as signed"

        return Case("signed nonsense", f"{key} in {', '.join(regions)}", look)


class VerificationRecords:
    """Records of verifications: an old pass, and a newer failure that takes the proof away again."""

    name = "verification records"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "records"
        self._folder.mkdir()
        self._clock = Clock()
        self._stores = shelves(self._clock)
        source = Source("us-east", "state", "full-0")
        self._site = Site(self._folder, self._stores, self._clock, "records", source, key=None, fill=fill_config)
        newest, oldest = self._site.listed
        for listed, depth, error in (
            (newest, 2, None), (oldest, 2, None), (newest, 3, None),
            (oldest, 2, VerificationFailedError("an object is damaged", remedy="Heal it.")),
        ):  # fmt: skip
            self._clock.advance(1)
            checks = tuple(RegionCheck(region, error) for region in REGIONS)
            record(self._site.repository, Verification(listed.id, source, depth, self._clock.now, checks))  # type: ignore[arg-type]
        for store in self._stores.values():
            store.keep()
        self._original = self._proofs()

    def case(self, chance: random.Random) -> Case:
        for store in self._stores.values():
            store.put_back()
        keys = [key for key in self._stores["us-east"].all_keys() if _letter(key) == "v"]
        key = chance.choice(keys)
        records = [self._stores["us-east"].held(one) or b"" for one in keys if one != key]
        regions = some_regions(chance)
        # Of a record that is gone everywhere nothing is left that could tell: bucket versions and locks are for that.
        without = ("missing",) if len(regions) == len(REGIONS) else ()
        around = Around(siblings=records, older=records[:1], foreign=records)
        spoilt = spoil(self._stores, key, chance, around, regions=regions, without=without)
        return Case(*told(spoilt), self._look)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _proofs(self) -> dict[str, Proof]:
        return dict(newest_proofs(self._site.repository, "us-east", "state"))  # type: ignore[arg-type]

    def _look(self) -> Verdict:
        proofs = self._proofs()
        for snapshot, proof in proofs.items():
            known = self._original.get(snapshot)
            if known is None or (proof.depth, proof.at) > (known.depth, known.at):
                raise FalsePass(f"{snapshot} counts as proven at depth {proof.depth} on {proof.at}, which it was not")
        if proofs == self._original:
            return "healed"
        raise VerificationFailedError("less is proven than was", remedy="Verify again.")


def _letter(key: ObjectKey) -> str:
    return key.split("/")[2]


def _content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != restore.COMPLETE_MARK}
