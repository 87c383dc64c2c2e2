"""prefect.yaml: every deployment starts a flow that is there, and no late runs pile up."""

import datetime as dt
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim
from prefect import Flow

from vedr.continuity.activation import MAX_GAP_S

DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[3] / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
NOW = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize("entrypoint", sorted({one["entrypoint"] for one in DEPLOYMENTS}))
def test_an_entrypoint_is_a_flow(entrypoint: str) -> None:
    module, _, name = entrypoint.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), Flow)


def test_a_scheduled_deployment_runs_once_at_a_time_and_drops_what_is_late() -> None:
    for one in DEPLOYMENTS:
        if one.get("schedules"):
            assert one["concurrency_limit"]["limit"] == 1, one
            assert one["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW", one


def test_the_plan_is_looked_at_often_enough_to_prove_an_hour_without_trouble() -> None:
    [looking] = [one for one in DEPLOYMENTS if one["entrypoint"].startswith("flows.bcp_status")]
    assert longest_gap_s(looking) * 2 <= MAX_GAP_S  # one look may fail


def longest_gap_s(deployment: dict[str, Any]) -> float:
    [schedule] = deployment["schedules"]
    times = CronSim(schedule["cron"], NOW)
    due = [next(times) for _ in range(30)]
    return max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(due))
