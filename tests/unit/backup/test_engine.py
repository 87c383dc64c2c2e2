"""Creating snapshots over three regions in memory."""

import contextlib
import datetime as dt
import os
from typing import Any

import pytest

from vedr.adapters.memory_store import Crash
from vedr.backup import replicate, restore, retention, verify
from vedr.backup.layout import closes_at, manifest_key, object_key
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.errors import (
    CorruptError,
    RefusedError,
    UnavailableError,
    VedrError,
)

KEY = bytes(range(32))
BEGINNING = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)  # where the world's clock starts


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_what_was_backed_up_is_restored_byte_for_byte(make_world: Any, key: bytes | None) -> None:
    world = make_world(key=key)
    world.fill(tables=4, table_bytes=700_000)
    world.write("big.sst", os.urandom(40 * 1024 * 1024))
    world.write("exact.sst", bytes(16 * 1024 * 1024))
    (world.data / "hollow").mkdir()
    (world.data / "application.db" / "CURRENT").chmod(0o640)
    created = world.back_up()
    assert [outcome.checked for outcome in created.regions] == [True] * 3
    assert world.restored() == world.content()
    staged = restore.staged_path(next(world.folder.glob("home-*")), "i1")
    assert (staged / "hollow").is_dir()
    status = (staged / "application.db" / "CURRENT").stat()
    assert status.st_mode & 0o777 == 0o640
    assert status.st_mtime_ns == (world.data / "application.db" / "CURRENT").stat().st_mtime_ns


def test_unchanged_files_are_neither_read_nor_sent_again(world: Any) -> None:
    world.back_up(100)
    world.clock.advance(hours=4)
    world.write("application.db/000009.ldb", os.urandom(400_000))
    again = world.back_up(101)
    assert again.read_bytes == 400_000
    assert [outcome.new_objects for outcome in again.regions] == [1, 1, 1]
    assert world.restored() == world.content()


def test_hard_linking_does_not_make_a_file_look_changed(world: Any) -> None:
    world.back_up(100)
    for path in list(world.data.rglob("*.ldb")):
        os.link(path, world.folder / path.name)  # alters ctime and link count
    world.clock.advance(hours=4)
    assert world.back_up(101).read_bytes == 0


def test_rehash_reads_everything_and_sends_nothing_new(world: Any) -> None:
    world.back_up(100)
    world.clock.advance(hours=4)
    again = world.back_up(101, rehash=True)
    assert again.read_bytes == sum(len(content) for content in world.content().values())
    assert [outcome.new_objects for outcome in again.regions] == [0, 0, 0]


def test_a_file_rewritten_in_place_with_its_old_size_is_noticed(world: Any) -> None:
    world.back_up(100)
    world.clock.advance(hours=4)
    (world.data / "application.db/000000.ldb").write_bytes(os.urandom(300_000))
    assert world.back_up(101).read_bytes == 300_000
    assert world.restored() == world.content()


def test_a_file_that_was_fresh_when_captured_is_read_again(world: Any) -> None:
    fresh = int((world.clock.now - dt.timedelta(seconds=1)).timestamp() * 1e9)
    os.utime(world.data / "application.db/000000.ldb", ns=(fresh, fresh))
    world.back_up(100)
    world.clock.advance(hours=4)
    assert world.back_up(101).read_bytes == 300_000


def test_a_new_epoch_starts_with_a_full_set(world: Any) -> None:
    world.back_up(100)
    world.clock.advance(days=10)
    again = world.back_up(101)
    assert again.read_bytes == sum(len(content) for content in world.content().values())
    assert again.regions[0].new_objects > 0


def test_small_files_are_packed_anew_before_a_restore_needs_many_packs(world: Any) -> None:
    for number in range(20):
        world.write(f"small-{number}", os.urandom(100))
        world.clock.advance(minutes=10)
        created = world.back_up(100 + number)
    packs = {extent.number for file in created.verified.manifest.files if file.digest for extent in file.extents}
    assert len(packs) <= 17
    assert world.restored() == world.content()


def test_a_file_that_changes_while_it_is_read_is_refused(world: Any) -> None:
    tree = read_tree(world.data)
    (world.data / "application.db/000001.ldb").write_bytes(b"shorter")
    with pytest.raises(RefusedError, match="changed while"):
        create(world.repository, world.source, tree, world.facts(1))
    assert world.listed() == ()


def test_links_and_sockets_are_refused_not_skipped(world: Any) -> None:
    (world.data / "link").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="neither a file nor a folder"):
        world.back_up()


@pytest.mark.parametrize("call", ["list", "create", "head"])
def test_one_region_down_leaves_an_under_replicated_snapshot_that_heals(world: Any, call: str) -> None:
    store = world.stores["ap-south"]
    store.faults.maps[call] = "e" * 1000
    if call == "head":
        store.faults.maps = {"create": "l" * 1000, "head": "e" * 1000}
    created = world.back_up()
    assert created.under_replicated == ("ap-south",)
    store.faults.maps.clear()
    assert world.listed()[0].regions == ("us-east", "eu-west")
    healed = replicate.heal(world.repository, world.listed())
    assert [(one.region, one.error) for one in healed] == [("ap-south", None)]
    assert world.listed()[0].regions == ("us-east", "eu-west", "ap-south")
    assert verify.verify(world.repository, world.listed()[0], depth=2).require().ok
    assert replicate.heal(world.repository, world.listed()) == ()


