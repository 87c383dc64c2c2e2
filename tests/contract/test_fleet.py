"""What every Fleet must do; run against real supervisors of the lab, systemd over SSH, and Kubernetes.

Real: labzoned; sshd and systemd (systemd_host.py).  Kubernetes is the twin (kubernetes_twin.py), around which stand
controllers and kubelets of the tests' own (docs/decisions/kubernetes-tests.md).
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beside import beside

from vedr.adapters.fleet_kubernetes import KubernetesFleet
from vedr.adapters.fleet_systemd import SystemdFleet
from vedr.adapters.kubernetes_api import Access, KubernetesApi
from vedr.adapters.lab_fleet import LabFleet, ZoneAgent
from vedr.adapters.secrets import resolve
from vedr.errors import ConflictError, DeadlineError, InvalidInputError, NotFoundError, UnavailableError
from vedr.policies.fleet import Cluster, Kubernetes, Ssh, SshHost, Workload
from vedr.ports import Fleet

pytestmark = pytest.mark.server


HERE = Path(__file__).parent
ports = sys.modules["loopback_ports"]
hosts, twins, machines = (
    beside(f"fleet_{n}", HERE / f"{n}.py") for n in ("systemd_host", "kubernetes_twin", "kubernetes_machinery")
)

ZONE = "us-east-1a"
DEADLINE_S = 15.0
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({!r}, 'w').close(); signal.pause()"


def until(fact: Callable[[], Any]) -> Any:
    """Its first true value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := fact()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


@dataclass(frozen=True, slots=True)
class Place:
    """A fleet with the units `sleeper`, which follows SIGTERM, and `deaf`, which does not."""

    fleet: Fleet
    unreachable: Callable[[], Fleet]
    """The same units behind a supervisor that is not there."""
    deaf_flag: Path | None = None

    def start_deaf(self) -> None:
        """Started, and deaf by now."""
        if self.deaf_flag:
            self.deaf_flag.unlink(missing_ok=True)
        self.fleet.start("deaf", ZONE)
        if flag := self.deaf_flag:
            until(flag.exists)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("lab-fleet")
    token = "a-token-of-the-test"
    (folder / "token").write_text(token)
    address = f"127.0.0.1:{ports.free_port()}"
    argv = [_find("labzoned"), "--zone", ZONE, "--listen", address, "--units", str(folder / "units.json")]
    with subprocess.Popen([*argv, "--token-file", str(folder / "token")]) as process:
        agent = ZoneAgent(ZONE, f"http://{address}", token)
        until(lambda: _answers(agent.info))
        flag = folder / "is-deaf"
        deaf = [sys.executable, "-c", DEAF.format(str(flag))]
        for name, command in (("sleeper", ["sleep", "600"]), ("deaf", deaf)):
            agent.define({"name": name, "argv": command, "log": str(folder / name), "stop_grace_s": 1})
        agent.close()
        fleet = LabFleet({ZONE: f"http://{address}"}, token)
        yield Place(fleet, lambda: LabFleet({ZONE: f"http://127.0.0.1:{ports.free_port()}"}, token), flag)
        fleet.close()
        process.terminate()
        process.wait(timeout=30)


def _find(name: str) -> str:
    folders = [os.environ.get("VEDR_BIN", ""), str(Path(__file__).parents[2] / "build" / "bin")]
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    if found is None:
        pytest.fail(f"{name} is not built: run `make build`", pytrace=False)
    return found


