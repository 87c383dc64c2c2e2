"""The scheduled look at the business continuity plan: what `vedr bcp status` does, shown in Prefect.

Guarantees: the look is in the ledger, where it says something new, before anything is shown; a change of level becomes
one event and one announcement, a level that stays becomes neither; that nothing could be shown never fails a look.
Leaves out: a look that could not be made, which is an error: the flow run fails, and that is seen.
"""

import logging
from dataclasses import dataclass
from typing import Final

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from vedr.adapters.continuity_standing import Look, Told, keep, look
from vedr.adapters.site import open_site
from vedr.continuity.functions import FUNCTIONS
from vedr.ledger import RunId
from vedr.readiness.rounds import BCP_STATUS, tell_round

ARTIFACT: Final = "bcp-status"
EVENT: Final = "vedr.continuity.level"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look came to; `change` is empty while the level stays, `not_told` names the channels that failed."""

    severity: str
    active: bool
    change: str
    not_told: tuple[str, ...]
    recorded_as: RunId | None


def look_at_plan(site_name: str = "") -> Looked:
    """One look.

    Args:
        site_name: As for `open_site`.

    Raises:
        UnavailableError: the ledger cannot be read or written.
    """
    with open_site(site_name or None) as opened:
        seen = look(opened)
        told = keep(opened, seen)
        tell_round(opened.journal, BCP_STATUS)
        name = opened.site.name
    if told.recorded:
        _show(name, seen, told)
    return Looked(
        severity=seen.standing.severity,
        active=seen.standing.active,
        change=told.change.subject if told.change else "",
        not_told=tuple(str(one) for one in told.deliveries if one.state == "failed"),
        recorded_as=told.run_id if told.recorded else None,
    )


def rows(seen: Look) -> list[dict[str, str]]:
    """The plan's functions as a table's rows."""
    standing = seen.standing
    return [
        {
            "function": FUNCTIONS[function].title,
            "priority": FUNCTIONS[function].priority,
            "state": health.state,
            "since (UTC)": f"{standing.troubled[function].at:%Y-%m-%d %H:%M}" if function in standing.troubled else "",
            "why": health.why,
        }
        for function, health in seen.assessment.functions.items()
    ]


def _show(site: str, seen: Look, told: Told) -> None:
    standing = seen.standing
    state = f"active: {standing.why_active}" if standing.active else "not active"
    try:
        create_table_artifact(
            table=rows(seen), key=ARTIFACT, description=f"{site}: severity {standing.severity}, the plan is {state}"
        )
        if told.change:
            emit_event(
                event=EVENT,
                resource={"prefect.resource.id": f"vedr.continuity.{site}", "vedr.site": site},
                payload={"severity": standing.severity, "active": standing.active, "change": told.change.subject},
            )
    except Exception as error:  # noqa: BLE001 - the ledger has it, and people were told
        log.warning("the look is not shown in Prefect: %s", type(error).__name__)
