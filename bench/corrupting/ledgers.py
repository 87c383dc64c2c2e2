"""The ledger, the evidence pages that stand on it, and the records of HSM keys, in three regions.

The looks are `vedr ledger verify` with `vedr ledger show` of every run, `vedr report verify`, and what `vedr hsm check`
reads.  Runs are written by the real engine.

Leaves out: the tail of the newest run, cut in every region at once, and a record that is gone in every region.  Nothing
is left that could tell (docs/formats/ledger.md, docs/formats/hsm-reference.md); bucket versions and locks are for that.
"""

import contextlib
import datetime as dt
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.corrupting.damage import Around, damage, edited
from bench.corrupting.shelf import REGIONS, Shelf, Spoilt, shelves, some_regions, spoil, told
from bench.corrupting.snapshots import Clock
from bench.corrupting.trial import Case, FalsePass, Verdict, require_remedy, tried
from vedr.backup.layout import stamp
from vedr.cli.report import read_page
from vedr.custody.hsm import CHALLENGE_TAG, Attributes, TokenFacts
from vedr.custody.hsm_examine import KeyName
from vedr.custody.hsm_keys import CURVES, from_spki
from vedr.custody.hsm_reference import Reference, TokenRecord, seal
from vedr.custody.hsm_references import References
from vedr.errors import UnavailableError, VedrError
from vedr.ledger import RunId
from vedr.ports import ObjectKey
from vedr.reports.binder import Binder
from vedr.reports.evidence import gather
from vedr.reports.record import read_record
from vedr.reports.sealing import check_page
from vedr.runbook.journal import Journal, Recorded, Verified
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.replicas import Replicas
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Signer, open_document

RUNS: Final = 4
SITE: Final = "lab"


class Failover(Order):
    """A small runbook's order."""

    region: str = "us-east"


@step(title="Confirm the outage", budget_s=30, acts=False)
def confirm_outage(_: Context[Failover]) -> str:
    """Asks two sources."""
    return "two sources agree"


@step(title="Fence the signers", budget_s=60)
def fence_signers(_: Context[Failover]) -> str:
    """The old signers can't sign."""
    return "2 signers fenced, epoch 4"


REGION: Final = Runbook("RB-DR-003", "Region failover", Failover, [confirm_outage, fence_signers])


class Ledgered:
    """Three regions with the runs of a site."""

    def __init__(self, seed: str, *, site: str = SITE, runs: int = RUNS) -> None:
        chance = random.Random(seed)
        self.site, self.clock = site, Clock()
        self.stores = shelves(self.clock)
        self.signer = Signer(Ed25519PrivateKey.from_private_bytes(chance.randbytes(32)))
        self.runs = tuple(self._run() for _ in range(runs))
        with closing(self.journal()) as journal:
            for run in self.runs:
                journal.heal(run)
            journal.verify()
            self.chains = {run: journal.read(run).chain for run in self.runs}
        for store in self.stores.values():
            store.keep()

    def journal(self) -> Journal:
        """As another process has it."""
        trusted = [self.signer.public_hex]
        return Journal(self.stores, site=self.site, signer=self.signer, trusted=trusted, clock=self.clock)

    def _run(self) -> RunId:
        self.clock.advance(1)
        entered: list[Run[Failover]] = []
        with (
            closing(self.journal()) as journal,
            opened_run(REGION, Failover(detected_at=self.clock.now), journal, wait_quiet=lambda *_, **__: None) as run,
        ):
            entered.append(run)
            run.step(confirm_outage)
            run.step(fence_signers)
        return entered[0].run_id


