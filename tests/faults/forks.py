"""A program that is imported once and forked for each command, so that a run can be killed hundreds of times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self


class Forks:
    """Of a script that serves commands as killed_run does; each fork does one thing and ends, or is killed."""

    def __init__(self, script: Path, *, importing_from: tuple[Path, ...]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, importing_from))}
        self._server = subprocess.Popen(
            [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()
        assert self._server.returncode == 0

    def perform(
        self, state: Path, what: str, *, run: str = "", resume: bool = False, kill_at: int | None = None
    ) -> dict[str, Any]:
        """What it came to; `kill_at`: the point of its work at which it is killed."""
        command = {"state": str(state), "do": what, "run": run, "resume": resume, "kill_at": kill_at}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        told: dict[str, Any] = json.loads(self._server.stdout.readline())
        # Killed when one region had its last entry: whoever comes next completes that, and finds the run closed.
        assert "is closed: " in told.get("error", "is closed: "), told
        return told
