"""A state sync that stalls in RB-DR-001 is taken back, and a snapshot, proven by a boot, takes its place.

Stores, restore, swap and what state sync leaves on the disk are real; host, chain and boot are stood in for.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import nodes, recovery
from tasks.nodes import Recovered, monitor_sync
from vedr.backup.layout import object_key
from vedr.backup.repository import load_manifest
from vedr.chain import state_sync, sync
from vedr.errors import DeadlineError, NoSpaceError, UnavailableError
from vedr.failover.node_failure import Way
from vedr.inventory import Height

RUN = "RB-DR-001-20261102T120000Z-stalls"
STALLED = DeadlineError("full-0 stands still at height 0", remedy="Take another way.")


class Stage:
    """A full node whose state sync brought nothing, and two snapshots in three regions."""

    def __init__(self, world: Any, home: Path) -> None:
        self.world, self.home = world, home
        self.did: list[str] = []
        self.said: list[str] = []
        self.waits: list[Any] = []
        (home / "data").mkdir(parents=True)
        (home / "data" / "old").write_text("what was there before the state sync")
        state_sync.start_afresh(state_sync.StateSyncPlan(home, RUN))
        (home / "data" / "half").write_text("what the state sync left")
        self.node = SimpleNamespace(name="full-0", region="us-east", zone="us-east-1a", is_validator=False)
        self.site = SimpleNamespace(
            node=lambda _name: self.node,
            regions_by_priority=("us-east",),
            chain=SimpleNamespace(chain_id="chain-1"),
        )
        self.repository = world.repository
        self.files = SimpleNamespace(home=lambda _node: home)
        self.isolated_node = SimpleNamespace(prove=self.prove)

    def light_client(self, **_: object) -> None:
        """The boot that is stood in for needs none."""

    def prove(self, data: Path, _light: None) -> Any:
        assert not (self.home / "data" / "half").exists(), "booted beside what the state sync left"
        self.did.append(f"boot {(data / 'application.db' / 'CURRENT').read_text().strip()}")
        return SimpleNamespace(height=Height(100), app_hash="AB" * 32, took_s=0.1)

    def wait(self, *_: object) -> sync.CatchUp:
        self.did.append("wait")
        found = self.waits.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, sync.CatchUp)
        return found

    def note(self, what: str) -> Any:
        return lambda *_: self.did.append(what)

    def monitor(self, way: Way) -> nodes.CaughtUp:
        return monitor_sync.fn(self.context(), Recovered(way, "", 0, ""))

    def context(self) -> Any:
        order = SimpleNamespace(site="x", node="full-0")
        return SimpleNamespace(order=order, run_id=RUN, say=self.said.append)


@pytest.fixture
def stage(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    world.back_up(90)
    world.clock.advance(hours=4)
    world.write("application.db/CURRENT", b"MANIFEST-000002")
    world.back_up(100)
    made = Stage(world, tmp_path / "home")

    @contextlib.contextmanager
    def opening(_site: str) -> Iterator[Stage]:
        yield made

    monkeypatch.setattr(nodes, "open_site", opening)
    monkeypatch.setattr(nodes, "wait_in_sync", made.wait)
    for name in ("ensure_stopped", "guard", "start_guarded"):
        monkeypatch.setattr(nodes, name, made.note(name))
    monkeypatch.setattr(recovery, "ensure_stopped", made.note("ensure_stopped"))
    return made


STARTED = ("guard", "start_guarded")
IN_SYNC = sync.CatchUp(height=Height(104), tip=Height(104), catching_up=False)


@pytest.mark.parametrize("way", [Way.STATE_SYNC, Way.BLOCK_SYNC])
def test_a_stalled_sync_is_taken_back_and_a_proven_snapshot_takes_its_place(stage: Stage, way: Way) -> None:
    stage.waits = [STALLED, IN_SYNC]
    caught_up = stage.monitor(way)
    assert (caught_up.way, caught_up.height) == (Way.SNAPSHOT, 104)
    assert stage.did == ["wait", "ensure_stopped", "boot MANIFEST-000002", "ensure_stopped", *STARTED, "wait"]
    data = stage.home / "data"
    assert (data / "application.db" / "CURRENT").read_bytes() == b"MANIFEST-000002"
    assert not (data / "half").exists()
    assert (stage.home / f"data.vedr-old-{RUN}" / "old").exists()
    assert any("stalled" in one and "a snapshot takes its place" in one for one in stage.said)


def test_the_next_older_snapshot_is_taken_where_the_newest_is_damaged_in_every_region(stage: Stage) -> None:
    newest, older = (load_manifest(stage.repository, listed).manifest for listed in stage.world.listed())
    (own,) = {entry.name for entry in newest.objects} - {entry.name for entry in older.objects}
    for store in stage.world.stores.values():
        store.delete(object_key(stage.world.source, newest.epoch, own))
    stage.waits = [STALLED, IN_SYNC]
    assert stage.monitor(Way.STATE_SYNC).way is Way.SNAPSHOT
    assert "boot MANIFEST-000001" in stage.did
    assert (stage.home / "data" / "application.db" / "CURRENT").read_bytes() == b"MANIFEST-000001\n"
    assert any(f"{newest.id} is passed over" in one for one in stage.said)


def test_another_regions_copy_is_taken_where_the_nodes_own_region_lost_its_own(stage: Stage) -> None:
    stage.world.stores["us-east"].faults.down = True
    stage.waits = [STALLED, IN_SYNC]
    assert stage.monitor(Way.STATE_SYNC).way is Way.SNAPSHOT
    assert (stage.home / "data" / "application.db" / "CURRENT").read_bytes() == b"MANIFEST-000002"


def test_a_snapshot_that_stalls_is_told_and_nothing_is_replaced_again(stage: Stage) -> None:
    stage.waits = [STALLED]
    with pytest.raises(DeadlineError):
        stage.monitor(Way.SNAPSHOT)
    assert stage.did == ["wait"]


def test_a_full_disk_under_the_replacement_leaves_the_nodes_own_data(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("vedr.backup.restore.shutil.disk_usage", lambda _path: usage)
    stage.waits = [STALLED]
    with pytest.raises(NoSpaceError):
        stage.monitor(Way.STATE_SYNC)
    assert (stage.home / "data" / "old").exists()


def test_a_snapshot_whose_only_good_copy_is_in_a_lost_region_is_passed_over_for_an_older_one(stage: Stage) -> None:
    """The region may never come back: trying again until it does is no recovery."""
    newest, older = (load_manifest(stage.repository, listed).manifest for listed in stage.world.listed())
    (own,) = {entry.name for entry in newest.objects} - {entry.name for entry in older.objects}
    for region in ("eu-west", "ap-south"):
        stage.world.stores[region].delete(object_key(stage.world.source, newest.epoch, own))
    stage.world.stores["us-east"].faults.down = True
    stage.waits = [STALLED, IN_SYNC]
    assert stage.monitor(Way.STATE_SYNC).way is Way.SNAPSHOT
    assert "boot MANIFEST-000001" in stage.did


@pytest.mark.parametrize("most", [1, 3], ids=["more than are tried", "all"])
def test_when_no_store_answers_trying_again_may_help(stage: Stage, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(recovery, "MAX_SILENT", most)
    opened: Any = stage
    points = recovery.points_of(opened)
    for store in stage.world.stores.values():
        store.faults.down = True
    with pytest.raises(UnavailableError):
        recovery.bring(stage.context(), opened, stage.node, points)  # type: ignore[arg-type]
    assert len([one for one in stage.said if "is passed over" in one]) == (0 if most == 1 else 2)


def test_data_that_was_put_in_place_before_a_kill_is_not_fetched_again(stage: Stage) -> None:
    """The step was killed before its end was in the ledger: its repetition found an old folder in its way."""
    shutil.rmtree(stage.home / f"data.vedr-old-{RUN}")
    (stage.home / "data" / "half").unlink()
    opened: Any = stage
    first = nodes._recover(stage.context(), opened, stage.node, Way.SNAPSHOT)  # type: ignore[arg-type]
    again = nodes._recover(stage.context(), opened, stage.node, Way.SNAPSHOT)  # type: ignore[arg-type]
    assert (again.snapshot, again.height) == (first.snapshot, first.height)
    assert stage.did == ["ensure_stopped", "boot MANIFEST-000002", "ensure_stopped", "ensure_stopped"]
    assert (stage.home / "data" / "application.db" / "CURRENT").read_bytes() == b"MANIFEST-000002"
