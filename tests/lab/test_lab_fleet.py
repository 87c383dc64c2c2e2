"""vedr.ports.Fleet over a real supervisor."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vedr.adapters.lab_fleet import LabFleet, LocalFiles, ZoneAgent
from vedr.errors import DeadlineError, NotFoundError, RefusedError, UnavailableError
from vedr.inventory import Node

REPOSITORY = Path(__file__).parents[2]
ZONE = "us-east-1a"
TOKEN = "a-token-of-the-test"
DEADLINE_S = 15.0
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


@dataclass(frozen=True)
class Supervisor:
    url: str
    log: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    program = shutil.which(
        "labzoned", path=os.pathsep.join([os.environ.get("VEDR_BIN", ""), str(REPOSITORY / "build" / "bin")])
    )
    if program is None:
        pytest.fail("labzoned is not built: run `make build`", pytrace=False)
    folder = tmp_path_factory.mktemp("zone")
    (folder / "token").write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    argv = [program, "--zone", ZONE, "--listen", address]
    argv += ["--units", str(folder / "units.json"), "--token-file", str(folder / "token")]
    with subprocess.Popen(argv) as process:
        agent = ZoneAgent(ZONE, f"http://{address}", TOKEN)
        _wait_for(agent)
        for name, command in (("sleeper", ["sleep", "600"]), ("deaf", [sys.executable, "-c", STUBBORN])):
            agent.define({"name": name, "argv": command, "log": str(folder / name), "stop_grace_s": 1})
        agent.close()
        yield Supervisor(f"http://{address}", folder / "deaf", process)
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def fleet(supervisor: Supervisor) -> Iterator[LabFleet]:
    fleet = LabFleet({ZONE: supervisor.url}, TOKEN)
    yield fleet
    for unit in ("sleeper", "deaf"):
        fleet.kill(unit, ZONE)
    fleet.close()


def test_a_started_unit_runs_and_a_stopped_one_does_not(fleet: LabFleet) -> None:
    started = fleet.start("sleeper", ZONE)
    assert (started.state, started.desired) == ("running", "running")
    assert started.pid is not None
    assert Path(f"/proc/{started.pid}").exists()
    stopped = fleet.stop("sleeper", ZONE)
    assert (stopped.state, stopped.desired, stopped.pid) == ("stopped", "stopped", None)
    assert not Path(f"/proc/{started.pid}").exists()


def test_every_action_may_be_repeated(fleet: LabFleet) -> None:
    assert fleet.start("sleeper", ZONE).pid == fleet.start("sleeper", ZONE).pid
    assert fleet.stop("sleeper", ZONE).state == fleet.stop("sleeper", ZONE).state == "stopped"
    assert fleet.kill("sleeper", ZONE).pid is None


def test_a_unit_that_does_not_end_is_not_killed_but_reported(fleet: LabFleet, supervisor: Supervisor) -> None:
    pid = fleet.start("deaf", ZONE).pid
    _wait_for_text(supervisor.log, "deaf")
    with pytest.raises(DeadlineError):
        fleet.stop("deaf", ZONE)
    assert fleet.status("deaf", ZONE).pid == pid


def test_a_pause_freezes_and_resuming_says_how_long(fleet: LabFleet) -> None:
    fleet.start("sleeper", ZONE)
    fleet.pause("sleeper", ZONE, limit_s=10)
    assert fleet.status("sleeper", ZONE).state == "paused"
    pause = fleet.resume("sleeper", ZONE)
    assert not pause.expired
    assert 0 <= pause.paused_s < 10
    assert fleet.status("sleeper", ZONE).state == "running"


def test_a_forgotten_pause_ends_by_itself_and_is_told_as_expired(fleet: LabFleet) -> None:
    fleet.start("sleeper", ZONE)
    fleet.pause("sleeper", ZONE, limit_s=0.5)
    deadline = time.monotonic() + DEADLINE_S
    while fleet.status("sleeper", ZONE).state == "paused" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fleet.status("sleeper", ZONE).state == "running"
    assert fleet.resume("sleeper", ZONE).expired


def test_unknown_units_and_zones_are_not_found(fleet: LabFleet) -> None:
    with pytest.raises(NotFoundError):
        fleet.status("nobody", ZONE)
    with pytest.raises(NotFoundError, match=ZONE):
        fleet.status("sleeper", "us-east-1z")


def test_a_wrong_token_is_refused_without_showing_it(supervisor: Supervisor) -> None:
    fleet = LabFleet({ZONE: supervisor.url}, "another-token")
    with pytest.raises(RefusedError) as caught:
        fleet.status("sleeper", ZONE)
    assert "another-token" not in str(caught.value)
    fleet.close()


def test_a_supervisor_that_is_gone_proves_nothing_about_its_units() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fleet = LabFleet({ZONE: f"http://127.0.0.1:{port}"}, TOKEN)
    with pytest.raises(UnavailableError):
        fleet.status("sleeper", ZONE)
    fleet.close()


def test_a_home_that_is_not_here_is_unavailable(tmp_path: Path) -> None:
    node = Node(
        name="n", region="us-east", zone=ZONE, role="full", rpc="http://x", p2p="x:1", home=tmp_path / "no", unit="n"
    )
    with pytest.raises(UnavailableError, match="not on this machine"):
        LocalFiles().home(node)
    assert LocalFiles().home(node.model_copy(update={"home": tmp_path})) == tmp_path


def _wait_for(agent: ZoneAgent) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            agent.info()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.02)