def test_two_regions_down_is_an_error_that_says_where_it_is_whole(world: Any) -> None:
    world.stores["ap-south"].faults.down = world.stores["eu-west"].faults.down = True
    with pytest.raises(UnavailableError, match="whole in us-east only, 2 regions are needed"):
        world.back_up()
    world.clock.advance(minutes=1)
    assert world.back_up(101, min_regions=1).under_replicated == ("eu-west", "ap-south")


def test_no_region_is_an_error_and_nothing_is_listed(world: Any) -> None:
    for store in world.stores.values():
        store.faults.down = True
    with pytest.raises(UnavailableError):
        world.back_up()
    with pytest.raises(UnavailableError, match="no region has a good copy"):
        world.listed()


def test_a_region_that_came_back_is_brought_what_it_lacks_by_the_next_snapshot(world: Any) -> None:
    world.stores["eu-west"].faults.down = True
    world.back_up(100)
    world.stores["eu-west"].faults.down = False
    world.clock.advance(hours=4)
    created = world.back_up(101)
    new = {outcome.region: outcome.new_objects for outcome in created.regions}
    assert new["eu-west"] > 0
    assert new["us-east"] == new["ap-south"] == 0
    assert world.restored() == world.content()


def test_an_object_lost_from_one_region_is_noticed_and_sent_again(world: Any) -> None:
    first = world.back_up(100)
    name = first.verified.manifest.objects[0].name
    world.stores["eu-west"].delete(object_key(world.source, first.verified.manifest.epoch, name))
    world.clock.advance(hours=4)
    second = world.back_up(101)
    assert {outcome.region: outcome.new_objects for outcome in second.regions}["eu-west"] == 1
    assert verify.verify(world.repository, world.listed()[0], depth=2).ok


@pytest.mark.parametrize("letter", ["K", "k"])
@pytest.mark.parametrize("number", range(10))
def test_a_killed_backup_shows_nothing_and_the_next_one_completes(make_world: Any, number: int, letter: str) -> None:
    world = make_world()
    world.fill()
    world.stores["us-east"].faults.maps["create"] = "." * number + letter
    with contextlib.suppress(Crash):
        world.back_up(100)
    world.stores["us-east"].faults.maps.clear()
    for listed in world.listed():  # whatever is visible is whole where it is visible
        assert verify.verify(world.repository, listed, depth=2, regions=listed.regions).require().ok
    world.clock.advance(minutes=5)
    world.back_up(101)
    assert world.restored() == world.content()


def test_a_name_that_holds_other_content_fails_that_region_only(world: Any) -> None:
    other = world.repository.codec
    first = world.back_up(100)
    epoch, name = first.verified.manifest.epoch, first.verified.manifest.objects[0].name
    key = object_key(world.source, epoch, name)
    for listed in world.listed():
        world.stores["eu-west"].delete(manifest_key(world.source, listed.id))
    world.stores["eu-west"].damage(key, b"x" * len(world.stores["eu-west"].get(key)))
    world.clock.advance(hours=1)
    created = world.back_up(101)
    assert created.under_replicated == ("eu-west",)
    failure = next(outcome.error for outcome in created.regions if outcome.region == "eu-west")
    assert isinstance(failure, CorruptError)
    assert other is world.repository.codec


def test_a_writer_whose_epoch_has_closed_commits_nothing(world: Any) -> None:
    store = world.stores["us-east"]
    opened = store.create

    def late(key: Any, data: bytes) -> Any:
        world.clock.advance(days=6)
        return opened(key, data)

    store.create = late
    with pytest.raises(RefusedError, match="closed"):
        world.back_up()
    assert world.listed() == ()


def test_a_writer_that_stalls_after_its_last_look_at_the_clock_is_stopped_by_expiry(world: Any) -> None:
    first = world.back_up(100)
    world.clock.advance(days=3)
    world.write("application.db/000000.ldb", os.urandom(300_000))
    for store in world.stores.values():
        made = store.create

        def stall(key: Any, data: bytes, made: Any = made) -> Any:
            if "/m/" in key and data:
                world.clock.now = max(world.clock.now, BEGINNING + dt.timedelta(days=12))
                retention.prune(world.repository, "us-east", "state")
            return made(key, data)

        store.create = stall
    with pytest.raises(VedrError):
        world.back_up(101)
    assert [listed.id for listed in world.listed()] == [first.id]
    assert verify.verify(world.repository, world.listed()[0], depth=2).require().ok


def test_epochs_close_a_day_after_their_end() -> None:
    assert closes_at(0, 10) == dt.datetime(1970, 1, 12, tzinfo=dt.UTC)  # type: ignore[arg-type]
