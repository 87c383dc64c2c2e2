"""When runs were opened, and when a schedule was due.

Guarantees: pure; all times are UTC.  A run that a clock far ahead dated into the future has happened at no time that
anybody knows: else one such run would keep a schedule for as long as that clock was ahead.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Final

from cronsim import CronSim

from vedr.ledger import RunId
from vedr.readiness.ages import is_to_come

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


def opened_by(now: dt.datetime, run_ids: Iterable[RunId]) -> list[RunId]:
    """Those that were opened by now, in their order."""
    return [run_id for run_id in run_ids if not is_to_come(opened_at(run_id), now)]
