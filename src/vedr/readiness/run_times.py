"""When runs were opened, and when a schedule was due.

Guarantees: pure; all times are UTC.
"""

import datetime as dt
from typing import Final

from cronsim import CronSim

from vedr.ledger import RunId

_RUN_ID_TIME: Final = slice(4, 19)  # inc-YYYYMMDD-HHMMSS-xxxx


def period(cron: str, now: dt.datetime) -> dt.timedelta:
    """The time between the next two runs."""
    times = CronSim(cron, now)
    first = next(times)
    return next(times) - first


def last_due(cron: str, before: dt.datetime) -> dt.datetime:
    """The newest time at or before `before` that the expression names, UTC."""
    times = CronSim(cron, before + dt.timedelta(minutes=1), reverse=True)  # it leaves out its own starting minute
    return next(due for due in times if due <= before)


def opened_at(run_id: RunId) -> dt.datetime:
    """When a run was opened, which its id says."""
    return dt.datetime.strptime(run_id[_RUN_ID_TIME], "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
