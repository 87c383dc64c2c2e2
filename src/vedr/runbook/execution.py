"""Who executes a run's steps, and who is told of them: the seams between a run and an orchestrator or a terminal.

Guarantees: only transient errors are tried again, as often and with the pauses that the step's policy says.
Leaves out: the ledger, leases and people (`vedr.runbook.run`); Prefect's executor (tasks.binding).
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from vedr.errors import VedrError
from vedr.ledger import Entry
from vedr.runbook.steps import Retry
from vedr.runbook.timing import Forecast, Timing

log = logging.getLogger(__name__)
T = TypeVar("T")


class Executor(Protocol):
    """Executes a step's attempts: plainly, or as the orchestrator's task."""

    def execute(self, title: str, key: str, retry: Retry, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it returns, the policy is used up, or its error is not transient."""


class Listener(Protocol):
    """Is told everything that happens.  An error that it raises is logged and ends its listening, never the run."""

    def entry(self, entry: Entry, measured: Timing, forecast: Forecast) -> None:
        """An entry was recorded."""

    def say(self, message: str) -> None:
        """A line of progress."""


class Plainly:
    """Executes in the calling thread."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def execute(self, title: str, key: str, retry: Retry, attempt: Callable[[], T]) -> T:
        """As Executor says."""
        for delay_s in retry.delays_s:
            try:
                return attempt()
            except VedrError as error:
                if not error.transient:
                    raise
                log.info("%s (%s): %s; again in %g s", title, key, error.message, delay_s)
            self._sleep(delay_s)
        return attempt()