class Ledger:
    """Entries edited, removed, reordered, cut off, inserted; in one region, in two, in all three."""

    name = "ledger entries"

    def __init__(self, _: Path) -> None:
        self._world = Ledgered("ledger")
        self._other = Ledgered("other", site="other", runs=1)
        self._originals = {key: self._stores["us-east"].held(key) for key in self._entries(self._stores["us-east"])}

    @property
    def _stores(self) -> dict[str, Shelf]:
        return self._world.stores

    def case(self, chance: random.Random) -> Case:
        for store in self._stores.values():
            store.put_back()
        run = chance.choice(self._world.runs)
        regions = some_regions(chance)
        acts = (self._one_entry, self._reorder, self._cut, self._remove_run, self._insert, self._sign_again)
        act = chance.choices(acts, weights=(12, 2, 2, 1, 2, 2))[0]
        return act(run, regions, chance)

    def close(self) -> None:
        """Nothing is held."""

    # --- damage

    def _one_entry(self, run: RunId, regions: tuple[str, ...], chance: random.Random) -> Case:
        keys = self._keys_of(run)
        key = chance.choice(keys)
        without = ("missing",) if run == self._world.runs[-1] and len(regions) > 1 else ()
        originals = [data for one, data in self._originals.items() if one != key and data]
        foreign = [
            data
            for one in self._other.stores["us-east"].all_keys()
            if (data := self._other.stores["us-east"].held(one))
        ]
        around = Around(siblings=originals, older=originals[:3], foreign=foreign)
        spoilt = spoil(self._stores, key, chance, around, regions=regions, without=without)
        return Case(*told(spoilt), self._look)

    def _reorder(self, run: RunId, regions: tuple[str, ...], chance: random.Random) -> Case:
        first, second = chance.sample(self._keys_of(run), 2)
        for region in regions:
            store = self._stores[region]
            one, other = store.held(first), store.held(second)
            store.spoil(first, other)
            store.spoil(second, one)
        return Case("reordered", f"{first} and {second} in {', '.join(regions)}", self._look)

    def _cut(self, run: RunId, regions: tuple[str, ...], chance: random.Random) -> Case:
        keys = self._keys_of(run)
        # The newest entry alone, in a majority, looks as if its writer had died: then it is only cut with another.
        last = len(keys) - (run == self._world.runs[-1] and len(regions) > 1)
        cut = keys[chance.randrange(1, last) :]
        where = self._not_the_newest_everywhere(run, regions)
        for region in where:
            for key in cut:
                self._stores[region].spoil(key, None)
        return Case("tail cut off", f"{cut[0]} and after in {', '.join(where)}", self._look)

    def _remove_run(self, run: RunId, regions: tuple[str, ...], _: random.Random) -> Case:
        where = self._not_the_newest_everywhere(run, regions)
        for region in where:
            for key in self._keys_of(run):
                self._stores[region].spoil(key, None)
        return Case("run removed", f"{run} in {', '.join(where)}", self._look)

    def _insert(self, run: RunId, regions: tuple[str, ...], chance: random.Random) -> Case:
        """An entry after the last, or an alternate beside one."""
        keys = self._keys_of(run)
        data = chance.choice([one for one in self._originals.values() if one])
        after = ObjectKey(f"ledger/{run}/{len(keys):08d}.json")
        beside = ObjectKey(f"{chance.choice(keys).removesuffix('.json')}.{hashlib.sha256(data).hexdigest()[:8]}.json")
        key = chance.choice((after, beside))
        held = data if chance.random() < 1 / 2 else damage(data, chance, Around()).data or b""
        for region in regions:
            self._stores[region].overwrite(key, held)
        return Case("inserted", f"{key} in {', '.join(regions)}", self._look)

    def _sign_again(self, run: RunId, regions: tuple[str, ...], chance: random.Random) -> Case:
        key = chance.choice(self._keys_of(run))
        signer = self._world.signer
        document = edited(open_document(self._originals[key] or b"", [signer.public_hex], what="the original"), chance)
        for region in regions:
            self._stores[region].spoil(key, signer.seal_document(document))
        return Case("signed nonsense", f"{key} in {', '.join(regions)}", self._look_at_signed)

    def _not_the_newest_everywhere(self, run: RunId, regions: tuple[str, ...]) -> tuple[str, ...]:
        return regions[:-1] if run == self._world.runs[-1] and len(regions) == len(REGIONS) else regions

    def _keys_of(self, run: RunId) -> list[ObjectKey]:
        return [key for key in self._originals if key.startswith(f"ledger/{run}/")]

    @staticmethod
    def _entries(store: Shelf) -> list[ObjectKey]:
        return [key for key in store.all_keys() if key.startswith("ledger/")]

    # --- the look

    def _look(self) -> Verdict:
        with closing(self._world.journal()) as journal:
            verified = tried(journal.verify)
            reads = {run: tried(lambda run=run: journal.read(run)) for run in self._world.runs}  # type: ignore[misc]
        refused = isinstance(verified, VedrError)
        if isinstance(verified, VedrError):
            require_remedy(verified)
        for run, read in reads.items():
            if isinstance(read, Recorded) and read.chain != self._world.chains[run]:
                if isinstance(verified, Verified) or read.chain != self._world.chains[run][: len(read.chain)]:
                    raise FalsePass(f"run {run} reads as {len(read.chain)} entries that are not what was written")
                refused = True
            if isinstance(read, VedrError):
                require_remedy(read)
                refused = True
        if isinstance(verified, Verified):
            if verified.silent:  # a busy machine: it says which regions it did not look at
                raise UnavailableError(f"{', '.join(verified.silent)} did not answer", remedy="Verify again.")
            self._require_whole(verified)
            return "harmless"
        whole = all(isinstance(read, Recorded) and read.chain == self._world.chains[run] for run, read in reads.items())
        return "healed" if whole and refused else "refused"

    def _require_whole(self, verified: Verified) -> None:
        for region, store in self._stores.items():
            for key, original in self._originals.items():
                if store.held(key) != original:
                    raise FalsePass(f"verify passed, though {key} in {region} is not what was written")
        heads = {pin.run_id: pin.digest for pin in verified.heads}
        if heads != {run: chain[-1].digest for run, chain in self._world.chains.items()}:
            raise FalsePass("verify tells other heads than were written")

    def _look_at_signed(self) -> Verdict:
        with closing(self._world.journal()) as journal:
            for act in (journal.verify, *(self._reader(journal, run) for run in self._world.runs)):
                outcome = tried(act)
                if isinstance(outcome, VedrError):
                    require_remedy(outcome)
        return "as signed"

    @staticmethod
    def _reader(journal: Journal, run: RunId) -> Callable[[], object]:
        return lambda: gather(read_record(journal, run))


