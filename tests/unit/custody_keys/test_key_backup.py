"""Key backups in fake regions: what counts opened, and what is not as it should be is refused."""

import datetime as dt
import json

import pytest
from keysworld import NOW, PATHS, REGIONS, KeysWorld, make_world

from vedr.custody import key_backup, key_backup_catalogue, key_backup_retention, key_backup_store
from vedr.custody.envelope_slots import RecoveryOpener
from vedr.custody.key_backup_catalogue import Revocation, revocation_key
from vedr.custody.key_backup_store import list_backups, load, open_from, store_bundle, verify
from vedr.custody.key_material import KeyKind, new_key_file
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.ports import ObjectKey


def stored(world: KeysWorld, kind: KeyKind = "validator", **more: object) -> key_backup_store.Kept:
    return store_bundle(world.repository, "us-east", world.bundle(kind), previous=None, since={}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["validator", "node", "provider"])
def test_what_was_backed_up_comes_back_byte_for_byte(keys: KeysWorld, kind: KeyKind) -> None:
    bundle = keys.bundle(kind)
    kept = store_bundle(keys.repository, "us-east", bundle, previous=None, since={}, sign_state="7/0/3")
    assert kept.regions == REGIONS
    assert not kept.missing
    (found,), silent = list_backups(keys.repository, ["us-east"])
    assert not silent
    assert found.regions == REGIONS
    entry = load(keys.repository, found)
    assert entry == kept.backup
    assert entry.sign_state == "7/0/3"
    assert open_from(keys.repository, entry) == bundle
    assert verify(keys.repository, entry) == {}


def test_the_recovery_key_opens_a_backup_when_escrow_is_lost(keys: KeysWorld) -> None:
    kept = stored(keys)
    keys.vault.down.update(REGIONS)
    with pytest.raises(UnavailableError, match="not in enough regions"):
        open_from(keys.repository, kept.backup)
    opened = open_from(keys.repository, kept.backup, opener=RecoveryOpener(keys.recovery.private_bytes_raw()))
    assert opened.fingerprints == kept.backup.fingerprints


def test_the_decrypter_lies_beside_every_backup(keys: KeysWorld) -> None:
    kept = stored(keys)
    for store in keys.stores.values():
        assert store.get(ObjectKey(kept.backup.decrypter)) == key_backup_store.decrypter()


def test_nothing_secret_is_in_the_bucket(keys: KeysWorld) -> None:
    bundle = keys.bundle()
    store_bundle(keys.repository, "us-east", bundle, previous=None, since={})
    secret = json.loads(bundle.files[0].content)["priv_key"]["value"].encode()
    for store in keys.stores.values():
        for entry in store.list(""):
            assert secret not in store.get(entry.key)


def test_a_region_that_is_down_is_named_and_healed_later(keys: KeysWorld) -> None:
    keys.stores["ap-south"].faults.down = True
    kept = stored(keys)
    assert kept.regions == ("us-east", "eu-west")
    assert set(kept.missing) == {"ap-south"}
    (found,), silent = list_backups(keys.repository, ["us-east"])
    assert set(silent) == {"ap-south"}
    assert set(key_backup_store.heal(keys.repository, found)) == {"ap-south"}
    assert set(verify(keys.repository, kept.backup)) == {"ap-south"}
    keys.stores["ap-south"].faults.down = False
    assert key_backup_store.heal(keys.repository, found) == {}
    (found,), _ = list_backups(keys.repository, ["us-east"])
    assert found.regions == REGIONS
    assert key_backup_store.heal(keys.repository, found) == {}
    assert verify(keys.repository, kept.backup) == {}


def test_without_a_majority_of_regions_a_backup_does_not_count(keys: KeysWorld) -> None:
    for region in ("eu-west", "ap-south"):
        keys.stores[region].faults.down = True
    with pytest.raises(UnavailableError, match="not in a majority"):
        stored(keys)
    assert list_backups(keys.repository, ["us-east"])[0] == ()


def test_a_region_lost_before_the_entry_is_named(keys: KeysWorld) -> None:
    keys.stores["us-east"].faults.maps["create"] = "..e"
    kept = stored(keys)
    assert kept.regions == ("eu-west", "ap-south")


def test_no_region_at_all_is_an_error_and_not_an_empty_list(keys: KeysWorld) -> None:
    for store in keys.stores.values():
        store.faults.down = True
    with pytest.raises(UnavailableError):
        list_backups(keys.repository, ["us-east"])


