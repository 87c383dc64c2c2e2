"""Restoring from three regions in memory: what is fetched is what was backed up; the old data is kept until then."""

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from vedr.backup import restore
from vedr.backup.layout import SnapshotId, manifest_key, object_key, placement_key
from vedr.backup.repository import load_manifest
from vedr.chain.sign_state import SignState, read_sign_state, write_sign_state
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    VerificationFailedError,
)
from vedr.inventory import Height

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
    world, plain = make_world(key=bytes(range(32))), make_world()
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
    assert world.restored() == world.content()


def test_an_object_good_nowhere_leaves_nothing_behind(world: Any) -> None:
    created = world.back_up()
    entry = created.verified.manifest.objects[0]
    key = object_key(world.source, created.verified.manifest.epoch, entry.name)
    for store in world.stores.values():
        store.damage(key, b"junk")
    home = world.folder / "home"
    with pytest.raises(CorruptError, match="no region has a good copy"):
        world.restored(home)
    assert list(home.iterdir()) == []


def test_an_intruders_newer_version_is_never_read(world: Any) -> None:
    created = world.back_up()
    for entry in created.verified.manifest.objects:
        for store in world.stores.values():
            key = object_key(world.source, created.verified.manifest.epoch, entry.name)
            store.overwrite(key, os.urandom(len(store.get(key))))
    assert world.restored() == world.content()


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
        world.restored(home)
    assert world.stores["us-east"].faults.seen["get"] == gets + 1  # the manifest
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("around_cache", [True, False], ids=["around the cache", "through the cache"])
def test_parts_of_every_size_come_back_whatever_the_file_system_can(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, around_cache: bool
) -> None:
    world, chance = make_world(key=bytes(range(32))), random.Random(3)
    world.write("application.db/000001.ldb", chance.randbytes(4096) * 4096 + chance.randbytes(300_001))
    world.write("application.db/000002.ldb", chance.randbytes(262_145))
    world.back_up()

    def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_DIRECT:
            tried.append(path)
            if not around_cache:
                raise OSError(errno.EINVAL, "no direct writes here")
        return real(path, flags, mode, **more)

    tried: list[Path] = []
    real = os.open
    monkeypatch.setattr(os, "open", opened)
    assert world.restored() == world.content()
    assert tried


def test_too_little_room_is_refused_at_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.back_up()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1})())
    with pytest.raises(NoSpaceError, match="1 bytes free"):
        world.restored()


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


@pytest.mark.parametrize("had_data", [True, False], ids=["data before", "empty disk"])
def test_a_swap_that_is_repeated_is_done_and_one_that_never_was_is_not_called_done(
    world: Any, staged: restore.Staged, had_data: bool
) -> None:
    if not had_data:
        shutil.rmtree(staged.home / "data")
    swapped = restore.swap_in(staged, validator=False)
    assert restore.swap_in(staged, validator=False) == swapped
    assert restore.swapped_before(staged.home, "i1") == staged.snapshot
    restore.discard_old(swapped)
    assert world.content().keys() | {"priv_validator_state.json"} == world.content(swapped.data).keys()
    with pytest.raises(NotFoundError, match="was not exchanged"):
        restore.swap_in(staged, validator=False)


def test_data_that_was_not_exchanged_is_not_taken_for_what_was_restored(staged: restore.Staged) -> None:
    """Somebody removed the staged copy between two tries of a run: the live data is the one that was to go."""
    restore.discard_staged(staged.home, "i1")
    with pytest.raises(NotFoundError, match="was not exchanged"):
        restore.swap_in(staged, validator=False)
    assert (staged.home / "data" / "live").exists()


@pytest.mark.parametrize("how", ["link", "mount"])
def test_data_that_no_rename_can_exchange_is_refused_before_anything_is_fetched(
    world: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    world.back_up()
    home = world.folder / "home"
    home.mkdir()
    if how == "link":
        (world.folder / "disk").mkdir()
        (home / "data").symlink_to(world.folder / "disk")
    else:
        (home / "data").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path == home / "data")
    with pytest.raises(RefusedError, match=f"is a {how}"):
        world.restored(home)
    assert [path.name for path in home.iterdir()] == ["data"]
    staged = restore.Staged(home, "i1", SnapshotId("s"), home / "staged", 1, (), 0.0)
    with pytest.raises(RefusedError, match=f"is a {how}"):
        restore.swap_in(staged, validator=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_restored_data_belongs_to_whom_the_data_before_it_did(staged: restore.Staged) -> None:
    """A node that runs as a user of its own could not open what root restored for it."""
    live = staged.home / "data"
    write_sign_state(live / "priv_validator_state.json", SignState(Height(90), 1, 3))
    for path in (live, *live.rglob("*")):
        os.chown(path, 4711, 4712)
    swapped = restore.swap_in(staged, validator=True)
    write_sign_state(swapped.data / "priv_validator_state.json", SignState(Height(91), 0, 1))
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (swapped.data, *swapped.data.rglob("*"))}
    assert owners == {(4711, 4712)}


@pytest.mark.parametrize("call", ["create", "write", "mark"])
def test_a_disk_that_fills_up_while_it_is_written_is_said_to_be_full_and_nothing_is_left(
    world: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Inodes run out, somebody beside us writes, or the file system reserves nothing."""
    world.back_up()
    home = world.folder / "home"
    home.mkdir()

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_inode(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        return full() if flags & os.O_CREAT else real(path, flags, *rest, **more)

    real = os.open
    patched = {
        "create": (os, "open", no_inode),
        "write": (os, "pwrite", full),
        "mark": (restore, "_write_durably", full),
    }
    monkeypatch.setattr(*patched[call])
    with pytest.raises(NoSpaceError, match="No space left"):
        world.restored(home)
    monkeypatch.undo()
    assert list(home.iterdir()) == []
