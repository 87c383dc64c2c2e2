"""Backup methods side by side: first snapshot, second snapshot after growth, restore.

    python -m bench.backup --bytes 2GB --rounds 3 --work FOLDER [--write docs/measurements.md]

In every round each method gets an empty server, the same two states of one data folder read from a cold disk, and must
restore the second one durably; what comes back is compared byte by byte.  Methods alternate, so that the machine's
moods meet all of them.  Figures are medians with the smallest and largest.  Nothing here passes or fails by time.
"""

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import report
from bench.dataset import DataSet, generate
from bench.measuring import busy_s, cold, run, sync_file_system
from bench.methods import METHODS, Method, Place, environment
from bench.report import Limit, Phase, Run
from bench.servers import ServerKind, serve

DEFAULT_METHODS: Final = "vedr,restic,vedr-plain,rclone,vedr-3,tar-zstd,tar-gzip"
FIRST_PORT: Final = 43500


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share."""

    data: DataSet
    work: Path
    port: int

    def one(self, method: Method, kind: ServerKind) -> Run:
        """A method's three phases against fresh servers."""
        with contextlib.ExitStack() as stack:
            scratch = self.work / "scratch"
            scratch.mkdir()
            stack.callback(shutil.rmtree, scratch)
            servers = tuple(
                stack.enter_context(serve(kind, scratch / f"server-{number}", self.port + number))
                for number in range(method.regions)
            )
            place = Place(servers, self.data.live, scratch)
            if method.prepare is not None:
                run(method.prepare(place), environment=environment(method, place), log=scratch / "log")
            with self.data.shown("a"):
                first = self._phase(method, place, None)
            stored = sum(server.stored_bytes for server in servers)
            with self.data.shown("b"):
                second = self._phase(method, place, None)
            added = sum(server.stored_bytes for server in servers) - stored
            target = scratch / "restored"
            target.mkdir()
            restored = self._phase(method, place, target)
            compare(method.restored(target, self.data.live), self.data.at_rest("b"))
        return Run(method.name, kind, first, second, restored, stored, added)

    def _phase(self, method: Method, place: Place, target: Path | None) -> Phase:
        """One command.  Backups read the live data cold, restores the server's; a restore ends when it is durable."""
        cold(place.live if target is None else place.server.data)
        sync_file_system(self.work)
        argv = method.backup(place) if target is None else method.restore(place, target)
        server_began = sum(server.cpu_s for server in place.servers)
        machine_began = busy_s()
        cost = run(argv, environment=environment(method, place), log=place.scratch / "log", sync=target)
        server_s = sum(server.cpu_s for server in place.servers) - server_began
        others_s = max(0.0, busy_s() - machine_began - server_s - cost.cpu_s)
        return Phase(cost.wall_s, cost.cpu_s, server_s, others_s, cost.peak_bytes)


def compare(restored: Path, expected: Path) -> None:
    """Every expected file is there with the same bytes.

    Raises:
        RuntimeError: a method lost or changed something: its figures are worth nothing.
    """
    names = [str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file()]
    _, wrong, missing = filecmp.cmpfiles(expected, restored, names, shallow=False)
    if wrong or missing:
        raise RuntimeError(
            f"{restored}: {len(wrong)} files differ, {len(missing)} are missing: {(wrong + missing)[:3]}"
        )


def plan(names: list[str], rounds: int) -> Iterator[tuple[int, Method, ServerKind]]:
    """Every round runs every method against the real server, then those that can against the sink."""
    for number in range(rounds):
        for name in names:
            method = METHODS[name]
            if method.rounds is None or number < method.rounds:
                yield number, method, "labs3"
        for name in names:
            if METHODS[name].sinkable:
                yield number, METHODS[name], "sink"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", default="200MB", help="size of the first state, such as 200MB or 2GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default=DEFAULT_METHODS, help=f"of: {', '.join(METHODS)}")
    parser.add_argument("--work", type=Path, required=True, help="an empty or absent folder; needs 5 times --bytes")
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="the first of three free ports")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    order = parser.parse_args()
    names = order.methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"unknown methods: {', '.join(unknown)}")
    work: Path = order.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        parser.error(f"{work} is not empty")
    text = measured(work, order.bytes, order.rounds, names, port=order.port, seed=order.seed)
    print(text)
    if order.write:
        report.write_between_marks(order.write, "backup", text)


def measured(work: Path, size: str, rounds: int, names: list[str], *, port: int, seed: int) -> str:
    """Generate, run everything, clean up; the report."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    try:
        data = generate(work / "set", size, seed)
        bench = Bench(data, work, port)
        with serve("sink", work / "limits", port) as sink:
            (sink.data / "bench").mkdir()
            found = measured_limits(data.at_rest("a"), work, sink.endpoint)
        runs = []
        for number, method, kind in plan(names, rounds):
            runs.append(bench.one(method, kind))
            print(report.progress(number, runs[-1]), file=sys.stderr, flush=True)
        return report.backup_report(data, runs, found, rounds=rounds, load=load, took_s=time.monotonic() - began)
    finally:
        for left in list(work.iterdir()):
            shutil.rmtree(left)


def measured_limits(data: Path, scratch: Path, endpoint: str) -> list[Limit]:
    """By a process of its own: see there."""
    argv = [sys.executable, "-m", "bench.limits", str(data), str(scratch), endpoint]
    answer = subprocess.run(argv, check=True, capture_output=True, cwd=Path(__file__).resolve().parent.parent)
    return [Limit(**row) for row in json.loads(answer.stdout)]


if __name__ == "__main__":
    main()
