"""Checks of the backups, on snapshots that are whole, and on every way in which they are not."""

import contextlib
import dataclasses
import datetime as dt
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedr.backup.layout import SnapshotId, Source, manifest_key
from vedr.backup.repository import Listed, Repository
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.backup.verify import RegionCheck, Verification, record
from vedr.chain.inspection import Inspected
from vedr.errors import CorruptError, VedrError
from vedr.inventory import Height, Provider, Site
from vedr.policies.checks import Checks
from vedr.ports import ObjectKey
from vedr.readiness import backups, rpo, stores
from vedr.readiness.expirations import Expiration
from vedr.readiness.finding import Verdict, verdict_of
from vedr.readiness.ports import BucketState

REGIONS = ("us-east", "eu-west", "ap-south")
POLICY = Checks(deadline_s=10, subject_deadline_s=5)
PROVIDER = Provider.model_construct(
    name="provider-0", region="us-east", zone="us-east-1a", url="http://p", unit="p", home=Path("/p"), reserve=False
)


@dataclass
class Probes:
    """What a bucket says of itself, and what a restored folder's databases say."""

    folder: Path
    says: Inspected | None = None
    of_registers: dict[str, tuple[Expiration, ...]] = field(default_factory=dict)
    state: BucketState = field(default=BucketState(versioned=True, lock_mode="", lock_days=0, expirations=None))

    def bucket_state(self, _region: str) -> BucketState:
        return self.state

    def register_expirations(self, region: str) -> tuple[Expiration, ...] | None:
        return self.of_registers.get(region)

    def inspect(self, data: Path) -> Inspected:
        if not (data / "application.db" / "CURRENT").is_file() or self.says is None:
            raise CorruptError("a database does not open", remedy="Restore another.")
        return self.says

    def boot(self, listed: Listed) -> Verification:
        check = RegionCheck("us-east", None if self.says else CorruptError("it does not start"))
        return Verification(listed.id, listed.source, 3, dt.datetime.now(dt.UTC), (check,))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self.folder / "scratch"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@dataclass
class Night:
    """A site after its night: every region has state and configuration, a provider has its state."""

    world: Any
    probes: Probes
    lock_days: int = 0

    @property
    def repository(self) -> Repository:
        return cast("Repository", self.world.repository)

    @property
    def now(self) -> dt.datetime:
        return cast("dt.datetime", self.world.clock())

    @property
    def site(self) -> Site:
        regions = {name: SimpleNamespace(store=SimpleNamespace(object_lock_days=self.lock_days)) for name in REGIONS}
        return cast(
            "Site",
            SimpleNamespace(
                regions_by_priority=REGIONS,
                regions=regions,
                providers=(PROVIDER,),
                retention=self.repository.retention,
                chain=SimpleNamespace(chain_id="chain-1"),
                checks=POLICY,
            ),
        )

    def take(self, source: Source) -> str:
        facts = self.world.facts(100)
        return create(self.repository, source, read_tree(self.world.data), facts).id

    def take_all(self) -> None:
        for region in REGIONS:
            self.take(Source(region, "state", f"full-{region}"))
            self.take(Source(region, "config", region))
        self.take(Source("us-east", "provider", "provider-0"))

    def prove(self, origin: str, *, ok: bool = True, depth: Any = 3) -> None:
        listed = backups.newest(self.repository, origin, "state", deadline_s=5)
        check = RegionCheck("us-east", None if ok else CorruptError("no"))
        source = listed.source(listed.ids[0])
        record(self.repository, Verification(listed.ids[0], source, depth, self.now, (check,)))

    def keys(self, region: str, part: str) -> list[ObjectKey]:
        return [found.key for found in self.world.stores[region].list("") if part in found.key]

    # --- the checks

    def integrity(self) -> Verdict:
        return backups.backup_integrity(self.repository, REGIONS, POLICY, random.Random(1))

    def freshness(self) -> Verdict:
        return backups.backup_freshness(self.repository, REGIONS, POLICY, self.now)

    def providers(self, *daemons: Provider) -> Verdict:
        return backups.provider_state_backups(self.repository, daemons or (PROVIDER,), POLICY, self.now)

    def boots(self) -> Verdict:
        return backups.boot_verification(self.repository, REGIONS, POLICY, self.now)

    def dry_run(self) -> Verdict:
        return guarded(lambda: backups.restore_dry_run(self.site, self.repository, self.probes, POLICY, self.now))

    def rpo(self, keys: Any = None) -> Verdict:
        return rpo.recovery_points(self.site, self.repository, keys, POLICY, self.now)

    def retention(self) -> Verdict:
        return stores.retention(self.site, self.repository, self.probes, POLICY)