class EvidencePages:
    """A page that `vedr report` wrote, or its signed document alone; and the ledger behind it."""

    name = "evidence bundles"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "evidence"
        self._world = Ledgered("evidence", runs=2)
        with closing(self._world.journal()) as journal:
            binder = Binder(journal, self._folder, self._world.clock)
            pages = [binder.write_run(gather(read_record(journal, run))) for run in self._world.runs]
        self._files = {path: path.read_bytes() for page in pages for path in (page, page.with_suffix(".json"))}
        self._foreign = self._pages_of_another_site()
        self._journal = self._world.journal()

    def case(self, chance: random.Random) -> Case:
        path = chance.choice(list(self._files))
        original = self._files[path]
        others = [data for one, data in self._files.items() if one != path]
        around = Around(siblings=others, older=others[:1], foreign=self._foreign)
        hurt = damage(
            original, chance, around, without=("missing", "swapped") if chance.random() < 1 / 2 else ("missing",)
        )
        path.write_bytes(hurt.data or b"")
        return Case(hurt.kind, path.name, lambda: self._look(path))

    def close(self) -> None:
        self._journal.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signed(self, data: bytes) -> object:
        """What a signed document says; of a page, nothing: its bytes are signed as they stand."""
        return json.loads(data)["signed"] if data.startswith(b"{") else data

    def _pages_of_another_site(self) -> list[bytes]:
        other = Ledgered("another site's evidence", site="other", runs=1)
        with closing(other.journal()) as journal:
            binder = Binder(journal, self._folder / "other", other.clock)
            page = binder.write_run(gather(read_record(journal, other.runs[0])))
        return [page.read_bytes(), page.with_suffix(".json").read_bytes()]

    def _look(self, path: Path) -> Verdict:
        data = path.read_bytes()
        try:
            checked = check_page(read_page(path), self._journal, what=path.name)
        finally:
            path.write_bytes(self._files[path])
        if data in self._files.values() or self._signed(data) == self._signed(self._files[path]):
            return "harmless"  # another true page, or a signature of nobody's beside ours: what it tells is signed
        raise FalsePass(f"{path.name} passes as the page of {[head.run_id for head in checked.runs]}")


