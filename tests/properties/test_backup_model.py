"""One model of everything that happens to snapshots: whatever the order, what is listed can be restored.

Backups, prunes, heals, repairs and verifications run over three regions in memory, on several sources that share
objects; any of them may be killed before or after any call, or be met by another in its middle; regions go away and
come back, disks spoil objects, the signing key changes, epochs become longer, time passes.

VEDR_MODEL_EXAMPLES=5000 looks at so many histories, other ones each time.
"""

import dataclasses
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from vedr.adapters.memory_store import Crash
from vedr.backup import reading, replicate, restore, retention, upload, verify
from vedr.backup.fetching import ObjectReader
from vedr.backup.layout import Source, object_key
from vedr.backup.repository import load_placement
from vedr.errors import UnavailableError, VedrError
from vedr.signature import Signer
from vedr.targets import Retention

RETENTION = Retention(chain_state_days=20, keep_all_days=2, epoch_days=5)
REGIONS = ("us-east", "eu-west", "ap-south")
FILES = 6
EXAMPLES = int(os.environ.get("VEDR_MODEL_EXAMPLES", "0"))
LONGER_EPOCH_DAYS = 10  # a multiple: docs/formats/store.md


class BackupMachine(RuleBasedStateMachine):
    """The world and what the model knows: the content of every snapshot ever listed."""

    make_world: Any

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world(retention=RETENTION)
        self.contents: dict[str, dict[str, bytes]] = {}
        self.height = 1
        self.chance = random.Random(7)
        self.trees: dict[str, dict[str, bytes]] = {"full-0": {}, "full-1": {}}

    @initialize()
    def begin(self) -> None:
        for name in self.trees:
            for number in range(FILES):
                self.trees[name][f"db/{number:06}.ldb"] = b"shared" * 50 + bytes([number])

    @rule(name=st.sampled_from(["full-0", "full-1"]), number=st.integers(0, FILES), seed=st.integers(0, 3))
    def change(self, name: str, number: int, seed: int) -> None:
        """Few distinct contents, so that sources and times share objects."""
        self.trees[name][f"db/{number:06}.ldb"] = random.Random(seed).randbytes(200) * 2

    @rule(name=st.sampled_from(["full-0", "full-1"]), number=st.integers(0, FILES))
    def drop(self, name: str, number: int) -> None:
        if len(self.trees[name]) > 1:
            self.trees[name].pop(f"db/{number:06}.ldb", None)

    @rule(hours=st.sampled_from([1, 5, 24, 24, 6 * 24]))
    def pass_time(self, hours: int) -> None:
        self.world.clock.advance(hours=hours)

    @rule(region=st.sampled_from(REGIONS))
    def lose(self, region: str) -> None:
        if sum(store.faults.down for store in self.world.stores.values()) < len(REGIONS) - 1:
            self.world.stores[region].faults.down = True

    @rule()
    def bring_back(self) -> None:
        for store in self.world.stores.values():
            store.faults.down = False

    @rule(name=st.sampled_from(["full-0", "full-1"]))
    def back_up(self, name: str) -> None:
        self._back_up(name)

    @rule(
        name=st.sampled_from(["full-0", "full-1"]),
        region=st.sampled_from(REGIONS),
        call=st.sampled_from(["create", "head", "get", "list"]),
        number=st.integers(0, 9),
        letter=st.sampled_from("Kkel"),
    )
    def back_up_with_a_fault(self, name: str, region: str, call: Any, number: int, letter: str) -> None:
        self._fault(region, call, number, letter)
        self._back_up(name)

    @rule()
    def prune(self) -> None:
        self._prune()

    @rule(region=st.sampled_from(REGIONS), number=st.integers(0, 12), letter=st.sampled_from("Kkel"))
    def prune_killed(self, region: str, number: int, letter: str) -> None:
        self._fault(region, "delete", number, letter)
        self._prune()

    @rule(name=st.sampled_from(["full-0", "full-1"]), number=st.integers(0, 9))
    def prune_beside_a_writer(self, name: str, number: int) -> None:
        """A whole prune runs in the middle of a backup, between any two of its puts."""
        self._beside("create", number, self._prune, lambda: self._back_up(name))

    @rule(name=st.sampled_from(["full-0", "full-1"]), number=st.integers(0, 9), days=st.sampled_from([5, 7]))
    def stall_in_mid_backup(self, name: str, number: int, days: int) -> None:
        """The writer stands still for days, another prunes, the writer goes on."""

        def meanwhile() -> None:
            self.world.clock.advance(days=days)
            self._prune()

        self._beside("create", number, meanwhile, lambda: self._back_up(name))

    @rule(name=st.sampled_from(["full-0", "full-1"]), number=st.integers(0, 9))
    def heal_beside_a_writer(self, name: str, number: int) -> None:
        self._beside("create", number, self._heal, lambda: self._back_up(name))

    @rule(number=st.integers(0, 9), days=st.sampled_from([0, 7, 20]))
    def prune_beside_a_heal(self, number: int, days: int) -> None:
        """What is healed expires meanwhile."""

        def meanwhile() -> None:
            self.world.clock.advance(days=days)
            self._prune()

        self._beside("create", number, meanwhile, self._heal)

    @rule(number=st.integers(0, 9))
    def heal_beside_a_prune(self, number: int) -> None:
        self._beside("delete", number, self._heal, self._prune)

    @rule()
    def heal(self) -> None:
        self._heal()

    @rule(
        region=st.sampled_from(REGIONS),
        call=st.sampled_from(["create", "head", "get", "list", "delete"]),
        number=st.integers(0, 9),
        letter=st.sampled_from("Kkel"),
    )
    def heal_killed(self, region: str, call: Any, number: int, letter: str) -> None:
        self._fault(region, call, number, letter)
        self._heal()

    @rule(
        region=st.sampled_from(REGIONS),
        which=st.integers(0, 5),
        call=st.sampled_from(["create", "head", "get", "list", "delete"]),
        number=st.integers(0, 9),
        letter=st.sampled_from("Kkel"),
    )
    def spoil_and_repair(self, region: str, which: int, call: Any, number: int, letter: str) -> None:
        """A disk spoils an object; the first repair is killed or fails, the second ends it."""
        self.bring_back()
        self._heal()
        held = [listed for listed in self.world.listed() if set(listed.regions) == set(REGIONS)]
        if not held:
            return
        listed = held[which % len(held)]
        manifest = restore.open_manifest(self.world.repository, listed, chain_id="chain-1").manifest
        name = manifest.objects[which % len(manifest.objects)].name
        self.world.stores[region].damage(object_key(listed.source, manifest.epoch, name), b"spoilt")
        self._fault(region, call, number, letter)
        self._guarded(lambda: replicate.repair(self.world.repository, listed, region))
        assert replicate.repair(self.world.repository, listed, region).error is None
        self._heal()

    @rule()
    def change_signing_key(self) -> None:
        signer = Signer(Ed25519PrivateKey.generate())
        trusted = (*self.world.repository.trusted, signer.public_hex)
        self.world.repository = dataclasses.replace(self.world.repository, signer=signer, trusted=trusted)

    @rule()
    def lengthen_epochs(self) -> None:
        longer = RETENTION.model_copy(update={"epoch_days": LONGER_EPOCH_DAYS})
        self.world.repository = dataclasses.replace(self.world.repository, retention=longer)

    @rule()
    def verify_newest(self) -> None:
        for listed in self.world.listed()[:1]:
            self._guarded(lambda one=listed: verify.verify(self.world.repository, one, depth=1))

    @invariant()
    def whatever_is_listed_is_whole_where_it_is_listed(self) -> None:
        down = {region: store.faults.down for region, store in self.world.stores.items()}
        for store in self.world.stores.values():
            store.faults.down = False
        for listed in self.world.listed():
            for region in listed.regions:
                verified = restore.open_manifest(self.world.repository, listed, chain_id="chain-1", prefer=(region,))
                found = self._read(verified, region)
                assert found == self.contents[listed.id], (listed.id, region)
        for region, was in down.items():
            self.world.stores[region].faults.down = was

    def _read(self, verified: Any, region: str) -> dict[str, bytes]:
        reader = ObjectReader(self.world.repository, verified)
        placement = load_placement(self.world.repository, verified, region)
        objects = [bytes(reader.read_from(region, number, placed)) for number, placed in enumerate(placement.objects)]
        return {
            file.path: b"".join(
                objects[e.number][e.offset_bytes : e.offset_bytes + e.length_bytes] for e in file.extents
            )
            for file in verified.manifest.files
        }

    def _prune(self) -> None:
        self._guarded(lambda: retention.prune(self.world.repository, "us-east", "state"))

    def _heal(self) -> None:
        self._guarded(lambda: replicate.heal(self.world.repository, self.world.listed()))

    def _beside(self, call: str, number: int, meanwhile: Callable[[], None], act: Callable[[], None]) -> None:
        """One thing happens before the other's call of that number to eu-west."""
        store = self.world.stores["eu-west"]
        real, count = getattr(store, call), iter(range(10**6))

        def wrapped(*arguments: Any) -> Any:
            if next(count) == number:
                meanwhile()
            return real(*arguments)

        setattr(store, call, wrapped)
        try:
            act()
        finally:
            setattr(store, call, real)

    def _back_up(self, name: str) -> None:
        self.height += 1
        self.world.clock.advance(seconds=1)
        self._lay_out(name)
        self.world.source = Source("us-east", "state", name)
        content = dict(self.trees[name])
        stamp = self.world.clock.now.strftime("%Y%m%dT%H%M%SZ")
        self.contents[f"{stamp}-{name}-{self.height}"] = content
        self._guarded(lambda: self.world.back_up(self.height))

    def _lay_out(self, name: str) -> None:
        """The source's files on disk; unchanged ones keep inode and mtime."""
        folder = self.world.folder / name
        folder.mkdir(exist_ok=True)
        for path, content in self.trees[name].items():
            target = folder / path
            if not target.exists() or target.read_bytes() != content:
                target.unlink(missing_ok=True)
                self._write(target, content)
        for target in list(folder.rglob("*")):
            if target.is_file() and str(target.relative_to(folder)) not in self.trees[name]:
                target.unlink()
        self.world.data = folder

    def _write(self, target: Any, content: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, ns=(self.height * 10**9, self.height * 10**9))

    def _fault(self, region: str, call: Any, number: int, letter: str) -> None:
        self.world.stores[region].faults.seen.clear()
        self.world.stores[region].faults.maps[call] = "." * number + letter

    def _guarded(self, act: Any) -> None:
        """Errors of ours and kills are part of life; anything else is a bug."""
        try:
            act()
        except (VedrError, Crash):
            pass
        finally:
            for store in self.world.stores.values():
                store.faults.maps.clear()


