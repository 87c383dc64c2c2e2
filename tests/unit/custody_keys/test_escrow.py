"""Passphrases by epoch: never changed, in two regions before they are used, read when a region is gone."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from keysworld import PREFIX, REGIONS, KeysWorld, make_world

from vedr.adapters.secrets_memory import MemoryVault
from vedr.custody import escrow_rotation
from vedr.custody.envelope_slots import RecoveryOpener
from vedr.custody.escrow import Epoch, Escrow
from vedr.custody.escrow_rotation import rotate
from vedr.custody.key_backup_catalogue import envelope_key
from vedr.custody.key_backup_store import Kept, list_backups, load, open_from, store_bundle
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError
from vedr.errors import VerificationFailedError as Failed


@pytest.fixture
def vault() -> MemoryVault:
    return MemoryVault(*REGIONS)


@pytest.fixture
def escrow(vault: MemoryVault) -> Escrow:
    return Escrow(vault, PREFIX)


def test_every_epoch_has_a_name_of_its_own(escrow: Escrow, vault: MemoryVault) -> None:
    assert [escrow.open_epoch("node"), escrow.open_epoch("node"), escrow.open_epoch("provider")] == [1, 2, 1]
    assert escrow.epochs("node") == (1, 2)
    assert escrow.reference("node", Epoch(2)) == f"aws-secret:{PREFIX}-node/0002"
    assert escrow.epoch_of("node", escrow.reference("node", Epoch(2))) == 2
    for other in (f"aws-secret:{PREFIX}-provider/0002", f"aws-secret:{PREFIX}-node/2", "file:/x", ""):
        assert escrow.epoch_of("node", other) is None
    assert len(vault.values["ap-south"]) == 3
    assert len(escrow.fetch("node", Epoch(1))) == 43
    assert escrow.fetch("node", Epoch(1)) != escrow.fetch("node", Epoch(2))


def test_a_passphrase_is_read_from_any_region_when_others_are_gone(escrow: Escrow, vault: MemoryVault) -> None:
    escrow.open_epoch("node")
    value = escrow.fetch("node", Epoch(1))
    for gone in (("us-east",), ("us-east", "eu-west"), ("ap-south",)):
        vault.down = set(gone)
        assert escrow.fetch("node", Epoch(1), prefer="us-east") == value
        assert escrow.epochs("node") == (1,)


def test_an_epoch_that_only_one_region_holds_is_not_used_for_new_backups(escrow: Escrow, vault: MemoryVault) -> None:
    escrow.open_epoch("node")
    vault.slow = {"eu-west", "ap-south"}
    escrow.open_epoch("node")
    assert escrow.current("node").epoch == 1
    vault.slow = {"eu-west"}
    assert escrow.spread("node", Epoch(2)).regions == ("us-east", "ap-south")
    assert escrow.current("node").epoch == 2
    vault.down = {"us-east", "eu-west"}
    with pytest.raises(UnavailableError, match="held by 2 regions"):
        escrow.current("node")


def test_nothing_is_taken_for_there_is_none(escrow: Escrow, vault: MemoryVault) -> None:
    with pytest.raises(NotFoundError, match="no passphrase was ever put into escrow"):
        escrow.current("node")
    with pytest.raises(NotFoundError, match="in no region"):
        escrow.fetch("node", Epoch(1))
    vault.down = set(REGIONS)
    for ask in (escrow.epochs, escrow.current, escrow.open_epoch):
        with pytest.raises(UnavailableError):
            ask("node")


def test_a_value_that_differs_between_regions_is_an_alarm_that_shows_neither(
    escrow: Escrow, vault: MemoryVault
) -> None:
    escrow.open_epoch("node")
    vault.values["eu-west"][f"{PREFIX}-node/0001"] = b"needle-in-eu-west"
    with pytest.raises(Failed, match="another value in eu-west") as caught:
        escrow.copies("node", Epoch(1))
    assert "needle" not in f"{caught.value!r}"


def test_a_retired_epoch_is_not_made_again(escrow: Escrow, vault: MemoryVault) -> None:
    escrow.open_epoch("node")
    escrow.retire("node", Epoch(1))
    escrow.retire("node", Epoch(1))
    assert escrow.epochs("node") == ()
    with pytest.raises(ConflictError, match="exists already, or was retired"):
        escrow.open_epoch("node")
    vault.down = set(REGIONS)
    with pytest.raises(UnavailableError):
        vault.create("x", b"y")


# --- rotation


def stored(world: KeysWorld, origin: str = "us-east") -> Kept:
    world.clock.advance(seconds=1)
    return store_bundle(world.repository, origin, world.bundle("node"), previous=None, since={})


def test_a_rotation_wraps_every_backup_anew_and_retires_the_old_epoch(keys: KeysWorld) -> None:
    made = [stored(keys), stored(keys), stored(keys, "eu-west")]
    before = [open_from(keys.repository, one.backup) for one in made]
    said: list[str] = []
    done = rotate(keys.repository, "node", REGIONS, said.append)
    assert (done.epoch, done.created, done.rewrapped, done.verified, done.retired, done.kept) == (
        2,
        True,
        3,
        3,
        (1,),
        (),
    )
    assert keys.repository.escrow.epochs("node") == (2,)
    found, _ = list_backups(keys.repository, REGIONS)
    after = [load(keys.repository, one) for one in found]
    assert {one.generation for one in after} == {2}
    assert {one.reference for one in after} == {f"aws-secret:{PREFIX}-node/0002"}
    opened = {one.id: open_from(keys.repository, one) for one in after}
    assert [opened[one.backup.id] for one in made] == before
    for store in keys.stores.values():
        assert not [entry for entry in store.list("") if "/0001" in entry.key]
    assert len(said) == 4


def test_a_rotation_killed_anywhere_goes_on_where_it_stood(keys: KeysWorld) -> None:
    stored(keys)
    stored(keys)
    calls = 0
    done = None
    while done is None:
        calls += 1
        for store in keys.stores.values():
            store.faults.seen.clear()
            store.faults.maps = {}
        keys.stores["eu-west"].faults.maps["create"] = "." * (calls - 1) + "e"
        keys.stores["ap-south"].faults.maps["create"] = "." * (calls - 1) + "e"
        keys.stores["us-east"].faults.maps["delete"] = "." * (calls - 1) + "e"
        try:
            done = rotate(keys.repository, "node", REGIONS)
        except UnavailableError:
            for one in list_backups(keys.repository, REGIONS)[0]:
                assert open_from(keys.repository, load(keys.repository, one))
    assert calls > 2
    assert done.epoch == 2
    assert keys.repository.escrow.epochs("node") == (2,)


def test_nothing_is_wrapped_anew_before_every_region_reads_the_new_epoch(keys: KeysWorld) -> None:
    made = stored(keys)
    keys.vault.slow = {"ap-south"}
    with pytest.raises(UnavailableError, match="not readable in every region"):
        rotate(keys.repository, "node", REGIONS)
    assert load(keys.repository, list_backups(keys.repository, REGIONS)[0][0]) == made.backup
    keys.vault.slow = set()
    done = rotate(keys.repository, "node", REGIONS)
    assert (done.epoch, done.created, done.rewrapped) == (2, False, 1)


def test_a_rotation_waits_for_every_bucket(keys: KeysWorld) -> None:
    stored(keys)
    keys.stores["ap-south"].faults.down = True
    with pytest.raises(UnavailableError, match="asked for its key backups"):
        rotate(keys.repository, "node", REGIONS)
    assert keys.repository.escrow.epochs("node") == (1,)


def test_an_old_epoch_stays_while_an_object_lock_holds_an_envelope_that_needs_it() -> None:
    world = make_world(locked_for=dt.timedelta(days=90))
    made = stored(world)
    done = rotate(world.repository, "node", REGIONS)
    assert done.retired == ()
    assert [epoch for epoch, _ in done.kept] == [1]
    assert world.repository.escrow.epochs("node") == (1, 2)
    world.clock.advance(days=200)
    envelope = world.stores["us-east"].get(envelope_key(made.backup))
    assert envelope
    assert escrow_rotation._retire(
        world.repository, "node", [load(world.repository, list_backups(world.repository, REGIONS)[0][0])], Epoch(2)
    ) == ((1,), ())


def test_a_backup_of_a_foreign_escrow_stops_the_rotation(keys: KeysWorld) -> None:
    stored(keys)
    foreign = Escrow(keys.vault, "other/prefix")
    foreign.open_epoch("node")
    repository = type(keys.repository)(
        **{name: getattr(keys.repository, name) for name in keys.repository.__slots__} | {"escrow": foreign}
    )
    with pytest.raises(RefusedError, match="not this site's escrow"):
        rotate(repository, "node", REGIONS)


def test_the_first_epoch_is_made_by_a_rotation() -> None:
    world = make_world()
    world.vault.values = {region: {} for region in REGIONS}
    done = rotate(world.repository, "node", REGIONS)
    assert (done.epoch, done.created, done.rewrapped, done.retired) == (1, True, 0, ())


def test_a_rotation_brings_every_backup_under_the_custodians_new_key(keys: KeysWorld) -> None:
    stored(keys)
    successor = X25519PrivateKey.generate()
    public = successor.public_key().public_bytes_raw()
    repository = type(keys.repository)(
        **{name: getattr(keys.repository, name) for name in keys.repository.__slots__} | {"recovery_public_key": public}
    )
    rotate(repository, "node", REGIONS)
    [found] = list_backups(repository, REGIONS)[0]
    entry = load(repository, found)
    assert entry.recovery_public_key == public.hex()
    assert open_from(repository, entry, opener=RecoveryOpener(successor.private_bytes_raw())).files
    with pytest.raises(Failed):
        open_from(repository, entry, opener=RecoveryOpener(keys.recovery.private_bytes_raw()))
