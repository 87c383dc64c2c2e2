"""Steps of the daily validation: look, show, and refuse what failed.

Guarantees: every finding is in the ledger before anything is judged; the run completes only when no check failed and
none could not run.
Leaves out: the checks themselves (vedr.readiness), and telling people (alerts on the flow's state).
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.binding import Api
from tasks.orders import DailyValidation
from vedr.adapters.check_probes import shared_ports
from vedr.errors import VerificationFailedError
from vedr.inventory import load_site
from vedr.readiness.finding import Finding
from vedr.readiness.registry import CHECKS, with_boot
from vedr.readiness.validation import choose, validate
from vedr.runbook.steps import Context, step

ARTIFACT: Final = "daily-validation"
Ctx = Context[DailyValidation]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Validated:
    """What every check found."""

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_failure)


@step(title="Look at everything", budget_s=2400, acts=False)
def look_at_everything(ctx: Ctx) -> Validated:
    """Runs the checks side by side, each with a deadline of its own, and records what each found."""
    site = load_site(ctx.site or None)
    chosen = choose(with_boot(CHECKS) if ctx.order.boot else CHECKS, ctx.order.checks.split())
    with shared_ports(site) as open_ports:
        found = Validated(validate(chosen, open_ports, site.checks))
    for finding in found.findings:
        if not finding.passed:
            ctx.say(f"{finding.check}: {finding.status}: {finding.observed}")
    ctx.say(f"{len(found.findings)} checks, {len(found.failures)} failed or could not run")
    return found


@step(title="Show the findings", budget_s=60, acts=False)
def show_findings(ctx: Ctx, found: Validated) -> bool:
    """Puts a table of them beside the flow run, where there is one."""
    try:
        shown = publish(
            found.findings, description=f"{ctx.run_id}: {len(found.failures)} of {len(found.findings)} failed"
        )
    except Exception as error:  # noqa: BLE001 - the ledger has them; showing must never end the run
        log.warning("the findings are not shown in Prefect: %s", type(error).__name__)
        return False
    return shown


@step(title="Refuse what failed", budget_s=10, acts=False)
def refuse_failures(_ctx: Ctx, found: Validated) -> int:
    """Fails when any check failed or could not run; last, so that every other check was heard."""
    if not found.findings:
        raise VerificationFailedError("no check ran", remedy="Name checks of: vedr check --list.")
    if found.failures:
        first = found.failures[0]
        names = "; ".join(f"{finding.check} {finding.status}" for finding in found.failures)
        raise VerificationFailedError(
            f"{len(found.failures)} of {len(found.findings)} checks: {names}",
            remedy=f"{first.check}: {first.remedy or first.observed}",
        )
    return len(found.findings)


def rows(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """As a table's rows, the bad ones first."""
    ordered = sorted(findings, key=lambda finding: (not finding.is_failure, finding.passed))
    return [
        {
            "check": finding.check,
            "result": finding.status,
            "observed": finding.observed,
            "expected": finding.expected,
            "remedy": finding.remedy,
            "took": f"{finding.took_s:.1f} s",
        }
        for finding in ordered
    ]


def publish(findings: Sequence[Finding], *, description: str, answers: Callable[[], bool] | None = None) -> bool:
    """A table artifact of the flow run that this is in; false where there is none, or Prefect does not answer."""
    if "prefect.context" not in sys.modules:
        return False
    from prefect.artifacts import create_table_artifact  # noqa: PLC0415 - an optional dependency
    from prefect.context import FlowRunContext  # noqa: PLC0415

    if FlowRunContext.get() is None or not (answers or Api().answers)():
        return False
    create_table_artifact(table=rows(findings), key=ARTIFACT, description=description)
    return True