def _answers(ask: Callable[[], object]) -> bool:
    with contextlib.suppress(UnavailableError):
        ask()
        return True
    return False


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One sshd and systemd for the module."""
    host = hosts.SystemdHost(tmp_path_factory.mktemp("systemd"), ports.free_port())
    host.start()
    flag = hosts.INSIDE / "is-deaf"
    host.define("sleeper.service", "ExecStart=/bin/sleep 600")
    host.define(
        "deaf.service",
        f"""ExecStart=/bin/sh -c 'trap "" TERM; touch {flag}; while :; do sleep 9; done'\nTimeoutStopSec=300""",
    )
    host.define(
        "killed.service", """ExecStart=/bin/sh -c 'trap "" TERM; while :; do sleep 9; done'\nTimeoutStopSec=0.2"""
    )
    host.define("broken.service", "ExecStart=/nowhere/to/be/found")
    host.define("slow.service", "Type=notify\nExecStartPre=/bin/sleep 0.3\nExecStart=/bin/sleep 600")
    host.define("pulled.service", "ExecStart=/bin/sleep 600", install=False)
    yield host
    host.stop()


def ssh_policy(host: Any, **changes: Any) -> Ssh:
    names = ("sleeper", "deaf", "killed", "broken", "slow", "pulled", "nobody")
    units = {name: f"{name}.service" for name in names}
    there = SshHost(zone=ZONE, address="127.0.0.1", port=changes.pop("port", host.port), units=units)
    fields: dict[str, Any] = {"user": "root", "key": host.key, "known_hosts": host.known_hosts, "stop_grace_s": 1.0}
    return Ssh(**fields | {"become": "nothing", "manager": "user", "hosts": {"validator-0": there}} | changes)


def systemd_fleet(policy: Ssh) -> SystemdFleet:
    return SystemdFleet(policy, resolve(policy.key), resolve(policy.known_hosts))


@pytest.fixture(scope="module")
def systemd(host: Any) -> Iterator[Place]:
    fleet = systemd_fleet(ssh_policy(host))
    yield Place(fleet, lambda: systemd_fleet(ssh_policy(host, port=ports.free_port())), host.folder / "is-deaf")
    fleet.close()


CLUSTER_POLICY = Kubernetes(
    clusters={
        "us-east": Cluster(
            server="https://cluster.invalid",
            token="env:TOKEN",
            authority="env:AUTHORITY",
            units={
                name: Workload(zone=ZONE, name=f"virtengine-{name}", replicas=2 if name == "pair" else 1)
                for name in ("sleeper", "deaf", "stuck", "pair", "nobody")
            },
        )
    },
    stop_grace_s=3.0,
    start_limit_s=3.0,
)


@pytest.fixture(scope="module")
def machinery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster: the API, controllers, and a node in the zone."""
    with contextlib.ExitStack() as closing:
        access = _api_of_a_test(tmp_path_factory.mktemp("kubernetes"), closing)
        api = KubernetesApi("us-east", access)
        closing.callback(api.close)
        machinery = machines.Machinery(api, deaf={"virtengine-deaf"}, stuck={"virtengine-stuck"})
        machinery.access = access
        machinery.start()
        closing.callback(machinery.stop)
        machinery.add_node("node-a", ZONE)
        for name in ("sleeper", "deaf", "stuck", "pair"):
            machinery.add_workload(f"virtengine-{name}", "node-a")
        yield machinery


def _api_of_a_test(folder: Path, closing: contextlib.ExitStack) -> Access:
    twin = twins.Twin(folder, ports.free_port())
    twin.start()
    closing.callback(twin.stop)
    return Access(server=f"https://127.0.0.1:{twin.port}", authority=twin.authority, token=twins.TOKEN)


@pytest.fixture(scope="module")
def kubernetes(machinery: Any) -> Iterator[Place]:
    gone = Access(server=f"https://127.0.0.1:{ports.free_port()}", authority=machinery.access.authority, token="x")
    nobody = KubernetesApi("us-east", gone)
    fleet = KubernetesFleet(CLUSTER_POLICY, lambda _: machinery.api)
    yield Place(fleet, lambda: KubernetesFleet(CLUSTER_POLICY, lambda _: nobody))
    nobody.close()


