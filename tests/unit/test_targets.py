"""VirtEngine's numbers, as an auditor would compare them with the plan."""

import pytest
from pydantic import ValidationError

from vedr.targets import COMPONENT_RTO_S, RUNBOOK_RTO_S, Category, Component, Retention, Schedule, TargetOverrides


def test_the_runbooks_targets_are_the_plans() -> None:
    minutes = {runbook: seconds // 60 for runbook, seconds in RUNBOOK_RTO_S.items()}
    assert minutes == {
        "RB-DR-001": 5,
        "RB-DR-002": 15,
        "RB-DR-003": 30,
        "RB-DR-004": 60,
        "RB-DR-005": 15,
        "RB-DR-006": 120,
    }


def test_every_component_has_a_target_or_a_reasoned_none_in_every_category() -> None:
    missing = {(c, k) for c, row in COMPONENT_RTO_S.items() for k in Category if row[k] is None}
    assert missing == {
        (c, Category.KEY_COMPROMISE) for c in (Component.FULL_NODE, Component.GATEWAY, Component.MONITORING)
    }


def test_a_site_overrides_only_what_it_names() -> None:
    overrides = TargetOverrides(rto_s={"RB-DR-001": 60})
    assert (overrides.rto("RB-DR-001"), overrides.rto("RB-DR-006")) == (60, 7200)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError):
        TargetOverrides(rto_s={"RB-DR-001": 0})
    with pytest.raises(ValidationError):
        Schedule(chain_state="every four hours")
    with pytest.raises(ValidationError):
        Retention(chain_state_days=0)
