"""Creating, finding, verifying, healing and restoring over three regions in memory."""

import contextlib
import dataclasses
import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest

from vedr.adapters.memory_store import Crash
from vedr.backup import replicate, restore, retention, verify
from vedr.backup.layout import closes_at, manifest_key, object_key, placement_key
from vedr.backup.repository import list_snapshots, load_manifest
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.chain.sign_state import SignState, read_sign_state, write_sign_state
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.inventory import Height
from vedr.targets import Retention

KEY = bytes(range(32))
BEGINNING = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)  # where the world's clock starts


def restored(world: Any, home: Path | None = None, index: int = 0) -> dict[str, bytes]:
    """Fetch the index-th newest snapshot and return its files' content."""
    target = home or world.folder / f"home-{os.urandom(4).hex()}"
    target.mkdir(exist_ok=True)
    verified = restore.open_manifest(world.repository, world.listed()[index], chain_id="chain-1")
    staged = restore.fetch(world.repository, verified, target, "i1")
    content = dict(world.content(staged.path))
    content.pop(restore.COMPLETE_MARK)
    return content


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
    assert restored(world) == world.content()
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
    assert restored(world) == world.content()


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
    assert restored(world) == world.content()


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
    assert restored(world) == world.content()


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
    assert restored(world) == world.content()


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
    assert restored(world) == world.content()


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


# Reading: signatures, chains, damage


def test_a_forged_manifest_is_passed_over_for_an_honest_region(world: Any) -> None:
    created = world.back_up()
    key = manifest_key(world.source, created.id)
    world.stores["us-east"].overwrite(key, b'{"signatures":[],"signed":{}}')
    assert load_manifest(world.repository, world.listed()[0]).sha256 == created.verified.sha256
    for store in world.stores.values():
        store.overwrite(key, b"{}")
    with pytest.raises(CorruptError, match="no region has a good copy"):
        load_manifest(world.repository, world.listed()[0])


def test_a_manifest_under_another_id_is_refused(world: Any) -> None:
    first = world.back_up(100)
    world.clock.advance(hours=1)
    second = world.back_up(101)
    for store in world.stores.values():
        store.overwrite(manifest_key(world.source, second.id), first.verified.stored)
    with pytest.raises(CorruptError):
        load_manifest(world.repository, world.listed()[0])


def test_another_chains_snapshot_is_refused(world: Any) -> None:
    world.back_up()
    with pytest.raises(VerificationFailedError, match="chain chain-1, this site runs other-1"):
        restore.open_manifest(world.repository, world.listed()[0], chain_id="other-1")


def test_the_wrong_encryption_key_is_refused_before_anything_is_fetched(make_world: Any) -> None:
    world, plain = make_world(key=KEY), make_world()
    world.fill()
    world.back_up()
    object.__setattr__(plain.repository, "stores", world.stores)
    object.__setattr__(plain.repository, "trusted", world.repository.trusted)
    with pytest.raises(InvalidInputError, match="encryption aes-256-gcm"):
        restore.open_manifest(plain.repository, world.listed()[0], chain_id="chain-1")


@pytest.mark.parametrize("loss", ["damage", "delete", "down", "cut-short", "placement"])
def test_a_restore_takes_bad_objects_from_another_region(world: Any, loss: str) -> None:
    created = world.back_up()
    store = world.stores["us-east"]
    for entry in created.verified.manifest.objects[:2]:
        key = object_key(world.source, created.verified.manifest.epoch, entry.name)
        if loss == "damage":
            store.damage(key, os.urandom(len(store.get(key))))
        elif loss == "cut-short":
            store.damage(key, store.get(key)[:-1])
        elif loss == "delete":
            store.delete(key)
    if loss == "placement":
        store.damage(placement_key(world.source, created.id), b"{}")
    store.faults.down = loss == "down"
    assert restored(world) == world.content()


def test_an_object_good_nowhere_leaves_nothing_behind(world: Any) -> None:
    created = world.back_up()
    entry = created.verified.manifest.objects[0]
    key = object_key(world.source, created.verified.manifest.epoch, entry.name)
    for store in world.stores.values():
        store.damage(key, b"junk")
    home = world.folder / "home"
    with pytest.raises(CorruptError, match="no region has a good copy"):
        restored(world, home)
    assert list(home.iterdir()) == []


def test_an_intruders_newer_version_is_never_read(world: Any) -> None:
    created = world.back_up()
    for entry in created.verified.manifest.objects:
        for store in world.stores.values():
            key = object_key(world.source, created.verified.manifest.epoch, entry.name)
            store.overwrite(key, os.urandom(len(store.get(key))))
    assert restored(world) == world.content()


