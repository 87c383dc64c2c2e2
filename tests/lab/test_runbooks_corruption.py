"""RB-DR-004 on the real lab: a validator's and full nodes' data damaged for real, and nothing signed twice.

Each test leaves its node in sync; the kinds of damage one by one are in tests/chain/test_corruption.py.
"""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import chain_snapshot, config_backup
from flows.data_corruption import RUNBOOK
from tasks.corruption_orders import DataCorruption
from tasks.orders import RegionJob
from vedr.adapters.site import OpenSite
from vedr.continuity.deadlines import all_deadlines
from vedr.errors import RefusedError
from vedr.inventory import Height, Site
from vedr.lab import corruption, faults
from vedr.lab.plan import Plan
from vedr.runbook.run import Outcome

pytestmark = pytest.mark.lab

FULL, VALIDATOR = "fullnode-eu-west-0", "validator-eu-west-0"


@pytest.fixture(scope="module")
def opened(lab: Site) -> Iterator[OpenSite]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        with OpenSite(lab) as site:
            yield site


@pytest.fixture(scope="module")
def backed_up(opened: OpenSite) -> str:
    """A snapshot and a configuration backup of eu-west; the region."""
    for runbook in (chain_snapshot.RUNBOOK, config_backup.RUNBOOK):
        outcome = runbook.perform(RegionJob(region="eu-west", even_if_fresh=True))
        assert isinstance(outcome, Outcome)
        assert outcome.outcome == "completed"
    assert opened.site.regions
    return "eu-west"


def damage(opened: OpenSite, plan: Plan, node: str, *kinds: str) -> None:
    faults.kill(plan, faults.find(plan, node))
    for kind in kinds:
        corruption.corrupt(opened.site.node(node).home, kind, record=plan.folder / "damage.log")


def recover(opened: OpenSite, node: str) -> dict[str, Any]:
    """Run RB-DR-004 plainly; the results of its steps."""
    outcome = RUNBOOK.perform(DataCorruption(node=node, reason="a test"))
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    assert outcome.met
    due = [one for one in all_deadlines(opened.journal) if one.run_id == outcome.run_id]
    assert "root-cause" in [one.name for one in due]
    entries = opened.journal.read(outcome.run_id).entries
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}


def test_a_healthy_node_is_refused_and_goes_on_running(opened: OpenSite) -> None:
    with pytest.raises(RefusedError, match="is healthy"):
        RUNBOOK.perform(DataCorruption(node=FULL))
    node = opened.site.node(FULL)
    assert opened.fleet.status(node.unit, node.zone).state == "running"


def test_a_validator_with_a_damaged_application_signs_again_and_nothing_twice(
    opened: OpenSite, lab_plan: Plan, backed_up: str
) -> None:
    assert backed_up
    witness = opened.rpc(opened.site.node("fullnode-us-east-0"), deadline_s=5)
    began = witness.status().latest_height
    damage(opened, lab_plan, VALIDATOR, "app-db")
    found = recover(opened, VALIDATOR)
    assert found["examine_at_rest"]["kind"] in ("database", "state")  # a journal's damage shows as an older state
    assert "signature" in found["verify_across_nodes"]["detail"]
    assert len(found["verify_across_nodes"]["others"]) >= 2
    kept = Path(found["preserve_damage"]["folder"])
    assert (kept / "data" / "application.db").is_dir()
    assert not list(kept.rglob("*key.json"))
    tip = witness.status().latest_height
    assert not [height for height in range(began, tip + 1) if witness.block(Height(height)).evidence]


def test_a_full_node_with_broken_configuration_and_genesis_starts_again_with_its_own_data(
    opened: OpenSite, lab_plan: Plan, backed_up: str
) -> None:
    assert backed_up
    damage(opened, lab_plan, FULL, "config", "genesis")
    found = recover(opened, FULL)
    assert {one["name"] for one in found["restore_configuration"]} == {"config/config.toml", "config/genesis.json"}
    assert found["bring_and_prove"]["way"] == "keep"


def test_a_full_node_whose_state_diverged_is_contradicted_by_verified_headers(
    opened: OpenSite, lab_plan: Plan, backed_up: str
) -> None:
    assert backed_up
    url = f'{opened.site.node(FULL).rpc}/broadcast_tx_commit?tx="a-leaf=of-the-newest-journal"'
    urllib.request.urlopen(url, timeout=30).close()  # noqa: S310 - our own node
    damage(opened, lab_plan, FULL, "app-state")
    found = recover(opened, FULL)
    assert found["examine_at_rest"]["kind"] == "state"
    assert "verified header" in found["examine_at_rest"]["findings"][0]["detail"]
