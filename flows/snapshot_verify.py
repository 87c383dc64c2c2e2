"""`snapshot-verify`: every day the newest snapshot of each region is proven by booting a node from it."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.freshness import find_fresh
from tasks.orders import SnapshotProof
from tasks.snapshots import boot_and_compare, choose_snapshot, verify_bytes
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S

RUNBOOK: Final = Runbook(
    "snapshot-verify",
    "proof of a snapshot by booting it",
    SnapshotProof,
    [find_fresh, choose_snapshot, verify_bytes, boot_and_compare],
    target_s=2 * HOUR_S,
)


@runbook_flow(RUNBOOK)
def snapshot_verify(order: SnapshotProof) -> Outcome:
    """Prove a snapshot: every byte in every region, then a node booted from it, its app hash the chain's.

    Args:
        order: Which region, and which snapshot.
    """
    with open_run(RUNBOOK, order) as run:
        if not run.step(find_fresh):
            snapshot = run.step(choose_snapshot)
            run.step(verify_bytes, snapshot)
            run.step(boot_and_compare, snapshot)
    return run.outcome
