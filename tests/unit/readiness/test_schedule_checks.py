"""The check that every schedule ran, on a real ledger."""

import datetime as dt
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import VedrError
from vedr.inventory import Site
from vedr.ledger import RunId
from vedr.policies.checks import Checks
from vedr.readiness.drill_schedule import CADENCES, REHEARSAL_ID, TABLETOP_ID, Cadence, drill_crons
from vedr.readiness.finding import Verdict
from vedr.readiness.rounds import EVERY, ROUNDS, tell_round
from vedr.readiness.schedule import FAILOVER_WATCH, FINDINGS_STEP, VALIDATION, crons, looks, schedule_adherence
from vedr.runbook.journal import Journal
from vedr.signature import Signer
from vedr.targets import Schedule

ROOT = Path(__file__).parents[3]
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

    def night(self, *, without: str = "", broken: str = "", rounds: tuple[str, ...] = ROUNDS) -> None:
        """Every job when it was last due before six, but for one in eu-west."""
        for job in crons(SITE):
            for region in REGIONS:
                if not (job == without and region == "eu-west"):
                    ending = "failed" if job == broken and region == "eu-west" else "completed"
                    self.run(job, region, SIX - dt.timedelta(minutes=29), ending=ending)
        self.look_run(VALIDATION, SIX - dt.timedelta(days=1))
        self.look_run(FAILOVER_WATCH, SIX - dt.timedelta(minutes=15))
        for job in rounds:
            self.round(job, SIX - dt.timedelta(minutes=40))

    def look_run(
        self, job: str, at: dt.datetime, *, looked: bool = True, ending: str = "failed", checks: str = ""
    ) -> RunId:
        """A look at the whole site, that found something wrong."""
        self.now = at
        run_id = RunId(f"run-{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        writer = self.journal.open(run_id, job, {"order": {"checks": checks}, "detected_at": at.isoformat()})
        if looked:
            writer.append("step_completed", {"step": FINDINGS_STEP, "result": {"findings": []}})
        if ending:
            writer.append("paused" if ending == "failed" else "closed", {"outcome": ending, "steps": {}})
        return run_id

    def round(self, job: str, at: dt.datetime) -> None:
        self.now = at
        tell_round(self.journal, job)

    def drill(self, job: str, at: dt.datetime, ending: str = "completed", *, why: str = "", **order: str) -> RunId:
        """A drill's run, ended in some way; `ending` empty: it is at work."""
        self.now = at
        run_id = RunId(f"run-{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        writer = self.journal.open(run_id, job, {"order": {**order}, "detected_at": at.isoformat()})
        if ending:
            kind = "paused" if ending == "failed" else "closed"
            writer.append(kind, {"outcome": ending, "steps": {}, "error": {"message": why}})
        return run_id

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
    assert f"{FAILOVER_WATCH}: missed" in verdict.observed


@pytest.mark.parametrize(
    "instead",
    [
        {"looked": False, "ending": "refused"},
        {"looked": False, "ending": ""},  # it died
        {"looked": True, "ending": "completed", "checks": "dns-health"},
    ],
)
def test_a_validation_that_came_to_no_look_at_the_whole_site_was_missed(ledger: Ledger, instead: Any) -> None:
    ledger.night()
    due = SIX - dt.timedelta(days=1)
    for store in ledger.stores.values():
        for found in list(store.list(f"ledger-index/{VALIDATION}/")):
            store.delete(found.key)
    run_id = ledger.look_run(VALIDATION, due, **instead)
    verdict = ledger.look()
    assert verdict.status == "failed"
    assert f"{VALIDATION}: missed {due:%Y-%m-%d %H:%M} UTC: {run_id} came to no look" in verdict.observed
    ledger.look_run(VALIDATION, due + dt.timedelta(hours=1))
    assert ledger.look().status == "passed"


def test_what_a_clock_far_ahead_dated_keeps_no_schedule(old_ledger: Ledger) -> None:
    """One run of a host whose clock was a year ahead kept its schedule for a year."""
    ahead = SIX + dt.timedelta(days=300)
    for job in crons(SITE):
        for region in REGIONS:
            old_ledger.run(job, region, ahead)
    for look in looks(SITE):
        old_ledger.look_run(look, ahead)
    for job in ROUNDS:
        old_ledger.round(job, ahead)
    for cadence in CADENCES:
        old_ledger.drill(f"drill-{cadence}", ahead)
        old_ledger.drill(REHEARSAL_ID, ahead, cadence=cadence)
    old_ledger.now = SIX
    verdict = old_ledger.look()
    scheduled = len(REGIONS) * len(crons(SITE)) + len(looks(SITE)) + len(ROUNDS) + len(CADENCES)
    assert verdict.status == "failed"
    assert verdict.observed.endswith(f"; 1 of {scheduled + 1} well"), verdict  # the tabletop
    assert tell_round(old_ledger.journal, ROUNDS[0]) is not None  # and a round is told of again


@pytest.mark.parametrize("silent", ROUNDS)
def test_rounds_that_nobody_makes_any_more_are_found(ledger: Ledger, silent: str) -> None:
    """They leave nothing in the ledger while all is well, but for this."""
    ledger.night()
    (talking,) = set(ROUNDS) - {silent}
    later = ledger.now + dt.timedelta(hours=3)
    ledger.round(talking, later)
    ledger.now = later
    verdict = schedule_adherence(SITE, ledger.journal, POLICY, later)
    assert f"{silent}: made no round for 3.0 h" in verdict.observed, verdict
    assert f"{talking}:" not in verdict.observed


def test_rounds_that_were_never_made_are_found(ledger: Ledger) -> None:
    ledger.night(rounds=())
    assert "watchdog: made no round ever" in ledger.look().observed


def test_a_round_is_told_of_once_an_hour(ledger: Ledger) -> None:
    told = []
    for _ in range(25):
        told.append(tell_round(ledger.journal, "watchdog"))
        ledger.now += EVERY / 12
    assert [at for at, run_id in enumerate(told) if run_id] == [0, 12, 24]


# --- drills

DUE = {
    "weekly": dt.datetime(2026, 2, 8, 3, tzinfo=dt.UTC),
    "monthly": dt.datetime(2026, 2, 1, 4, tzinfo=dt.UTC),
    "quarterly": dt.datetime(2026, 1, 8, 4, tzinfo=dt.UTC),
    "annual": dt.datetime(2026, 1, 15, 4, tzinfo=dt.UTC),
}
SOON = dt.timedelta(minutes=1)


@pytest.fixture
def old_ledger() -> Iterator[Ledger]:
    """Of a site that is over a year old, where nothing was missed but what the test leaves out."""
    made = Ledger()
    made.run("chain-snapshot", "us-east", SIX - dt.timedelta(days=500))
    made.drill(TABLETOP_ID, SIX - dt.timedelta(days=60))
    yield made
    made.journal.close()


def test_a_site_whose_drills_were_all_passed_passes(old_ledger: Ledger) -> None:
    for cadence in CADENCES:
        old_ledger.drill(f"drill-{cadence}", DUE[cadence])
    old_ledger.night()
    verdict = old_ledger.look()
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize("missing", CADENCES)
def test_a_drill_that_did_not_happen_is_found(old_ledger: Ledger, missing: Cadence) -> None:
    """One from before it was due does not count."""
    for cadence in CADENCES:
        at = DUE[cadence] - SOON if cadence == missing else DUE[cadence] + SOON
        old_ledger.drill(f"drill-{cadence}", at)
    old_ledger.night()
    verdict = old_ledger.look()
    due = f"{DUE[missing]:%Y-%m-%d %H:%M} UTC"
    assert (verdict.status, verdict.observed.startswith(f"drill-{missing}: was not held: due {due}")) == (
        "failed",
        True,
    ), verdict
    assert f"vedr drill run {missing}" in verdict.remedy


@pytest.mark.parametrize("ending", ["refused", "failed", "abandoned"])
def test_a_drill_that_was_not_passed_is_found_with_its_reason(old_ledger: Ledger, ending: str) -> None:
    for cadence in CADENCES[1:]:
        old_ledger.drill(f"drill-{cadence}", DUE[cadence])
    run_id = old_ledger.drill("drill-weekly", DUE["weekly"], ending, why="not run: an incident is open")
    old_ledger.night()
    verdict = old_ledger.look()
    assert verdict.status == "failed"
    assert f"{run_id} {ending}: not run: an incident is open" in verdict.observed
    old_ledger.drill("drill-weekly", DUE["weekly"] + dt.timedelta(days=2))  # held afterwards by hand
    assert old_ledger.look().status == "passed"


def test_a_drill_at_work_is_not_missed_and_one_left_open_is(old_ledger: Ledger) -> None:
    for cadence in CADENCES[:3]:
        old_ledger.drill(f"drill-{cadence}", DUE[cadence])
    old_ledger.night()
    old_ledger.drill("drill-annual", DUE["annual"], "")
    old_ledger.now = DUE["annual"] + dt.timedelta(hours=1)
    assert "left open" in old_ledger.look().observed
    old_ledger.drill("drill-annual", SIX, "")
    assert old_ledger.look().status == "passed"


def test_a_rehearsal_counts_for_the_drill_that_it_stands_for_however_many_came_since(old_ledger: Ledger) -> None:
    for cadence in CADENCES:
        if cadence != "quarterly":
            old_ledger.drill(REHEARSAL_ID, DUE[cadence], cadence=cadence)
    for days in range(30):  # more than are looked back on elsewhere
        old_ledger.drill(REHEARSAL_ID, DUE["annual"] + dt.timedelta(days=days * 0.9), cadence="weekly")
    old_ledger.night()
    assert old_ledger.look().observed.startswith("drill-quarterly: was not held")
    old_ledger.drill(REHEARSAL_ID, DUE["quarterly"] + SOON, cadence="quarterly")
    assert old_ledger.look().status == "passed"


def test_a_drill_that_cannot_be_read_was_not_held(old_ledger: Ledger) -> None:
    for cadence in CADENCES:
        run_id = old_ledger.drill(f"drill-{cadence}", DUE[cadence])
    for store in old_ledger.stores.values():
        for found in list(store.list(f"ledger/{run_id}/")):
            store.damage(found.key, b"rot")
    old_ledger.night()
    assert "drill-annual: was not held" in old_ledger.look().observed


def test_a_quarter_without_a_tabletop_is_a_warning() -> None:
    site = Ledger()
    site.run("chain-snapshot", "us-east", SIX - dt.timedelta(days=500))
    site.drill(TABLETOP_ID, dt.datetime(2025, 9, 30, tzinfo=dt.UTC))
    site.drill(TABLETOP_ID, dt.datetime(2025, 12, 1, tzinfo=dt.UTC), "refused")
    for cadence in CADENCES:
        site.drill(f"drill-{cadence}", DUE[cadence])
    site.night()
    verdict = site.look()
    assert (verdict.status, "none held since 2025-10-01" in verdict.observed) == ("warning", True), verdict
    site.journal.close()


# --- all of it


def test_whatever_prefect_yaml_schedules_is_looked_at_under_the_sites_own_times() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    own = {**crons(SITE), **looks(SITE), **{f"drill-{name}": cron for name, cron in drill_crons(SITE).items()}}
    for one in (one for one in deployments if one["schedules"]):
        module, name = one["entrypoint"].split(".")[1:]
        job = f"drill-{name}" if module == "drills" else name.replace("_", "-")
        [schedule] = one["schedules"]
        assert job in ROUNDS or own[job] == schedule["cron"], job
        assert schedule["timezone"] == "UTC", job


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
