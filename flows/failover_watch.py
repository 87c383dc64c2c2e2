"""The watch after a failover: an hour, four hours, a day."""

from typing import Final

from tasks.aftercare import look_after
from tasks.binding import open_run, runbook_flow
from vedr.runbook.order import Order
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

RUNBOOK: Final = Runbook("failover-watch", "watch after failovers", Order, [look_after], target_s=300)


@runbook_flow(RUNBOOK)
def failover_watch(order: Order) -> Outcome:
    """Look at what the last failovers moved; every 15 minutes, and done at once when there is nothing to watch.

    Args:
        order: The site.
    """
    with open_run(RUNBOOK, order) as run:
        run.step(look_after)
    return run.outcome
