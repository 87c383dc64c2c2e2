"""The failovers and the failback themselves, killed with SIGKILL around every write and call, and gone on with by id.

VEDR_FAILOVER_KILLS sets how many kill points are tried (6), VEDR_KILLS_SEED another choice of them.
"""

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from beside import beside

from vedr.ledger import Entry, RunId

HERE = Path(__file__).parent
SCRIPT = HERE / "killed_failover.py"
KILLS = int(os.environ.get("VEDR_FAILOVER_KILLS", "6"))
SEED = os.environ.get("VEDR_KILLS_SEED", "vedr")
MOST_KILLS_A_RUN = 3
RUNBOOKS = {"region": "RB-DR-003", "zone": "RB-DR-002", "home": "failback", "key": "RB-DR-002", "key-home": "failback"}

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    return beside("failover_world", HERE / "failover_world.py")


@pytest.fixture(scope="module")
def killed_run() -> ModuleType:
    return beside("killed_run", HERE / "killed_run.py")


class Processes:
    """Forks of one imported process; each performs one runbook, or is killed."""

    def __init__(self, killed_run: ModuleType) -> None:
        paths = [HERE.parent / "stores", HERE.parents[1]]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self._killed_run = killed_run
        self._server = subprocess.Popen(
            [sys.executable, str(SCRIPT)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def perform(self, state: Path, what: str, *, run: str = "", kill_at: int | None = None) -> dict[str, Any]:
        """Go on with that run; without one begin it."""
        command = {"state": str(state), "do": what, "run": run, "resume": bool(run), "kill_at": kill_at}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        told: dict[str, Any] = json.loads(self._server.stdout.readline())
        assert "is closed: " in told.get("error", "is closed: "), told
        return told

    def until_done(self, state: Path, what: str, kills: list[int]) -> tuple[tuple[Entry, ...], int]:
        """The run's entries, when it has ended, and how often it was killed."""
        died = 0
        while True:
            entries = self.entries(state, what)
            if entries and entries[-1].kind == "closed":
                return entries, died
            run = entries[0].run_id if entries else ""
            told = self.perform(state, what, run=run, kill_at=kills.pop(0) if kills else None)
            died += told["killed"]

    def entries(self, state: Path, what: str) -> tuple[Entry, ...]:
        """Of the one run of this runbook, as the regions have them; () before it has any."""
        journal = self._killed_run.open_journal(state)
        try:
            runs: list[RunId] = sorted(journal.runs_of(RUNBOOKS[what]))
            assert len(runs) <= 1
            if not runs:
                return ()
            journal.heal(runs[0])
            entries: tuple[Entry, ...] = journal.read(runs[0]).entries
            return entries
        finally:
            journal.close()

    def close(self) -> None:
        self._server.communicate()
        assert self._server.returncode == 0


@pytest.fixture(scope="module")
def processes(killed_run: ModuleType) -> Iterator[Processes]:
    made = Processes(killed_run)
    yield made
    made.close()


@pytest.fixture(scope="module")
def paper(worlds: ModuleType) -> Any:
    return worlds.paper_site()


def effects(state: Path) -> list[str]:
    return (state / "effects").read_text().splitlines()


def new_world(worlds: ModuleType, paper: Any, state: Path, what: str) -> Any:
    state.mkdir()
    world = worlds.World(state, paper)
    world.make()
    if what == "region":
        world.lose()
    return world


def uninterrupted(processes: Processes, worlds: ModuleType, paper: Any, state: Path, what: str) -> dict[str, Any]:
    """What a run does that nobody kills, and a region's way home: effects and points of each."""
    world = new_world(worlds, paper, state, what)
    done = {what: {**processes.perform(state, what), "effects": effects(state)}}
    if what == "region":
        world.find_again()
        (state / "effects").unlink()
        done["home"] = {**processes.perform(state, "home"), "effects": effects(state)}
    assert {told["outcome"] for told in done.values()} == {"completed"}
    return done


def check_done_once(entries: tuple[Entry, ...], done: list[str], expected: list[str]) -> None:
    completed = Counter(str(entry.payload["step"]) for entry in entries if entry.kind == "step_completed")
    assert set(completed.values()) == {1}
    assert entries[-1].payload["outcome"] == "completed"
    assert Counter(done) == Counter(expected)


@pytest.mark.parametrize("what", ["region", "zone"])
def test_a_failover_killed_anywhere_goes_on_and_does_everything_exactly_once(
    processes: Processes, worlds: ModuleType, paper: Any, tmp_path: Path, what: str
) -> None:
    whole = uninterrupted(processes, worlds, paper, tmp_path / "whole", what)
    chance = random.Random(f"{SEED} {what}")
    left, died = KILLS // 2, 0
    while left > 0:
        world = new_world(worlds, paper, tmp_path / str(left), what)
        for leg, told in whole.items():
            planned = [chance.randrange(told["points"]) for _ in range(chance.randint(1, MOST_KILLS_A_RUN))]
            left -= len(planned)
            entries, deaths = processes.until_done(world.state, leg, planned)
            died += deaths
            check_done_once(entries, effects(world.state), told["effects"])
            if what == "region" and leg == what:
                world.find_again()
                (world.state / "effects").unlink()
    assert died


@pytest.fixture
def key_world(worlds: ModuleType, killed_run: ModuleType, tmp_path: Path) -> Any:
    """A zone whose validator signs from a key file, which was backed up."""
    assert worlds
    beside("folder_store", HERE.parent / "stores" / "folder_store.py")
    module = beside("key_file_world", HERE / "key_file_world.py")
    module.quick_derivation()
    state = tmp_path / "keys"
    state.mkdir()
    world = module.KeyWorld(state, module.paper_site())
    world.make()
    journal = killed_run.open_journal(state)
    world.back_up({region: killed_run.MortalStore(state / "stores" / region) for region in killed_run.REGIONS}, journal)
    journal.close()
    return world


def test_a_key_file_s_move_killed_at_any_stage_goes_on_and_no_height_is_signed_by_two_hosts(
    processes: Processes, key_world: Any
) -> None:
    """Around each of its stages, fences and starts: the later half of the points, where the key is moved."""
    chance, died = random.Random(f"{SEED} key"), 0
    for leg, host in (("key", "fullnode-ap-south-0"), ("key-home", "validator-eu-west-1")):
        entries, deaths = processes.until_done(
            key_world.state, leg, [chance.randrange(60, 130) for _ in range(KILLS // 2)]
        )
        died += deaths
        assert entries[-1].payload["outcome"] == "completed"
        stages = [str(e.payload["stage"]) for e in entries if e.payload.get("text") == "promotion"]
        assert stages[-1] == "watched"
        assert [node.name for node in key_world.able()] == [host]
    spans = sorted(key_world.signed())
    assert all(last < first for (_, last, _), (first, _, _) in itertools.pairwise(spans))
    assert died
