"""What a scheduled job's past runs say, over regions in memory."""

import contextlib
import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks import freshness
from tasks.freshness import find_fresh
from tasks.orders import RegionJob
from tasks.watchdog import GRACE, find_missed
from vedr.adapters.memory_store import MemoryStore
from vedr.errors import UnavailableError
from vedr.ledger import RunId
from vedr.policies.names import RegionName
from vedr.ports import ObjectKey
from vedr.readiness.run_times import last_due, opened_at, period
from vedr.readiness.schedule import LOOKING, past_runs
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Json, Signer

REGIONS = ("us-east", "eu-west", "ap-south")
EVERY_FOUR_HOURS = "0 */4 * * *"
SCHEDULE = SimpleNamespace(
    chain_state=EVERY_FOUR_HOURS,
    provider_state="30 */4 * * *",
    configuration="0 * * * *",
    snapshot_verify="0 6 * * *",
    keys="0 2 * * *",
)
JOB = "chain-snapshot"


@step(title="Work", budget_s=60)
def work(ctx: Context[RegionJob]) -> str:
    """Does the job."""
    if ctx.order.region in WORLD[-1].broken:
        raise UnavailableError("no disk")
    WORLD[-1].worked.append(ctx.order.region)
    return "done"


RUNBOOK = Runbook(JOB, "test of freshness", RegionJob, [find_fresh, work], target_s=3600)
OTHER = Runbook("config-backup", "another job", RegionJob, [find_fresh, work], target_s=3600)


@dataclass
class World:
    """A site's ledger, a clock, and what the job did."""

    now: dt.datetime
    stores: dict[str, MemoryStore] = field(default_factory=lambda: {name: MemoryStore(name) for name in REGIONS})
    signer: Signer = field(default_factory=lambda: Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))))
    worked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.journal = Journal(
            self.stores, site="lab", signer=self.signer, trusted=[self.signer.public_hex], clock=lambda: self.now
        )

    def run(self, region: str = "us-east", *, even_if_fresh: bool = False, of: Runbook[RegionJob] = RUNBOOK) -> Outcome:
        order = RegionJob(region=RegionName(region), even_if_fresh=even_if_fresh)
        with opened_run(of, order, self.journal) as run:
            if not run.step(find_fresh):
                run.step(work)
        self.pass_time(seconds=1)
        return run.outcome

    def pass_time(self, **amount: float) -> None:
        self.now += dt.timedelta(**amount)

    def missed(self) -> list[str]:
        return [one.region for one in find_missed(self.journal, {JOB: EVERY_FOUR_HOURS}, REGIONS)]


WORLD: list[World] = []


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(dt.datetime(2026, 2, 14, 0, 0, 5, tzinfo=dt.UTC))
    WORLD.append(made)

    @contextlib.contextmanager
    def open_site(_: str) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(journal=made.journal, site=SimpleNamespace(schedule=SCHEDULE))

    monkeypatch.setattr(freshness, "open_site", open_site)
    yield made
    made.journal.close()
    WORLD.remove(made)


def test_a_job_that_never_ran_runs(world: World) -> None:
    world.run()
    assert world.worked == ["us-east"]


def test_missed_runs_that_come_late_all_at_once_do_the_work_once_a_region(world: World) -> None:
    world.run()
    world.worked.clear()
    world.pass_time(hours=13)
    for _ in range(3):
        for region in REGIONS:
            world.run(region)
    assert sorted(world.worked) == sorted(REGIONS)


def test_a_run_that_only_found_another_one_fresh_is_itself_no_fresh_one(world: World) -> None:
    world.run()
    for _ in range(3):
        world.pass_time(minutes=39)
        world.run()  # each is young enough to hold off the next, if it counted
    world.pass_time(minutes=39)
    assert [past.worked for past in past_runs(world.journal, JOB)] == [False, False, False, True]
    assert world.worked == ["us-east"]
    world.run()
    assert world.worked == ["us-east", "us-east"]


def test_a_job_is_fresh_for_half_its_period(world: World) -> None:
    world.run()
    world.pass_time(minutes=119)
    world.run()
    assert world.worked == ["us-east"]
    world.pass_time(minutes=1)
    world.run()
    assert world.worked == ["us-east", "us-east"]


def test_another_region_or_another_job_is_not_fresh_for_this_one(world: World) -> None:
    world.run("eu-west")
    world.run("us-east", of=OTHER)
    world.worked.clear()
    world.run("us-east")
    assert world.worked == ["us-east"]


def test_a_failed_run_is_not_fresh(world: World) -> None:
    world.broken.add("us-east")
    with pytest.raises(UnavailableError):
        world.run()
    world.broken.clear()
    world.run()
    assert world.worked == ["us-east"]