@pytest.fixture(params=["lab", "systemd", "kubernetes"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place: Place = request.getfixturevalue(request.param)
    yield place
    _clear(place.fleet)


@pytest.fixture(params=["lab", "systemd"])
def pausing(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where units can be paused."""
    place: Place = request.getfixturevalue(request.param)
    yield place
    _clear(place.fleet)


def _clear(fleet: Fleet) -> None:
    fleet.stop("sleeper", ZONE)
    if fleet.status("deaf", ZONE).state != "stopped":
        with contextlib.suppress(DeadlineError):
            fleet.stop("deaf", ZONE)
        fleet.kill("deaf", ZONE)


# --- promises of every fleet


def test_a_started_unit_runs_and_a_stopped_one_does_not(place: Place) -> None:
    started = place.fleet.start("sleeper", ZONE)
    assert (started.name, started.state, started.desired) == ("sleeper", "running", "running")
    stopped = place.fleet.stop("sleeper", ZONE)
    assert (stopped.state, stopped.desired, stopped.pid) == ("stopped", "stopped", None)
    assert place.fleet.status("sleeper", ZONE).state == "stopped"


def test_every_action_may_be_repeated(place: Place) -> None:
    assert place.fleet.start("sleeper", ZONE).pid == place.fleet.start("sleeper", ZONE).pid
    assert place.fleet.stop("sleeper", ZONE).state == place.fleet.stop("sleeper", ZONE).state == "stopped"
    assert place.fleet.kill("sleeper", ZONE).state == "stopped"


def test_a_unit_that_does_not_end_is_not_killed_but_reported(place: Place) -> None:
    place.start_deaf()
    pid = place.fleet.status("deaf", ZONE).pid
    with pytest.raises(DeadlineError):
        place.fleet.stop("deaf", ZONE)
    left = place.fleet.status("deaf", ZONE)
    assert (left.state, left.desired, left.pid) == ("running", "stopped", pid)
    killed = place.fleet.kill("deaf", ZONE)
    assert killed.state in ("stopped", "failed")
    assert (killed.pid, killed.desired) == (None, "stopped")
    assert place.fleet.stop("deaf", ZONE).desired == "stopped"


def test_a_kill_leaves_what_is_wanted_as_it_was(place: Place) -> None:
    place.start_deaf()
    assert place.fleet.kill("deaf", ZONE).desired == "running"


def test_a_unit_that_was_stopped_starts_again(place: Place) -> None:
    place.fleet.start("sleeper", ZONE)
    place.fleet.stop("sleeper", ZONE)
    assert place.fleet.start("sleeper", ZONE).state == "running"


def test_unknown_units_and_zones_are_not_found(place: Place) -> None:
    for call in (place.fleet.status, place.fleet.start, place.fleet.stop, place.fleet.kill):
        with pytest.raises(NotFoundError):
            call("nobody", ZONE)
    with pytest.raises(NotFoundError):
        place.fleet.status("sleeper", "us-east-1z")


def test_a_supervisor_that_is_gone_proves_nothing_about_its_units(place: Place) -> None:
    fleet = place.unreachable()
    for call in (fleet.status, fleet.start, fleet.stop, fleet.kill):
        with pytest.raises(UnavailableError):
            call("sleeper", ZONE)


def test_a_pause_freezes_and_resuming_says_how_long(pausing: Place) -> None:
    pausing.fleet.start("sleeper", ZONE)
    pausing.fleet.pause("sleeper", ZONE, limit_s=20)
    assert pausing.fleet.status("sleeper", ZONE).state == "paused"
    pause = pausing.fleet.resume("sleeper", ZONE)
    assert not pause.expired
    assert 0 <= pause.paused_s < 20
    assert pausing.fleet.status("sleeper", ZONE).state == "running"


def test_a_forgotten_pause_ends_by_itself_and_is_told_as_expired(pausing: Place) -> None:
    pausing.fleet.start("sleeper", ZONE)
    pausing.fleet.pause("sleeper", ZONE, limit_s=0.05)
    until(lambda: pausing.fleet.status("sleeper", ZONE).state == "running")
    assert pausing.fleet.resume("sleeper", ZONE).expired


def test_only_what_runs_is_paused_and_only_what_is_paused_is_resumed(pausing: Place) -> None:
    with pytest.raises(ConflictError):
        pausing.fleet.pause("sleeper", ZONE, limit_s=1)
    pausing.fleet.start("sleeper", ZONE)
    with pytest.raises(ConflictError):
        pausing.fleet.resume("sleeper", ZONE)
    with pytest.raises(InvalidInputError):
        pausing.fleet.pause("sleeper", ZONE, limit_s=86_400)


def test_a_paused_unit_can_be_stopped(pausing: Place) -> None:
    pausing.fleet.start("sleeper", ZONE)
    pausing.fleet.pause("sleeper", ZONE, limit_s=30)
    assert pausing.fleet.stop("sleeper", ZONE).state == "stopped"


def test_a_unit_that_was_killed_while_paused_runs_when_it_is_started(pausing: Place) -> None:
    pausing.fleet.start("sleeper", ZONE)
    pausing.fleet.pause("sleeper", ZONE, limit_s=30)
    assert pausing.fleet.kill("sleeper", ZONE).pid is None
    assert pausing.fleet.start("sleeper", ZONE).state == "running"
