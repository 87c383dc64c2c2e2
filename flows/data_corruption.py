"""RB-DR-004: a node's state, databases or configuration are damaged."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.corruption import (
    bring_and_prove,
    choose_recovery,
    detect_corruption,
    examine_at_rest,
    guard_signing,
    preserve_damage,
    put_in_place,
    record_root_cause,
    restore_configuration,
    start_recovered,
    stop_corrupt,
    verify_across_nodes,
    watch_catching_up,
)
from tasks.corruption_orders import DataCorruption
from tasks.signing import subjects_of_node
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

RUNBOOK: Final = Runbook(
    "RB-DR-004",
    "data corruption",
    DataCorruption,
    [
        detect_corruption,
        stop_corrupt,
        examine_at_rest,
        preserve_damage,
        restore_configuration,
        choose_recovery,
        bring_and_prove,
        put_in_place,
        guard_signing,
        start_recovered,
        watch_catching_up,
        verify_across_nodes,
        record_root_cause,
    ],
    subjects=subjects_of_node,
)


@runbook_flow(RUNBOOK)
def data_corruption(order: DataCorruption) -> Outcome:
    """Bring a node with damaged data back to the chain's state.  Target: 1 h from detection.

    Args:
        order: Which node, and what is damaged.
    """
    with open_run(RUNBOOK, order) as run:
        suspected = run.step(detect_corruption)  # against verified headers: a majority of nodes can be wrong as well
        run.step(stop_corrupt)
        diagnosis = run.step(examine_at_rest, suspected)
        preserved = run.step(preserve_damage, diagnosis)  # before anything is replaced: it is all the evidence there is
        run.step(restore_configuration, diagnosis)
        ways = run.step(choose_recovery, diagnosis)
        brought = run.step(bring_and_prove, ways)
        run.step(put_in_place, brought)
        guarded = run.step(guard_signing)
        run.step(start_recovered, guarded)
        run.step(watch_catching_up, brought)
        run.step(verify_across_nodes)
        run.step(record_root_cause, diagnosis, preserved)
    return run.outcome