def test_a_backup_killed_anywhere_is_never_listed_before_it_opened(keys: KeysWorld) -> None:
    for calls in range(6):
        keys.stores["us-east"].faults.maps["create"] = "." * calls + "K"
        keys.stores["us-east"].faults.seen.clear()
        keys.clock.advance(seconds=1)
        try:
            stored(keys)
        except BaseException:  # noqa: BLE001 (the crash)
            for found in list_backups(keys.repository, ["us-east"])[0]:
                assert open_from(keys.repository, load(keys.repository, found))


def test_a_damaged_copy_is_passed_over_and_reported(keys: KeysWorld) -> None:
    kept = stored(keys)
    where = key_backup_catalogue.envelope_key(kept.backup)
    keys.stores["us-east"].damage(where, b"vedrenv" + b"\0" * 300)
    assert open_from(keys.repository, kept.backup, prefer="us-east").fingerprints == kept.backup.fingerprints
    wrong = verify(keys.repository, kept.backup)
    assert set(wrong) == {"us-east"}
    assert isinstance(wrong["us-east"], VerificationFailedError)
    assert key_backup_store.good_copy(keys.repository, kept.backup)
    for store in keys.stores.values():
        store.damage(where, b"x")
    assert set(verify(keys.repository, kept.backup)) == set(REGIONS)
    for call in (open_from, key_backup_store.good_copy):
        with pytest.raises(CorruptError):
            call(keys.repository, kept.backup)


@pytest.mark.parametrize("what", ["entry", "decrypter"])
def test_verification_names_the_region_that_alone_could_not_restore(keys: KeysWorld, what: str) -> None:
    """Its envelope is whole, but the entry that tells of it, or the tool that opens it, is not."""
    kept = stored(keys).backup
    entry = key_backup_catalogue.entry_key(kept.origin, kept.id, kept.generation)
    key = entry if what == "entry" else ObjectKey(kept.decrypter)
    store = keys.stores["eu-west"]
    store.damage(key, store.get(key)[:-1] + b"?")
    assert set(verify(keys.repository, kept)) == {"eu-west"}


def test_a_forged_entry_is_not_believed(keys: KeysWorld) -> None:
    kept = stored(keys)
    forger = make_world()
    where = key_backup_catalogue.entry_key("us-east", kept.backup.id, 1)
    for store in keys.stores.values():
        store.overwrite(where, key_backup_catalogue.seal_entry(kept.backup, forger.repository.signer))
    (found,), _ = list_backups(keys.repository, ["us-east"])
    with pytest.raises(CorruptError, match="no region has a good copy"):
        load(keys.repository, found)


def test_an_envelope_of_another_backup_is_refused_though_it_opens(keys: KeysWorld) -> None:
    """Somebody with the signing key, or a bug, puts a right envelope under a wrong entry."""
    first = stored(keys)
    keys.clock.advance(seconds=1)
    other = stored(keys)
    envelope = keys.stores["us-east"].get(key_backup_catalogue.envelope_key(other.backup))
    mixed = key_backup_catalogue.Backup(
        **{name: getattr(first.backup, name) for name in first.backup.__slots__} | {"sha256": other.backup.sha256}
    )
    opener = key_backup_store._escrowed(keys.repository, mixed, None)
    with pytest.raises(VerificationFailedError, match="not what its signed entry says"):
        key_backup.open_bundle(envelope, opener, mixed)


def test_a_backup_that_holds_other_keys_than_the_owner_does_not_count(keys: KeysWorld) -> None:
    kept = stored(keys)
    bundle = open_from(keys.repository, kept.backup)
    with pytest.raises(VerificationFailedError, match=r"differ in config/priv_validator_key\.json"):
        key_backup.compare_live([new_key_file("validator", PATHS["validator"])], bundle)


def test_a_backup_under_a_foreign_reference_is_refused(keys: KeysWorld) -> None:
    kept = stored(keys)
    foreign = key_backup_catalogue.Backup(
        **{name: getattr(kept.backup, name) for name in kept.backup.__slots__} | {"reference": "aws-secret:other/0001"}
    )
    with pytest.raises(InvalidInputError, match="not this site's escrow"):
        open_from(keys.repository, foreign)


def test_without_a_recovery_key_nothing_is_backed_up(keys: KeysWorld) -> None:
    repository = key_backup_store.KeyRepository(
        **{name: getattr(keys.repository, name) for name in keys.repository.__slots__} | {"recovery_public_key": None}
    )
    with pytest.raises(InvalidInputError, match="recovery_public_key"):
        store_bundle(repository, "us-east", keys.bundle(), previous=None, since={})


