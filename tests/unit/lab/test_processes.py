"""Only a lab's own processes are found and ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vedr.errors import DeadlineError, InvalidInputError, UnavailableError
from vedr.lab import processes, programs, readiness
from vedr.lab.plan import Plan

SLEEPER = [sys.executable, "-c", "print('up', flush=True); import signal; signal.pause()"]


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, processes.MARK_ENV: str(tmp_path)}
    with subprocess.Popen(SLEEPER, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_marked_process_is_found_and_ended(marked: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = processes.of_lab(tmp_path, frozenset())
    assert [p.pid for p in found] == [marked.pid]
    assert processes.end(found, signal_number=signal.SIGKILL, limit_s=10) == []
    assert processes.of_lab(tmp_path, frozenset()) == []


@pytest.mark.usefixtures("marked")
def test_another_labs_processes_are_left_alone(tmp_path: Path) -> None:
    assert processes.of_lab(tmp_path / "other", frozenset()) == []


def test_the_caller_is_spared_even_when_marked(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from vedr.lab import processes; import sys;"
        "print(processes.of_lab(Path(sys.argv[1]), frozenset()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, processes.MARK_ENV: str(tmp_path)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


def test_a_process_that_is_gone_counts_as_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    gone = [processes.Process(process.pid, "true")]
    assert processes.end(gone, signal_number=signal.SIGTERM, limit_s=5) == []


def test_everything_missing_is_named_with_its_command(plan: Plan) -> None:
    with pytest.raises(InvalidInputError) as caught:
        programs.require(plan)
    for program in ("labnode", "labzoned", "labprovider", "labload", "labs3"):
        assert program in caught.value.message
    assert "make build" in caught.value.message


def test_waiting_ends_at_its_limit_and_says_what_was_last_seen() -> None:
    def never() -> bool:
        raise UnavailableError("connection refused")

    with pytest.raises(DeadlineError, match="the thing: not ready after 0 s: connection refused"):
        readiness.until("the thing", never, limit_s=0)
