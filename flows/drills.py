"""The drills: weekly a node, monthly a zone, quarterly a region, once a year all six runbooks; and the form that breaks
nothing.
"""

import dataclasses
from functools import partial
from typing import Any, Final, TypeVar, cast

from tasks import drills_rehearsing as rehearsing
from tasks.binding import open_run, runbook_flow
from tasks.drills import (
    Aimed,
    Exercised,
    Injected,
    bring_home,
    check_steady,
    choose_targets,
    compare_census,
    conclude,
    count_before,
    inject,
    plan_of_drill,
    respond,
)
from tasks.drills_evidence import with_evidence
from tasks.drills_orders import Drill, FullDrill, NodeDrill, RegionDrill, Rehearsal, ZoneDrill, instead_of, rehearses
from tasks.drills_tabletop import Tabletop, record_tabletop
from vedr.drills.rehearsal import Tried
from vedr.drills.scenario import HOME_S, REHEARSAL_TITLE, SCENARIOS, Scenario
from vedr.errors import ConflictError, RefusedError
from vedr.readiness.drill_schedule import REHEARSAL_ID, TABLETOP_ID
from vedr.runbook.run import Outcome, Run
from vedr.runbook.steps import AnyStep, Runbook
from vedr.targets import HOUR_S, RUNBOOK_RTO_S

D = TypeVar("D", bound=Drill)
S = TypeVar("S", bound=AnyStep[Any])

REHEARSAL: Final = Runbook(
    REHEARSAL_ID,
    REHEARSAL_TITLE,
    Rehearsal,
    [
        rehearsing.check_steady,
        rehearsing.count_before,
        rehearsing.restore_isolated,
        rehearsing.plan_failover,
        rehearsing.rehearse_promotions,
        rehearsing.compare_census,
        rehearsing.conclude,
    ],
    target_s=HOUR_S,
)


def _runbook(scenario: Scenario, order: type[D]) -> Runbook[D]:
    """A drill takes as long as its runbooks may, and the ways home."""
    exercises = scenario.exercises
    steps: list[AnyStep[Any]] = [
        check_steady,
        choose_targets,
        count_before,
        dataclasses.replace(inject, budget_s=inject.budget_s * len(exercises)),
        dataclasses.replace(respond, budget_s=sum(RUNBOOK_RTO_S[one.runbook] for one in exercises)),
        dataclasses.replace(bring_home, budget_s=sum(HOME_S[one.kind] for one in exercises)),
        compare_census,
        conclude,
    ]
    return Runbook(
        scenario.runbook,
        scenario.title,
        order,
        steps,
        target_s=scenario.target_s,
        plan=partial(plan_of_drill, scenario),
    )


WEEKLY: Final = _runbook(SCENARIOS["weekly"], NodeDrill)
MONTHLY: Final = _runbook(SCENARIOS["monthly"], ZoneDrill)
QUARTERLY: Final = _runbook(SCENARIOS["quarterly"], RegionDrill)
ANNUAL: Final = _runbook(SCENARIOS["annual"], FullDrill)


@runbook_flow(WEEKLY)
def weekly(order: NodeDrill) -> Outcome:
    """Kill a full node and recover it by RB-DR-001.  At most 30 min, without impact.

    Args:
        order: Which node.
    """
    return drill(WEEKLY, order, SCENARIOS["weekly"])


@runbook_flow(MONTHLY)
def monthly(order: ZoneDrill) -> Outcome:
    """Kill a zone, fail it over by RB-DR-002, and take it home.  At most 1 h.

    Args:
        order: Which zone.
    """
    return drill(MONTHLY, order, SCENARIOS["monthly"])


@runbook_flow(QUARTERLY)
def quarterly(order: RegionDrill) -> Outcome:
    """Kill a region, fail it over by RB-DR-003, and take it home.  At most 4 h.

    Args:
        order: Which region.
    """
    return drill(QUARTERLY, order, SCENARIOS["quarterly"])


@runbook_flow(ANNUAL)
def annual(order: FullDrill) -> Outcome:
    """Exercise all six runbooks, one after the other.  At most 8 h.

    Args:
        order: Why now.
    """
    return drill(ANNUAL, order, SCENARIOS["annual"])


@runbook_flow(REHEARSAL)
def rehearsal(order: Rehearsal) -> Outcome:
    """Restore beside the site, and rehearse promotions without signing.  At most 1 h.

    Args:
        order: Which drill it stands for, and whose keys.
    """
    with with_evidence(order) as told, open_run(REHEARSAL, order) as run:
        told.run_id = run.run_id
        one_at_a_time(run)
        run.step(rehearsing.check_steady)
        before = run.step(rehearsing.count_before)
        run.step(rehearsing.restore_isolated)
        tried: tuple[Tried, ...] = ()
        if order.cadence != "weekly":  # which is about one node
            run.step(rehearsing.plan_failover)
            tried = run.step(rehearsing.rehearse_promotions)
        seen = run.step(rehearsing.compare_census, before)
        run.step(rehearsing.conclude, tried, seen)
    return run.outcome


TABLETOP: Final = Runbook(TABLETOP_ID, "tabletop exercise", Tabletop, [record_tabletop], target_s=60)


@runbook_flow(TABLETOP)
def tabletop(order: Tabletop) -> Outcome:
    """Record a tabletop exercise that was held.

    Args:
        order: Which sheet, who took part, what was found.
    """
    with with_evidence(order) as told, open_run(TABLETOP, order) as run:
        told.run_id = run.run_id
        run.step(record_tabletop)
    return run.outcome


def drill(runbook: Runbook[D], order: D, scenario: Scenario) -> Outcome:
    """A drill in the form that was ordered, or that the site allows; its evidence is signed however it ends."""
    if rehearses(order):
        return cast("Outcome", REHEARSAL.perform(instead_of(order, scenario)))
    with with_evidence(order) as told, open_run(runbook, order) as run:
        told.run_id = run.run_id
        one_at_a_time(run)
        break_and_recover(run, scenario)
    return run.outcome


def one_at_a_time(run: Run[Any]) -> None:
    """A drill that meets another one is not run: the first of January has two."""
    try:
        run.hold("drill")
    except ConflictError as error:
        raise RefusedError(f"not run: {error.message}", remedy="Order it again when that one has ended.") from error


def break_and_recover(run: Run[D], scenario: Scenario) -> None:
    """The page of every disruptive drill."""
    run.step(check_steady)
    aimed = run.step(choose_targets, scenario)
    before = run.step(count_before)
    done: list[Exercised] = []
    for one in aimed:
        injected: Injected = run.step(inject.named(one.act.runbook), one)
        answer = run.step(_budgeted(respond, one, RUNBOOK_RTO_S[one.act.runbook]), one, injected)
        home = run.step(_budgeted(bring_home, one, HOME_S[one.act.kind]), one, answer)  # also when it failed
        done.append(Exercised(one, answer, home))
        if answer.problem or home.problems:
            break  # nothing more is broken on a site that is not well
    seen = run.step(compare_census, before, aimed)
    run.step(conclude, before, aimed, tuple(done), seen)


def _budgeted(one: S, aimed: Aimed, budget_s: float) -> S:
    return dataclasses.replace(one.named(aimed.act.runbook), budget_s=budget_s)
