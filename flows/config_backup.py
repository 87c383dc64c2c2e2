"""`config-backup`: the fleet's configuration, every hour, from each region; never keys, never secrets."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.configurations import commit_configuration, keep_house, store_configuration
from tasks.freshness import find_fresh
from tasks.orders import RegionJob
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import MINUTE_S

RUNBOOK: Final = Runbook(
    "config-backup",
    "configuration backup",
    RegionJob,
    [find_fresh, store_configuration, commit_configuration, keep_house],
    target_s=30 * MINUTE_S,
)


@runbook_flow(RUNBOOK)
def config_backup(order: RegionJob) -> Outcome:
    """Back up a region's configuration: stored in three regions, and committed to git.

    Args:
        order: Which region.
    """
    with open_run(RUNBOOK, order) as run:
        if not run.step(find_fresh):
            run.step(store_configuration)
            run.step(commit_configuration)
            run.step(keep_house)
    return run.outcome
