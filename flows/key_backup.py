"""`key-backup`: validator, node and provider keys, every day at 02:00, from each region; sealed, never in clear."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.freshness import find_fresh
from tasks.keys import back_up_keys, keep_house, refuse_troubles, see_rotation
from tasks.orders import RegionJob
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import MINUTE_S

RUNBOOK: Final = Runbook(
    "key-backup",
    "key backup",
    RegionJob,
    [find_fresh, back_up_keys, see_rotation, keep_house, refuse_troubles],
    target_s=30 * MINUTE_S,
)


@runbook_flow(RUNBOOK)
def key_backup(order: RegionJob) -> Outcome:
    """Back up a region's keys: sealed to the escrow's passphrase and the custodians' key, opened again, compared.

    Args:
        order: Which region.
    """
    with open_run(RUNBOOK, order) as run:
        if not run.step(find_fresh):
            done = run.step(back_up_keys)
            run.step(see_rotation)
            run.step(keep_house)
            run.step(refuse_troubles, done)  # last, so that one bad file does not keep the others from being backed up
    return run.outcome
