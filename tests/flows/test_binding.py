"""Runbooks in a real Prefect: its API there, gone, and gone in the middle; each run is a process of its own."""

import datetime as dt
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from prefect_server import ROOT, URL, Server, asked, prefect_env, until

from tasks.reconcile import verdicts
from vedr.ledger import Entry, RunId

pytestmark = pytest.mark.server

SCRIPT = Path(__file__).with_name("binding_flow.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("binding_flow", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    os.environ["VEDR_PLAIN"] = "1"
    try:
        spec.loader.exec_module(module)
    finally:
        del os.environ["VEDR_PLAIN"]
    return module


class Runs:
    """Starts the script and reads what it left."""

    def __init__(self, state: Path, script: ModuleType, env: dict[str, str]) -> None:
        self.state, self._script, self._env = state, script, env

    def start(self, how: str, incident: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), str(self.state), how, *([incident] if incident else [])]
        return subprocess.Popen(
            command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        )

    def entries(self) -> tuple[Entry, ...]:
        journal = self._script.open_journal(self.state)
        try:
            run_id: RunId = journal.runs()[-1]
            return tuple(journal.read(run_id).entries)
        finally:
            journal.close()

    def approve(self, *words: str) -> str:
        run_id = self.entries()[0].run_id
        command = [sys.executable, str(SCRIPT), str(self.state), "approve", run_id, *words]
        return subprocess.run(
            command, env=self._env | {"VEDR_PLAIN": "1"}, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries()] if (self.state / "deeds").exists() else []

    def deeds(self) -> list[str]:
        return (self.state / "deeds").read_text().split()

    def wait_for_hold(self) -> None:
        until((self.state / "waiting").exists, 60, "the second step waits")

    def release(self) -> None:
        (self.state / "hold").unlink()


@pytest.fixture
def runs(tmp_path: Path, script: ModuleType, server: Server) -> Runs:
    server.start()  # the test before may have left it dead
    return Runs(tmp_path, script, server.env)


def finished(process: subprocess.Popen[str], limit_s: float = 60) -> str:
    output, _ = process.communicate(timeout=limit_s)
    return output


def flow_run(entries: tuple[Entry, ...]) -> dict[str, object]:
    flow_run_id = entries[0].payload["flow_run_id"]
    shown: dict[str, object] = httpx.get(f"{URL}/flow_runs/{flow_run_id}").raise_for_status().json()
    return shown


