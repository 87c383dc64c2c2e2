"""Faults in the lab, against a real supervisor: what is killed is down and stays down until it is started."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vedr.adapters.lab_faults import SECTOR_BYTES, SECTORS, LabFaults
from vedr.adapters.lab_fleet import LocalFiles, ZoneAgent
from vedr.errors import NotFoundError, RefusedError, UnavailableError
from vedr.policies.drills import Drills
from vedr.policies.fleet import Fleet
from vedr.ports import PlacedUnit

pytestmark = pytest.mark.server

ports = sys.modules["loopback_ports"]
ZONE, TOKEN = "us-east-1a", "a-token-of-the-test"
NODE, STORE = PlacedUnit("full-0", ZONE), PlacedUnit("store-us-east", ZONE)
DEADLINE_S = 10.0
RESTART_S = 1.5  # longer than the supervisor waits before it restarts a unit


@dataclass
class World:
    """A zone with a node and a store, which its supervisor restarts when it fails."""

    site: Any
    home: Path

    def faults(self) -> LabFaults:
        return LabFaults(self.site, LocalFiles())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN)
    address = f"127.0.0.1:{ports.free_port()}"
    argv = [labzoned(), "--zone", ZONE, "--listen", address, "--units", str(tmp_path / "units.json")]
    with subprocess.Popen([*argv, "--token-file", str(tmp_path / "token")]) as process:
        agent = ZoneAgent(ZONE, f"http://{address}", TOKEN)
        until(lambda: answers(agent.info))
        for one, restart in ((NODE, "no"), (STORE, "on-failure")):
            log = str(tmp_path / one.unit)
            agent.define({"name": one.unit, "argv": ["sleep", "600"], "log": log, "restart": restart})
            agent.act(one.unit, "start")
        agent.close()
        home = tmp_path / "home"
        (home / "data" / "application.db").mkdir(parents=True)
        node = SimpleNamespace(name="full-0", unit=NODE.unit, zone=ZONE, home=home)
        fleet = Fleet(agents={ZONE: f"http://{address}"}, token=f"file:{tmp_path / 'token'}")
        site = SimpleNamespace(
            name="lab",
            fleet=fleet,
            drills=Drills(faults="lab"),
            placed=(node,),
            nodes=(node,),
            providers=(),
            signers=(),
        )
        yield World(site, home)
        process.terminate()
        process.wait(timeout=30)


def labzoned() -> str:
    folders = [os.environ.get("VEDR_BIN", ""), str(Path(__file__).parents[2] / "build" / "bin")]
    found = shutil.which("labzoned", path=os.pathsep.join(folder for folder in folders if folder))
    if found is None:
        pytest.fail("labzoned is not built: run `make build`", pytrace=False)
    return found


def until(fact: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def answers(ask: Callable[[], object]) -> bool:
    with contextlib.suppress(UnavailableError):
        ask()
        return True
    return False


def test_a_killed_zone_is_down_with_what_its_supervisor_would_restart_and_comes_back(world: World) -> None:
    faults = world.faults()
    running = faults.running(ZONE)
    assert set(running) == {NODE, STORE}
    faults.kill(running)
    faults.kill(running)  # safe to repeat
    began = time.monotonic()
    while time.monotonic() - began < RESTART_S:
        assert not faults.running(ZONE)
    faults.start(running)
    faults.start(running)
    assert set(faults.running(ZONE)) == {NODE, STORE}


def test_a_node_that_runs_is_not_damaged(world: World) -> None:
    table = world.home / "data" / "application.db" / "000001.ldb"
    table.write_bytes(bytes(100_000))
    for what in ("disk lost", "database damaged"):
        with pytest.raises(RefusedError, match="runs"):
            world.faults().damage(world.site.nodes[0], what)  # type: ignore[arg-type]
    assert table.read_bytes() == bytes(100_000)


def test_damage_that_is_done_twice_is_damage(world: World) -> None:
    faults = world.faults()
    faults.kill([NODE])
    table = world.home / "data" / "application.db" / "000001.ldb"
    table.write_bytes(bytes(100_000))
    first = faults.damage(world.site.nodes[0], "database damaged")
    assert faults.damage(world.site.nodes[0], "database damaged") == first
    assert sum(byte != 0 for byte in table.read_bytes()) == SECTORS * SECTOR_BYTES


def test_a_lost_disk_is_empty_and_a_database_that_is_not_there_is_not_damaged(world: World) -> None:
    faults = world.faults()
    faults.kill([NODE])
    faults.damage(world.site.nodes[0], "disk lost")
    assert not list((world.home / "data").iterdir())
    with pytest.raises(NotFoundError, match="no tables"):
        faults.damage(world.site.nodes[0], "database damaged")


def test_a_site_that_does_not_allow_faults_has_none(world: World) -> None:
    world.site.drills = Drills()
    with pytest.raises(RefusedError, match="does not allow faults"):
        world.faults()


def test_a_zone_without_a_supervisor_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError, match="no supervisor"):
        world.faults().running("us-east-1z")
