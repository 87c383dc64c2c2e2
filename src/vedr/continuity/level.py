"""The level that the plan stands at (severity, and whether it is active), and what people are told when it changes.

Guarantees: pure; a level that stays is never told again, however long and by however many processes it is seen.
Leaves out: telling, and a person's own word (vedr.cli.bcp tells of that itself).
"""

from dataclasses import dataclass

from vedr.continuity.activation import CALM_SEVERITY, Standing
from vedr.policies.notifications import SEVERITIES, Event, Severity


@dataclass(frozen=True, slots=True)
class Change:
    """`severity` is the graver of the two: whoever was told of trouble is told that it passed."""

    event: Event
    severity: Severity
    subject: str


def change_of(before: Standing | None, now: Standing) -> Change | None:
    """What changed since the look that was recorded last; None for the same level.  No look on record: all was well."""
    if now.active and not (before and before.active):
        return Change("declared", "SEV-1", "The business continuity plan is active")
    was = before.severity if before else CALM_SEVERITY
    if now.severity == was:
        return None
    graver = min(was, now.severity, key=SEVERITIES.index)
    said = f"{now.severity}, it was {was}"
    if graver == now.severity:
        return Change("declared", graver, f"Severity is now {said}")
    if now.severity == CALM_SEVERITY:
        return Change("resolved", graver, f"All functions are well again: severity {said}")
    return Change("mitigated", graver, f"Severity is down to {said}")
