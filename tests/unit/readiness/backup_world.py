"""A site after its night: whole backups of three regions in memory, and what its checks say of them."""

import contextlib
import datetime as dt
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from vedr.backup.layout import Source
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

    refusal: VedrError | None = None

    def bucket_state(self, _region: str) -> BucketState:
        if self.refusal:
            raise self.refusal
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


def make_night(world: Any, folder: Path) -> Night:
    world.fill(table_bytes=20_000)
    says = Inspected("chain-1", Height(1), Height(100), Height(100), Height(100), "AB" * 32, "goleveldb")
    made = Night(world, Probes(folder, says))
    made.take_all()
    return made
