"""What healing and repairing must not make worse: the last copy, good objects, other snapshots' objects."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.backup import replicate, retention, verify
from vedr.backup.layout import manifest_key, object_key, placement_key
from vedr.backup.repository import load_own_manifest
from vedr.backup.sealing import Codec
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.signature import Signer
from vedr.targets import Retention


def keys_in(world: Any, region: str) -> set[str]:
    return {entry.key for entry in world.stores[region].list("")}


def key_of(world: Any, created: Any, number: int = 0) -> Any:
    manifest = created.verified.manifest
    return object_key(world.source, manifest.epoch, manifest.objects[number].name)


def missing_in_ap_south(world: Any) -> Any:
    world.stores["ap-south"].faults.down = True
    created = world.back_up()
    world.stores["ap-south"].faults.down = False
    return created


def when_ap_south_has_it(world: Any, created: Any, then: Callable[[], None]) -> None:
    """Something happens right after the copy's manifest, its commit point, was written."""
    target = world.stores["ap-south"]
    made = target.create

    def create(key: Any, data: bytes) -> Any:
        stored = made(key, data)
        if key == manifest_key(world.source, created.id):
            then()
        return stored

    target.create = create


def under_another_signer(world: Any) -> Any:
    """The signing key was changed; what the earlier one signed is still believed."""
    signer = Signer(Ed25519PrivateKey.generate())
    trusted = (*world.repository.trusted, signer.public_hex)
    return dataclasses.replace(world.repository, signer=signer, trusted=trusted)


@pytest.mark.parametrize("named", [True, False], ids=["key named", "manifest of before keys were named"])
def test_repairing_under_the_wrong_encryption_key_removes_nothing(make_world: Any, named: bool) -> None:
    """Every object looks damaged then, in every region."""
    world = make_world(key=bytes(range(32)))
    world.fill()
    if not named:
        world.repository.codec.__class__ = type("Nameless", (Codec,), {"key_id": None})
    world.back_up()
    before = {region: keys_in(world, region) for region in world.stores}
    wrong = dataclasses.replace(world.repository, codec=Codec(bytes(32)))
    for region in world.stores:
        healed = replicate.repair(wrong, world.listed()[0], region)
        assert isinstance(healed.error, InvalidInputError if named else VerificationFailedError)
    assert before == {region: keys_in(world, region) for region in world.stores}


def test_what_another_key_sealed_is_copied_nowhere_and_the_message_names_the_way(make_world: Any) -> None:
    """Nothing that is signed names the sealed bytes: without the key a wrong copy would be as good as a right one."""
    world = make_world(key=bytes(range(32)))
    world.fill()
    created = missing_in_ap_south(world)
    before = keys_in(world, "ap-south")
    wrong = dataclasses.replace(world.repository, codec=Codec(bytes(32)))
    (healed,) = replicate.heal(wrong, world.listed())
    assert isinstance(healed.error, InvalidInputError)
    assert f"under key {world.repository.codec.key_id}" in healed.error.message
    assert "neither read nor copied to another region" in healed.error.remedy
    assert "[encryption] key is the one of that time: --site FILE" in healed.error.remedy
    assert keys_in(world, "ap-south") == before
    (healed,) = replicate.heal(world.repository, world.listed())
    assert (healed.error, healed.copied_objects) == (None, len(created.verified.manifest.objects))


def test_an_object_that_is_damaged_everywhere_is_removed_nowhere(world: Any) -> None:
    created = world.back_up()
    for store in world.stores.values():
        store.damage(key_of(world, created), b"junk")
    healed = replicate.repair(world.repository, world.listed()[0], "eu-west")
    assert isinstance(healed.error, VerificationFailedError)
    assert key_of(world, created) in keys_in(world, "eu-west")
    assert "eu-west" in world.listed()[0].regions


def test_a_copy_just_made_is_kept_when_the_other_regions_fall_silent(world: Any) -> None:
    """It may be the only one by now."""
    created = missing_in_ap_south(world)

    def silence() -> None:
        for region in ("us-east", "eu-west"):
            world.stores[region].faults.down = True

    when_ap_south_has_it(world, created, silence)
    (healed,) = replicate.heal(world.repository, world.listed())
    assert isinstance(healed.error, UnavailableError)
    assert world.listed()[0].regions == ("ap-south",)
    assert world.restored() == world.content()


def test_a_snapshot_that_expired_while_it_was_copied_is_withdrawn(world: Any) -> None:
    created = missing_in_ap_south(world)

    def expire() -> None:
        for region in ("us-east", "eu-west"):
            world.stores[region].delete(manifest_key(world.source, created.id))

    when_ap_south_has_it(world, created, expire)
    (healed,) = replicate.heal(world.repository, world.listed())
    assert isinstance(healed.error, NotFoundError)
    assert world.listed() == ()


def test_a_region_with_a_placement_under_an_earlier_signing_key_is_healed(world: Any) -> None:
    """Its writer was killed before the manifest, and the key was changed since."""
    created = world.back_up()
    world.stores["ap-south"].delete(manifest_key(world.source, created.id))
    (healed,) = replicate.heal(under_another_signer(world), world.listed())
    assert healed.error is None
    assert set(world.listed()[0].regions) == set(world.stores)


def test_a_region_where_a_snapshot_was_given_up_is_healed_when_another_has_it(make_world: Any) -> None:
    """The writer committed in one region, and stood still in another until its epoch had closed."""
    world = make_world(retention=Retention(epoch_days=5))
    world.fill()
    created = world.back_up()
    world.stores["ap-south"].delete(manifest_key(world.source, created.id))
    world.stores["ap-south"].create(manifest_key(world.source, created.id), retention.GIVEN_UP)
    (healed,) = replicate.heal(world.repository, world.listed())
    assert healed.error is None
    assert verify.verify(world.repository, world.listed()[0], depth=2).require().ok


