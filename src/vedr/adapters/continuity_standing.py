"""A look at the plan's standing, kept in the ledger, and told of when its level changed; for commands and the schedule.

Guarantees: the look that is recorded first is the one that is told of; one that records nothing tells nobody; nobody
being reached is an answer and no error.
Leaves out: what is looked at (continuity_signals), and what a level is (vedr.continuity.level).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vedr.adapters.continuity_signals import look_around
from vedr.adapters.notify_announcing import tell_standing
from vedr.adapters.site import OpenSite
from vedr.continuity import activation
from vedr.continuity.activation import Standing
from vedr.continuity.delivery import Delivery
from vedr.continuity.level import Change, change_of
from vedr.continuity.record import Episode, Record
from vedr.continuity.severity import Assessment, assess
from vedr.errors import VedrError
from vedr.ledger import RunId


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen now, and what the looks so far come to; `alone`: why the looks so far could not be read."""

    assessment: Assessment
    standing: Standing
    alone: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What came of keeping a look: its episode, whether the ledger has it, and whom the change of level reached."""

    run_id: RunId | None
    recorded: bool
    change: Change | None
    deliveries: tuple[Delivery, ...]


def look(opened: OpenSite) -> Look:
    """Look around; UnavailableError when the ledger cannot tell what was seen before."""
    return _look(opened, Record(opened.journal).episode)


def look_anyway(opened: OpenSite) -> Look:
    """As `look`; by this look alone where the ledger cannot tell, as when most of the regions are gone."""
    unread: list[str] = []

    def episode() -> Episode | None:
        try:
            return Record(opened.journal).episode()
        except VedrError as error:
            unread.append(error.message)
            return None

    seen = _look(opened, episode)
    return replace(seen, alone=unread[0]) if unread else seen


def _look(opened: OpenSite, episode: Callable[[], Episode | None]) -> Look:
    signals = look_around(opened)
    assessment = assess(signals)
    before = episode()
    return Look(assessment, activation.look(before.standing if before else None, signals, assessment))


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
