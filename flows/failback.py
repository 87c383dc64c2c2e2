"""The way home after RB-DR-002 and RB-DR-003."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.cordoning import uncordon
from tasks.failover_orders import PLAN_HOLDS_S, Failback, subjects_of_failback
from tasks.key_files import move_key_file
from tasks.key_files_last import move_key_files
from tasks.returning import (
    confirm_home,
    decide_return,
    describe_return,
    give_back,
    plan_of_return,
    plan_return,
    return_traffic,
    stages_of,
    stand_down,
    take_key_home,
)
from tasks.scaling import scale_home
from tasks.serving import Shifted, as_planned, verify_service, watch_blocks
from vedr.adapters.site import open_site
from vedr.failover.relocation import Relocation
from vedr.runbook.run import Outcome, Run
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S

RUNBOOK: Final = Runbook(
    "failback",
    "failback",
    Failback,
    [
        decide_return,
        uncordon,
        confirm_home,
        take_key_home,
        plan_return,
        return_traffic,
        give_back,
        move_key_file,
        verify_service,
        watch_blocks,
        stand_down,
        scale_home,
    ],
    target_s=2 * HOUR_S,
    subjects=subjects_of_failback,
    plan=plan_of_return,
)


@runbook_flow(RUNBOOK)
def failback(order: Failback) -> Outcome:
    """Take home what a failover moved away.  Target: 2 h, the work recovery time.

    Args:
        order: Which zone or region is healthy again.
    """
    again = confirm_home.named("2")
    with open_run(RUNBOOK, order) as run:
        found = run.step(decide_return)
        with open_site(order.site) as opened:
            stages_pct = stages_of(opened, order.place)
        if not found.cordons:  # before anybody is asked: a home that is not healthy is refused, and nothing stays open
            run.step(confirm_home)
        run.approve(describe_return(found, stages_pct))
        if found.cordons:
            run.step(uncordon)  # first: what is asked for next needs somewhere to run
            run.step(confirm_home)
        elif run.has_done(again) or run.is_dated(confirm_home, after_s=PLAN_HOLDS_S):
            run.step(again)  # people took their time
        for move in found.moves:
            run.step(take_key_home.named(move.validator), move)
        shifted = tuple(send_home(run, found, stage_pct) for stage_pct in stages_pct)
        for handover in found.handovers:
            run.step(give_back.named(handover.reserve), handover)
        done = move_key_files(run, found)
        with done.named():
            run.step(verify_service, done.found)
            run.step(watch_blocks, done.found)
        run.step(stand_down, shifted, found.gateways)  # last: older answers of name servers still lead to them
        run.step(scale_home)
        done.check()
    return run.outcome


def send_home(run: Run[Failback], found: Relocation, stage_pct: int) -> Shifted:
    """One stage, recorded apart: planned from what the stage before left, then carried out."""

    def stage(number: int) -> Shifted:
        name = f"{stage_pct}" if number == 1 else f"{stage_pct}-{number}"
        plan = run.step(plan_return.named(name), stage_pct)
        return run.step(return_traffic.named(name), found, plan)

    return as_planned(stage)
