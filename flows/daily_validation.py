"""`daily-validation`: every day at 06:00 the whole site is looked at, after the night's backups and proofs."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.checks import look_at_everything, refuse_failures, show_findings
from tasks.orders import DailyValidation
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S

RUNBOOK: Final = Runbook(
    "daily-validation",
    "daily validation",
    DailyValidation,
    [look_at_everything, show_findings, refuse_failures],
    target_s=HOUR_S,
)


@runbook_flow(RUNBOOK)
def daily_validation(order: DailyValidation) -> Outcome:
    """Run the daily checks; it fails when any of them failed or could not run, after all were heard.

    Args:
        order: Which checks, and whether to boot snapshots now.
    """
    with open_run(RUNBOOK, order) as run:
        found = run.step(look_at_everything)
        run.step(show_findings, found)
        run.step(refuse_failures, found)
    return run.outcome
