"""The check that every schedule ran, on a real ledger."""

import datetime as dt
import secrets
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import RunId
from vedr.policies.checks import Checks
from vedr.readiness.finding import Verdict
from vedr.readiness.schedule import VALIDATION, crons, schedule_adherence
from vedr.runbook.journal import Journal
from vedr.signature import Signer
from vedr.targets import Schedule

REGIONS = ("us-east", "eu-west", "ap-south")
POLICY = Checks(deadline_s=20, subject_deadline_s=5)
SIGNER = Signer(Ed25519PrivateKey.generate())
SITE = cast("Site", SimpleNamespace(regions=REGIONS, schedule=Schedule()))
SIX = dt.datetime(2026, 2, 14, 6, 0, tzinfo=dt.UTC)


class Ledger:
    """A site's ledger, and runs in it."""

    def __init__(self) -> None:
        self.now = SIX - dt.timedelta(days=2)
        self.stores = {region: MemoryStore(region) for region in REGIONS}
        self.journal = Journal(
            self.stores, site="s", signer=SIGNER, trusted=[SIGNER.public_hex], clock=lambda: self.now
        )

    def run(self, job: str, region: str | None, at: dt.datetime, *, ending: str = "completed") -> None:
        self.now = at
        order = {"region": region} if region else {}
        run_id = RunId(f"run-{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        writer = self.journal.open(run_id, job, {"order": order, "detected_at": at.isoformat()})
        closing = {"outcome": ending, "steps": {"work": 1}}
        writer.append("closed" if ending != "failed" else "paused", closing)

    def night(self, *, without: str = "", broken: str = "") -> None:
        """Every job when it was last due before six, but for one in eu-west."""
        for job in crons(SITE):
            for region in REGIONS:
                if not (job == without and region == "eu-west"):
                    ending = "failed" if job == broken and region == "eu-west" else "completed"
                    self.run(job, region, SIX - dt.timedelta(minutes=29), ending=ending)
        self.run(VALIDATION, None, SIX - dt.timedelta(days=1), ending="failed")

    def look(self) -> Verdict:
        self.now = SIX
        return schedule_adherence(SITE, self.journal, POLICY, SIX)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    made.run("chain-snapshot", "us-east", SIX - dt.timedelta(days=2))
    yield made
    made.journal.close()


def test_a_night_in_which_everything_ran_passes(ledger: Ledger) -> None:
    ledger.night()
    verdict = ledger.look()
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize("job", list(crons(SITE)))
def test_a_job_that_did_not_run_in_one_region_is_found(ledger: Ledger, job: str) -> None:
    ledger.night(without=job)
    verdict = ledger.look()
    assert (verdict.status, verdict.observed.startswith(f"{job} eu-west: missed")) == ("failed", True), verdict
    assert f"vedr run {job} --region eu-west" in verdict.remedy


def test_a_job_that_ran_and_failed_is_no_run(ledger: Ledger) -> None:
    ledger.night(broken="key-backup")
    assert ledger.look().status == "failed"


def test_yesterdays_validation_that_did_not_happen_is_found(ledger: Ledger) -> None:
    for job in crons(SITE):
        for region in REGIONS:
            ledger.run(job, region, SIX - dt.timedelta(minutes=29))
    verdict = ledger.look()
    assert (verdict.status, verdict.observed.startswith(f"{VALIDATION}: missed")) == ("failed", True)


def test_a_site_on_which_nothing_ever_ran_has_nothing_to_look_at() -> None:
    empty = Ledger()
    assert empty.look().observed == "nothing to look at"
    empty.journal.close()


def test_a_young_site_has_missed_nothing_that_was_not_due() -> None:
    young = Ledger()
    young.run("chain-snapshot", "us-east", SIX - dt.timedelta(minutes=5))
    assert young.look().status == "passed"
    young.journal.close()


def test_a_ledger_without_a_majority_tells_nothing(ledger: Ledger) -> None:
    ledger.night()
    for region in REGIONS[:2]:
        ledger.stores[region].faults.down = True
    with pytest.raises(VedrError):
        ledger.look()


def test_runs_that_cannot_be_read_do_not_count(ledger: Ledger) -> None:
    ledger.night()
    for store in ledger.stores.values():
        for found in list(store.list("ledger/run-20260214")):
            store.damage(found.key, b"rot")
    assert ledger.look().status == "failed"