class HsmReferences:
    """The records of keys in HSMs: an older and a newer one."""

    name = "hsm references"

    def __init__(self, _: Path) -> None:
        self._stores = shelves()
        self._signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        self._references = [_reference(day, SITE, "val-0") for day in (1, 2)]
        with self._open() as references:
            for reference in self._references:
                references.store(reference)
        stranger = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
        self._foreign = [
            seal(_reference(2, "other", "val-0"), stranger), seal(_reference(2, "other", "val-0"), self._signer)
        ]  # fmt: skip
        for store in self._stores.values():
            store.keep()

    def case(self, chance: random.Random) -> Case:
        for store in self._stores.values():
            store.put_back()
        newest = self._key(self._references[1])
        older = self._stores["us-east"].held(self._key(self._references[0])) or b""
        regions = some_regions(chance)
        without = ("missing",) if len(regions) > 1 else ()  # a minority's rubbish is as good as absent, by its promise
        around = Around(siblings=[older], older=[older], foreign=self._foreign)
        spoilt = spoil(self._stores, newest, chance, around, regions=regions, without=without)
        return Case(*told(spoilt), lambda: self._look(spoilt))

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, _: tuple[Spoilt, ...]) -> Verdict:
        with self._open() as references:
            found = references.newest("val-0")
        if found != self._references[1]:
            raise FalsePass(f"the newest reference is that of {found.created_at}")
        return "healed"

    @contextlib.contextmanager
    def _open(self) -> Iterator[References]:
        with closing(Replicas(self._stores, rest_s=0.0)) as replicas:
            yield References(replicas, site=SITE, signer=self._signer, trusted=(self._signer.public_hex,))

    @staticmethod
    def _key(reference: Reference) -> ObjectKey:
        return ObjectKey(f"hsm/{reference.name.label}/{stamp(reference.created_at)}.json")


def _reference(day: int, site: str, label: str) -> Reference:
    """As two tokens would tell it."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([day]) * 32)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    curve = next(params for params, name in CURVES.items() if name == "ed25519")
    tokens = {region: _token(key, number) for number, region in enumerate(REGIONS)}
    at = dt.datetime(2026, 11, day, 2, tzinfo=dt.UTC)
    public = from_spki(spki, what=label)
    return Reference(site, at, "chain-1", KeyName(label, b"\1"), "validator", public, curve, tokens)


def _token(key: Ed25519PrivateKey, number: int) -> TokenRecord:
    serial = f"{number:016x}"
    facts = TokenFacts("/lib/hsm.so", "ab" * 32, "2.6", "maker", "model", "1.0", f"token-{number}", serial, ("EDDSA",))
    challenge = CHALLENGE_TAG + f"serial={serial}\n".encode() + bytes(32)
    return TokenRecord(
        role="replica" if number else "primary",
        facts=facts,
        attributes=Attributes(sensitive=True, extractable=False),
        pin_reference="file:/secrets/pin",
        challenge=challenge,
        signature=key.sign(challenge),
    )