def test_a_full_disk_is_met_before_anything_is_fetched(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.back_up()
    home = world.folder / "home"
    home.mkdir()
    gets = world.stores["us-east"].faults.seen["get"]
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, length: int) -> None:
        if length > 200_000:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError):
        restored(world, home)
    assert world.stores["us-east"].faults.seen["get"] == gets + 1  # the manifest
    assert list(home.iterdir()) == []


def test_too_little_room_is_refused_at_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.back_up()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1})())
    with pytest.raises(NoSpaceError, match="1 bytes free"):
        restored(world)


def test_a_complete_fetch_is_found_again_and_a_partial_one_begun_anew(world: Any) -> None:
    world.back_up()
    home = world.folder / "home"
    home.mkdir()
    verified = restore.open_manifest(world.repository, world.listed()[0], chain_id="chain-1")
    partial = restore.staged_path(home, "i1")
    partial.mkdir()
    (partial / "half").write_bytes(b"written before the kill")
    first = restore.fetch(world.repository, verified, home, "i1")
    assert not (partial / "half").exists()
    gets = world.stores["us-east"].faults.seen["get"]
    again = restore.fetch(world.repository, verified, home, "i1")
    assert again.path == first.path
    assert world.stores["us-east"].faults.seen["get"] == gets


# Swapping


@pytest.fixture
def staged(world: Any) -> restore.Staged:
    world.back_up()
    home = world.folder / "home"
    (home / "data").mkdir(parents=True)
    (home / "data" / "live").write_bytes(b"live")
    verified = restore.open_manifest(world.repository, world.listed()[0], chain_id="chain-1")
    return restore.fetch(world.repository, verified, home, "i1")


def test_the_swap_keeps_the_old_data_and_rolls_back_to_it(world: Any, staged: restore.Staged) -> None:
    swapped = restore.swap_in(staged, validator=False)
    assert {**world.content()}.items() <= world.content(swapped.data).items()
    assert not (swapped.data / restore.COMPLETE_MARK).exists()
    assert swapped.old is not None
    assert (swapped.old / "live").read_bytes() == b"live"
    assert restore.swap_in(staged, validator=False) == swapped  # again, after a kill
    restore.roll_back(swapped, validator=False)
    assert (swapped.data / "live").read_bytes() == b"live"
    assert sorted(path.name for path in swapped.home.iterdir()) == ["data"]
    restore.roll_back(swapped, validator=False)


def test_the_old_data_goes_only_when_told_and_only_beside_new(staged: restore.Staged) -> None:
    swapped = restore.swap_in(staged, validator=False)
    restore.discard_old(swapped)
    restore.discard_old(swapped)
    assert sorted(path.name for path in swapped.home.iterdir()) == ["data"]


def test_discarding_refuses_when_the_old_data_is_all_there_is(staged: restore.Staged) -> None:
    swapped = restore.swap_in(staged, validator=False)
    swapped.data.rename(swapped.home / "elsewhere")
    with pytest.raises(RefusedError, match="all there is"):
        restore.discard_old(swapped)


def test_a_swap_killed_between_its_renames_is_ended_by_the_next(staged: restore.Staged) -> None:
    live = staged.home / "data"
    write_sign_state(live / "priv_validator_state.json", SignState(Height(90), 1, 3))
    old = restore.old_path(staged.home, "i1")
    live.rename(old)  # killed here
    swapped = restore.swap_in(staged, validator=True)
    assert (old / "live").exists()
    assert read_sign_state(swapped.data / "priv_validator_state.json").height == 90


def test_a_validators_sign_state_is_carried_over_and_never_lowered(staged: restore.Staged) -> None:
    name = "priv_validator_state.json"
    write_sign_state(staged.home / "data" / name, SignState(Height(90), 1, 3))
    swapped = restore.swap_in(staged, validator=True)
    assert read_sign_state(swapped.data / name).hrs == (90, 1, 3)
    write_sign_state(swapped.data / name, SignState(Height(95), 0, 1))  # it signed after the swap
    restore.roll_back(swapped, validator=True)
    assert read_sign_state(swapped.data / name).hrs == (95, 0, 1)


def test_a_validator_without_a_trustworthy_sign_state_is_refused(staged: restore.Staged) -> None:
    (staged.home / "data" / "priv_validator_state.json").write_bytes(b"{half")
    with pytest.raises(CorruptError):
        restore.swap_in(staged, validator=True)
    assert (staged.home / "data" / "live").exists()
    assert restore.swap_in(staged, validator=False).old is not None  # a full node signs nothing


