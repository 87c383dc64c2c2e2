"""The failovers and the failback themselves, killed with SIGKILL around every write and call, and gone on with by id.

VEDR_FAILOVER_KILLS sets how many kill points are tried (6), VEDR_KILLS_SEED another choice of them.
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import failover_world
import key_file_site
import killed_run
import pytest
from forks import Forks

from vedr.ledger import Entry, RunId

HERE = Path(__file__).parent
SCRIPT = HERE / "killed_failover.py"
KILLS = int(os.environ.get("VEDR_FAILOVER_KILLS", "6"))
SEED = os.environ.get("VEDR_KILLS_SEED", "vedr")
MOST_KILLS_A_RUN = 3
RUNBOOKS = {"region": "RB-DR-003", "zone": "RB-DR-002", "home": "failback", "key": "RB-DR-002", "key-home": "failback"}

pytestmark = pytest.mark.server


class Processes(Forks):
    """Each performs one runbook, or is killed."""

    def until_done(self, state: Path, what: str, kills: list[int]) -> tuple[tuple[Entry, ...], int]:
        """The run's entries, when it has ended, and how often it was killed."""
        died = 0
        while True:
            entries = self.entries(state, what)
            if entries and entries[-1].kind == "closed":
                return entries, died
            run = entries[0].run_id if entries else ""
            told = self.perform(state, what, run=run, resume=bool(run), kill_at=kills.pop(0) if kills else None)
            died += told["killed"]

    def entries(self, state: Path, what: str) -> tuple[Entry, ...]:
        """Of the one run of this runbook, as the regions have them; () before it has any."""
        journal = killed_run.open_journal(state)
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


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(SCRIPT, importing_from=(HERE.parent / "stores", HERE.parents[1])) as made:
        yield made


@pytest.fixture(scope="module")
def remote_paper() -> Any:
    """A site whose validators sign remotely."""
    return failover_world.paper_site()


def effects(state: Path) -> list[str]:
    return (state / "effects").read_text().splitlines()


def new_world(paper: Any, state: Path, what: str) -> Any:
    state.mkdir()
    world = failover_world.World(state, paper)
    world.make()
    if what == "region":
        world.lose()
    return world


def uninterrupted(processes: Processes, paper: Any, state: Path, what: str) -> dict[str, Any]:
    """What a run does that nobody kills, and a region's way home: effects and points of each."""
    world = new_world(paper, state, what)
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
    processes: Processes, remote_paper: Any, tmp_path: Path, what: str
) -> None:
    whole = uninterrupted(processes, remote_paper, tmp_path / "whole", what)
    chance = random.Random(f"{SEED} {what}")
    left, died = KILLS // 2, 0
    while left > 0:
        world = new_world(remote_paper, tmp_path / str(left), what)
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
def key_world(paper: Any, tmp_path: Path) -> Any:
    """A zone whose validator signs from a key file, which was backed up."""
    site = key_file_site.Site(tmp_path / "keys", paper)
    site.journal.close()
    return site.world


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