def guarded(look: Callable[[], Verdict]) -> Verdict:
    """As the runner does it."""
    try:
        return look()
    except VedrError as error:
        return verdict_of(error, "")


@pytest.fixture
def night(make_world: Any, tmp_path: Path) -> Night:
    world = make_world()
    world.fill(table_bytes=20_000)
    says = Inspected("chain-1", Height(1), Height(100), Height(100), Height(100), "AB" * 32, "goleveldb")
    made = Night(world, Probes(tmp_path, says))
    made.take_all()
    return made


# --- integrity


def test_whole_backups_pass(night: Night) -> None:
    verdict = night.integrity()
    assert (verdict.status, verdict.remedy) == ("passed", "")


def test_a_region_without_any_backup_fails(make_world: Any, tmp_path: Path) -> None:
    assert Night(make_world(), Probes(tmp_path)).integrity().status == "failed"


def test_no_regions_is_a_failure_not_a_pass(night: Night) -> None:
    for verdict in (
        backups.backup_integrity(night.repository, (), POLICY, random.Random(1)),
        backups.backup_freshness(night.repository, (), POLICY, night.now),
        backups.provider_state_backups(night.repository, (), POLICY, night.now),
        backups.boot_verification(night.repository, (), POLICY, night.now),
        backups.boot_now(night.repository, (), night.probes, POLICY),
    ):
        assert (verdict.status, verdict.observed) == ("failed", "nothing to look at")
        assert verdict.remedy


