# ruff: noqa: ARG002 (a fake takes what the port gives it)
"""Capturing a process that keeps writing, as a database does."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.backup import capture as capturing
from vedr.backup.capture import NodeCondition, capture, is_left_out, require_capturable
from vedr.errors import ConflictError, DeadlineError, NoSpaceError, NotFoundError, RefusedError
from vedr.inventory import Node
from vedr.ports import Pause, UnitStatus

WRITER = """
import os, sys, itertools
data = sys.argv[1]
journal = open(f"{data}/db/000001.log", "ab", buffering=0)
table = open(f"{data}/db/000002.ldb", "ab", buffering=0)   # still being written: must be copied, not linked
for number in itertools.count():
    journal.write(b"%08d" % number)
    table.write(b"%08d" % number)
    with open(f"{data}/db/{number % 50 + 100:06}.ldb.tmp", "wb") as new:
        new.write(b"%08d" % number)
    os.replace(new.name, new.name[:-4])
    if number == 100:
        print("ready", flush=True)
"""


class ProcessFleet:
    """A fleet of one process, paused by SIGSTOP; `expires` says how often the host resumes it too early."""

    def __init__(self, pid: int, expires: int = 0, state: str = "running") -> None:
        self.pid, self.expires, self.state = pid, expires, state
        self.calls: list[str] = []

    def status(self, unit: str, zone: str) -> Any:
        return UnitStatus(unit, self.state, self.pid, dt.datetime.now(dt.UTC), None, "running")  # type: ignore[arg-type]

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while " T " not in Path(f"/proc/{self.pid}/stat").read_text() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.calls.append("pause")

    def resume(self, unit: str, zone: str) -> Pause:
        os.kill(self.pid, signal.SIGCONT)
        self.calls.append("resume")
        self.expires -= 1
        return Pause(0.012, self.expires >= 0)

    def stop(self, unit: str, zone: str) -> Any:
        self.pause(unit, zone, limit_s=1)

    def start(self, unit: str, zone: str) -> Any:
        self.resume(unit, zone)

    kill = stop


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(
        name="full-0", region="us-east", zone="us-east-1a", role="full", rpc="http://x", p2p="h:1",
        home=tmp_path, unit="full-0",
    )  # fmt: skip


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[int]:
    data = tmp_path / "data"
    (data / "db").mkdir(parents=True)
    (data / "snapshots").mkdir()
    for name in ("priv_validator_state.json", "LOCK", "db/LOCK", "db/LOG", "snapshots/1", "node_key.json"):
        (data / name).write_bytes(b"never stored")
    (data / "db" / "000050.ldb").write_bytes(b"immutable")
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(data)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_capture_is_one_moment_and_never_changes(node: Node, tmp_path: Path, writer: int) -> None:
    with capture(node, tmp_path, ProcessFleet(writer)) as captured:  # type: ignore[arg-type]
        journal = (captured.data / "db/000001.log").read_bytes()
        table = (captured.data / "db/000002.ldb").read_bytes()
        last, written = int(journal[-8:]), int(table[-8:])
        assert last - 1 <= written <= last  # stopped between the two writes at the most
        before = (tmp_path / "data/db/000001.log").stat().st_size
        deadline = time.monotonic() + 20
        while (tmp_path / "data/db/000001.log").stat().st_size < before + 8000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (captured.data / "db/000001.log").read_bytes() == journal
        assert (captured.data / "db/000002.ldb").read_bytes() == table
        assert (captured.data / "db/000050.ldb").stat().st_nlink == 2
        assert {file.path for file in captured.tree.files} >= {"db/000001.log", "db/000002.ldb", "db/000050.ldb"}
        assert not any(file.path.endswith(("LOCK", "LOG", ".json")) for file in captured.tree.files)
        assert captured.pause_ms == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vedr-capture.lock", "data"]


def test_an_expired_pause_is_taken_again_and_then_given_up(node: Node, tmp_path: Path, writer: int) -> None:
    fleet = ProcessFleet(writer, expires=1)
    with capture(node, tmp_path, fleet):  # type: ignore[arg-type]
        assert fleet.calls == ["pause", "resume"] * 2
    with pytest.raises(DeadlineError, match="3 times"), capture(node, tmp_path, ProcessFleet(writer, expires=9)):  # type: ignore[arg-type]
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vedr-capture.lock", "data"]


def test_a_table_that_goes_while_it_is_linked_again_is_linked_in_the_pause(
    node: Node, tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """link(2) finds no file when another took its name between looking it up and linking it."""
    tries = []

    def link(source: Path, target: Path, **how: bool) -> None:
        if source.name == "000050.ldb":
            tries.append(source)
            if len(tries) == 2:
                raise FileNotFoundError(source)
        real(source, target, **how)

    class Compacting(ProcessFleet):
        """The table is another file at the next try."""

        def resume(self, unit: str, zone: str) -> Pause:
            table = tmp_path / "data/db/000050.ldb"
            table.with_suffix(".new").write_bytes(b"compacted")
            table.with_suffix(".new").replace(table)
            return super().resume(unit, zone)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    with capture(node, tmp_path, Compacting(writer, expires=1)) as captured:  # type: ignore[arg-type]
        assert (captured.data / "db/000050.ldb").read_bytes() == b"compacted"
    assert len(tries) == 3


class BusyFleet(ProcessFleet):
    """A host that is too busy to freeze a process in time, so often; it lets it run again each time."""

    def __init__(self, pid: int, busy: int) -> None:
        super().__init__(pid)
        self.busy = busy

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        self.busy -= 1
        if self.busy >= 0:
            raise DeadlineError(f"unit {unit} was not frozen in time and runs again", remedy="")
        super().pause(unit, zone, limit_s=limit_s)


def test_a_node_that_did_not_stand_still_in_time_is_asked_again(node: Node, tmp_path: Path, writer: int) -> None:
    fleet = BusyFleet(writer, busy=2)
    with capture(node, tmp_path, fleet):  # type: ignore[arg-type]
        assert fleet.calls == ["pause", "resume"]
    with pytest.raises(DeadlineError, match="3 times"), capture(node, tmp_path, BusyFleet(writer, busy=9)):  # type: ignore[arg-type]
        pass


def test_the_method_stop_starts_the_node_again(node: Node, tmp_path: Path, writer: int) -> None:
    fleet = ProcessFleet(writer)
    with capture(node, tmp_path, fleet, method="stop") as captured:  # type: ignore[arg-type]
        assert fleet.calls == ["pause", "resume"]
        assert captured.method == "stop"


def test_the_node_runs_on_when_the_copy_fails(
    node: Node, tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = ProcessFleet(writer)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(capturing.shutil, "copy2", fail)
    with pytest.raises(OSError, match="Input/output"), capture(node, tmp_path, fleet):  # type: ignore[arg-type]
        pass
    assert fleet.calls == ["pause", "resume"]


def test_a_file_that_goes_while_the_room_is_reckoned_ends_no_capture(
    node: Node, tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node removes a file of its own between the listing and the look at its size."""
    passing = tmp_path / "data/db/passing.tmp"
    passing.write_bytes(b"of the node")
    real = Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        if path == passing:
            passing.unlink(missing_ok=True)
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    with capture(node, tmp_path, ProcessFleet(writer)) as captured:  # type: ignore[arg-type]
        assert not passing.exists()
        assert "db/000001.log" in {file.path for file in captured.tree.files}