def test_a_validator_that_lost_its_sign_state_gets_none(staged: restore.Staged) -> None:
    swapped = restore.swap_in(staged, validator=True)
    assert not (swapped.data / "priv_validator_state.json").exists()


def test_a_full_node_gets_an_empty_sign_state_since_it_does_not_start_without(staged: restore.Staged) -> None:
    swapped = restore.swap_in(staged, validator=False)
    assert read_sign_state(swapped.data / "priv_validator_state.json").hrs == (0, 0, 0)


def test_restoring_onto_an_empty_disk_has_nothing_to_roll_back_to(world: Any) -> None:
    world.back_up()
    home = world.folder / "home"
    home.mkdir()
    verified = restore.open_manifest(world.repository, world.listed()[0], chain_id="chain-1")
    swapped = restore.swap_in(restore.fetch(world.repository, verified, home, "i1"), validator=False)
    assert swapped.old is None
    with pytest.raises(RefusedError, match="no data"):
        restore.roll_back(swapped, validator=False)


def test_a_swap_with_an_old_folder_in_the_way_touches_nothing(staged: restore.Staged) -> None:
    restore.old_path(staged.home, "i1").mkdir()
    with pytest.raises(RefusedError, match="exists already"):
        restore.swap_in(staged, validator=False)
    assert (staged.home / "data" / "live").exists()


def test_a_swap_without_anything_staged_says_so(staged: restore.Staged) -> None:
    restore.discard_staged(staged.home, "i1")
    restore.discard_staged(staged.home, "i1")
    (staged.home / "data").rename(staged.home / "gone")
    with pytest.raises(NotFoundError, match="Fetch the snapshot again"):
        restore.swap_in(staged, validator=False)


@pytest.mark.parametrize("incident", ["", "../x", "a b"])
def test_an_incident_that_is_no_file_name_is_refused(tmp_path: Path, incident: str) -> None:
    with pytest.raises(InvalidInputError):
        restore.staged_path(tmp_path, incident)


# Choosing


def test_candidates_come_newest_first_within_the_limits_asked_for(world: Any) -> None:
    ids = []
    for height in (100, 110, 120):
        ids.append(world.back_up(height).id)
        world.clock.advance(hours=1)
    found = restore.candidates(world.repository, origins=["us-east"])
    assert [listed.id for listed in found] == ids[::-1]
    assert restore.candidates(world.repository, origins=["us-east"], max_height=115)[0].height == 110
    before = world.clock.now - dt.timedelta(hours=2, minutes=30)
    assert restore.candidates(world.repository, origins=["us-east"], before=before)[0].id == ids[0]
    assert restore.candidates(world.repository, origins=["us-east"], snapshot=ids[1])[0].id == ids[1]
    with pytest.raises(NotFoundError, match="none of 3 snapshots fits"):
        restore.candidates(world.repository, origins=["us-east"], max_height=5)


def test_listing_says_which_regions_did_not_answer(world: Any) -> None:
    world.back_up()
    world.stores["eu-west"].faults.down = True
    listing = list_snapshots(world.repository, "us-east", "state")
    assert set(listing.unreachable) == {"eu-west"}
    assert listing.snapshots[0].regions == ("us-east", "ap-south")


# Verifying


def test_depth_one_finds_loss_and_depth_two_finds_a_flipped_bit(world: Any) -> None:
    created = world.back_up()
    entry = created.verified.manifest.objects[0]
    key = object_key(world.source, created.verified.manifest.epoch, entry.name)
    stored = bytearray(world.stores["eu-west"].get(key))
    stored[-1] ^= 1
    world.stores["eu-west"].damage(key, bytes(stored))
    listed = world.listed()[0]
    assert verify.verify(world.repository, listed, depth=1).ok
    outcome = verify.verify(world.repository, listed, depth=2)
    assert [check.region for check in outcome.failures] == ["eu-west"]
    with pytest.raises(VerificationFailedError, match="eu-west"):
        outcome.require()
    world.stores["ap-south"].delete(key)
    world.clock.advance(seconds=1)
    shallow = verify.verify(world.repository, listed, depth=1)
    assert [check.region for check in shallow.failures] == ["ap-south"]


def test_a_region_that_can_not_be_checked_has_failed(world: Any) -> None:
    world.back_up()
    world.stores["eu-west"].faults.down = True
    outcome = verify.verify(world.repository, world.listed()[0], depth=1)
    assert [check.region for check in outcome.failures] == ["eu-west"]


