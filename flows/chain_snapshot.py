"""`chain-snapshot`: the state of the chain, every four hours, from each region."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.freshness import find_fresh
from tasks.orders import RegionJob
from tasks.snapshots import keep_house, take_snapshot, verify_presence
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S

RUNBOOK: Final = Runbook(
    "chain-snapshot",
    "snapshot of the chain state",
    RegionJob,
    [find_fresh, take_snapshot, verify_presence, keep_house],
    target_s=HOUR_S,
)


@runbook_flow(RUNBOOK)
def chain_snapshot(order: RegionJob) -> Outcome:
    """Snapshot a region's chain state: captured from a full node, stored and checked in three regions.

    Args:
        order: Which region.
    """
    with open_run(RUNBOOK, order) as run:
        if not run.step(find_fresh):
            taken = run.step(take_snapshot)
            run.step(verify_presence, taken)
            run.step(keep_house)
    return run.outcome
