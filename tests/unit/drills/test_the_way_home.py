"""The way home goes on whatever goes wrong on it, and what the last look finds is what counts."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import drills
from tasks.drills import Aimed, Answer, Exercised, Home, bring_home, conclude
from vedr.drills.census import Census, Compared
from vedr.drills.scenario import Act
from vedr.drills.steady import Look
from vedr.drills.targets import Radius
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.ledger import RunId

FAILED = Answer("inc-20260214-031500-k3x9", "RB-DR-002", "failed", 0, 2000, met=False, error="no way back")
BACK = Answer("run-20260214-031500-k3x9", "failback", "completed", 1000, 2000, met=True, error="")
ZONE = Aimed(
    Act("RB-DR-002", "zone", "us-east-1b", "killed", failback=True), (), Radius("zone us-east-1b", 10, 6, False, "")
)


def away(*_: Any, **__: Any) -> Any:
    raise UnavailableError("the supervisor of us-east-1b does not answer", remedy="Wait.")


def come_home(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    last: tuple[str, ...],
    answer: Answer = FAILED,
    heal: Callable[[RunId], Any] = away,
) -> tuple[Home, list[str]]:
    done: list[str] = []
    opened = SimpleNamespace(journal=SimpleNamespace(heal=heal))
    monkeypatch.setattr(drills, "open_site", lambda _: contextlib.nullcontext(opened))
    monkeypatch.setattr(drills, "_start", away)
    monkeypatch.setattr(drills, "_wake_validators", away)
    monkeypatch.setattr(
        drills, "_await", lambda _ctx, _opened, _aimed, question: done.append(question.__name__) or last
    )
    monkeypatch.setattr(drills, "perform", lambda _ctx, runbook, _fields, _what: done.append(runbook) or BACK)
    ctx: Any = SimpleNamespace(order=SimpleNamespace(site=str(tmp_path)), say=done.append)
    return bring_home.fn(ctx, ZONE, answer), done


def test_a_failover_that_failed_is_taken_home_although_nothing_can_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, done = come_home(monkeypatch, tmp_path, last=("full-0 does not answer in sync",))
    assert "failback" in done
    assert home.failback == BACK
    assert home.problems == ("full-0 does not answer in sync", "the supervisor of us-east-1b does not answer")


def test_a_region_that_was_killed_gets_the_incidents_record_before_the_drill_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drill_ledger: Any
) -> None:
    writer = drill_ledger.journal().open(FAILED.run_id, "RB-DR-002", {})
    drill_ledger.settle()
    drill_ledger.down("us-east")
    writer.append("closed", {"outcome": "failed"})
    drill_ledger.settle()  # else the write to the region that is away may come through when it is back
    drill_ledger.down()
    _, done = come_home(monkeypatch, tmp_path, last=(), heal=drill_ledger.journal().heal)
    assert f"{FAILED.run_id}: 1 entries copied to us-east, which was away" in done
    assert drill_ledger.journal().verify().entries == 2


def test_what_went_wrong_on_the_way_is_no_problem_when_the_site_is_steady_at_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, _ = come_home(monkeypatch, tmp_path, last=())
    assert not home.problems


def test_a_failover_that_was_refused_moved_nothing_and_nothing_is_taken_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = Answer("", "RB-DR-002", "refused", 0, 0, met=False, error="it serves")
    home, done = come_home(monkeypatch, tmp_path, last=(), answer=refused)
    assert "failback" not in done
    assert home.failback is None


STEADY = Look(moving=True, lag_blocks={"full-0": 0})


@pytest.mark.parametrize(
    ("back", "found", "said"),
    [
        (BACK, STEADY, ""),
        (BACK, replace(STEADY, lag_blocks={"full-0": None}), "full-0 does not answer in sync"),
        (replace(BACK, outcome="failed", met=False, error="no way"), STEADY, "failback failed"),
    ],
)
def test_a_drill_that_goes_on_passes_by_what_is_seen_now_and_by_no_failed_failback(
    monkeypatch: pytest.MonkeyPatch, back: Answer, found: Look, said: str
) -> None:
    monkeypatch.setattr(drills, "open_site", lambda _: contextlib.nullcontext(None))
    monkeypatch.setattr(drills, "take_census", lambda *_, **__: Census({"unit a": "running"}))
    monkeypatch.setattr(drills, "look", lambda *_, **__: found)
    ctx: Any = SimpleNamespace(
        order=SimpleNamespace(site=""), resuming=True, run_id=RunId("run-20260214-031500-aaaa"), say=print
    )
    answer = replace(FAILED, outcome="completed", met=True)
    done = (Exercised(ZONE, answer, Home((), back, ("full-0 is 9 blocks behind",))),)
    before, seen = Census({"unit a": "running"}), Compared(1, (), ())
    with contextlib.nullcontext() if not said else pytest.raises(VerificationFailedError, match=said):
        assert conclude.fn(ctx, before, (ZONE,), done, seen).counted == 1
