"""Metrics of the backups, on real snapshots in three buckets that break."""

import math
from typing import Any

import pytest

from vedr.backup.layout import SnapshotId, Source
from vedr.backup.verify import RegionCheck, Verification, record
from vedr.errors import UnavailableError
from vedr.reports import metrics_backups

STATE = ("chain-state", "us-east", "us-east")


@pytest.fixture
def night(fleet: Any) -> Any:
    """The site after its night's backups."""
    fleet.take_all()
    return fleet


def test_the_newest_whole_copy_of_every_component_is_told_with_its_rpo(night: Any, values: Any) -> None:
    taken_s = night.world.clock().timestamp()
    night.world.clock.advance(hours=3)
    seen = values(metrics_backups.backups(night.ports))
    times = seen["vedr_verified_copy_timestamp_seconds"]
    assert {key[0] for key in times} == {"chain-state", "configuration", "provider-state"}
    assert times["provider-state", "provider-0", "us-east"] == pytest.approx(taken_s, abs=1)
    assert set(seen["vedr_verified_copy_max_age_seconds"]) >= {(key[0],) for key in times}
    assert set(seen["vedr_store_answers"].values()) == {1}


def test_virtengines_names_agree_with_ours(night: Any, values: Any) -> None:
    night.world.clock.advance(hours=3)
    seen = values(metrics_backups.backups(night.ports))
    assert seen["dr_backup_age_hours"]["us-east",] == pytest.approx(3, abs=0.01)
    assert seen["dr_provider_backup_age_hours"]["provider-0", "us-east"] == pytest.approx(3, abs=0.01)
    assert seen["dr_last_backup_timestamp"]["us-east",] == seen["vedr_verified_copy_timestamp_seconds"][STATE]
    assert seen["dr_backup_size_bytes"]["us-east",] == sum(len(content) for content in night.world.content().values())


def test_a_copy_of_the_future_is_as_old_as_none_so_that_it_alerts(night: Any, values: Any) -> None:
    """Its age was below 0, and stayed below every limit until the clock that made it was right."""
    night.world.clock.advance(days=-30)
    seen = values(metrics_backups.backups(night.ports))
    assert set(seen["dr_backup_age_hours"].values()) == {math.inf}
    assert set(seen["vedr_verified_copy_timestamp_seconds"].values()) == {0}


def test_what_was_never_backed_up_is_infinitely_old_so_that_it_alerts(fleet: Any, values: Any) -> None:
    seen = values(metrics_backups.backups(fleet.ports))
    assert set(seen["dr_backup_age_hours"].values()) == {math.inf}
    assert set(seen["dr_backup_size_bytes"].values()) == {0}
    assert set(seen["dr_last_backup_timestamp"].values()) == {0}
    assert set(seen["vedr_verified_copy_timestamp_seconds"].values()) == {0}


def test_a_newer_copy_that_is_damaged_in_a_majority_does_not_count(night: Any, values: Any) -> None:
    good_s = values(metrics_backups.backups(night.ports))["vedr_verified_copy_timestamp_seconds"][STATE]
    night.world.clock.advance(hours=1)
    snapshot = night.take("us-east")
    for region in ("eu-west", "ap-south"):
        store = night.stores[region]
        key = next(one.key for one in store.list("us-east/state/m/") if snapshot in one.key)
        store.damage(key, b"{}")
    seen = values(metrics_backups.backups(night.ports))
    assert seen["vedr_verified_copy_timestamp_seconds"][STATE] == good_s


def test_a_snapshot_that_a_region_lacks_is_counted_after_the_grace_period(night: Any, values: Any) -> None:
    night.stores["ap-south"].faults.down = True
    night.world.clock.advance(hours=1)
    night.take("eu-west")
    night.stores["ap-south"].faults.down = False
    young = values(metrics_backups.backups(night.ports))
    assert set(young["vedr_snapshots_under_replicated"].values()) == {0}
    night.world.clock.advance(hours=1)
    old = values(metrics_backups.backups(night.ports))
    assert old["vedr_snapshots_under_replicated"]["eu-west", "state"] == 1
    assert old["vedr_snapshots"]["eu-west", "state"] == 2


def test_one_silent_store_is_named_and_the_others_still_prove_the_copies(night: Any, values: Any) -> None:
    night.stores["ap-south"].faults.down = True
    seen = values(metrics_backups.backups(night.ports))
    assert seen["vedr_store_answers"] == {("us-east",): 1, ("eu-west",): 1, ("ap-south",): 0}
    assert min(seen["vedr_verified_copy_timestamp_seconds"].values()) > 0


@pytest.mark.parametrize("collect", [metrics_backups.backups, metrics_backups.proofs])
def test_without_a_majority_of_the_stores_nothing_is_claimed(night: Any, collect: Any) -> None:
    for region in ("eu-west", "ap-south"):
        night.stores[region].faults.down = True
    with pytest.raises(UnavailableError):
        list(collect(night.ports))


def test_a_copy_in_doubt_is_neither_good_nor_missing(night: Any) -> None:
    store = night.stores["eu-west"]
    store.damage(next(one.key for one in store.list("us-east/state/m/")), b"{}")
    night.stores["ap-south"].faults.down = True
    with pytest.raises(UnavailableError):
        list(metrics_backups.backups(night.ports))


def test_only_a_boot_counts_as_proof(night: Any, values: Any) -> None:
    assert set(values(metrics_backups.proofs(night.ports))["vedr_boot_proof_timestamp_seconds"].values()) == {0}
    source = Source("us-east", "state", "full-us-east-1a")
    newest = max(one.key.rsplit("/", 1)[1] for one in night.stores["us-east"].list("us-east/state/m/"))
    snapshot = SnapshotId(newest.removesuffix(".json"))
    for depth, hours in ((2, 1), (3, 2)):
        night.world.clock.advance(hours=hours)
        checks = (RegionCheck("us-east", None),)
        record(night.repository, Verification(snapshot, source, depth, night.world.clock(), checks))  # type: ignore[arg-type]
        proven = values(metrics_backups.proofs(night.ports))["vedr_boot_proof_timestamp_seconds"]["us-east",]
        assert proven == (night.world.clock().timestamp() if depth == 3 else 0)
    night.world.clock.advance(hours=-1)
    assert values(metrics_backups.proofs(night.ports))["vedr_boot_proof_timestamp_seconds"]["us-east",] == 0
