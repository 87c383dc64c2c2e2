"""`provider-state-backup`: the provider daemons' state, every four hours at :30, from each region."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.freshness import find_fresh
from tasks.orders import RegionJob
from tasks.providers import keep_house, prove_provider_state, take_provider_state
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S

RUNBOOK: Final = Runbook(
    "provider-state-backup",
    "provider state backup",
    RegionJob,
    [find_fresh, take_provider_state, prove_provider_state, keep_house],
    target_s=HOUR_S,
)


@runbook_flow(RUNBOOK)
def provider_state_backup(order: RegionJob) -> Outcome:
    """Back up the provider daemons of a region: captured, reconciled against the chain, restored to scratch.

    Args:
        order: Which region.
    """
    with open_run(RUNBOOK, order) as run:
        if not run.step(find_fresh):
            taken = run.step(take_provider_state)
            run.step(prove_provider_state, taken)
            run.step(keep_house)
    return run.outcome