def test_proofs_are_read_back_and_a_later_failure_ends_them(world: Any) -> None:
    world.back_up()
    listed = world.listed()[0]
    verify.verify(world.repository, listed, depth=2)
    proof = verify.newest_proofs(world.repository, "us-east", "state")[listed.id]
    assert (proof.depth, proof.at) == (2, world.clock.now)
    world.clock.advance(hours=1)
    world.stores["eu-west"].faults.down = True
    verify.verify(world.repository, listed, depth=2)
    world.stores["eu-west"].faults.down = False
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


@pytest.mark.parametrize("spoilt", [b"", b"rubbish", None])
def test_a_failure_whose_record_is_damaged_everywhere_still_takes_the_proof_away(
    world: Any, spoilt: bytes | None
) -> None:
    """None: the older pass is copied over the record of the failure."""
    world.back_up()
    listed = world.listed()[0]
    verify.verify(world.repository, listed, depth=2)
    world.clock.advance(hours=1)
    world.stores["eu-west"].faults.down = True
    verify.verify(world.repository, listed, depth=2)
    world.stores["eu-west"].faults.down = False
    for store in world.stores.values():
        passed, *failed = (one.key for one in store.list(f"us-east/state/v/{listed.id}/"))
        for key in failed:
            store.damage(key, store.get(passed) if spoilt is None else spoilt)
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


def test_a_failure_in_one_regions_record_outweighs_a_pass_of_the_same_second(world: Any) -> None:
    world.back_up()
    listed = world.listed()[0]
    verify.verify(world.repository, listed, depth=2)
    eu_west = world.stores["eu-west"]
    (key,) = (one.key for one in eu_west.list(f"us-east/state/v/{listed.id}/"))
    eu_west.delete(key)
    us_east = verify.RegionCheck("us-east", VerificationFailedError("damaged", remedy="Heal it."))
    failed = verify.Verification(listed.id, listed.source, 2, world.clock.now, (us_east,))
    verify.record(dataclasses.replace(world.repository, stores={"eu-west": eu_west}), failed)
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


def test_what_changed_within_a_second_is_kept_beside_what_was_there(world: Any) -> None:
    """Ids are to the second, and configuration has no height: the second backup of a second was refused."""
    first = world.back_up(0)
    kept = []
    for content in (b"one", b"another", b"the third"):
        world.write("config.toml", content)
        kept.append(world.back_up(0))
    assert [listed.id for listed in world.listed()] == [one.id for one in reversed([first, *kept])]
    assert len({one.id for one in kept}) == 3
    target = world.folder / "home"
    target.mkdir()
    staged = restore.fetch(world.repository, load_manifest(world.repository, world.listed()[0]), target, "inc")
    assert (staged.path / "config.toml").read_bytes() == b"the third"


def test_a_snapshot_from_a_clock_that_is_ahead_does_not_pull_the_others_after_it(world: Any) -> None:
    now = world.clock.now
    world.clock.advance(hours=1)
    world.back_up(0)
    world.clock.now = now
    assert world.back_up(0).verified.manifest.created_at == now


def test_a_forged_verification_record_proves_nothing(world: Any) -> None:
    created = world.back_up()
    for store in world.stores.values():
        store.overwrite(f"us-east/state/v/{created.id}/20261103T000000Z-3.json", b'{"signed":{"ok":true}}')
        store.overwrite("us-east/state/v/nonsense.json", b"")
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


def test_a_verification_that_nobody_can_read_is_an_error(world: Any) -> None:
    world.back_up()
    listed = world.listed()[0]
    for store in world.stores.values():
        store.faults.maps["create"] = "e" * 10
    with pytest.raises(UnavailableError):
        verify.verify(world.repository, listed, depth=1)


def test_a_boot_that_fails_is_recorded_as_failed(world: Any) -> None:
    created = world.back_up()

    def refuse(_: Path) -> Any:
        raise VerificationFailedError("the node did not come up")

    outcome = verify.verify_boot(world.repository, created.verified, world.data, refuse, from_regions=("us-east",))
    assert not outcome.ok
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


class Proven:
    """Shaped like a BootProof, which only a boot can make."""

    def __init__(self, height: int, app_hash: str = "AB" * 32) -> None:
        self.chain_id, self.height, self.app_hash, self.block_hash = "chain-1", height, app_hash, "CD" * 32