def test_one_capture_of_a_node_at_a_time_and_leftovers_go(node: Node, tmp_path: Path, writer: int) -> None:
    leftovers = [tmp_path / ".vedr-capture-0123", tmp_path / "data" / ".vedr-capture-4567"]
    for leftover in leftovers:
        leftover.mkdir()
    with capture(node, tmp_path, ProcessFleet(writer)):  # type: ignore[arg-type]
        assert not any(leftover.exists() for leftover in leftovers)
        with pytest.raises(ConflictError), capture(node, tmp_path, ProcessFleet(writer)):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(("state", "error"), [("paused", ConflictError), ("stopped", RefusedError)])
def test_a_node_that_does_not_run_is_refused(
    node: Node, tmp_path: Path, writer: int, state: str, error: type[Exception]
) -> None:
    with pytest.raises(error), capture(node, tmp_path, ProcessFleet(writer, state=state)):  # type: ignore[arg-type]
        pass


def test_a_full_disk_is_met_before_the_node_is_touched(
    node: Node, tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = ProcessFleet(writer)
    monkeypatch.setattr(capturing, "SPARE_BYTES", 1 << 60)
    with pytest.raises(NoSpaceError), capture(node, tmp_path, fleet):  # type: ignore[arg-type]
        pass
    assert fleet.calls == []


def test_a_home_without_data_is_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), capture(node, tmp_path, ProcessFleet(1)):  # type: ignore[arg-type]
        pass


def test_validators_and_late_nodes_are_refused(node: Node) -> None:
    require_capturable(node, NodeCondition(catching_up=False, validator_power=0))
    validator = node.model_copy(update={"role": "validator", "power": 10})
    for subject, condition in (
        (validator, NodeCondition(catching_up=False, validator_power=0)),
        (node, NodeCondition(catching_up=False, validator_power=10)),
        (node, NodeCondition(catching_up=True, validator_power=0)),
    ):
        with pytest.raises(RefusedError):
            require_capturable(subject, condition)


@pytest.mark.parametrize(
    "path", ["priv_validator_state.json", "x/priv_validator_key.json", "node_key.json", "snapshots/a"]
)
def test_secrets_are_left_out_wherever_they_are(path: str) -> None:
    assert is_left_out(path)
    assert not is_left_out("application.db/000001.ldb")
    assert not is_left_out("cs.wal/wal")
