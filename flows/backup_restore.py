"""RB-DR-006: bring a node's chain state back from a snapshot."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.orders import BackupRestore
from tasks.restoring import (
    choose_point,
    fetch_and_prove,
    guard_signing,
    reconcile_gap,
    start_restored,
    stop_for_restore,
    swap_in,
    tidy_up,
    verify_service,
)
from tasks.signing import subjects_of_node
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

RUNBOOK: Final = Runbook(
    "RB-DR-006",
    "backup restore",
    BackupRestore,
    [
        choose_point,
        fetch_and_prove,
        stop_for_restore,
        swap_in,
        guard_signing,
        start_restored,
        reconcile_gap,
        verify_service,
        tidy_up,
    ],
    subjects=subjects_of_node,
)


@runbook_flow(RUNBOOK)
def backup_restore(order: BackupRestore) -> Outcome:
    """Bring a node's chain state back from a snapshot.  Target: 2 h from detection.

    Args:
        order: Which node, and from which snapshot.
    """
    with open_run(RUNBOOK, order) as run:
        points = run.step(choose_point)
        proven = run.step(fetch_and_prove, points)  # beside the live data, which nobody touches before this holds
        run.step(stop_for_restore)
        run.step(swap_in, proven)
        guarded = run.step(guard_signing)
        run.step(start_restored, guarded)
        run.step(reconcile_gap, proven)
        run.step(verify_service)
        run.step(tidy_up)
    return run.outcome
