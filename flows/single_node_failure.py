"""RB-DR-001: one node crashed, lost its disk, or does not answer."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.nodes import (
    assess_consensus,
    choose_way,
    guard_signing,
    monitor_sync,
    recover_data,
    start_node,
    stop_node,
    tidy_up,
    verify_failure,
    verify_participation,
)
from tasks.orders import SingleNodeFailure
from tasks.signing import subjects_of_node
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

RUNBOOK: Final = Runbook(
    "RB-DR-001",
    "single node failure",
    SingleNodeFailure,
    [
        verify_failure,
        assess_consensus,
        choose_way,
        stop_node,
        recover_data,
        guard_signing,
        start_node,
        monitor_sync,
        verify_participation,
        tidy_up,
    ],
    subjects=subjects_of_node,
)


@runbook_flow(RUNBOOK)
def single_node_failure(order: SingleNodeFailure) -> Outcome:
    """Recover one failed node.  Target: 5 min from detection.

    Args:
        order: Which node, and how.
    """
    with open_run(RUNBOOK, order) as run:
        judgement = run.step(verify_failure)
        run.step(assess_consensus)
        choice = run.step(choose_way, judgement)
        run.step(stop_node)
        recovered = run.step(recover_data, choice)
        guarded = run.step(guard_signing)  # before starting: a validator signs only above what it may have signed
        run.step(start_node, guarded)
        caught_up = run.step(monitor_sync, recovered)
        run.step(verify_participation)  # seen, not assumed: its signature, its app hash
        run.step(tidy_up, caught_up)
    return run.outcome