def test_an_abandoned_run_is_not_fresh(world: World) -> None:
    opening = {"detected_at": world.now.isoformat(), "order": {"region": "us-east"}}
    writer = world.journal.open(RunId("run-20260214-000004-aaaa"), JOB, {**opening})
    writer.append("closed", {"outcome": "abandoned", "steps": {"work": 1}})
    world.run()
    assert world.worked == ["us-east"]


@pytest.mark.parametrize(
    ("at", "order"),
    [
        ("20270214-000004", {"region": "us-east"}),  # by a host whose clock was ahead: it held off every run for a year
        ("20260214-000004", {"region": "us-east", "snapshot": "an-old-one"}),  # what is scheduled is the newest's proof
    ],
)
def test_a_run_of_the_future_or_of_a_named_old_snapshot_is_not_fresh(
    world: World, at: str, order: dict[str, Json]
) -> None:
    now = world.now
    world.now = dt.datetime.strptime(at, "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
    writer = world.journal.open(RunId(f"run-{at}-aaaa"), JOB, {"detected_at": world.now.isoformat(), "order": order})
    writer.append("closed", {"outcome": "completed", "steps": {"work": 1}})
    world.now = now
    world.run()
    assert world.worked == ["us-east"]


def test_a_person_can_run_it_all_the_same(world: World) -> None:
    world.run()
    world.run(even_if_fresh=True)
    assert world.worked == ["us-east", "us-east"]


def test_a_record_that_cannot_be_read_does_not_count_as_done(world: World) -> None:
    done = world.run().run_id
    for store in world.stores.values():
        for number in range(2):
            key = ObjectKey(f"ledger/{done}/{number:08d}.json")
            store._versions.pop(key)
            store.overwrite(key, b"damaged")
    world.journal._open.cache_clear()
    assert list(past_runs(world.journal, JOB)) == []
    world.run()
    assert world.worked == ["us-east", "us-east"]


def test_a_region_that_is_down_does_not_hide_a_fresh_run(world: World) -> None:
    world.run()
    world.stores["ap-south"].faults.down = True
    world.run()
    assert world.worked == ["us-east"]


# --- the watchdog's view of the same runs


def test_a_schedule_that_did_not_happen_is_found_after_its_grace_and_named_by_region(world: World) -> None:
    for region in REGIONS:
        world.run(region)
    world.now = dt.datetime(2026, 2, 14, 4, 0, 10, tzinfo=dt.UTC)
    world.run("us-east")
    assert world.missed() == []
    world.pass_time(minutes=GRACE.total_seconds() / 60)
    assert world.missed() == ["eu-west", "ap-south"]


def test_a_run_that_found_another_one_fresh_is_no_missed_schedule(world: World) -> None:
    for region in REGIONS:
        world.run(region)
    world.now = dt.datetime(2026, 2, 14, 3, 0, tzinfo=dt.UTC)
    for region in REGIONS:
        world.run(region)
    world.now = dt.datetime(2026, 2, 14, 4, 0, 2, tzinfo=dt.UTC)
    for region in REGIONS:
        world.run(region)
    world.pass_time(minutes=40)
    assert len(world.worked) == 6
    assert world.missed() == []


def test_a_run_at_work_is_no_missed_schedule(world: World) -> None:
    world.run()
    world.now = dt.datetime(2026, 2, 14, 4, 31, tzinfo=dt.UTC)
    opening = {"detected_at": world.now.isoformat(), "order": {"region": "us-east"}}
    world.journal.open(RunId("run-20260214-043100-aaaa"), JOB, {**opening})
    assert world.missed() == ["eu-west", "ap-south"]


def test_a_new_site_has_missed_nothing(world: World) -> None:
    assert world.missed() == []
    world.run()
    world.pass_time(hours=1)
    assert world.missed() == []


# --- the clock


def test_due_times_and_periods_follow_the_expression() -> None:
    noon = dt.datetime(2026, 2, 14, 12, tzinfo=dt.UTC)
    assert last_due(EVERY_FOUR_HOURS, noon) == noon
    assert last_due(EVERY_FOUR_HOURS, noon - dt.timedelta(seconds=1)) == noon - dt.timedelta(hours=4)
    assert period(EVERY_FOUR_HOURS, noon) == dt.timedelta(hours=4)
    assert period("0 6 * * *", noon) == dt.timedelta(days=1)
    assert opened_at(RunId("run-20260214-120000-aaaa")) == noon


def test_a_scheduled_job_runs_plainly_without_prefect() -> None:
    program = "import sys, tasks.freshness; sys.exit('prefect' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_ledger_tells_a_run_that_only_looked_from_one_that_worked() -> None:
    assert find_fresh.key == LOOKING