def test_a_snapshot_that_can_not_be_read_holds_up_the_healing_of_no_other(world: Any) -> None:
    """A manifest of a revoked signing key, or one that somebody planted, lacks regions for ever."""
    world.stores["ap-south"].faults.down = True
    old, repository = world.back_up(100), under_another_signer(world)
    repository = dataclasses.replace(repository, trusted=(repository.signer.public_hex,))
    world.repository = repository
    world.clock.advance(hours=4)
    new = world.back_up(101)
    world.stores["ap-south"].faults.down = False
    healed = {one.snapshot: one.error for one in replicate.heal(repository, world.listed())}
    assert isinstance(healed[old.id], VerificationFailedError)
    assert healed[new.id] is None
    assert "ap-south" in world.listed()[0].regions


def test_a_repair_tells_every_snapshot_that_shares_the_object_and_so_the_next_one(world: Any) -> None:
    """A new version stands there: placements that name the old one would be inherited by all later snapshots."""
    first = world.back_up(100)
    world.clock.advance(hours=4)
    world.back_up(101)
    world.stores["eu-west"].damage(key_of(world, first), b"junk")
    assert replicate.repair(world.repository, world.listed()[1], "eu-west").error is None
    world.clock.advance(hours=4)
    world.back_up(102)
    for listed in world.listed():
        world.clock.advance(seconds=1)
        assert verify.verify(world.repository, listed, depth=2).require().ok


@pytest.mark.parametrize("number", range(8))
def test_telling_the_sharers_may_be_killed_anywhere_and_ends_with_the_next_repair(world: Any, number: int) -> None:
    first = world.back_up(100)
    for height in (101, 102):
        world.clock.advance(hours=4)
        world.back_up(height)
    store = world.stores["eu-west"]
    store.damage(key_of(world, first), b"junk")
    removed, count = store.delete, iter(range(10**6))

    def delete(key: Any) -> None:
        if next(count) == number:
            raise KeyboardInterrupt
        removed(key)

    store.delete = delete
    try:
        replicate.repair(world.repository, world.listed()[2], "eu-west")
    except KeyboardInterrupt:
        store.delete = removed
        assert replicate.repair(world.repository, world.listed()[2], "eu-west").error is None
        replicate.heal(world.repository, world.listed())
    for listed in world.listed():
        world.clock.advance(seconds=1)
        assert verify.verify(world.repository, listed, depth=2).require().ok


def test_a_sharer_whose_own_documents_are_damaged_is_left_to_its_own_repair(world: Any) -> None:
    first = world.back_up(100)
    world.clock.advance(hours=4)
    second = world.back_up(101)
    eu_west = world.stores["eu-west"]
    eu_west.damage(placement_key(world.source, second.id), b"{}")
    eu_west.damage(key_of(world, first), b"junk")
    assert replicate.repair(world.repository, world.listed()[1], "eu-west").error is None
    assert load_own_manifest(world.repository, world.source, second.id, "eu-west").id == second.id


def test_a_region_that_falls_silent_while_sharers_are_told_is_in_the_result(world: Any) -> None:
    first = world.back_up(100)
    world.clock.advance(hours=4)
    second = world.back_up(101)
    eu_west = world.stores["eu-west"]
    eu_west.damage(key_of(world, first), b"junk")
    read = eu_west.get

    def get(key: Any, **how: Any) -> bytes:
        if key == manifest_key(world.source, second.id):
            raise UnavailableError("eu-west does not answer", remedy="Wait.")
        return bytes(read(key, **how))

    eu_west.get = get
    assert isinstance(replicate.repair(world.repository, world.listed()[1], "eu-west").error, UnavailableError)


# What a writer believes of earlier snapshots


def test_a_longer_epoch_at_once_never_names_versions_of_the_other_epochs_keys(make_world: Any) -> None:
    """One content under two epochs' keys: the snapshot said to stand under the one named versions of the other."""
    world = make_world(retention=Retention(epoch_days=5))
    world.fill()
    world.back_up(100)  # day 20759: in epoch 20755
    world.clock.advance(days=3)
    world.back_up(101)  # day 20762: in epoch 20760
    world.repository = dataclasses.replace(world.repository, retention=Retention(epoch_days=35))  # both in 20755
    world.clock.advance(hours=4)
    world.back_up(102)
    assert [listed.height for listed in world.listed()] == [102, 101, 100]
    assert verify.verify(world.repository, world.listed()[0], depth=2).require().ok
    assert world.restored() == world.content()


def test_a_new_encryption_key_takes_nothing_over_that_the_old_one_sealed(make_world: Any) -> None:
    """A snapshot of objects under two keys can be restored with neither."""
    world = make_world(key=bytes(range(32)))
    world.fill()
    old = world.back_up(100)
    world.repository = dataclasses.replace(world.repository, codec=Codec(bytes(32)))
    world.clock.advance(hours=4)
    world.write("application.db/000009.ldb", b"new" * 200_000)
    new = world.back_up(101)
    assert world.restored() == world.content()
    assert {entry.name for entry in old.verified.manifest.objects}.isdisjoint(
        entry.name for entry in new.verified.manifest.objects
    )
    world.clock.advance(hours=4)
    assert world.back_up(102).read_bytes == 0
    with pytest.raises(InvalidInputError, match="is encrypted under key"):
        world.restored(index=2)
    outcome = verify.verify(world.repository, world.listed()[2], depth=2)
    assert len(outcome.failures) == 3
    with pytest.raises(VerificationFailedError, match="is encrypted under key") as found:
        outcome.require()
    assert "--repair" not in found.value.remedy
