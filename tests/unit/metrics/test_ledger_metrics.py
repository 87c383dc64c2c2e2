"""Metrics from ledgers that the real engine wrote."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import ledger_world
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from report_world import BACKUP, DRILL, STAGE, STEPS, Failover, go_on, make_run

from tasks.checks import Validated, look_at_everything
from vedr.adapters.memory_store import MemoryStore
from vedr.continuity.deadlines import mark_done
from vedr.errors import UnavailableError
from vedr.readiness.finding import Finding
from vedr.readiness.schedule import FINDINGS_STEP, LOOKING
from vedr.reports.metrics_ledger import LedgerMetrics
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Signer

HOUR_S = 3600
RESTORE = Runbook("RB-DR-006", "Backup restore", Failover, STEPS, target_s=7200)
PROOF = Runbook("snapshot-verify", "Snapshot verify", Failover, STEPS, target_s=7200)


@pytest.fixture
def ledger(fleet: Any) -> Iterator[Any]:
    """The site's ledger, over regions of its own."""
    STAGE.__init__()  # type: ignore[misc]
    stores = {region: MemoryStore(region) for region in ledger_world.REGIONS}
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    made = ledger_world.World(stores, ledger_world.Clock(), signer)
    fleet.journals.append(made.journal())
    yield made
    for journal in made.journals[1:]:
        journal.close()


def test_the_newest_completed_run_is_told_with_its_target_incidents_and_exercises_apart(
    fleet: Any, ledger: Any, values: Any
) -> None:
    make_run(ledger)
    ledger.clock.move(HOUR_S)
    STAGE.promote_s = 100
    make_run(ledger)
    make_run(ledger, runbook=DRILL)
    seen = values(LedgerMetrics()(fleet.ports))
    took_s = 25 + 8 + 12 + 100 + 9 + 14
    assert seen["vedr_rto_achieved_seconds"] == {
        ("RB-DR-003", "incident"): took_s,
        ("drill-region", "exercise"): took_s,
    }
    assert seen["vedr_rto_target_seconds"]["RB-DR-003",] == 1800
    assert seen["vedr_rto_target_seconds"]["drill-region",] == 1800
    assert set(seen["vedr_incidents_open"].values()) == {0}
    assert "dr_restore_duration_seconds" not in seen


def test_the_newest_restore_has_virtengines_name(fleet: Any, ledger: Any, values: Any) -> None:
    make_run(ledger, runbook=RESTORE)
    seen = values(LedgerMetrics()(fleet.ports))
    assert seen["dr_restore_duration_seconds"][()] == 25 + 8 + 12 + 41 + 9 + 14


def test_an_incident_is_open_until_its_run_is_closed(fleet: Any, ledger: Any, values: Any) -> None:
    STAGE.failures = 1
    collect, run_id = LedgerMetrics(), make_run(ledger)
    seen = values(collect(fleet.ports))
    assert seen["vedr_incidents_open"]["RB-DR-003",] == 1
    assert list(seen["vedr_incident_detected_timestamp_seconds"]) == [(run_id, "RB-DR-003")]
    go_on(ledger, run_id)
    seen = values(collect(fleet.ports))
    assert seen["vedr_incidents_open"]["RB-DR-003",] == 0
    assert "vedr_incident_detected_timestamp_seconds" not in seen


def test_a_test_that_failed_counts_until_it_is_done_again(fleet: Any, ledger: Any, values: Any) -> None:
    collect = LedgerMetrics()
    STAGE.failures = 1
    make_run(ledger, runbook=DRILL)
    make_run(ledger, runbook=PROOF, order=Failover(region="eu-west"))
    ledger.clock.move(HOUR_S)
    assert values(collect(fleet.ports))["dr_test_failures"] == {(): 1}
    make_run(ledger, runbook=DRILL)
    assert values(collect(fleet.ports))["dr_test_failures"] == {(): 0}


def test_a_job_that_never_completed_is_as_old_as_can_be(fleet: Any, ledger: Any, values: Any) -> None:
    make_run(ledger, runbook=BACKUP, order=Failover(region="eu-west"))
    ended_s = ledger.clock().timestamp()
    STAGE.failures = 1
    ledger.clock.move(HOUR_S)
    make_run(ledger, runbook=BACKUP, order=Failover(region="eu-west"))
    seen = values(LedgerMetrics()(fleet.ports))["vedr_job_last_success_timestamp_seconds"]
    assert seen["chain-snapshot", "eu-west"] == ended_s
    assert seen["chain-snapshot", "us-east"] == 0
    assert seen["daily-validation", ""] == 0


def found(check: str, status: Any) -> Finding:
    return Finding(check, status, "seen", "wanted", "do", 0.5)


FOUND: list[Finding] = []


@step(title="Look", budget_s=60, acts=False)
def look(_ctx: Context[Failover]) -> Validated:
    """As the daily validation's."""
    return Validated(tuple(FOUND))


