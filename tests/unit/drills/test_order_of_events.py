"""The page of a disruptive drill: what follows what, whatever the steps come to."""

from typing import Any

import pytest

from flows.drills import break_and_recover, one_at_a_time
from tasks.drills import Aimed, Answer, Home, Injected
from vedr.drills.scenario import SCENARIOS, Act
from vedr.drills.targets import Radius
from vedr.errors import ConflictError, RefusedError
from vedr.runbook.steps import AnyStep

FINE = Answer("inc-20260214-031500-k3x9", "RB-DR-001", "completed", 1000, 2000, met=True, error="")
LATE = Answer("inc-20260214-031500-k3x9", "RB-DR-001", "completed", 3000, 2000, met=False, error="")
FAILED = Answer("inc-20260214-031500-k3x9", "RB-DR-001", "failed", 0, 2000, met=False, error="no way back")
HOME, AWAY = Home((), None, ()), Home((), None, ("full-0 does not answer in sync",))


class Script:
    """Stands for the run: it tells what each step comes to, and remembers which were asked for."""

    def __init__(self, **results: Any) -> None:
        names = ("RB-DR-001", "RB-DR-004")
        acts = [Act(name, "node", f"full-{n}", "killed", failback=False) for n, name in enumerate(names)]
        aimed = tuple(Aimed(act, (), Radius(act.target, 0, 6, halts=False, finding="")) for act in acts)
        told = {"choose_targets": aimed, "inject": Injected(()), "respond": FINE, "bring_home": HOME}
        self._results = told | results
        self.asked: list[str] = []

    def step(self, one: AnyStep[Any], *_: Any) -> Any:
        self.asked.append(one.key)
        result = self._results.get(one.base_key)
        if isinstance(result, Exception):
            raise result
        return result

    def hold(self, subject: str) -> None:
        raise ConflictError(f"{subject} is held", remedy="Wait.")


def drilled(**results: Any) -> list[str]:
    script = Script(**results)
    break_and_recover(script, SCENARIOS["annual"])  # type: ignore[arg-type]
    return script.asked


def test_nothing_is_broken_before_the_site_is_seen_to_be_well_and_counted() -> None:
    first = drilled()[:4]
    assert first == ["check_steady", "choose_targets", "count_before", "inject:RB-DR-001"]
    for early in ("check_steady", "choose_targets", "count_before"):
        script = Script(**{early: RefusedError("not run", remedy="Repair it.")})
        with pytest.raises(RefusedError):
            break_and_recover(script, SCENARIOS["annual"])  # type: ignore[arg-type]
        assert not [key for key in script.asked if key.startswith("inject")]


def test_every_exercise_ends_at_home_and_the_drill_with_a_second_count() -> None:
    keys = drilled()
    assert [key for key in keys if "RB-DR-004" in key] == [
        "inject:RB-DR-004",
        "respond:RB-DR-004",
        "bring_home:RB-DR-004",
    ]
    assert keys[-2:] == ["compare_census", "conclude"]


@pytest.mark.parametrize("answer", [FAILED, LATE])
def test_a_runbook_that_failed_or_was_late_is_brought_home_and_nothing_more_is_broken(answer: Answer) -> None:
    keys = drilled(respond=answer)
    assert keys[-3:] == ["bring_home:RB-DR-001", "compare_census", "conclude"]
    assert "inject:RB-DR-004" not in keys


def test_a_site_that_did_not_come_home_is_not_broken_again() -> None:
    assert "inject:RB-DR-004" not in drilled(bring_home=AWAY)


def test_a_late_or_failed_runbook_is_a_problem_and_a_completed_one_in_time_is_none() -> None:
    assert not FINE.problem
    assert "3000 ms of 2000 ms" in LATE.problem
    assert "no way back" in FAILED.problem


def test_a_drill_that_meets_another_one_is_not_run() -> None:
    with pytest.raises(RefusedError, match="not run: drill is held"):
        one_at_a_time(Script())  # type: ignore[arg-type]
