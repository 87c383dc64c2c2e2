"""Telling people from a runbook's step, with whom it reached in the step's result, and so in the ledger.

    @step(title="Notify", budget_s=10, acts=False)
    def notify(ctx: Ctx) -> Announced:
        with open_site(ctx.order.site) as opened:
            return announce(opened, ctx, "declared", {"lost": ctx.order.region})

Steps tell what only they know: `declared`, `mitigated`.  What the run itself shows (waiting, an overrun, its end) goes
out by `Announcer`, a listener of every incident's run.

Guarantees: as vedr.adapters.notify_announcing.
"""

from collections.abc import Mapping

from vedr.adapters.notify_announcing import EXERCISE, NO_FACTS, Announced, Announcer, exercising, tell
from vedr.adapters.site import OpenSite
from vedr.continuity.incident import incident_of
from vedr.continuity.message import Link
from vedr.policies.notifications import Event, Severity
from vedr.runbook.order import Order
from vedr.runbook.steps import Context

__all__ = ["Announced", "Announcer", "announce", "exercising"]


def announce(
    opened: OpenSite,
    ctx: Context[Order],
    event: Event,
    facts: Mapping[str, str] = NO_FACTS,
    *,
    severity: Severity | None = None,
    links: tuple[Link, ...] = (),
    about: str = "",
) -> Announced:
    """Tell every channel that wants this event of the step's own run, side by side.

    Args:
        opened: The site.
        ctx: The step's context.
        event: What happened.
        facts: What the step knows, by name; never a secret.  Responders read it.
        severity: When it is known better than by the runbook.
        links: Where to look, besides Prefect's page.
        about: Tells apart several announcements of one event in one run.
    """
    incident = incident_of(opened.journal.read(ctx.run_id).entries)
    announced = tell(
        opened,
        incident,
        event,
        facts,
        severity=severity,
        links=links,
        about=about,
        exercise=EXERCISE.get() or incident.exercise,
        repeated=ctx.resuming,
    )
    ctx.say(str(announced))
    return announced
