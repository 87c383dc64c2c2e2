"""Runs killed with SIGKILL at random points, within steps and between them, and gone on with until they have ended.

VEDR_KILLS sets how many kill points are tried (20), VEDR_KILLS_SEED another choice of them.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killed_run
import pytest
from forks import Forks

from vedr.errors import NotFoundError
from vedr.ledger import Entry, RunId

SCRIPT = Path(__file__).with_name("killed_run.py")
KILLS = int(os.environ.get("VEDR_KILLS", "20"))
SEED = os.environ.get("VEDR_KILLS_SEED", "vedr")
RUN = RunId("inc-20260214-031500-kill")
ONCE = {"fence", "notice", "start a", "start b", "traffic"}
CAN_UNDO = {"notify": "notice", "start:a": "start a", "start:b": "start b", "point_traffic": "traffic"}
MOST_KILLS_A_RUN = 4


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with Forks(SCRIPT, importing_from=(SCRIPT.parents[1] / "stores",)) as made:
        yield made


@pytest.fixture(scope="module")
def points(processes: Forks, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many points a run has at which it may be killed."""
    return int(processes.perform(tmp_path_factory.mktemp("whole"), "run", run=RUN)["points"])


def last_kind(state: Path) -> str:
    """The kind of the last entry that the regions hold; empty when the process was killed before its first."""
    journal = killed_run.open_journal(state)
    try:
        entries = journal.read(RUN).entries
        return str(entries[-1].kind) if entries else ""
    except NotFoundError:
        return ""
    finally:
        journal.close()


def verified(state: Path) -> tuple[Entry, ...]:
    """The run's entries, when every signature, chain and copy in every region holds."""
    journal = killed_run.open_journal(state)
    try:
        journal.heal(RUN)
        assert not journal.verify().silent
        entries: tuple[Entry, ...] = journal.read(RUN).entries
        return entries
    finally:
        journal.close()


def cases(tmp_path: Path, points: int, kills: int, *, salt: str) -> Iterator[tuple[Path, Callable[[], int | None]]]:
    """A folder for each run, and where it is killed next; None: it may live.  As many kill points in all as told."""
    chance = random.Random(f"{SEED} {salt}")
    left = kills
    while left > 0:
        planned = [chance.randrange(points) for _ in range(min(left, chance.randint(1, MOST_KILLS_A_RUN)))]
        left -= len(planned)
        state = tmp_path / str(left)
        state.mkdir()
        coming = iter(planned)
        yield state, lambda coming=coming: next(coming, None)  # type: ignore[misc]


def test_a_run_killed_anywhere_goes_on_and_does_everything_exactly_once(
    processes: Forks, points: int, tmp_path: Path
) -> None:
    died = 0
    for state, next_kill in cases(tmp_path, points, KILLS, salt="resume"):
        kind = ""
        while kind != "closed":
            told = processes.perform(state, "run", run=RUN, resume=bool(kind), kill_at=next_kill())
            died += told["killed"]
            kind = last_kind(state)
            assert kind == "closed" or "error" not in told
        assert Counter(killed_run.effects(state)) == dict.fromkeys(ONCE, 1), state
        assert (state / "configuration").read_text() == RUN
        assert (state / "moved").read_text() == f"1 {RUN}"
        entries = verified(state)
        completed = Counter(str(entry.payload["step"]) for entry in entries if entry.kind == "step_completed")
        assert set(completed.values()) == {1}
        assert (entries[-1].kind, entries[-1].payload["outcome"]) == ("closed", "completed")
        assert entries[-1].payload["not_done"] == []
    assert died >= KILLS / 3  # a resumed run has fewer points: not every planned kill is reached


def test_a_run_killed_anywhere_is_given_up_and_what_it_did_is_taken_back_once_or_named(
    processes: Forks, points: int, tmp_path: Path
) -> None:
    abandoned = 0
    for state, next_kill in cases(tmp_path, points, max(10, KILLS // 2), salt="abandon"):
        processes.perform(state, "run", run=RUN, kill_at=next_kill())
        kind = last_kind(state)
        if kind not in ("", "closed"):
            abandoned += 1
            while kind != "closed":
                told = processes.perform(state, "abandon", run=RUN, kill_at=next_kill())
                kind = last_kind(state)
                assert kind == "closed" or "error" not in told
            check_given_up(killed_run.effects(state), verified(state))
    assert abandoned


def check_given_up(effects: list[str], entries: tuple[Entry, ...]) -> None:
    closing: dict[str, Any] = dict(entries[-1].payload)
    assert closing["outcome"] == "abandoned"
    done = Counter(effects)
    assert set(done.values()) <= {1}
    for what in set(CAN_UNDO.values()):
        assert done[what] == done[f"undo {what}"], effects
    begun = {str(entry.payload["step"]) for entry in entries if entry.kind == "step_started"} - {"look", "verify"}
    taken_back = {one["step"] for one in closing["taken_back"]}
    assert taken_back == begun & set(CAN_UNDO)
    assert {one["step"] for one in closing["by_hand"]} == begun - taken_back