def test_without_a_passphrase_the_error_says_how_to_make_one(keys: KeysWorld) -> None:
    keys.vault.values = {region: {} for region in REGIONS}
    with pytest.raises(NotFoundError, match="no passphrase was ever put") as caught:
        stored(keys)
    assert "rotate-passphrase --kind validator" in caught.value.remedy


def test_a_sign_state_can_never_be_in_a_backup(keys: KeysWorld) -> None:
    file = new_key_file("validator", "data/priv_validator_state.json")
    with pytest.raises(InvalidInputError, match="no validator key file"):
        keys.bundle("validator", "v", file)


def test_a_bundle_has_files_of_different_paths_inside_the_home(keys: KeysWorld) -> None:
    del keys
    world = make_world()
    one = new_key_file("node", "a")
    for files in ([], [one, one]):
        with pytest.raises(InvalidInputError, match="a key backup of"):
            key_backup.make_bundle("node", "n", "c", files)
    for path in ("../x", "/x", "a/../b"):
        with pytest.raises(InvalidInputError, match="no node key file"):
            world.bundle("node", "n", new_key_file("node", path))


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"[]",
        b'{"format":"vedr-key-bundle/1","kind":"node","owner":"n","chain_id":"c","files":[1]}',
        b'{"format":"vedr-key-bundle/1","kind":"node","owner":"n","chain_id":"c","files":[]}',
        b'{"format":"vedr-key-bundle/1","kind":"node","owner":"n","chain_id":"c","files":[{"path":"a","content":"!"}]}',
        b'{"format":"vedr-key-bundle/2","kind":"node","owner":"n","chain_id":"c","files":[]}',
    ],
)
def test_what_is_no_bundle_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptError):
        key_backup._decode(payload, "key backup x")


def test_ages_and_replaced_keys_are_carried_on_from_entry_to_entry(keys: KeysWorld) -> None:
    long_ago = NOW - dt.timedelta(days=300)
    old, new = keys.bundle("node"), keys.bundle("node")
    known = {old.fingerprints[0]: long_ago}
    first = store_bundle(keys.repository, "us-east", old, previous=None, since=known).backup
    assert [key.since for key in first.keys] == [long_ago]
    keys.clock.advance(days=1)
    second = store_bundle(keys.repository, "us-east", new, previous=first, since={}).backup
    assert [(one.key.fingerprint, one.until) for one in second.replaced] == [(old.fingerprints[0], keys.clock.now)]
    keys.clock.advance(days=1)
    third = store_bundle(keys.repository, "us-east", new, previous=second, since={}).backup
    assert third.replaced == second.replaced
    assert third.keys[0].since == NOW + dt.timedelta(days=1)
    keys.clock.advance(days=1)
    back = store_bundle(keys.repository, "us-east", old, previous=third, since={}).backup
    assert back.keys[0].since == long_ago
    assert [one.key.fingerprint for one in back.replaced] == list(new.fingerprints)
    assert key_backup_store.newest(keys.repository, "us-east", "node", "node-0") == back
    assert key_backup_store.newest(keys.repository, "us-east", "node", "node-1") is None
    assert key_backup_store.newest_of_each(keys.repository, "us-east") == (back,)


def test_two_backups_of_one_second_cannot_be_mistaken_for_each_other(keys: KeysWorld) -> None:
    stored(keys)
    with pytest.raises(VerificationFailedError, match="not in a majority"):
        stored(keys)


def test_retention_keeps_every_validator_key_and_the_newest_of_all(keys: KeysWorld) -> None:
    first, second = keys.bundle(), keys.bundle()
    node = keys.bundle("node")
    made = []
    for bundle in (first, first, second, second):
        made.append(store_bundle(keys.repository, "us-east", bundle, previous=None, since={}).backup.id)
        keys.clock.advance(days=1)
    nodes = [store_bundle(keys.repository, "us-east", node, previous=None, since={}).backup.id]
    keys.clock.advance(days=1)
    nodes.append(store_bundle(keys.repository, "us-east", node, previous=None, since={}).backup.id)
    assert key_backup_retention.apply_retention(keys.repository, "us-east") == ((), ())
    keys.clock.advance(days=400)
    gone, locked = key_backup_retention.apply_retention(keys.repository, "us-east")
    assert set(gone) == {made[0], made[2], nodes[0]}
    assert not locked
    left = {found.id for found in list_backups(keys.repository, ["us-east"])[0]}
    assert left == {made[1], made[3], nodes[1]}
    for store in keys.stores.values():
        assert not list(store.list(f"us-east/keys/b/{made[0]}"))


def test_retention_removes_nothing_while_a_region_is_silent(keys: KeysWorld) -> None:
    stored(keys)
    keys.stores["eu-west"].faults.down = True
    with pytest.raises(UnavailableError, match="nothing was removed"):
        key_backup_retention.apply_retention(keys.repository, "us-east")


