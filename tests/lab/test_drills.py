"""Drills on the real lab: a node and a zone are broken, recovered, brought home, and everything is as it was.

The tests share one lab and run in this order, with everything at home before and after.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from flows import provider_state_backup
from flows.drills import MONTHLY, WEEKLY
from tasks.drills_evidence import publish
from tasks.drills_looking import look
from tasks.drills_orders import NodeDrill, ZoneDrill
from tasks.orders import RegionJob
from vedr.adapters.site import OpenSite
from vedr.continuity.incident import is_exercise
from vedr.drills import steady
from vedr.errors import RefusedError
from vedr.inventory import Site
from vedr.lab import faults
from vedr.lab.plan import Plan
from vedr.ledger import RunId
from vedr.reports.sealing import check_page
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

pytestmark = pytest.mark.lab

WAIT_S = 120.0


@pytest.fixture(scope="module")
def opened(lab: Site, lab_plan: Plan) -> Iterator[OpenSite]:
    """The lab with every part running and the providers' state in the stores."""
    for region in lab_plan.regions:
        faults.start(lab_plan, faults.find(lab_plan, region))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        provider_state_backup.RUNBOOK.perform(RegionJob(region="us-east"))
        with OpenSite(lab) as site:
            await_steady(site)
            yield site


def await_steady(opened: OpenSite) -> None:
    deadline = time.monotonic() + WAIT_S
    while problems := steady.problems(look(opened, runs=False)):
        assert time.monotonic() < deadline, problems
        time.sleep(0.5)


def drilled(opened: OpenSite, runbook: Runbook[Any], order: Any) -> dict[str, Any]:
    """Run it plainly; it has to pass, and its signed answer to hold.  Its steps' results."""
    outcome = runbook.perform(order)
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    bundle = publish("", outcome.run_id)
    assert bundle.verdict == "passed"
    checked = check_page(bundle.document.decode(), opened.journal, what="the answer")
    parts = [head.run_id for head in checked.runs[1:]]
    assert parts
    assert all(is_exercise(opened.journal.read(run_id).entries) for run_id in parts)
    entries = opened.journal.read(outcome.run_id).entries
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}


def test_a_drill_is_not_run_while_a_node_is_down(opened: OpenSite, lab_plan: Plan) -> None:
    node = faults.find(lab_plan, "fullnode-ap-south-0")
    faults.kill(lab_plan, node)
    try:
        with pytest.raises(RefusedError, match=r"not run: .*fullnode-ap-south-0"):
            WEEKLY.perform(NodeDrill())
        refused = opened.journal.runs_of(WEEKLY.id)[-1]
        assert publish("", RunId(refused)).verdict == "not run"
    finally:
        faults.start(lab_plan, node)
        await_steady(opened)


def test_the_weekly_drill_recovers_a_killed_node_and_leaves_everything_as_it_was(opened: OpenSite) -> None:
    done = drilled(opened, WEEKLY, NodeDrill(target="fullnode-ap-south-0"))
    assert done["inject:RB-DR-001"]["done"]
    assert done["respond:RB-DR-001"]["met"]
    assert done["compare_census"]["differences"] == []


def test_the_monthly_drill_fails_a_killed_zone_over_and_takes_it_home(opened: OpenSite) -> None:
    done = drilled(opened, MONTHLY, ZoneDrill(target="us-east-1b"))
    assert done["respond:RB-DR-002"]["met"]
    assert done["bring_home:RB-DR-002"]["failback"]["outcome"] == "completed"
    assert done["compare_census"]["counted"] > len(opened.site.nodes)
    assert done["compare_census"]["differences"] == []