def test_a_cron_deployment_gets_scheduled_runs(server: Server) -> None:
    del server  # wrong pins leave a server that looks healthy and schedules nothing
    flow = asked("POST", "/flows/", {"name": "scheduled"})
    every_five_minutes = {"cron": "*/5 * * * *", "timezone": "UTC"}
    deployment = {"name": "every-5", "flow_id": flow["id"], "schedules": [{"schedule": every_five_minutes}]}
    made = asked("POST", "/deployments/", deployment)
    query = {"deployments": {"id": {"any_": [made["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}

    def scheduled() -> list[dict[str, str]]:
        found: list[dict[str, str]] = asked("POST", "/flow_runs/filter", query)
        return [run for run in found if run["state_type"] == "SCHEDULED"]

    until(lambda: len(scheduled()) > 1, 60, "runs are scheduled")
    minutes = [dt.datetime.fromisoformat(run["expected_start_time"]).minute for run in scheduled()]
    assert all(minute % 5 == 0 for minute in minutes)
    asked("DELETE", f"/deployments/{made['id']}")


def test_in_prefect_steps_are_tasks_with_their_retries_and_the_run_is_shown(runs: Runs) -> None:
    (runs.state / "fail-once").touch()
    output = finished(runs.start("flow"))
    assert "completed" in output, output
    entries = runs.entries()
    assert [entry.kind for entry in entries if entry.kind != "heartbeat"] == [
        "opened",
        *["step_started", "step_completed"],
        "note",  # nobody is asked
        *["step_started", "step_completed"] * 2,
        "closed",
    ]
    shown = flow_run(entries)
    assert (shown["state_type"], shown["name"] != "") == ("COMPLETED", True)
    query = {"flow_runs": {"id": {"any_": [shown["id"]]}}}
    until(lambda: len(httpx.post(f"{URL}/task_runs/filter", json=query).json()) == 3, 40, "three task runs are shown")
    tasks = {task["name"]: task for task in httpx.post(f"{URL}/task_runs/filter", json=query).json()}
    assert set(tasks) == {"First: look", "Second {wait}", "Third"}
    assert tasks["Second {wait}"]["run_count"] == 2
    artifacts = httpx.post(f"{URL}/artifacts/latest/filter", json=query).json()
    markdown = [artifact["data"] for artifact in artifacts if artifact["type"] == "markdown"]
    assert "Second {wait}" in str(markdown)
    assert f"vedr ledger show {entries[0].run_id}" in str(markdown)
    assert runs.deeds() == ["first", "second", "second", "third"]


def test_when_the_api_dies_in_mid_run_the_run_goes_on_and_is_done(runs: Runs, server: Server) -> None:
    (runs.state / "hold").touch()
    process = runs.start("flow")
    runs.wait_for_hold()
    server.stop()
    runs.release()
    until(lambda: runs.entries()[-1].kind == "closed", 30, "the ledger is closed")
    took = json.loads((runs.state / "timing.json").read_text())
    assert took["third"] < 1.5
    assert runs.entries()[-1].payload["outcome"] == "completed"
    assert runs.deeds() == ["first", "second", "third"]
    process.kill()
    process.communicate()
    server.start()
    shown = flow_run(runs.entries())
    assert shown["state_type"] != "COMPLETED"
    first, second = reconciled_twice(runs, server)
    assert [correction["now"] for correction in first] == ["Completed"]
    assert second == []
    assert flow_run(runs.entries())["state_type"] == "COMPLETED"


def test_people_answer_in_prefect_s_ui_and_by_the_command_and_both_count(runs: Runs) -> None:
    (runs.state / "people").write_text("two")
    process = runs.start("flow")
    run_id = paused(runs)
    resume = f"/flow_runs/{run_id}/resume"
    nameless = asked("POST", resume, {"run_input": {"decision": "agree", "name": ""}})
    assert nameless["status"] == "REJECT"
    zoe = {"decision": "agree", "name": "zoe", "why": "seen"}
    assert asked("POST", resume, {"run_input": zoe})["status"] == "ACCEPT"
    until(lambda: "answered" in runs.kinds(), 30, "zoe's answer counts")
    assert paused(runs) == run_id  # and asks for the second
    assert "zoe agreed" in runs.approve()
    runs.approve("--as", "yan", "--yes")
    assert "completed" in finished(process)
    answered = [entry.payload for entry in runs.entries() if entry.kind == "answered"]
    assert [(one["person"], one["via"], one["why"]) for one in answered] == [
        ("zoe", "prefect", "seen"),
        ("yan", "cli", ""),
    ]
    assert runs.deeds() == ["first", "second", "third"]
    states = [state["type"] for state in httpx.get(f"{URL}/flow_run_states/", params={"flow_run_id": run_id}).json()]
    assert states.count("PAUSED") == 2
    assert states[-2:] == ["RUNNING", "COMPLETED"]


def paused(runs: Runs) -> str:
    """The id of the flow run, which waits with a form that shows the plan."""
    until(lambda: "waiting" in runs.kinds(), 60, "the run asks")
    until(lambda: flow_run(runs.entries())["state_type"] == "PAUSED", 30, "the flow run is paused")
    shown = flow_run(runs.entries())
    keyset = httpx.get(f"{URL}/flow_runs/{shown['id']}").json()["state"]["state_details"]["run_input_keyset"]
    description = httpx.get(f"{URL}/flow_runs/{shown['id']}/input/{keyset['description']}").raise_for_status().json()
    assert "deeds are done" in description
    return str(shown["id"])


def reconciled_twice(runs: Runs, server: Server) -> list[list[dict[str, str]]]:
    """What each of two rounds set right, in a process of its own."""
    program = (
        "import sys, json, dataclasses, pathlib\n"
        "sys.path.insert(0, sys.argv.pop(1))\n"
        "from binding_flow import open_journal\n"
        "from prefect.client.orchestration import get_client\n"
        "from tasks.reconcile import reconcile\n"
        "journal = open_journal(pathlib.Path(sys.argv[1]))\n"
        "with get_client(sync_client=True) as client:\n"
        "    rounds = [[dataclasses.asdict(c) for c in reconcile(journal, client)] for _ in range(2)]\n"
        "print(json.dumps(rounds))\n"
    )
    command = [sys.executable, "-c", program, str(SCRIPT.parent), str(runs.state)]
    done = subprocess.run(command, env=server.env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result: list[list[dict[str, str]]] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_run_that_was_killed_is_resumed_plainly_without_repeating_what_was_done(runs: Runs) -> None:
    (runs.state / "hold").touch()
    process = runs.start("flow")
    runs.wait_for_hold()
    process.kill()
    process.communicate()
    runs.release()
    run_id = runs.entries()[0].run_id
    output = finished(runs.start("plain", run_id))
    assert f"OUTCOME {run_id} completed" in output
    assert runs.deeds() == ["first", "second", "second", "third"]
    entries = runs.entries()
    assert entries[-1].epoch == 2
    [superseded, last] = verdicts(entries, entries[-1].time)
    assert (superseded.truth, last.truth, last.flow_run_id) == ("crashed", "completed", "")


def test_without_prefect_s_api_a_runbook_runs_plainly_and_never_asks_for_it(tmp_path: Path, script: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # whoever asks is connected, and waits
        env = prefect_env(tmp_path) | {"PREFECT_API_URL": f"http://127.0.0.1:{mute.getsockname()[1]}/api"}
        runs = Runs(tmp_path, script, env)
        assert "completed" in finished(runs.start("plain"))
        mute.setblocking(False)
        with pytest.raises(BlockingIOError):
            mute.accept()
    assert "flow_run_id" not in runs.entries()[0].payload


def test_when_the_api_dies_while_people_are_asked_the_command_is_the_way(runs: Runs, server: Server) -> None:
    (runs.state / "people").write_text("one")
    process = runs.start("flow")
    paused(runs)
    server.stop()
    runs.approve("--as", "zoe", "--yes")
    until(lambda: runs.entries()[-1].kind == "closed", 30, "the ledger is closed")
    assert runs.deeds() == ["first", "second", "third"]
    process.kill()
    process.communicate()