@pytest.mark.parametrize("part", ["/m/", "/p/", "/o/"])
@pytest.mark.parametrize("kind", ["state", "config"])
def test_one_flipped_byte_in_one_region_is_found(night: Night, part: str, kind: str) -> None:
    store = night.world.stores["eu-west"]
    key = night.keys("eu-west", f"ap-south/{kind}{part if part != '/o/' else '/e/'}")[0]
    content = bytearray(store.get(key))
    content[len(content) // 2] ^= 1
    store.damage(key, bytes(content))
    verdict = night.integrity()
    assert verdict.status == "failed", verdict
    assert "eu-west" in verdict.observed
    assert verdict.remedy


@pytest.mark.parametrize("part", ["/m/", "/p/", "/e/"])
def test_one_lost_object_in_one_region_is_found(night: Night, part: str) -> None:
    key = night.keys("ap-south", f"us-east/state{part}")[0]
    night.world.stores["ap-south"].delete(key)
    verdict = night.integrity()
    assert verdict.status == "failed", verdict
    assert "us-east/state in ap-south" in verdict.observed


def test_a_silent_region_could_not_be_looked_at(night: Night) -> None:
    night.world.stores["us-east"].faults.down = True
    verdict = night.integrity()
    assert verdict.status == "could not run"
    assert "in us-east" in verdict.observed
    assert "well" in verdict.observed  # the other regions were heard


def test_what_nobody_trusted_signed_is_no_backup(night: Night, make_world: Any) -> None:
    stranger = make_world()
    trusting = dataclasses.replace(night.repository, trusted=stranger.repository.trusted)
    night.world.repository = trusting
    assert night.integrity().status == "failed"


# --- age


def test_fresh_backups_pass_and_age_to_a_warning_and_a_failure(night: Night) -> None:
    statuses = []
    for _ in range(3):
        statuses.append(night.freshness().status)
        night.world.clock.advance(hours=12.5)
    assert statuses == ["passed", "warning", "failed"]


def test_one_region_without_a_fresh_snapshot_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    for region in REGIONS[:2]:
        night.take(Source(region, "state", f"full-{region}"))
    verdict = night.freshness()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("ap-south: 25.0 h old")
    assert "vedr run chain-snapshot --region ap-south" in verdict.remedy


def test_a_forged_fresh_manifest_does_not_make_a_backup_fresh(night: Night) -> None:
    night.world.clock.advance(hours=25)
    source = Source("us-east", "state", "full-us-east")
    now = f"{night.now:%Y%m%dT%H%M%SZ}"
    for store in night.world.stores.values():
        store.create(manifest_key(source, cast("Any", f"{now}-full-us-east-200")), b'{"signed":{},"signatures":[]}')
    assert night.freshness().status == "failed"


def test_a_backup_from_the_future_is_nobodys(night: Night) -> None:
    night.world.clock.advance(days=-2)
    verdict = night.freshness()
    assert verdict.status == "failed"
    assert "in the future" in verdict.observed


def test_a_provider_that_was_never_backed_up_fails(night: Night) -> None:
    assert night.providers().status == "passed"
    other = PROVIDER.model_copy(update={"name": "provider-1"})
    verdict = night.providers(PROVIDER, other)
    assert (verdict.status, verdict.observed.split(";")[0]) == ("failed", "provider-1: never backed up")


def test_an_old_provider_state_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    assert night.providers().status == "failed"


def test_a_provider_state_that_a_majority_lost_fails(night: Night) -> None:
    for region in REGIONS[:2]:
        for key in night.keys(region, "us-east/provider/e/"):
            night.world.stores[region].delete(key)
    verdict = night.providers()
    assert verdict.status == "failed"
    assert "no snapshot of us-east/provider is whole" in verdict.observed


# --- proof by booting


def test_a_snapshot_that_nobody_booted_is_no_proof(night: Night) -> None:
    assert night.boots().status == "failed"
    for region in REGIONS:
        night.prove(region, depth=2)
    assert night.boots().status == "failed"
    for region in REGIONS:
        night.prove(region)
    assert night.boots().status == "passed"


def test_a_proof_of_the_day_before_yesterday_fails(night: Night) -> None:
    for region in REGIONS:
        night.prove(region)
    night.world.clock.advance(hours=25)
    assert night.boots().status == "failed"


def test_a_fresh_proof_of_an_old_snapshot_fails(night: Night) -> None:
    night.world.clock.advance(days=3)
    for region in REGIONS:
        night.prove(region)
    verdict = night.boots()
    assert verdict.status == "failed"
    assert "the snapshot proven is 3.0 d old" in verdict.observed


def test_a_failed_boot_takes_the_proof_away(night: Night) -> None:
    for region in REGIONS:
        night.prove(region)
    night.world.clock.advance(minutes=1)
    night.prove("eu-west", ok=False)
    verdict = night.boots()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("eu-west: no snapshot is proven")


def test_when_no_region_answers_nothing_was_looked_at(night: Night) -> None:
    for store in night.world.stores.values():
        store.faults.down = True
    for verdict in (night.integrity(), night.freshness(), night.providers(), night.boots(), night.dry_run()):
        assert verdict.status == "could not run", verdict


def test_booting_now_passes_only_when_each_boots(night: Night) -> None:
    assert backups.boot_now(night.repository, REGIONS, night.probes, POLICY).status == "passed"
    night.probes.says = None
    verdict = backups.boot_now(night.repository, REGIONS, night.probes, POLICY)
    assert verdict.status == "failed"
    assert "it does not start" in verdict.observed


# --- the dry run


def test_a_dry_run_restores_from_another_region_every_day_and_leaves_nothing(night: Night) -> None:
    seen = []
    for _ in REGIONS:
        verdict = night.dry_run()
        assert verdict.status == "passed", verdict
        seen.append(verdict.observed.partition(" from ")[2].partition(" ")[0])
        night.world.clock.advance(days=1)
        night.take(Source("us-east", "state", "full-us-east"))
    assert sorted(seen) == sorted(REGIONS)
    assert not list(night.probes.folder.iterdir())


def test_a_dry_run_of_an_old_snapshot_where_newer_ones_do_not_arrive_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    verdict = night.dry_run()
    assert (verdict.status, "limit 24.0 h" in verdict.observed) == ("failed", True), verdict
    assert "come to that region" in verdict.remedy


def test_a_proof_of_a_snapshot_of_the_future_fails(night: Night) -> None:
    night.world.clock.advance(days=-2)
    proof = backups.Proof(SnapshotId("20991231T000000Z-full-100"), 3, night.now)
    part = backups.judge_proof("us-east", {proof.snapshot: proof}, POLICY, night.now)
    assert (part.status, "in the future" in part.observed) == ("failed", True)


@pytest.mark.parametrize(
    "says",
    [
        None,
        Inspected("chain-2", Height(1), Height(100), Height(100), Height(100), "AB" * 32, "goleveldb"),
        Inspected("chain-1", Height(1), Height(99), Height(99), Height(99), "AB" * 32, "goleveldb"),
        Inspected("chain-1", Height(1), Height(100), Height(100), Height(100), "CD" * 32, "goleveldb"),
    ],
)
def test_a_restore_that_reads_as_something_else_fails(night: Night, says: Inspected | None) -> None:
    night.probes.says = says
    assert night.dry_run().status == "failed"


def test_a_restore_fails_on_a_damaged_object_of_that_days_region(night: Night) -> None:
    day = REGIONS[night.now.toordinal() % len(REGIONS)]
    for key in night.keys(day, "/state/e/"):
        night.world.stores[day].damage(key, b"rot")
    assert night.dry_run().status == "failed"


def test_a_restore_that_misses_its_target_fails(night: Night) -> None:
    policy = POLICY.model_copy(update={"dry_run_max_s": 0})
    verdict = backups.restore_dry_run(night.site, night.repository, night.probes, policy, night.now)
    assert verdict.status == "failed"


# --- RPO


def rpo_parts(night: Night) -> dict[str, str]:
    parts = rpo._of_snapshots(night.site, night.repository, POLICY, night.now)
    return {part.subject: part.status for part in parts}


def test_each_component_is_held_to_its_own_rpo(night: Night) -> None:
    assert set(rpo_parts(night).values()) == {"passed"}
    night.world.clock.advance(hours=2)
    late = rpo_parts(night)
    assert {name for name, status in late.items() if status == "failed"} == {
        f"configuration {region}" for region in REGIONS
    }
    night.world.clock.advance(hours=3)
    assert set(rpo_parts(night).values()) == {"failed"}


def test_a_newer_copy_that_is_not_whole_does_not_count_for_the_rpo(night: Night) -> None:
    night.world.clock.advance(hours=2)
    night.take(Source("us-east", "config", "us-east"))
    assert rpo_parts(night)["configuration us-east"] == "passed"
    for region in REGIONS[:2]:
        newest = max(key for key in night.keys(region, "us-east/config/p/"))
        night.world.stores[region].delete(newest)
    assert rpo_parts(night)["configuration us-east"] == "failed"


# --- retention and locks


def test_buckets_as_the_site_asks_pass(night: Night) -> None:
    assert night.retention().status == "passed"


@pytest.mark.parametrize(
    ("state", "lock_days"),
    [
        (BucketState(versioned=False, lock_mode="", lock_days=0, expirations=()), 0),
        (BucketState(versioned=True, lock_mode="", lock_days=0, expirations=()), 102),
        (BucketState(versioned=True, lock_mode="COMPLIANCE", lock_days=30, expirations=()), 102),
        (BucketState(versioned=True, lock_mode="GOVERNANCE", lock_days=102, expirations=()), 102),
    ],
)
def test_a_bucket_less_safe_than_the_site_asks_fails(night: Night, state: BucketState, lock_days: int) -> None:
    night.probes.state, night.lock_days = state, lock_days
    verdict = night.retention()
    assert verdict.status == "failed"
    assert "bucket of" in verdict.observed


@pytest.mark.parametrize(
    ("prefix", "current", "days", "status"),
    [
        ("", True, 36500, "failed"),  # the ledger is kept for ever
        ("us-east/", True, 400, "failed"),  # so are revocations of keys
        ("us-east/state/", True, 101, "failed"),
        ("us-east/state/", True, 102, "passed"),
        ("us-east/config/", True, 41, "failed"),
        ("us-east/config/", True, 42, "passed"),
        ("ledger/", True, 3650, "failed"),
        ("", False, 101, "failed"),  # snapshots are read by version
        ("", False, 102, "passed"),
        ("sign-state/", False, 1, "passed"),
        ("sign-state/", True, 400, "failed"),
        ("checks/", True, 1, "passed"),
    ],
)
def test_a_lifecycle_rule_that_takes_what_is_still_needed_fails(
    night: Night, prefix: str, current: bool, days: int, status: str
) -> None:
    rule = Expiration("cheaper", prefix, "removes", current=current, days=days)
    night.probes.state = dataclasses.replace(night.probes.state, expirations=(rule,))
    verdict = night.retention()
    assert verdict.status == status, verdict
    assert (status == "failed") == ("rule 'cheaper' removes" in verdict.observed)
    assert (status == "failed") == ("Remove the rule at once" in verdict.remedy)


@pytest.mark.parametrize(
    ("prefix", "current", "status"), [("", True, "failed"), ("sign-state/", True, "failed"), ("", False, "passed")]
)
def test_a_lifecycle_rule_that_takes_registers_from_their_own_bucket_fails(
    night: Night, prefix: str, current: bool, status: str
) -> None:
    night.probes.of_registers["eu-west"] = (Expiration("tidy", prefix, "removes", current=current, days=30),)
    verdict = night.retention()
    assert (verdict.status, "registers of eu-west: rule 'tidy'" in verdict.observed) == (status, status == "failed")


def test_a_server_without_lifecycle_rules_is_told_as_such(night: Night) -> None:
    assert night.retention().observed.count("knows no lifecycle rules") == len(REGIONS)


def test_snapshots_long_past_their_retention_fail(night: Night) -> None:
    night.world.clock.advance(days=93)
    assert night.retention().status == "passed"  # the newest of each source is always kept
    for region in REGIONS:
        night.take(Source(region, "state", f"full-{region}"))
    verdict = night.retention()
    assert verdict.status == "failed"
    assert "1 past their retention" in verdict.observed


# --- anything at all


@given(seed=st.integers(0, 2**32), content=st.binary(max_size=400))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_check_passes_or_breaks_on_arbitrary_bytes_in_place_of_any_object(
    night: Night, seed: int, content: bytes
) -> None:
    chance = random.Random(seed)
    region = chance.choice(REGIONS)
    store = night.world.stores[region]
    key = chance.choice([key for key in night.keys(region, "") if "/state/" in key or "/config/" in key])
    before = store.get(key)
    changed = content if chance.random() < 0.3 else _mutated(before, chance)
    if changed == before:
        return
    store.damage(key, changed)
    try:
        verdict = night.integrity()
        assert verdict.status in ("failed", "could not run"), (key, verdict)
        assert verdict.remedy
        other = chance.choice([night.freshness, night.retention, night.boots, night.dry_run])()
        assert "This is a fault of vedr" not in other.remedy, (key, other)
    finally:
        store.damage(key, before)


def _mutated(content: bytes, chance: random.Random) -> bytes:
    """Cut, flipped, doubled, or with a slice of noise."""
    changed = bytearray(content)
    at = chance.randrange(len(changed)) if changed else 0
    match chance.randrange(4):
        case 0:
            return bytes(changed[:at])
        case 1 if changed:
            changed[at] ^= 1 << chance.randrange(8)
        case 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 50))
        case _:
            changed += changed[at:] or b"x"
    return bytes(changed)
