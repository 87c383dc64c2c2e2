"""Checks that backups restore: boots, the daily dry run, and each component's recovery point."""

import pytest
from backup_world import POLICY, REGIONS, Night

from vedr.backup.layout import SnapshotId, Source
from vedr.chain.inspection import Inspected
from vedr.inventory import Height
from vedr.readiness import backups, rpo

# --- proof by booting


def test_a_snapshot_that_nobody_booted_is_no_proof(night: Night) -> None:
    assert night.boots().status == "failed"
    for region in REGIONS:
        night.prove(region, depth=2)
    assert night.boots().status == "failed"
    for region in REGIONS:
        night.prove(region)
    assert night.boots().status == "passed"


def test_a_proof_of_the_day_before_yesterday_fails(night: Night) -> None:
    for region in REGIONS:
        night.prove(region)
    night.world.clock.advance(hours=25)
    assert night.boots().status == "failed"


def test_a_fresh_proof_of_an_old_snapshot_fails(night: Night) -> None:
    night.world.clock.advance(days=3)
    for region in REGIONS:
        night.prove(region)
    verdict = night.boots()
    assert verdict.status == "failed"
    assert "the snapshot proven is 3.0 d old" in verdict.observed


def test_a_failed_boot_takes_the_proof_away(night: Night) -> None:
    for region in REGIONS:
        night.prove(region)
    night.world.clock.advance(minutes=1)
    night.prove("eu-west", ok=False)
    verdict = night.boots()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("eu-west: no snapshot is proven")


def test_when_no_region_answers_nothing_was_looked_at(night: Night) -> None:
    for store in night.world.stores.values():
        store.faults.down = True
    for verdict in (night.integrity(), night.freshness(), night.providers(), night.boots(), night.dry_run()):
        assert verdict.status == "could not run", verdict


def test_booting_now_passes_only_when_each_boots(night: Night) -> None:
    assert backups.boot_now(night.repository, REGIONS, night.probes, POLICY).status == "passed"
    night.probes.says = None
    verdict = backups.boot_now(night.repository, REGIONS, night.probes, POLICY)
    assert verdict.status == "failed"
    assert "it does not start" in verdict.observed


# --- the dry run


def test_a_dry_run_restores_from_another_region_every_day_and_leaves_nothing(night: Night) -> None:
    seen = []
    for _ in REGIONS:
        verdict = night.dry_run()
        assert verdict.status == "passed", verdict
        seen.append(verdict.observed.partition(" from ")[2].partition(" ")[0])
        night.world.clock.advance(days=1)
        night.take(Source("us-east", "state", "full-us-east"))
    assert sorted(seen) == sorted(REGIONS)
    assert not list(night.probes.folder.iterdir())


def test_a_dry_run_of_an_old_snapshot_where_newer_ones_do_not_arrive_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    verdict = night.dry_run()
    assert (verdict.status, "limit 24.0 h" in verdict.observed) == ("failed", True), verdict
    assert "come to that region" in verdict.remedy


def test_a_proof_of_a_snapshot_of_the_future_fails(night: Night) -> None:
    night.world.clock.advance(days=-2)
    proof = backups.Proof(SnapshotId("20991231T000000Z-full-100"), 3, night.now)
    part = backups.judge_proof("us-east", {proof.snapshot: proof}, POLICY, night.now)
    assert (part.status, "in the future" in part.observed) == ("failed", True)


@pytest.mark.parametrize(
    "says",
    [
        None,
        Inspected("chain-2", Height(1), Height(100), Height(100), Height(100), "AB" * 32, "goleveldb"),
        Inspected("chain-1", Height(1), Height(99), Height(99), Height(99), "AB" * 32, "goleveldb"),
        Inspected("chain-1", Height(1), Height(100), Height(100), Height(100), "CD" * 32, "goleveldb"),
    ],
)
def test_a_restore_that_reads_as_something_else_fails(night: Night, says: Inspected | None) -> None:
    night.probes.says = says
    assert night.dry_run().status == "failed"


def test_a_restore_fails_on_a_damaged_object_of_that_days_region(night: Night) -> None:
    day = REGIONS[night.now.toordinal() % len(REGIONS)]
    for key in night.keys(day, "/state/e/"):
        night.world.stores[day].damage(key, b"rot")
    assert night.dry_run().status == "failed"


def test_a_restore_that_misses_its_target_fails(night: Night) -> None:
    policy = POLICY.model_copy(update={"dry_run_max_s": 0})
    verdict = backups.restore_dry_run(night.site, night.repository, night.probes, policy, night.now)
    assert verdict.status == "failed"


# --- RPO


def rpo_parts(night: Night) -> dict[str, str]:
    parts = rpo._of_snapshots(night.site, night.repository, POLICY, night.now)
    return {part.subject: part.status for part in parts}


def test_each_component_is_held_to_its_own_rpo(night: Night) -> None:
    assert set(rpo_parts(night).values()) == {"passed"}
    night.world.clock.advance(hours=2)
    late = rpo_parts(night)
    assert {name for name, status in late.items() if status == "failed"} == {
        f"configuration {region}" for region in REGIONS
    }
    night.world.clock.advance(hours=3)
    assert set(rpo_parts(night).values()) == {"failed"}


def test_a_newer_copy_that_is_not_whole_does_not_count_for_the_rpo(night: Night) -> None:
    night.world.clock.advance(hours=2)
    night.take(Source("us-east", "config", "us-east"))
    assert rpo_parts(night)["configuration us-east"] == "passed"
    for region in REGIONS[:2]:
        newest = max(key for key in night.keys(region, "us-east/config/p/"))
        night.world.stores[region].delete(newest)
    assert rpo_parts(night)["configuration us-east"] == "failed"
