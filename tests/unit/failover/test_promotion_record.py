"""What a run's ledger says of keys that it moved: every stage of the key that is asked for, and nothing else."""

import datetime as dt
from typing import Any

import pytest

from vedr.errors import RefusedError
from vedr.failover.promotion_record import TEXT, ArmedAt, armed_in, facts_of, stages_in
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.ledger import Digest, Entry, Kind, RunId
from vedr.signature import Json


def entry(payload: dict[str, Json], *, kind: Kind = "note") -> Entry:
    at = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    return Entry("lab", RunId("inc-20270101-000000-aaaa"), 1, kind, at, 1, payload, Digest("0" * 64))


def note(validator: str, stage: StageName, evidence: Evidence) -> Entry:
    return entry({"text": TEXT, **facts_of(validator, stage, evidence)})


def armed(epoch: int, host: str) -> Evidence:
    return {"epoch": epoch, "host": host, "floor": "101/0/3"}


OTHERS = [
    entry({"text": "promotion of a colleague", "validator": "a", "stage": "armed", "evidence": {}}),
    entry({**facts_of("a", "armed", armed(9, "x")), "text": TEXT}, kind="step_completed"),
]
"""Entries that a run has besides, and that are no stage of this key."""


def test_a_key_s_stages_come_back_in_order_and_no_other_key_s() -> None:
    locked: Evidence = {"epoch": 1, "attempt": 1, "subject": "signer/a"}
    entries = [
        note("a", "locked", locked),
        note("b", "locked", {"epoch": 2}),
        *OTHERS,
        note("a", "armed", armed(1, "standby")),
    ]
    assert stages_in(entries, "a") == [("locked", locked), ("armed", armed(1, "standby"))]
    assert stages_in(entries, "b") == [("locked", {"epoch": 2})]
    assert stages_in(entries, "c") == []


UNREADABLE = [
    entry({"text": TEXT, "validator": "a", "stage": "armed", "evidence": "none"}),
    entry({"text": TEXT, "validator": "a", "stage": "danced", "evidence": {"epoch": 9, "host": "x"}}),
]
"""Records of this key by another version."""


@pytest.mark.parametrize("odd", UNREADABLE)
def test_a_record_that_cannot_be_read_stops_this_key_and_no_other(odd: Entry) -> None:
    """It may say that a host was let sign."""
    entries = [note("a", "armed", armed(1, "standby")), odd, note("b", "locked", {"epoch": 2})]
    with pytest.raises(RefusedError, match=r"entry 1 of run inc-20270101-000000-aaaa tells of a's key"):
        stages_in(entries, "a")
    assert stages_in(entries, "b") == [("locked", {"epoch": 2})]
    assert armed_in(entries) == {"a": ArmedAt(1, "standby")}


def test_a_host_that_was_only_about_to_be_let_sign_counts_as_one_that_may_have() -> None:
    """A process that was killed after it had written `arming` may have started the signer."""
    entries = [
        note("a", "armed", armed(1, "standby")),
        note("b", "armed", armed(2, "other")),
        *OTHERS,
        note("a", "arming", armed(3, "home")),
        note("a", "fenced", {"epoch": 4, "host": "nobody"}),
    ]
    assert armed_in(entries) == {"a": ArmedAt(3, "home"), "b": ArmedAt(2, "other")}
    assert armed_in(OTHERS) == {}


@pytest.mark.parametrize("evidence", [{"epoch": "1", "host": "x"}, {"epoch": 1}, {"epoch": 1, "host": None}])
def test_evidence_without_a_lease_or_a_host_names_no_host(evidence: Any) -> None:
    assert armed_in([note("a", "armed", evidence)]) == {}
