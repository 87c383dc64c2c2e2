"""Did another run act on a run's subjects after it?  Then the world is that run's, and not as this one left it.

Guarantees: pure but for reading leases and ledger; one that only looked, or was refused before it acted, has not
overtaken anybody; where that can't be told there is an error, never "no".
Leaves out: what follows from it: a resume is refused, an abandoning takes nothing back.
"""

from collections.abc import Iterable, Sequence

from vedr.errors import NotFoundError
from vedr.ledger import Entry, RunId
from vedr.runbook.journal import Journal
from vedr.runbook.lease import Leases


def overtaken_by(journal: Journal, subjects: Iterable[str], run_id: RunId) -> str:
    """Which subject has passed to which run that acted; empty: none has."""
    leases = Leases(journal)
    for subject in subjects:
        for other in leases.passed_to(subject, run_id):
            if _acted(journal, other):
                return f"{subject} has passed to run {other} since"
    return ""


def _acted(journal: Journal, run_id: RunId) -> bool:
    try:
        return has_acted(journal.read(run_id).entries)
    except NotFoundError:
        return False  # it died between its lease and its first entry


def has_acted(entries: Sequence[Entry]) -> bool:
    """Whether a step was begun that acts; one of which that is not recorded counts as one that does."""
    opened = entries[0].payload.get("steps") if entries else None
    listed = [one for one in opened if isinstance(one, dict)] if isinstance(opened, list) else []
    looks = {str(one.get("key")) for one in listed if one.get("acts") is False}
    begun = (str(entry.payload.get("step")) for entry in entries if entry.kind == "step_started")
    return any(key.partition(":")[0] not in looks for key in begun)