def test_what_an_object_lock_holds_is_said_and_stays() -> None:
    world = make_world(locked_for=dt.timedelta(days=2000))
    for _ in range(2):
        made = stored(world, "node").backup
        world.clock.advance(days=500)
    gone, locked = key_backup_retention.apply_retention(world.repository, "us-east")
    assert not gone
    assert len(locked) == 1
    assert made.id not in locked


def test_a_revoked_key_stays_revoked_in_every_region(keys: KeysWorld) -> None:
    kept = stored(keys)
    fingerprint = kept.backup.fingerprints[0]
    revocation = Revocation(fingerprint, "validator", "validator-0", NOW, "inc-20261123-020000-abcd", "leaked")
    keys.stores["ap-south"].faults.down = True
    assert key_backup_store.revoke(keys.repository, "us-east", revocation) == ("us-east", "eu-west")
    keys.stores["ap-south"].faults.down = False
    keys.clock.advance(hours=1)
    assert key_backup_store.revoke(keys.repository, "us-east", revocation) == REGIONS
    assert key_backup_store.revocations(keys.repository, "us-east", [fingerprint, "0" * 64]) == (revocation,)


def test_bytes_that_nobody_signed_in_a_revocations_place_do_not_count_as_one(keys: KeysWorld) -> None:
    revocation = Revocation("0" * 64, "node", "n", NOW, "inc-20261123-020000-abcd", "leaked")
    keys.stores["eu-west"].create(revocation_key("us-east", "0" * 64), b"forged")
    assert key_backup_store.revoke(keys.repository, "us-east", revocation) == ("us-east", "ap-south")
    keys.stores["ap-south"].faults.down = True
    with pytest.raises(VedrError, match="the revocation of"):
        key_backup_store.revoke(keys.repository, "us-east", revocation)


def test_a_revocation_is_not_overlooked_when_regions_are_silent(keys: KeysWorld) -> None:
    for region in ("us-east", "eu-west"):
        keys.stores[region].faults.down = True
    with pytest.raises(UnavailableError, match="revocations of"):
        key_backup_store.revocations(keys.repository, "us-east", ["0" * 64])
    revocation = Revocation("0" * 64, "node", "n", NOW, "i", "r")
    with pytest.raises(UnavailableError, match="the revocation of"):
        key_backup_store.revoke(keys.repository, "us-east", revocation)


def test_keys_that_are_no_entry_are_passed_over(keys: KeysWorld) -> None:
    for name in ("x", "20261123T020000Z-node-n/1.json", "99999999T999999Z-node-n/0001.json", "no-id/0001.json"):
        keys.stores["us-east"].create(ObjectKey(f"us-east/keys/c/{name}"), b"x")
    kept = stored(keys)
    assert [found.id for found in list_backups(keys.repository, ["us-east"])[0]] == [kept.backup.id]
    assert list_backups(keys.repository, ["us-east"], kind="node")[0] == ()
    assert list_backups(keys.repository, ["us-east"], owner="other")[0] == ()


def test_an_entry_says_only_what_its_format_says(keys: KeysWorld) -> None:
    kept = stored(keys).backup
    signer, trusted = keys.repository.signer, keys.repository.trusted
    good = key_backup_catalogue.seal_entry(kept, signer)

    def reopened(**changes: object) -> None:
        signed = json.loads(good)["signed"] | changes
        document = signer.seal_document(signed)
        key_backup_catalogue.open_entry(document, trusted, origin="us-east", backup=kept.id, generation=1)

    reopened()
    row = json.loads(good)["signed"]["keys"][0]
    for changes in (
        {"created_at": "2026-11-23T02:00:01Z"},
        {"generation": 2},
        {"keys": [row[:4]]},
        {"keys": [[row[0], "dsa", *row[2:]]]},
        {"keys": [[row[0], row[1], "xyz", *row[3:]]]},
        {"keys": [["../x", *row[1:]]]},
        {"keys": [[*row[:4], "yesterday"]]},
        {"replaced": [[*row, "yesterday"]]},
        {"recovery_public_key": "00"},
        {"reference": None},
    ):
        with pytest.raises(CorruptError):
            reopened(**changes)
    with pytest.raises(InvalidInputError, match="not the id"):
        key_backup_catalogue.parse_id("99999999T999999Z-node-n")


def test_a_passphrase_is_asked_for_by_reference(keys: KeysWorld) -> None:
    assert stored(keys).backup.reference == "aws-secret:virtengine/dr/backup-passphrase-validator/0001"
