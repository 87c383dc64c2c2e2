"""Prefect in the lab: the environment its processes run in, one pool and worker a region, and the deployments.

Guarantees: Prefect keeps its files in the lab's folder and calls no outside host; deployments are registered again only
when their declaration changed.
Leaves out: the flows.  Settings and their reasons: docs/lab.md.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from vedr.errors import UnavailableError
from vedr.inventory import SITE_ENV
from vedr.lab import prefect_server, readiness
from vedr.lab.credentials import write_whole
from vedr.lab.plan import OPS, Plan

BIN_ENV: Final = "VEDR_BIN"
LABS_ENV: Final = "VEDR_LABS"
_ATTEMPTS: Final = 5
_BUSY: Final = "503 Service Unavailable"
_DEPLOY_LIMIT_S: Final = 900  # half a minute on an idle machine; one that runs other things is no reason to fail


def environment(plan: Plan) -> dict[str, str]:
    """What the server, the workers and their flow runs share."""
    api = f"{plan.orchestrator_url}/api"
    return {
        "PREFECT_HOME": str(plan.folder / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_PROFILES_PATH": str(plan.folder / "prefect" / "profiles.toml"),
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # v2 calls an analytics host even when told not to
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "6",  # default 100 a deployment: minutes of SQLite at the start
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # lets the watchdog see a run whose process is gone
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a runbook waits for its worker inside the RTO
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "503",  # SQLite answers "locked" so
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PYTHONPATH": str(plan.settings.project),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "*",  # the lab's addresses are all on this machine
        "no_proxy": "*",
        SITE_ENV: plan.settings.name,
        LABS_ENV: str(plan.folder.parent),
        BIN_ENV: str(plan.settings.programs),
    }


def server_command(plan: Plan) -> tuple[str, ...]:
    """The API server, with its scheduler, on the lab's own address, behind the front."""
    return (
        sys.executable, "-m", prefect_server.__name__,
        "server", "start", "--host", plan.addresses.ops, "--port", str(plan.orchestrator_server_port),
    )  # fmt: skip


def worker_command(pool: str) -> tuple[str, ...]:
    """A worker that takes its own pool's runs and nobody else's; creates the pool if it isn't there."""
    return (*_prefect(), "worker", "start", "--pool", pool, "--type", "process", "--name", f"worker-{pool}",
            "--install-policy", "never")  # fmt: skip


def pools(plan: Plan) -> tuple[str, ...]:
    return (*plan.regions, OPS)


def ensure_pool(plan: Plan, pool: str) -> bool:
    """Make the work pool where it is missing, so that deployments can be registered before its worker is up."""
    api = f"{plan.orchestrator_url}/api/work_pools"
    known = json.loads(readiness.fetch(f"{api}/filter", body={"work_pools": {"name": {"any_": [pool]}}}))
    if not known:
        readiness.fetch(f"{api}/", body={"name": pool, "type": "process"})
    return True


def deploy(plan: Plan) -> str:
    """Register prefect.yaml's deployments with the server; returns what was done.

    Raises:
        UnavailableError: Prefect refused or did not answer; its own words are quoted.
    """
    declaration = plan.settings.project / "prefect.yaml"
    if not declaration.exists():
        return "no prefect.yaml: nothing to deploy"
    mark = plan.folder / "prefect" / "deployed"
    digest = _digest(plan, declaration)
    if mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return "unchanged"
    log = plan.folder / "logs" / "deploy.log"
    log.unlink(missing_ok=True)
    _run(plan, [*_prefect(), "--no-prompt", "deploy", "--all"], log)
    _run(plan, [sys.executable, "-m", "tasks.forms", "--site", plan.settings.name], log)
    write_whole(mark, digest)
    return "registered, with the site's choices in their forms"


def _run(plan: Plan, command: list[str], log: Path) -> None:
    """Repeated while SQLite's one writer is busy, which the server answers so: registering twice changes nothing."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _run_once(plan, command, log)
        except UnavailableError as error:
            if _BUSY not in error.message or attempt == _ATTEMPTS:
                raise
        else:
            return


def _run_once(plan: Plan, command: list[str], log: Path) -> None:
    """Run it in the project's folder with Prefect's environment; its words go to the log."""
    said = " ".join(command[1:])
    try:
        done = subprocess.run(
            command, cwd=plan.settings.project, env={**os.environ, **environment(plan)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_DEPLOY_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"`{said}` took more than {_DEPLOY_LIMIT_S} s", remedy="Run `vedr lab up` again."
        ) from error
    with log.open("a", encoding="utf-8") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode:
        raise UnavailableError(
            f"`{said}` failed: {_last_line(done.stdout + done.stderr)}",
            remedy=f"See {log}, then `vedr lab up` again.",
        )


def _digest(plan: Plan, declaration: Path) -> str:
    """Changes when a form or a schedule may have: with the declaration, the flows and what the site offers."""
    inputs = [declaration, plan.folder / "site.toml"]
    for folder in ("flows", "tasks"):
        inputs += sorted((plan.settings.project / folder).glob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in inputs)).hexdigest()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def _prefect() -> tuple[str, ...]:
    beside = Path(sys.executable).with_name("prefect")
    return (str(beside),) if beside.exists() else (sys.executable, "-m", "prefect")
