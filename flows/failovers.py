"""RB-DR-002 and RB-DR-003: a zone or a region is lost, or to be emptied.  The same steps, at two scales."""

import itertools
from typing import Any, Final, TypeVar

from tasks.binding import open_run, runbook_flow
from tasks.cordoning import cordon
from tasks.failover_orders import PLAN_HOLDS_S, RegionFailover, ZoneFailover, subjects_of_failover
from tasks.key_files import move_key_file
from tasks.key_files_last import move_key_files
from tasks.outages import confirm_outage, decide, declare, describe, plan_of
from tasks.relocating import hand_over, promote, start_reserves
from tasks.scaling import plan_scaling, scale_target
from tasks.serving import Shifted, as_planned, plan_traffic, shift_traffic, verify_service, watch_blocks
from vedr.failover.relocation import Relocation
from vedr.runbook.run import Outcome, Run
from vedr.runbook.steps import AnyStep, Runbook

OneStep = TypeVar("OneStep", bound=AnyStep[Any])

STEPS: Final = (
    confirm_outage,
    declare,
    decide,
    start_reserves,
    promote,
    plan_scaling,
    scale_target,
    plan_traffic,
    shift_traffic,
    hand_over,
    move_key_file,
    verify_service,
    watch_blocks,
)

ZONE: Final = Runbook(
    "RB-DR-002",
    "zone failover",
    ZoneFailover,
    (*STEPS[:3], cordon, *STEPS[3:]),
    subjects=subjects_of_failover,
    plan=plan_of,
)
REGION: Final = Runbook(
    "RB-DR-003", "region failover", RegionFailover, STEPS, subjects=subjects_of_failover, plan=plan_of
)


@runbook_flow(ZONE)
def zone_failover(order: ZoneFailover) -> Outcome:
    """Bring what a zone did back elsewhere.  Target: 15 min from detection.

    Args:
        order: Which zone, lost or to be emptied, and where to.
    """
    with open_run(ZONE, order) as run:
        fail_over(run)
    return run.outcome


@runbook_flow(REGION)
def region_failover(order: RegionFailover) -> Outcome:
    """Bring what a region did back in another; the chain may stand still until then.  Target: 30 min from detection.

    Args:
        order: Which region, lost or to be emptied, and where to.
    """
    with open_run(REGION, order) as run:
        fail_over(run)
    return run.outcome


def fail_over(run: Run[ZoneFailover] | Run[RegionFailover]) -> None:
    """The page of both runbooks."""
    found = agree(run)
    if found.cordons and not found.planned:
        run.step(cordon, found)
    run.step(start_reserves, found.gateways)
    if found.planned:  # one after the other: a chain that is at work misses one signature at a time
        for move in found.moves:
            run.step(promote.named(move.validator), (move,))
    elif found.moves:  # consensus first: a halted chain serves nobody
        run.step(promote, found.moves)
    run.step(scale_target, run.step(plan_scaling, found))
    as_planned(lambda number: send_users(run, found, number))
    for handover in found.handovers:
        run.step(hand_over.named(handover.provider), handover)
    done = move_key_files(run, found)
    if found.cordons and found.planned:
        run.step(cordon, found)
    with done.named():
        run.step(verify_service, done.found)
        run.step(watch_blocks, done.found)
    done.check()


def agree(run: Run[ZoneFailover] | Run[RegionFailover]) -> Relocation:
    """What people agreed to and is still so.  Until something acts, a plan that grew old, by their waiting or because
    the run stood still, is looked at anew: a place that serves again is left alone, another plan is asked about.
    """
    run.step(declare, run.step(confirm_outage))
    newest, found = decide, run.step(decide)
    for number in itertools.count(2):
        again = _nth(decide, number)
        is_due = run.has_done(again) or run.is_dated(newest, after_s=PLAN_HOLDS_S)
        if not is_due:
            run.approve(describe(found))
            is_due = run.is_dated(newest, after_s=PLAN_HOLDS_S)
        if not is_due:
            break
        run.step(_nth(confirm_outage, number))
        newest, found = again, found.seen_again(run.step(again))
    return found


def send_users(run: Run[ZoneFailover] | Run[RegionFailover], found: Relocation, number: int) -> Shifted:
    """Plan, then shift by the recorded plan: a run that is killed in between, or within, goes on with that one."""
    plan = run.step(_nth(plan_traffic, number), found)
    return run.step(_nth(shift_traffic, number), plan)


def _nth(one: OneStep, number: int) -> OneStep:
    """The step, or its repetition with that number, recorded apart."""
    return one if number == 1 else one.named(str(number))
