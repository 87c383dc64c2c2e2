"""What a caller of Prefect's API gets: a drill's signed answer, and the plan's standing, by the pages' requests."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect_server import ROOT, Server, asked

pytestmark = pytest.mark.server

FLOWS = Path("tests") / "flows" / "answers_flow.py"
HELD = {"quarter": "Q1", "moderator": "ana", "participants": "ben, cho, dan", "findings": "who calls whom is not known"}


class Caller:
    """Somebody with the API's address and nothing else, and the process that does what is ordered."""

    def __init__(self, server: Server, state: Path) -> None:
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "stores")))
        self._env = server.env | {"VEDR_TEST_STATE": str(state), "PYTHONPATH": path}

    def deploy(self, flow: str, function: str) -> str:
        """As `prefect deploy` registers it; its name."""
        flow_id = asked("POST", "/flows/", {"name": flow})["id"]
        body = {"name": flow, "flow_id": flow_id, "entrypoint": f"{FLOWS}:{function}", "path": str(ROOT)}
        asked("POST", "/deployments/", body)
        return f"{flow}/{flow}"

    def order(self, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The requests of docs/drills.md; the flow run when it has ended."""
        found = asked("GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "idempotency_key": str(uuid.uuid4())}
        run = asked("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"]
        engine = [sys.executable, "-m", "prefect.engine", run]  # what a worker's own processes start in the end
        subprocess.run(engine, env=self._env, cwd=ROOT, capture_output=True, timeout=180, check=False)
        ended: dict[str, Any] = asked("GET", f"/flow_runs/{run}")
        return ended

    @staticmethod
    def evidence(run: str) -> str:
        wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": ["vedr-evidence"]}}
        (artifact,) = asked("POST", "/artifacts/filter", {"artifacts": wanted})
        return str(artifact["data"])

    def vedr(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FLOWS), *words]
        env = self._env | {"VEDR_PLAIN": "1"}
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def caller(server: Server, tmp_path: Path) -> Caller:
    server.start()
    return Caller(server, tmp_path / "state")


@pytest.mark.parametrize(
    ("participants", "state", "verdict"), [(HELD["participants"], "COMPLETED", "passed"), ("ana", "FAILED", "not run")]
)
def test_the_answer_to_a_drill_ordered_by_api_is_signed_evidence_that_is_true_to_how_it_ended(
    caller: Caller, tmp_path: Path, participants: str, state: str, verdict: str
) -> None:
    """Held, or refused as too few took part: a refused one answers as not run, never as passed."""
    run = caller.order(caller.deploy("drill-tabletop", "tabletop"), {"order": HELD | {"participants": participants}})
    assert run["state_type"] == state
    answer = tmp_path / "evidence.json"
    answer.write_text(caller.evidence(run["id"]) + "\n")  # as `jq -r` writes it
    told = json.loads(answer.read_text())["signed"]["drill"]
    assert (told["runbook"], told["verdict"]) == ("drill-tabletop", verdict)
    assert ("not held: 0 people" in told["reason"]) == (verdict == "not run")
    verified = caller.vedr("report", "verify", str(answer))
    assert verified.returncode == 0, verified.stderr
    stored = [path.read_text() for path in (tmp_path / "state").glob("*/drills%*")]
    assert stored == [answer.read_text().removesuffix("\n")] * 3
    answer.write_text(answer.read_text().replace(f'"verdict":"{verdict}"', '"verdict":"held"'))
    assert caller.vedr("report", "verify", str(answer)).returncode != 0


def test_the_scheduled_look_at_the_plan_says_in_prefect_and_on_a_terminal_that_nothing_answers(caller: Caller) -> None:
    run = caller.order(caller.deploy("bcp-status", "bcp_status"), {})
    assert run["state_type"] == "COMPLETED", run["state"]  # the look was made; what it found is in the artifact
    shown = asked("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert ["severity SEV-1, the plan is active: more than 50 %" in one["description"] for one in shown] == [True]
    rows = {row["function"]: row["state"] for row in json.loads(shown[0]["data"])}
    assert (rows["Block production"], rows["API gateway"]) == ("unknown", "down")
    said = caller.vedr("bcp", "status", "--json")
    document = json.loads(said.stdout)
    assert (document["severity"], document["certain"], document["active"]) == ("SEV-1", False, True)
    assert said.returncode != 0
    table = " ".join(caller.vedr("bcp", "status", "--no-record").stdout.split())
    assert "Severity SEV-1, or worse: not everything could be seen: 100 % of users cannot be served" in table
