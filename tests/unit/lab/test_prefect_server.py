"""The garbage of Prefect's server is collected by a thread that may wait, and by no other."""

import os
import subprocess
import sys
from pathlib import Path

from vedr.lab import prefect_server

PROGRAM = """
import sys, threading, time

class Left:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print(threading.current_thread().name, flush=True)

print(*sys.argv[1:], flush=True)
Left()
ends = time.monotonic() + 20
while time.monotonic() < ends and not any(thread.name == "garbage" for thread in threading.enumerate()):
    time.sleep(0.01)
many = [[number] for number in range(200_000)]  # with the collector on, this thread would have collected
print("allocated", flush=True)
Left()
time.sleep(LONG_ENOUGH_S)
"""


def test_the_command_runs_as_it_is_and_only_the_thread_for_garbage_collects(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "__init__.py").touch()
    program = PROGRAM.replace("LONG_ENOUGH_S", str(3 * prefect_server.YOUNG_EVERY_S))
    (tmp_path / "prefect" / "__main__.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, "-m", prefect_server.__name__, "server", "start", "--port", "1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=60)
    first, *rest = said.splitlines()
    assert first == "server start --port 1"
    assert sorted(rest) == ["allocated", "garbage", "garbage"]
    assert process.returncode == 0