@pytest.mark.parametrize(("proof", "ok"), [(Proven(100), True), (Proven(101), False), (Proven(100, "00"), False)])
def test_a_boot_proves_only_the_state_that_the_manifest_names(world: Any, proof: Any, ok: bool) -> None:
    created = world.back_up(100)
    outcome = verify.verify_boot(
        world.repository, created.verified, world.data, lambda _: proof, from_regions=("us-east",)
    )
    assert outcome.ok == ok


# Repairing


@pytest.mark.parametrize("loss", ["damage", "delete"])
def test_a_damaged_region_is_repaired_from_the_others(world: Any, loss: str) -> None:
    created = world.back_up()
    listed = world.listed()[0]
    for entry in created.verified.manifest.objects[:2]:
        key = object_key(world.source, created.verified.manifest.epoch, entry.name)
        if loss == "damage":
            world.stores["eu-west"].damage(key, b"junk")
        else:
            world.stores["eu-west"].delete(key)
    healed = replicate.repair(world.repository, listed, "eu-west")
    assert (healed.error, healed.copied_objects) == (None, 2)
    assert verify.verify(world.repository, world.listed()[0], depth=2).require().ok


def test_the_only_good_copy_is_never_withdrawn_for_repair(world: Any) -> None:
    created = world.back_up()
    key = object_key(world.source, created.verified.manifest.epoch, created.verified.manifest.objects[0].name)
    for region in ("us-east", "ap-south"):
        world.stores[region].delete(key)
    healed = replicate.repair(world.repository, world.listed()[0], "eu-west")
    assert isinstance(healed.error, VedrError)
    assert "eu-west" in world.listed()[0].regions


def test_a_snapshot_that_expired_while_it_was_copied_is_withdrawn(world: Any) -> None:
    world.stores["ap-south"].faults.down = True
    created = world.back_up()
    world.stores["ap-south"].faults.down = False
    listed = world.listed()[0]
    target = world.stores["ap-south"]
    made = target.create

    def expire(key: Any, data: bytes) -> Any:
        stored = made(key, data)
        if key == manifest_key(world.source, created.id):
            for region in ("us-east", "eu-west"):
                world.stores[region].delete(key)
        return stored

    target.create = expire
    healed = replicate.heal(world.repository, [listed])
    assert isinstance(healed[0].error, NotFoundError)
    assert world.listed() == ()


def test_a_region_that_is_still_down_is_in_the_result(world: Any) -> None:
    world.stores["ap-south"].faults.down = True
    world.back_up()
    healed = replicate.heal(world.repository, world.listed())
    assert isinstance(healed[0].error, UnavailableError)


# Expiry


def test_a_manifest_that_nobody_can_read_protects_its_epoch(world: Any) -> None:
    created = world.back_up(100)
    for store in world.stores.values():
        store.damage(manifest_key(world.source, created.id), b"damaged")
    before = [entry.key for entry in world.stores["us-east"].list("us-east/state/e/")]
    world.clock.advance(days=30)
    retention.prune(world.repository, "us-east", "state")
    assert [entry.key for entry in world.stores["us-east"].list("us-east/state/e/")] == before


def test_the_newest_and_the_newest_verified_snapshot_outlive_every_limit(world: Any) -> None:
    proven = world.back_up(100)
    verify.verify(world.repository, world.listed()[0], depth=2)
    world.clock.advance(hours=4)
    world.back_up(101)
    world.clock.advance(hours=4)
    newest = world.back_up(102)
    world.clock.advance(days=400)
    kept = retention.plan(world.repository, "us-east", "state").kept
    assert [listed.id for listed in kept] == [newest.id, proven.id]
    retention.prune(world.repository, "us-east", "state")
    for listed in world.listed():
        assert verify.verify(world.repository, listed, depth=2).require().ok


def test_a_lock_on_a_manifest_keeps_the_whole_snapshot(world: Any) -> None:
    for store in world.stores.values():
        store._locked_for = dt.timedelta(days=60)
    old = world.back_up(100)
    world.clock.advance(days=30)
    world.back_up(101)
    object.__setattr__(world.repository, "retention", Retention(chain_state_days=10))
    pruned = retention.prune(world.repository, "us-east", "state")
    assert pruned.locked > 0
    assert old.id in [listed.id for listed in world.listed()]
    assert verify.verify(world.repository, world.listed()[-1], depth=2).require().ok


def test_a_region_that_falls_silent_in_mid_sweep_ends_the_prune(world: Any) -> None:
    world.back_up(100)
    world.clock.advance(days=30)
    world.back_up(101)
    for store in world.stores.values():
        store.faults.maps["get"] = "e" * 50
    with pytest.raises(UnavailableError):
        retention.prune(world.repository, "us-east", "state")
