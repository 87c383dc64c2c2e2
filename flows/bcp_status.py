"""`bcp-status`: every five minutes, the business continuity plan's criteria against what is seen.

It is a plain Prefect flow and no runbook: a look that finds all well leaves nothing in the ledger.  Where Prefect is
down, `vedr bcp status` from any host is the same look, and tells the same people.
"""

from prefect import flow

from tasks.continuity import Looked, look_at_plan


@flow(name="bcp-status", retries=0, persist_result=False)
def bcp_status(site: str = "") -> Looked:
    """Look at every function, activate the plan where its criteria are met, tell people when the level changed.

    Args:
        site: Name of the site.  Empty: the one that the worker is set to.
    """
    return look_at_plan(site)
