"""A look at the plan's standing, kept in the ledger, and told of when its level changed; for commands and the schedule.

Guarantees: the look that is recorded first is the one that is told of; one that records nothing tells nobody; nobody
being reached is an answer and no error.
Leaves out: what is looked at (continuity_signals), and what a level is (vedr.continuity.level).
"""

from dataclasses import dataclass

from vedr.adapters.continuity_signals import look_around
from vedr.adapters.notify_announcing import tell_standing
from vedr.adapters.site import OpenSite
from vedr.continuity import activation
from vedr.continuity.activation import Standing
from vedr.continuity.delivery import Delivery
from vedr.continuity.level import Change, change_of
from vedr.continuity.record import Record
from vedr.continuity.severity import Assessment, assess
from vedr.ledger import RunId


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen now, and what the looks so far come to."""

    assessment: Assessment
    standing: Standing


@dataclass(frozen=True, slots=True)
class Told:
    """What came of keeping a look: its episode, whether the ledger has it, and whom the change of level reached."""

    run_id: RunId | None
    recorded: bool
    change: Change | None
    deliveries: tuple[Delivery, ...]


def look(opened: OpenSite) -> Look:
    """Look around; UnavailableError when the ledger cannot tell what was seen before."""
    signals = look_around(opened)
    assessment = assess(signals)
    episode = Record(opened.journal).episode()
    return Look(assessment, activation.look(episode.standing if episode else None, signals, assessment))


def keep(opened: OpenSite, seen: Look) -> Told:
    """Record the look, and tell responders and executives when it is the one that changed the level."""
    kept = Record(opened.journal).keep(seen.standing)
    change = change_of(kept.before, seen.standing) if kept.recorded else None
    if change is None or kept.run_id is None:
        return Told(kept.run_id, kept.recorded, None, ())
    return Told(kept.run_id, kept.recorded, change, _tell(opened, kept.run_id, change, seen))


def _tell(opened: OpenSite, run_id: RunId, change: Change, seen: Look) -> tuple[Delivery, ...]:
    standing = seen.standing
    why = standing.why_active if standing.active else "; ".join(seen.assessment.reasons)
    body = f"Why: {why or 'nothing is wrong'}\nSeverity: {standing.severity}\n"
    body += f"See: vedr bcp status --site {opened.site.name}"
    return tell_standing(opened, run_id, change.event, severity=change.severity, subject=change.subject, body=body)
