"""The check of buckets: versions, locks, lifecycle rules, and what outlived its retention."""

import dataclasses

import pytest
from backup_world import REGIONS, Night

from vedr.backup.layout import Source
from vedr.errors import RefusedError, VedrError, VerificationFailedError
from vedr.readiness.expirations import Expiration
from vedr.readiness.ports import BucketState


def test_buckets_as_the_site_asks_pass(night: Night) -> None:
    assert night.retention().status == "passed"


@pytest.mark.parametrize(
    ("state", "lock_days"),
    [
        (BucketState(versioned=False, lock_mode="", lock_days=0, expirations=()), 0),
        (BucketState(versioned=True, lock_mode="", lock_days=0, expirations=()), 102),
        (BucketState(versioned=True, lock_mode="COMPLIANCE", lock_days=30, expirations=()), 102),
        (BucketState(versioned=True, lock_mode="GOVERNANCE", lock_days=102, expirations=()), 102),
    ],
)
def test_a_bucket_less_safe_than_the_site_asks_fails(night: Night, state: BucketState, lock_days: int) -> None:
    night.probes.state, night.lock_days = state, lock_days
    verdict = night.retention()
    assert verdict.status == "failed"
    assert "bucket of" in verdict.observed


@pytest.mark.parametrize(
    ("prefix", "current", "days", "status"),
    [
        ("", True, 36500, "failed"),  # the ledger is kept for ever
        ("us-east/", True, 400, "failed"),  # so are revocations of keys
        ("us-east/state/", True, 101, "failed"),
        ("us-east/state/", True, 102, "passed"),
        ("us-east/config/", True, 41, "failed"),
        ("us-east/config/", True, 42, "passed"),
        ("ledger/", True, 3650, "failed"),
        ("", False, 101, "failed"),  # snapshots are read by version
        ("", False, 102, "passed"),
        ("sign-state/", False, 1, "passed"),
        ("sign-state/", True, 400, "failed"),
        ("checks/", True, 1, "passed"),
    ],
)
def test_a_lifecycle_rule_that_takes_what_is_still_needed_fails(
    night: Night, prefix: str, current: bool, days: int, status: str
) -> None:
    rule = Expiration("cheaper", prefix, "removes", current=current, days=days)
    night.probes.state = dataclasses.replace(night.probes.state, expirations=(rule,))
    verdict = night.retention()
    assert verdict.status == status, verdict
    assert (status == "failed") == ("rule 'cheaper' removes" in verdict.observed)
    assert (status == "failed") == ("Remove the rule at once" in verdict.remedy)


@pytest.mark.parametrize(
    ("prefix", "current", "status"), [("", True, "failed"), ("sign-state/", True, "failed"), ("", False, "passed")]
)
def test_a_lifecycle_rule_that_takes_registers_from_their_own_bucket_fails(
    night: Night, prefix: str, current: bool, status: str
) -> None:
    night.probes.of_registers["eu-west"] = (Expiration("tidy", prefix, "removes", current=current, days=30),)
    verdict = night.retention()
    assert (verdict.status, "registers of eu-west: rule 'tidy'" in verdict.observed) == (status, status == "failed")


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("s3://b/ in eu-west: the server refuses our credentials (403)", remedy="Check the policy."),
        VerificationFailedError("s3://b/ in eu-west is not account 123's", remedy="Find out whose it is."),
    ],
)
def test_a_bucket_that_refuses_or_is_another_accounts_fails_with_what_to_do(night: Night, error: VedrError) -> None:
    night.probes.refusal = error
    verdict = night.retention()
    assert (verdict.status, error.message in verdict.observed) == ("failed", True)
    assert error.remedy in verdict.remedy


def test_a_server_without_lifecycle_rules_is_told_as_such(night: Night) -> None:
    assert night.retention().observed.count("knows no lifecycle rules") == len(REGIONS)


def test_snapshots_long_past_their_retention_fail(night: Night) -> None:
    night.world.clock.advance(days=93)
    assert night.retention().status == "passed"  # the newest of each source is always kept
    for region in REGIONS:
        night.take(Source(region, "state", f"full-{region}"))
    verdict = night.retention()
    assert verdict.status == "failed"
    assert "1 past their retention" in verdict.observed
