"""Checks of the backups, on snapshots that are whole, and on every way in which they are not."""

import dataclasses
import random
from pathlib import Path
from typing import Any, cast

import pytest
from backup_world import POLICY, PROVIDER, REGIONS, Night, Probes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedr.backup.layout import Source, manifest_key
from vedr.readiness import backups

# --- integrity


def test_whole_backups_pass(night: Night) -> None:
    verdict = night.integrity()
    assert (verdict.status, verdict.remedy) == ("passed", "")


def test_a_region_without_any_backup_fails(make_world: Any, tmp_path: Path) -> None:
    assert Night(make_world(), Probes(tmp_path)).integrity().status == "failed"


def test_no_regions_is_a_failure_not_a_pass(night: Night) -> None:
    for verdict in (
        backups.backup_integrity(night.repository, (), POLICY, random.Random(1)),
        backups.backup_freshness(night.repository, (), POLICY, night.now),
        backups.provider_state_backups(night.repository, (), POLICY, night.now),
        backups.boot_verification(night.repository, (), POLICY, night.now),
        backups.boot_now(night.repository, (), night.probes, POLICY),
    ):
        assert (verdict.status, verdict.observed) == ("failed", "nothing to look at")
        assert verdict.remedy


@pytest.mark.parametrize("part", ["/m/", "/p/", "/o/"])
@pytest.mark.parametrize("kind", ["state", "config"])
def test_one_flipped_byte_in_one_region_is_found(night: Night, part: str, kind: str) -> None:
    store = night.world.stores["eu-west"]
    key = night.keys("eu-west", f"ap-south/{kind}{part if part != '/o/' else '/e/'}")[0]
    content = bytearray(store.get(key))
    content[len(content) // 2] ^= 1
    store.damage(key, bytes(content))
    verdict = night.integrity()
    assert verdict.status == "failed", verdict
    assert "eu-west" in verdict.observed
    assert verdict.remedy


@pytest.mark.parametrize("part", ["/m/", "/p/", "/e/"])
def test_one_lost_object_in_one_region_is_found(night: Night, part: str) -> None:
    key = night.keys("ap-south", f"us-east/state{part}")[0]
    night.world.stores["ap-south"].delete(key)
    verdict = night.integrity()
    assert verdict.status == "failed", verdict
    assert "us-east/state in ap-south" in verdict.observed


def test_a_silent_region_could_not_be_looked_at(night: Night) -> None:
    night.world.stores["us-east"].faults.down = True
    verdict = night.integrity()
    assert verdict.status == "could not run"
    assert "in us-east" in verdict.observed
    assert "well" in verdict.observed  # the other regions were heard


def test_what_nobody_trusted_signed_is_no_backup(night: Night, make_world: Any) -> None:
    stranger = make_world()
    trusting = dataclasses.replace(night.repository, trusted=stranger.repository.trusted)
    night.world.repository = trusting
    assert night.integrity().status == "failed"


# --- age


def test_fresh_backups_pass_and_age_to_a_warning_and_a_failure(night: Night) -> None:
    statuses = []
    for _ in range(3):
        statuses.append(night.freshness().status)
        night.world.clock.advance(hours=12.5)
    assert statuses == ["passed", "warning", "failed"]


def test_one_region_without_a_fresh_snapshot_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    for region in REGIONS[:2]:
        night.take(Source(region, "state", f"full-{region}"))
    verdict = night.freshness()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("ap-south: 25.0 h old")
    assert "vedr run chain-snapshot --region ap-south" in verdict.remedy


def test_a_forged_fresh_manifest_does_not_make_a_backup_fresh(night: Night) -> None:
    night.world.clock.advance(hours=25)
    source = Source("us-east", "state", "full-us-east")
    now = f"{night.now:%Y%m%dT%H%M%SZ}"
    for store in night.world.stores.values():
        store.create(manifest_key(source, cast("Any", f"{now}-full-us-east-200")), b'{"signed":{},"signatures":[]}')
    assert night.freshness().status == "failed"


def test_a_backup_from_the_future_is_nobodys(night: Night) -> None:
    night.world.clock.advance(days=-2)
    verdict = night.freshness()
    assert verdict.status == "failed"
    assert "in the future" in verdict.observed


def test_a_provider_that_was_never_backed_up_fails(night: Night) -> None:
    assert night.providers().status == "passed"
    other = PROVIDER.model_copy(update={"name": "provider-1"})
    verdict = night.providers(PROVIDER, other)
    assert (verdict.status, verdict.observed.split(";")[0]) == ("failed", "provider-1: never backed up")


def test_an_old_provider_state_fails(night: Night) -> None:
    night.world.clock.advance(hours=25)
    assert night.providers().status == "failed"


def test_a_provider_state_that_a_majority_lost_fails(night: Night) -> None:
    for region in REGIONS[:2]:
        for key in night.keys(region, "us-east/provider/e/"):
            night.world.stores[region].delete(key)
    verdict = night.providers()
    assert verdict.status == "failed"
    assert "no snapshot of us-east/provider is whole" in verdict.observed


# --- anything at all


@given(seed=st.integers(0, 2**32), content=st.binary(max_size=400))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_check_passes_or_breaks_on_arbitrary_bytes_in_place_of_any_object(
    night: Night, seed: int, content: bytes
) -> None:
    chance = random.Random(seed)
    region = chance.choice(REGIONS)
    store = night.world.stores[region]
    key = chance.choice([key for key in night.keys(region, "") if "/state/" in key or "/config/" in key])
    before = store.get(key)
    changed = content if chance.random() < 0.3 else _mutated(before, chance)
    if changed == before:
        return
    store.damage(key, changed)
    try:
        verdict = night.integrity()
        assert verdict.status in ("failed", "could not run"), (key, verdict)
        assert verdict.remedy
        other = chance.choice([night.freshness, night.retention, night.boots, night.dry_run])()
        assert "This is a fault of vedr" not in other.remedy, (key, other)
    finally:
        store.damage(key, before)


def _mutated(content: bytes, chance: random.Random) -> bytes:
    """Cut, flipped, doubled, or with a slice of noise."""
    changed = bytearray(content)
    at = chance.randrange(len(changed)) if changed else 0
    match chance.randrange(4):
        case 0:
            return bytes(changed[:at])
        case 1 if changed:
            changed[at] ^= 1 << chance.randrange(8)
        case 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 50))
        case _:
            changed += changed[at:] or b"x"
    return bytes(changed)