def test_every_checks_newest_finding_is_told_also_after_a_validation_of_some(
    fleet: Any, ledger: Any, values: Any
) -> None:
    assert look_at_everything.key == FINDINGS_STEP
    seeing = dataclasses.replace(look, key=FINDINGS_STEP)
    validation = Runbook("daily-validation", "Validation", Failover, [seeing], target_s=60)
    for findings in ([found("rpo", "failed"), found("dns-health", "passed")], [found("rpo", "warning")]):
        FOUND[:] = findings
        ledger.clock.move(HOUR_S)
        make_run(ledger, runbook=validation, body=lambda run: run.step(seeing) and None)
    seen = values(LedgerMetrics()(fleet.ports))
    assert {key for key, value in seen["vedr_check_status"].items() if value} == {
        ("rpo", "warning"),
        ("dns-health", "passed"),
    }
    assert seen["vedr_check_timestamp_seconds"]["rpo",] - seen["vedr_check_timestamp_seconds"]["dns-health",] >= HOUR_S


class Looked(Failover):
    """As the daily validation's order."""

    checks: str = ""


@step(title="See whether the last one is fresh", budget_s=20, acts=False)
def is_fresh(_ctx: Context[Failover]) -> bool:
    """Always."""
    return True


def test_a_validation_of_some_checks_stands_for_none_of_the_whole_site(fleet: Any, ledger: Any, values: Any) -> None:
    seeing = dataclasses.replace(look, key=FINDINGS_STEP)
    validation = Runbook("daily-validation", "Validation", Looked, [seeing], target_s=60)
    FOUND[:] = [found("rpo", "passed")]
    make_run(ledger, runbook=validation, order=Looked(checks="rpo"), body=lambda run: run.step(seeing) and None)
    never = values(LedgerMetrics()(fleet.ports))["vedr_job_last_success_timestamp_seconds"]
    assert never["daily-validation", ""] == 0
    ledger.clock.move(HOUR_S)
    make_run(ledger, runbook=validation, order=Looked(), body=lambda run: run.step(seeing) and None)
    whole = values(LedgerMetrics()(fleet.ports))["vedr_job_last_success_timestamp_seconds"]
    assert whole["daily-validation", ""] == ledger.clock().timestamp()


def test_finding_another_proof_fresh_takes_back_no_failure(fleet: Any, ledger: Any, values: Any) -> None:
    fresh = dataclasses.replace(is_fresh, key=LOOKING)
    skipping = Runbook("snapshot-verify", "Snapshot verify", Failover, [fresh], target_s=60)
    STAGE.failures = 1
    make_run(ledger, runbook=PROOF, order=Failover(region="eu-west"))
    ledger.clock.move(HOUR_S)
    make_run(ledger, runbook=skipping, order=Failover(region="eu-west"), body=lambda run: run.step(fresh) and None)
    assert values(LedgerMetrics()(fleet.ports))["dr_test_failures"] == {(): 1}


def test_what_is_overdue_after_an_incident_is_counted_until_somebody_signs_for_it(
    fleet: Any, ledger: Any, values: Any
) -> None:
    collect, run_id = LedgerMetrics(), make_run(ledger)
    assert values(collect(fleet.ports))["vedr_deadlines"] == {("due",): 3, ("overdue",): 0}
    ledger.clock.move(49 * HOUR_S)
    assert values(collect(fleet.ports))["vedr_deadlines"] == {("due",): 2, ("overdue",): 1}
    mark_done(ledger.journals[0], run_id, "review", by="zoe", reference="https://wiki/1")
    assert values(collect(fleet.ports))["vedr_deadlines"] == {("due",): 2, ("overdue",): 0}


def test_a_closed_run_is_read_once(fleet: Any, ledger: Any) -> None:
    make_run(ledger)
    ledger.settle()
    collect = LedgerMetrics()
    list(collect(fleet.ports))
    before = sum(store.faults.seen["get"] for store in ledger.stores.values())
    list(collect(fleet.ports))
    assert sum(store.faults.seen["get"] for store in ledger.stores.values()) == before


def test_a_run_whose_chain_does_not_hold_is_counted_and_believed_in_nothing(
    fleet: Any, ledger: Any, values: Any
) -> None:
    run_id = make_run(ledger)
    ledger.settle()
    for region in ledger_world.REGIONS:
        ledger.put(region, f"ledger/{run_id}/00000003.json", b"{}")
    seen = values(LedgerMetrics()(fleet.ports))
    assert seen["vedr_ledger_unverifiable_runs"] == {(): 1}
    assert "vedr_rto_achieved_seconds" not in seen


def test_without_a_majority_of_the_regions_nothing_is_told(fleet: Any, ledger: Any) -> None:
    make_run(ledger)
    ledger.settle()
    ledger.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        list(LedgerMetrics()(fleet.ports))
