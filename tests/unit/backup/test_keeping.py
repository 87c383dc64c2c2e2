"""Finding, verifying, healing and expiring snapshots over three regions in memory."""

import dataclasses
import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vedr.adapters import snapshots
from vedr.adapters.site import OpenSite
from vedr.adapters.snapshots import SCRATCH
from vedr.backup import replicate, restore, retention, verify
from vedr.backup.layout import manifest_key, object_key, verification_key
from vedr.backup.repository import list_snapshots, load_manifest, no_region
from vedr.errors import (
    ConflictError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.ports import DOCUMENT_BYTES
from vedr.targets import Retention

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


def test_a_pass_in_the_second_of_a_failure_is_recorded_after_it(world: Any) -> None:
    world.back_up()
    listed = world.listed()[0]
    world.stores["eu-west"].faults.down = True
    verify.verify(world.repository, listed, depth=1)
    world.stores["eu-west"].faults.down = False
    verify.verify(world.repository, listed, depth=1)
    proof = verify.newest_proofs(world.repository, "us-east", "state")[listed.id]
    assert proof.at == world.clock.now + dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    "spoilt", [b"", b"rubbish", bytes(DOCUMENT_BYTES + 1), None], ids=["empty", "rubbish", "huge", "pass"]
)
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


def test_verifications_that_pile_up_in_one_second_end_with_an_error_and_not_unrecorded(world: Any) -> None:
    world.back_up()
    outcome = verify.verify(world.repository, world.listed()[0], depth=1)
    for number in range(1, verify.SAME_SECOND):
        verify.record(world.repository, dataclasses.replace(outcome, took_s=float(1000 + number)))
    with pytest.raises(ConflictError):
        verify.record(world.repository, dataclasses.replace(outcome, took_s=2000.0))


def test_stores_that_all_refuse_are_told_as_refusing_with_what_to_correct() -> None:
    wrong = RefusedError("the secret key is wrong", remedy="Correct the credentials.")
    error = no_region("manifest x", {"us-east": wrong, "eu-west": wrong})
    assert isinstance(error, RefusedError)
    assert error.remedy == "Correct the credentials."
    mixed = no_region("manifest x", {"us-east": wrong, "eu-west": UnavailableError("down")})
    assert isinstance(mixed, UnavailableError)


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


def test_what_names_no_region_proves_nothing(world: Any) -> None:
    """A verification of no region at all was a pass: there is no region that failed."""
    created = world.back_up()
    with pytest.raises(VerificationFailedError, match="no region's copy was read"):
        verify.verify(world.repository, world.listed()[0], depth=1, regions=())
    empty = verify.Verification(created.id, world.source, 3, world.clock.now, ())
    assert not empty.ok
    with pytest.raises(VerificationFailedError, match="no region's copy was read"):
        empty.require()
    verify.record(world.repository, dataclasses.replace(empty, regions=(verify.RegionCheck("us-east", None),)))
    assert created.id in verify.newest_proofs(world.repository, "us-east", "state")


def test_a_stored_pass_that_names_no_region_counts_as_a_failure(world: Any) -> None:
    """Such records were signed by earlier versions: of boots on what a killed proof had left, that failed."""
    created = world.back_up()
    at = world.clock.now.replace(microsecond=0)
    document = {
        "format": verify.RECORD_FORMAT,
        "snapshot": created.id,
        "depth": 3,
        "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ok": True,
        "regions": [],
    }
    key = verification_key(world.source, created.id, at, 3)
    for store in world.stores.values():
        store.create(key, world.repository.signer.seal_document(document))
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}


def test_a_proof_is_of_what_was_fetched_for_it_never_of_what_a_killed_one_left(world: Any, tmp_path: Path) -> None:
    created = world.back_up()
    scratch = tmp_path / "work" / SCRATCH
    scratch.mkdir(parents=True)
    verified = load_manifest(world.repository, world.listed()[0])
    left = restore.fetch(world.repository, verified, scratch, f"verify-{created.id}")
    again = restore.fetch(world.repository, verified, scratch, f"verify-{created.id}")
    assert again.from_regions == ()  # found complete: nobody knows what became of it since
    with pytest.raises(VerificationFailedError, match="no region's copy was read"):
        verify.verify_boot(world.repository, verified, again.path, lambda _: None, from_regions=again.from_regions)
    (left.path / "written-by-a-node").touch()
    seen: list[list[str]] = []

    class Opened:
        """As much of an open site as a proof needs: a node that never comes up."""

        repository = world.repository
        site = SimpleNamespace(chain=SimpleNamespace(chain_id="chain-1", inspect_deep=()), work_dir=tmp_path / "work")
        isolated_node: Any

        def light_client(self, **_: str) -> None:
            """Never asked."""

        def prove(self, data: Path, *_: Any, **__: Any) -> Any:
            seen.append(sorted(path.name for path in data.iterdir()))
            raise VerificationFailedError("the node did not come up")

    opened = Opened()
    opened.isolated_node = opened
    outcome = snapshots.prove_by_boot(cast("OpenSite", opened), world.listed()[0])
    assert (outcome.ok, bool(outcome.regions)) == (False, True)
    assert "written-by-a-node" not in seen[0]
    assert verify.newest_proofs(world.repository, "us-east", "state") == {}
    assert not any(scratch.iterdir())


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
