"""When a key is due: the policy's days, and what was replaced or revoked."""

import dataclasses
import datetime as dt

import pytest
from keysworld import NOW, KeysWorld

from vedr.custody.key_backup_catalogue import Replaced, Revocation
from vedr.custody.key_backup_store import revoke, store_bundle
from vedr.custody.rotation import Status, judge
from vedr.custody.rotation_status import judge_region


def aged(keys: KeysWorld, days: int) -> Status:
    bundle = keys.bundle("node")
    since = {bundle.fingerprints[0]: NOW - dt.timedelta(days=days)}
    entry = store_bundle(keys.repository, "us-east", bundle, previous=None, since=since).backup
    [one] = judge([entry], NOW)
    assert one.age_days == days
    return one.status


@pytest.mark.parametrize(
    ("days", "status"),
    [(0, "ok"), (334, "ok"), (335, "warn"), (364, "warn"), (365, "due"), (729, "due"), (730, "expired")],
)
def test_the_usual_policy(keys: KeysWorld, days: int, status: str) -> None:
    assert aged(keys, days) == status


@pytest.mark.parametrize(("days", "status"), [(75, "ok"), (76, "warn"), (90, "due"), (180, "expired")])
def test_the_stricter_policy(keys: KeysWorld, days: int, status: str) -> None:
    bundle = keys.bundle("node")
    since = {bundle.fingerprints[0]: NOW - dt.timedelta(days=days)}
    entry = store_bundle(keys.repository, "us-east", bundle, previous=None, since=since).backup
    assert [one.status for one in judge([entry], NOW, high_security=["node"])] == [status]


def test_a_replaced_key_has_its_grace_and_is_to_be_revoked(keys: KeysWorld) -> None:
    old, new = keys.bundle("node"), keys.bundle("node")
    first = store_bundle(keys.repository, "us-east", old, previous=None, since={}).backup
    keys.clock.advance(days=1)
    store_bundle(keys.repository, "us-east", new, previous=first, since={})
    keys.clock.advance(days=89)
    assert [one.status for one in judge_region(keys.repository, "us-east")] == ["ok", "ok"]
    keys.clock.advance(days=1)
    judged = judge_region(keys.repository, "us-east")
    assert judged[0].status is Status.EXPIRED
    assert judged[0].key.fingerprint == old.fingerprints[0]
    assert "revoke it" in judged[0].reason
    gone = Revocation(old.fingerprints[0], "node", "node-0", NOW, "inc", "replaced")
    revoke(keys.repository, "us-east", gone)
    assert [one.key.fingerprint for one in judge_region(keys.repository, "us-east")] == list(new.fingerprints)


@pytest.mark.parametrize(("minutes", "status"), [(4, "ok"), (6, "expired"), (60 * 24 * 400, "expired")])
def test_a_key_dated_in_the_future_is_an_error_and_never_young_for_years(
    keys: KeysWorld, minutes: int, status: str
) -> None:
    entry = store_bundle(keys.repository, "us-east", keys.bundle("node"), previous=None, since={}).backup
    [judged] = judge([entry], NOW - dt.timedelta(minutes=minutes))
    assert (judged.status, "in the future" in judged.reason) == (status, status == "expired")
    gone = dataclasses.replace(entry, keys=(), replaced=(Replaced(entry.keys[0], NOW),))
    assert [one.status for one in judge([gone], NOW - dt.timedelta(minutes=minutes))] == [status]


def test_a_file_dated_in_the_future_is_known_since_its_backup(keys: KeysWorld) -> None:
    bundle = keys.bundle("node")
    since = {bundle.fingerprints[0]: NOW + dt.timedelta(days=4000)}
    store_bundle(keys.repository, "us-east", bundle, previous=None, since=since)
    keys.clock.advance(days=365)
    [judged] = judge_region(keys.repository, "us-east")
    assert (judged.age_days, judged.status) == (365, Status.DUE)


def test_the_next_backup_mends_what_a_clock_that_was_ahead_had_dated(keys: KeysWorld) -> None:
    old, bundle = keys.bundle("node"), keys.bundle("node")
    keys.clock.advance(days=400)
    first = store_bundle(keys.repository, "us-east", old, previous=None, since={}).backup
    wrong = store_bundle(keys.repository, "us-east", bundle, previous=first, since={}).backup
    keys.clock.advance(days=-399)
    assert [one.status for one in judge([wrong], keys.clock())] == ["expired", "expired"]
    mended = store_bundle(keys.repository, "us-east", bundle, previous=wrong, since={}).backup
    assert [one.status for one in judge([mended], keys.clock())] == ["ok", "ok"]


def test_a_revoked_key_in_use_is_expired_whatever_its_age(keys: KeysWorld) -> None:
    bundle = keys.bundle("node")
    store_bundle(keys.repository, "us-east", bundle, previous=None, since={})
    revoke(keys.repository, "us-east", Revocation(bundle.fingerprints[0], "node", "node-0", NOW, "inc", "leaked"))
    [judged] = judge_region(keys.repository, "us-east")
    assert (judged.status, judged.reason) == (Status.EXPIRED, "revoked, and still in use")
