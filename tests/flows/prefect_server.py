"""A real Prefect server for tests, and questions to its API."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from loopback_ports import free_port

PORT = free_port()
URL = f"http://127.0.0.1:{PORT}/api"
ROOT = Path(__file__).parents[2]
READY_S = 180.0


def prefect_env(home: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "VEDR_"))},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": URL,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "stores"))),
    }


class Server:
    """A Prefect server that can be stopped and started again on the same database."""

    def __init__(self, home: Path) -> None:
        self.env = prefect_env(home)
        self._log = (home / "server.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process:
            return
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(PORT)]
        self._process = subprocess.Popen(
            command, env=self.env, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        until(_healthy, READY_S, "the Prefect server answers")

    def stop(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._log.close()


def _healthy() -> bool:
    try:
        return httpx.get(f"{URL}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False


def until(true: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.05)


def asked(method: str, path: str, body: dict[str, object] | None = None) -> Any:
    """The answer.  Asked again while the server's one writer is busy, as Prefect's own client does."""
    deadline = time.monotonic() + 60
    while True:
        answer = httpx.request(method, f"{URL}{path}", json=body, timeout=30)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            return answer.raise_for_status().json() if answer.content else None
        time.sleep(0.1)
