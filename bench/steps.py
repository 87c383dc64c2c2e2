"""What a runbook's step costs when it does nothing: plainly, with a real ledger, and as a Prefect task.

    python -m bench.steps --work FOLDER [--steps 20] [--rounds 5] [--write docs/measurements.md]

Four ways, each in a process of its own: a ledger in memory, plainly; a ledger in three real S3 servers, plainly; the
same as tasks of a flow run at a real Prefect server; and bare Prefect tasks without anything of ours, for comparison.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.measuring import busy_s
from bench.report import cores, write_between_marks
from bench.servers import client_environment, serve

WAYS: Final = {
    "memory": "plainly, ledger in memory",
    "plain": "plainly, ledger in three S3 servers",
    "flow": "as Prefect tasks, ledger in three S3 servers",
    "bare": "bare Prefect tasks, nothing of ours",
}
FIRST_PORT: Final = 43600
READY_DEADLINE_S: Final = 240.0
ROOT: Final = Path(__file__).resolve().parent.parent


def main() -> None:
    """The command; with `--way`, one child of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="the first of four free ports")
    parser.add_argument("--work", type=Path, help="an empty or absent folder")
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("endpoints", nargs="*", help=argparse.SUPPRESS)
    order = parser.parse_args()
    if order.way is not None:
        print(json.dumps(child(order.way, order.steps, order.rounds, order.endpoints)))
        return
    if order.work is None:
        parser.error("--work is needed")
    text = measured(order.work.absolute(), order.steps, order.rounds, order.port)
    print(text)
    if order.write:
        write_between_marks(order.write, "steps", text)


def measured(work: Path, steps: int, rounds: int, port: int) -> str:
    """Start the servers, run every way; the report."""
    work.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(serve("labs3", work / f"s3-{n}", port + 1 + n)) for n in range(3)]
            endpoints = [server.endpoint for server in servers]
            environment = {**os.environ, **client_environment(), **_prefect_environment(work / "prefect", port)}
            _run(["bench.s3_pipe", "bucket", *endpoints], environment)
            stack.enter_context(_prefect_server(work, port, environment))
            began, busy = time.monotonic(), busy_s()
            figures = {}
            for way in WAYS:
                counts = ["--steps", str(steps), "--rounds", str(rounds)]
                figures[way] = json.loads(
                    _run(["bench.steps", "--way", way, *counts, *endpoints], environment).splitlines()[-1]
                )
            used = (busy_s() - busy) / (time.monotonic() - began) / cores()
    finally:
        shutil.rmtree(work)
    return _report(figures, steps, rounds, used)


def child(way: str, steps: int, rounds: int, endpoints: list[str]) -> list[float]:
    """Milliseconds a step, of each round; the first run warms up and is not counted."""
    perform = _bare(steps) if way == "bare" else _runbook(way, steps, endpoints)
    return [perform() for _ in range(rounds + 1)][1:]


def _bare(steps: int) -> Callable[[], float]:
    from prefect import flow, task  # noqa: PLC0415 (the other ways must not pay for it)
    from prefect.cache_policies import NO_CACHE  # noqa: PLC0415

    @task(cache_policy=NO_CACHE, persist_result=False)
    def nothing() -> None:
        return

    @flow
    def bare() -> float:
        began = time.monotonic()
        for _ in range(steps):
            nothing()
        return (time.monotonic() - began) * 1000 / steps

    return bare


def _runbook(way: str, steps: int, endpoints: list[str]) -> Callable[[], float]:
    if way != "flow":
        os.environ["VEDR_PLAIN"] = "1"
    from bench.noop_runbook import configure, perform  # noqa: PLC0415 (after the variable)

    configure(endpoints if way != "memory" else [], in_prefect=way == "flow")
    return lambda: perform(steps)


def _run(arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[:3])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def _prefect_environment(home: Path, port: int) -> Mapping[str, str]:
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@contextlib.contextmanager
def _prefect_server(work: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    argv = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (work / "prefect.log").open("wb") as log:
        process = subprocess.Popen(argv, env=dict(environment), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_DEADLINE_S
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no Prefect server: {(work / 'prefect.log').read_text()[-1000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _report(figures: Mapping[str, list[float]], steps: int, rounds: int, used: float) -> str:
    lines = [
        f"{steps} steps that do nothing, {rounds} runs of each way after one to warm up; Prefect on",
        f"SQLite, all servers on the same {cores()} cores, which were {used:.0%} busy (neighbours included).",
        "Milliseconds a step:",
        "",
        "| Way | Median | Smallest-largest |",
        "|---|---|---|",
    ]
    for way, title in WAYS.items():
        values = figures[way]
        lines.append(f"| {title} | {statistics.median(values):.1f} | {min(values):.1f}-{max(values):.1f} |")
    added = statistics.median(figures["flow"]) - statistics.median(figures["plain"])
    lines += ["", f"Prefect adds {added:.1f} ms to a step (aim: under 100 ms)."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
