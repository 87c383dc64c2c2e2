"""A drill's answer is in a majority of the regions, or the drill is told to have none."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import drills_evidence
from tasks.drills_evidence import _keep, with_evidence
from vedr.adapters.memory_store import MemoryStore
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.ledger import RunId
from vedr.ports import ObjectKey, StoredObject
from vedr.reports.drill_bundle import Bundle
from vedr.runbook.order import Order

RUN = RunId("run-20260214-031500-k3x9")
BUNDLE = Bundle(RUN, "drill-weekly", "passed", "", "", 7, b"{}")
KEY = ObjectKey(f"drills/{RUN}/00000007.json")


class Silent(MemoryStore):
    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        raise UnavailableError(f"{self.region} does not answer to {len(data)} bytes of {key}", remedy="Wait.")


def site(*silent: str) -> Any:
    names = ("us-east", "eu-west", "ap-south")
    return SimpleNamespace(stores={name: (Silent if name in silent else MemoryStore)(name) for name in names})


def test_the_answer_is_kept_in_every_region_once() -> None:
    opened = site()
    _keep(opened, BUNDLE)
    _keep(opened, BUNDLE)
    assert [store.get(KEY) for store in opened.stores.values()] == [b"{}"] * 3


def test_one_silent_region_does_not_keep_the_answer_from_the_others() -> None:
    _keep(site("eu-west"), BUNDLE)


def test_an_answer_that_no_majority_took_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="no majority"):
        _keep(site("eu-west", "ap-south"), BUNDLE)


def test_a_failed_drill_s_own_error_comes_before_that_of_its_evidence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def publish(_: str, run_id: RunId) -> Bundle:
        raise UnavailableError(f"no region took {run_id}", remedy="Wait.")

    monkeypatch.setattr(drills_evidence, "publish", publish)
    with caplog.at_level(logging.WARNING), pytest.raises(VerificationFailedError, match="the drill failed"):
        ending(VerificationFailedError("the drill failed", remedy="Repair it."))
    assert "could not be kept" in caplog.text
    with pytest.raises(UnavailableError, match="no region took"):
        ending(None)


def ending(error: VerificationFailedError | None) -> None:
    """A drill that ends so."""
    with with_evidence(Order()) as told:
        told.run_id = RUN
        if error:
            raise error


def test_a_drill_that_never_opened_a_run_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[RunId] = []
    monkeypatch.setattr(drills_evidence, "publish", lambda _, run_id: published.append(run_id))
    with with_evidence(Order()):
        pass
    assert not published
