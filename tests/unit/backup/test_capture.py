# ruff: noqa: ARG002 (a fake takes what the port gives it)
"""Capturing a process that keeps writing, as a database does."""

import dataclasses
import datetime as dt
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.backup import capture as capturing
from vedr.backup.capture import NodeCondition, capture, is_left_out, require_capturable
from vedr.backup.snapshot import create
from vedr.backup.tree import Tree, read_tree
from vedr.errors import ConflictError, DeadlineError, NoSpaceError, NotFoundError, RefusedError
from vedr.inventory import Node, Provider
from vedr.ports import Pause, UnitStatus

LONG_AGO_NS = 1_700_000_000 * 10**9
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
    """A fleet of one unit, paused by SIGSTOP; `expires` says how often the host resumes it too early."""

    def __init__(self, pid: int, expires: int = 0, state: str = "running") -> None:
        self.pid, self.expires, self.state = pid, expires, state
        self.calls: list[str] = []

    def processes(self) -> list[int]:
        """As a supervisor stops all of a unit: its process, and that process's children."""
        return [self.pid, *map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]

    def status(self, unit: str, zone: str) -> Any:
        return UnitStatus(unit, self.state, self.pid, dt.datetime.now(dt.UTC), None, "running")  # type: ignore[arg-type]

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        deadline = time.monotonic() + 10
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)
            while " T " not in Path(f"/proc/{pid}/stat").read_text() and time.monotonic() < deadline:
                time.sleep(0.001)
        self.calls.append("pause")

    def resume(self, unit: str, zone: str) -> Pause:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)
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


def test_a_supervisors_child_is_looked_at_too(node: Node, tmp_path: Path) -> None:
    """Under cosmovisor the unit's process is not the node's, whose unfinished tables were linked as if finished."""
    data = tmp_path / "data"
    (data / "db").mkdir(parents=True)
    supervisor = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    with subprocess.Popen(
        [sys.executable, "-c", supervisor, WRITER, str(data)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert (data / "db/000002.ldb").stat().st_ino in capturing.open_for_writing(process.pid)
            with capture(node, tmp_path, ProcessFleet(process.pid)) as captured:  # type: ignore[arg-type]
                assert (captured.data / "db/000002.ldb").stat().st_nlink == 1
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_data_on_a_disk_of_its_own_is_captured(node: Node, tmp_path: Path, writer: int) -> None:
    """A link can't be made beside it, only within."""
    disk = Path(tempfile.mkdtemp(prefix="vedr-capture-test-", dir="/dev/shm"))
    try:
        if disk.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system to write to")
        (disk / "db").mkdir()
        (disk / "db" / "000050.ldb").write_bytes(b"immutable")
        (tmp_path / "data").rename(tmp_path / "before")
        (tmp_path / "data").symlink_to(disk)
        with capture(node, tmp_path, ProcessFleet(writer)) as captured:  # type: ignore[arg-type]
            assert (captured.data / "db/000050.ldb").stat().st_nlink == 2
        assert [path.name for path in disk.iterdir()] == ["db"]
    finally:
        os.kill(writer, signal.SIGKILL)
        shutil.rmtree(disk, ignore_errors=True)


def test_a_disk_mounted_within_the_data_is_named(
    node: Node, tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    refused = pytest.raises(RefusedError, match=r"db/000\d+.ldb is on another file system")
    with refused, capture(node, tmp_path, ProcessFleet(writer)):  # type: ignore[arg-type]
        pass
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"), capture(node, tmp_path, ProcessFleet(writer)):  # type: ignore[arg-type]
        pass


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_folders_are_captured_as_they_are_and_the_empty_ones_too(node: Node, tmp_path: Path, writer: int) -> None:
    (tmp_path / "data/queue").mkdir()
    (tmp_path / "data/queue").chmod(0o2770)
    (tmp_path / "data/db").chmod(0o750)
    with capture(node, tmp_path, ProcessFleet(writer)) as captured:  # type: ignore[arg-type]
        assert captured.tree.folders == (("db", 0o750), ("queue", 0o2770))


def test_a_providers_keys_are_never_captured_wherever_the_site_says_that_they_are(tmp_path: Path, writer: int) -> None:
    provider = Provider(
        name="p0", region="us-east", zone="us-east-1a", home=tmp_path, unit="p0", url="http://x"
    )  # fmt: skip
    for path in ("keys/one.pem", "keyring-file/a.info", "tls.key", "vault/one.json", "data/kept.json"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"content")
    with capture(provider, tmp_path, ProcessFleet(writer), secret=["vault/*.json"]) as captured:  # type: ignore[arg-type]
        paths = {file.path for file in captured.tree.files}
        assert "data/kept.json" in paths
        assert not any(path.endswith((".pem", ".info", ".key", "one.json")) for path in paths)
        assert not any(folder.path.startswith("key") for folder in captured.tree.folders)


def test_a_copy_of_what_can_still_change_is_read_though_nothing_of_it_seems_to_have_changed(world: Any) -> None:
    """Written through mapped memory a file keeps its time for half a minute, and copies get used inodes again."""
    world.write("queue/00001.mem", b"before")
    world.back_up(100)
    target = world.data / "queue/00001.mem"
    target.write_bytes(b"after!")
    os.utime(target, ns=(LONG_AGO_NS, LONG_AGO_NS))  # size, time and inode are as they were
    tree = read_tree(world.data)
    files = tuple(dataclasses.replace(file, mutable=file.path == "queue/00001.mem") for file in tree.files)
    world.clock.advance(hours=4)
    create(world.repository, world.source, Tree(files, tree.folders), world.facts(101))
    assert world.restored()["queue/00001.mem"] == b"after!"


def test_what_a_capture_copied_is_marked_as_such(node: Node, tmp_path: Path, writer: int) -> None:
    with capture(node, tmp_path, ProcessFleet(writer)) as captured:  # type: ignore[arg-type]
        marked = {file.path: file.mutable for file in captured.tree.files}
        assert marked["db/000001.log"]
        assert marked["db/000002.ldb"]
        assert not marked["db/000050.ldb"]
