"""What is due after an incident, tracked from the ledger: due, overdue or done, each with its date.

An incident is a run `inc-…` that acted and is closed; a key compromise and a corruption have deadlines from their
detection on, also while they are open.  That something is done is a person's word: a closed run of `post-incident`
with the incident, the deadline, who says so, and where to read it.

Guarantees: nothing is done that nobody signed for; a deadline that was missed stays visible as done late.
Leaves out: exercises (they are reviewed in their own report), and reminding (`vedr bcp deadlines` ends with status 3
while anything is overdue).
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from vedr.continuity.incident import Incident, incident_of, is_exercise
from vedr.errors import ConflictError, InvalidInputError, NotFoundError
from vedr.ledger import Entry, RunId
from vedr.runbook.journal import Journal
from vedr.runbook.order import new_run_id
from vedr.signature import Json
from vedr.targets import HOUR_S, RunbookId

RUNBOOK: Final = "post-incident"
DAY_S: Final = 24 * HOUR_S

DeadlineName = Literal["security-report", "root-cause", "review", "report", "actions"]
DeadlineState = Literal["due", "overdue", "done", "done late"]
NAMES: Final[tuple[DeadlineName, ...]] = get_args(DeadlineName)


@dataclass(frozen=True, slots=True)
class Rule:
    """What has to be done by when.  `runbook`: only after that one."""

    name: DeadlineName
    within_s: int
    after: Literal["detected", "ended"]
    what: str
    runbook: RunbookId | None = None


RULES: Final = (
    Rule("security-report", 24 * HOUR_S, "detected", "report to security and whom it concerns", "RB-DR-005"),
    Rule("root-cause", 72 * HOUR_S, "detected", "root cause of the corruption", "RB-DR-004"),
    Rule("review", 48 * HOUR_S, "ended", "review held: timeline, root cause, lessons, action items"),
    Rule("report", 7 * DAY_S, "ended", "post-mortem published, action items begun, plans updated, team debriefed"),
    Rule("actions", 30 * DAY_S, "ended", "critical action items done and verified, training updated, record closed"),
)


@dataclass(frozen=True, slots=True)
class Done:
    """Somebody's word that it is done."""

    run_id: RunId
    name: DeadlineName
    at: dt.datetime
    by: str
    reference: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """One thing due after one incident."""

    run_id: RunId
    runbook: str
    name: DeadlineName
    what: str
    due_at: dt.datetime
    state: DeadlineState
    done: Done | None


def deadlines_of(incident: Incident, done: Iterable[Done], now: dt.datetime) -> tuple[Deadline, ...]:
    """What is due after one incident, in the order of the rules."""
    words = {word.name: word for word in done if word.run_id == incident.run_id}
    found = []
    for rule in RULES:
        start = incident.detected_at if rule.after == "detected" else incident.ended_at
        if rule.runbook not in (None, incident.runbook) or start is None or incident.state == "refused":
            continue  # a refused run changed nothing: there is nothing to review
        due_at = start + dt.timedelta(seconds=rule.within_s)
        word = words.get(rule.name)
        state = _state(due_at, word, now)
        found.append(Deadline(incident.run_id, incident.runbook, rule.name, rule.what, due_at, state, word))
    return tuple(found)


def _state(due_at: dt.datetime, word: Done | None, now: dt.datetime) -> DeadlineState:
    if word is None:
        return "overdue" if now > due_at else "due"
    return "done late" if word.at > due_at else "done"


def all_deadlines(journal: Journal) -> tuple[Deadline, ...]:
    """Of every incident that the ledger knows, oldest first; UnavailableError when it can't be read."""
    now = journal.clock()
    words = done_words(journal)
    found: list[Deadline] = []
    for run_id in journal.runs("inc-"):
        entries = journal.read(run_id).entries
        if entries and not is_exercise(entries):
            found += deadlines_of(incident_of(entries), words, now)
    return tuple(found)


def done_words(journal: Journal) -> tuple[Done, ...]:
    """Every word that something is done, oldest first; the first for each counts."""
    found: dict[tuple[RunId, DeadlineName], Done] = {}
    for run_id in journal.runs_of(RUNBOOK):
        for entry in journal.read(run_id).entries:
            if word := _word(entry):
                found.setdefault((word.run_id, word.name), word)
    return tuple(found.values())


def mark_done(journal: Journal, run_id: RunId, name: str, *, by: str, reference: str) -> Done:
    """Record somebody's word.

    Raises:
        NotFoundError: no such incident, or nothing of that name is due after it.
        InvalidInputError: nobody is named, or nothing to read.
        ConflictError: it is done already.
    """
    entries = journal.read(run_id).entries
    known = deadlines_of(incident_of(entries), done_words(journal), journal.clock()) if entries else ()
    deadline = next((one for one in known if one.name == name), None)
    if deadline is None:
        due = ", ".join(one.name for one in known) or "nothing"
        raise NotFoundError(f"no {name!r} is due after {run_id}", remedy=f"Due after it: {due}.")
    if not by.strip() or not reference.strip():
        raise InvalidInputError("who says so, or where to read it, is missing", remedy="Give --by and --reference.")
    if deadline.done:
        raise ConflictError(
            f"{name} of {run_id} was done {deadline.done.at:%Y-%m-%d %H:%M} UTC by {deadline.done.by}",
            remedy="Nothing needs doing.",
        )
    word = Done(run_id, deadline.name, journal.clock(), by.strip(), reference.strip())
    _record(journal, word)
    return word


def _record(journal: Journal, word: Done) -> None:
    now = journal.clock()
    opening: dict[str, Json] = {"title": "post-incident", "detected_at": now.isoformat(), "target_ms": 0, "steps": []}
    writer = journal.open(new_run_id("run", now), RUNBOOK, opening)
    facts: dict[str, Json] = {
        "incident": word.run_id,
        "deadline": word.name,
        "by": word.by,
        "reference": word.reference,
    }
    writer.append("note", {"text": "done", **facts})
    writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "steps": {}})


def _word(entry: Entry) -> Done | None:
    match entry.payload:
        case {
            "text": "done",
            "incident": str(incident),
            "deadline": str(deadline),
            "by": str(by),
            "reference": str(reference),
        } if entry.kind == "note":
            name = next((known for known in NAMES if known == deadline), None)
            return Done(RunId(incident), name, entry.time, by, reference) if name else None
        case _:
            return None