@pytest.fixture(autouse=True)
def small_files_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of a few hundred bytes behave as large ones do, and hundreds of histories fit into seconds."""
    monkeypatch.setattr(reading, "PACKED_FILE_BYTES", 100)
    monkeypatch.setattr(reading, "PART_BYTES", 300)
    monkeypatch.setattr(upload, "CPU_WORKERS", 1)  # one thread a region: a failing history can be replayed
    monkeypatch.setattr(upload, "UPLOADS_PER_REGION", 1)
    monkeypatch.setattr(replicate, "COPIERS", 1)
    monkeypatch.setattr(retention.References, "SIZE_BYTES", 64 * 1024)


def test_whatever_happens_what_is_listed_can_be_restored(make_world: Any) -> None:
    class Machine(BackupMachine):
        pass

    Machine.make_world = staticmethod(make_world)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or 30,
            stateful_step_count=25,
            deadline=None,
            derandomize=not EXAMPLES,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_prune_frees_closed_epochs_and_keeps_what_is_kept(make_world: Any) -> None:
    world = make_world(retention=RETENTION)
    world.fill(table_bytes=600)
    for day in range(40):
        world.write("application.db/changing.ldb", bytes([day]) * 3_000)
        world.back_up(day + 1)
        world.clock.advance(days=1)
        retention.prune(world.repository, "us-east", "state")
    listed = world.listed()
    assert len(listed) == 20
    keys = [entry.key for entry in world.stores["us-east"].list("us-east/state/e/")]
    epochs = {key.split("/")[3] for key in keys}
    assert len(epochs) <= 6
    referenced = set()
    for snapshot in listed:
        verified = restore.open_manifest(world.repository, snapshot, chain_id="chain-1")
        referenced |= {(verified.manifest.epoch, entry.name) for entry in verified.manifest.objects}
    closed = retention.plan(world.repository, "us-east", "state").closed_before
    unreferenced = [key for key in keys if (int(key.split("/")[3]), key.rsplit("/", 1)[1]) not in referenced]
    assert all(int(key.split("/")[3]) >= closed for key in unreferenced)


@pytest.mark.parametrize("region", REGIONS)
def test_prune_removes_nothing_while_a_region_is_silent(make_world: Any, region: str) -> None:
    world = make_world(retention=RETENTION)
    world.fill(table_bytes=600)
    world.back_up(1)
    world.clock.advance(days=30)
    world.back_up(2)
    world.stores[region].faults.down = True
    before = {name: [e.key for e in store.list("")] for name, store in world.stores.items() if name != region}
    with pytest.raises(UnavailableError, match="nothing was removed"):
        retention.prune(world.repository, "us-east", "state")
    assert before == {name: [e.key for e in store.list("")] for name, store in world.stores.items() if name != region}
