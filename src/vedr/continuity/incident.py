"""What the ledger tells of an incident, in the words that messages and deadlines need.

Guarantees: pure; anything that a run recorded is read, whichever version wrote it: what is missing stays empty.
Leaves out: reading the ledger, and where the time went in detail (vedr.runbook.timing).
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from vedr.ledger import Entry, RunId
from vedr.policies.notifications import Severity
from vedr.runbook import timing
from vedr.signature import Json
from vedr.targets import RunbookId

State = Literal["open", "paused", "completed", "refused", "failed", "abandoned"]
_OUTCOMES: Final[tuple[State, ...]] = ("completed", "refused", "failed", "abandoned")
_COMMON_FIELDS: Final = frozenset({"site", "incident", "detected_at"})

RUNBOOK_SEVERITY: Final = MappingProxyType[RunbookId, Severity](
    {
        "RB-DR-001": "SEV-3",
        "RB-DR-002": "SEV-2",
        "RB-DR-003": "SEV-1",
        "RB-DR-004": "SEV-2",
        "RB-DR-005": "SEV-2",
        "RB-DR-006": "SEV-2",
    }
)
"""What a runbook's incident counts as until live signals say otherwise; a confirmed key compromise is SEV-1."""

UNKNOWN_SEVERITY: Final[Severity] = "SEV-3"


@dataclass(frozen=True, slots=True)
class Incident:
    """A run of a runbook as its newest entry leaves it.

    `order`: what it was ordered with, as text, without what was left empty.  `error`: the newest step's failure while
    the run is open or paused.  `ended_at`: None while it is not closed.
    """

    run_id: RunId
    site: str
    runbook: str
    title: str
    severity: Severity
    order: Mapping[str, str]
    state: State
    detected_at: dt.datetime
    seen_at: dt.datetime
    ended_at: dt.datetime | None
    target_ms: int
    total_ms: int
    predicted_ms: int | None
    steps_done: tuple[str, ...]
    steps_total: int
    running: str
    error: str
    exercise: bool = False

    @property
    def name(self) -> str:
        """`RB-DR-003 region failover`."""
        return f"{self.runbook} {self.title}".strip()

    @property
    def met(self) -> bool:
        return self.total_ms <= self.target_ms


def incident_of(entries: Sequence[Entry]) -> Incident:
    """The incident of a run that has at least its `opened` entry."""
    opened, last = entries[0], entries[-1]
    measured = timing.measure(entries)
    order = _order(opened.payload.get("order"))
    state = _state(last)
    done = tuple(row.title for row in measured.rows if row.state == "completed")
    return Incident(
        run_id=opened.run_id,
        site=opened.site,
        runbook=measured.runbook,
        title=_text(opened.payload.get("title")),
        severity=default_severity(measured.runbook, order),
        order=order,
        state=state,
        detected_at=measured.detected_at,
        seen_at=last.time,
        ended_at=last.time if last.kind == "closed" else None,
        target_ms=measured.target_ms,
        total_ms=measured.total_ms,
        predicted_ms=_predicted(entries),
        steps_done=done,
        steps_total=len(measured.rows),
        running=next((row.title for row in measured.rows if row.state == "running"), ""),
        error=_error(entries) if state in ("open", "paused", "refused", "failed") else "",
        exercise=is_exercise(entries),
    )


def is_exercise(entries: Sequence[Entry]) -> bool:
    """Whether a drill ran it."""
    return bool(entries) and entries[0].payload.get("exercise") is True


def default_severity(runbook: str, order: Mapping[str, str]) -> Severity:
    """By runbook, and by what it was ordered with."""
    if runbook == "RB-DR-005" and order.get("certainty") == "confirmed":
        return "SEV-1"
    return next((severity for known, severity in RUNBOOK_SEVERITY.items() if known == runbook), UNKNOWN_SEVERITY)


def duration(ms: int) -> str:
    """`45 s`, `2 min 10 s`, `3 h 5 min`, `2 d 4 h`: the two parts that matter."""
    seconds = round(ms / 1000)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def _state(last: Entry) -> State:
    if last.kind == "closed":
        outcome = last.payload.get("outcome")
        return next((known for known in _OUTCOMES if known == outcome), "failed")
    return "paused" if last.kind == "paused" else "open"


def _order(recorded: Json) -> dict[str, str]:
    if not isinstance(recorded, dict):
        return {}
    return {
        name: str(value)
        for name, value in recorded.items()
        if name not in _COMMON_FIELDS and isinstance(value, str | int) and value not in ("", False, 0)
    }


def _predicted(entries: Sequence[Entry]) -> int | None:
    for entry in reversed(entries):
        if isinstance(predicted := entry.payload.get("predicted_ms"), int):
            return predicted
    return None


def _error(entries: Sequence[Entry]) -> str:
    """Of the newest failure that nothing succeeded after."""
    for entry in reversed(entries):
        if entry.kind in ("step_completed", "resumed"):
            return ""
        match entry.payload.get("error"):
            case {"message": str(message)}:
                return message
            case {"type": str(kind)}:
                return kind
    return ""


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""
