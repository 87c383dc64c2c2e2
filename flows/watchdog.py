"""`watchdog`: every five minutes, over Prefect and the ledger.

It is a plain Prefect flow and no runbook: a round that finds nothing leaves nothing in the ledger.
"""

from prefect import flow
from prefect.runtime import flow_run

from tasks.watchdog import Watched, watch


@flow(name="watchdog", retries=0, persist_result=False)
def watchdog(site: str = "") -> Watched:
    """End stuck runs, find schedules that did not happen, make Prefect show what the ledger says.

    Args:
        site: Name of the site.  Empty: the one that the worker is set to.
    """
    return watch(site, own_flow_run=str(flow_run.id or ""))
