"""prefect.yaml: every deployment starts a flow that is there, and no late runs pile up."""

import datetime as dt
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from vedr.continuity.activation import MAX_GAP_S

ROOT = Path(__file__).parents[3]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
NOW = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)


IS_FLOW = """
import importlib, json, sys
from prefect import Flow
found = {}
for entrypoint in sys.argv[1:]:
    module, _, name = entrypoint.rpartition(".")
    found[entrypoint] = isinstance(getattr(importlib.import_module(module), name), Flow)
print(json.dumps(found))
"""


def test_every_entrypoint_is_a_flow() -> None:
    """In a process of its own, as a worker's: here, a test before may have imported a flow as a plain function."""
    entrypoints = sorted({one["entrypoint"] for one in DEPLOYMENTS})
    environment = {name: value for name, value in os.environ.items() if name != "VEDR_PLAIN"}
    said = subprocess.run(
        [sys.executable, "-c", IS_FLOW, *entrypoints], cwd=ROOT, env=environment, capture_output=True, check=True
    ).stdout
    assert json.loads(said) == dict.fromkeys(entrypoints, True)


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
