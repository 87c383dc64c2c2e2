"""The plan's standing in the ledger, so that durations are known across processes and machines.

While something is wrong, or the plan is active, there is one open run of `continuity`: an episode.  Each look that
changes something is a note in it, and one in every KEEP_S while the plan is active or about to be, else in every
QUIET_KEEP_S; a calm look closes it.  While all is well nothing is written.

Guarantees: the standing that was recorded is the one that the next process starts from; of two that look at once one
records, the other's look is dropped (it is read again next time); a person's word is recorded with their name.
Leaves out: looking.
"""

import contextlib
import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from vedr.continuity.activation import Standing, activated, deactivated, may_deactivate
from vedr.errors import ConflictError, NotFoundError, RefusedError
from vedr.ledger import Entry, RunId, is_closed
from vedr.runbook.journal import Journal
from vedr.runbook.order import new_run_id
from vedr.runbook.writer import Writer
from vedr.signature import Json

RUNBOOK: Final = "continuity"
KEEP_S: Final = 240.0  # under MAX_GAP_S with room for a look that failed
QUIET_KEEP_S: Final = 3600.0  # a trouble can last for months, and its episode is read at every look
_NOTE: Final = "standing"
_STANDING: Final = TypeAdapter(Standing)


@dataclass(frozen=True, slots=True)
class Episode:
    """The open episode and the standing that it left."""

    run_id: RunId
    standing: Standing


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of a look: its episode, None while all is well; whether it is on record; the standing before it."""

    run_id: RunId | None
    recorded: bool
    before: Standing | None


class Record:
    """A site's standing."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def episode(self) -> Episode | None:
        """The open one; None while all is well.  UnavailableError when fewer than a majority of regions answer."""
        for run_id in reversed(self._journal.runs_of(RUNBOOK)):
            entries = self._journal.read(run_id).entries
            if is_closed(entries):
                return None
            if standing := _newest(entries):
                return Episode(run_id, standing)
        return None

    def keep(self, standing: Standing) -> Kept:
        """Record a look, when it says something new."""
        before = self.episode()
        if before is None:
            return Kept(None, False, None) if standing.calm else Kept(self._open(standing), True, None)
        if _is_old_news(before.standing, standing):
            return Kept(before.run_id, False, before.standing)
        try:
            writer = self._write(before.run_id, standing, {})
            if standing.calm:
                writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "steps": {}})
        except ConflictError:  # somebody else looked at the same time, and said so
            return Kept(before.run_id, False, before.standing)
        return Kept(before.run_id, True, before.standing)

    def activate(self, standing: Standing, *, by: str, why: str) -> RunId:
        """By a person's word, given the newest look; the episode.

        Raises:
            RefusedError: it is active.
        """
        before = self.episode()
        if before and before.standing.active:
            raise RefusedError(f"the plan is active: {before.standing.why_active}", remedy="Nothing needs doing.")
        now = activated(standing, why)
        if before is None:
            return self._open(now, by=by)
        self._write(before.run_id, now, {"by": by, "why": why, "word": "activated"})
        return before.run_id

    def deactivate(self, standing: Standing, *, by: str, why: str) -> RunId:
        """By a person's word, given the newest look; the episode.

        Raises:
            NotFoundError: it is not active.
            RefusedError: its criteria are not met.
        """
        before = self.episode()
        if before is None or not before.standing.active:
            raise NotFoundError("the plan is not active", remedy="Nothing needs doing.")
        if not may_deactivate(standing):
            raise RefusedError(
                "not every critical function was seen up for an hour, or a criterion for activation holds",
                remedy="See what is missing: vedr bcp status.",
            )
        now = deactivated(standing)
        writer = self._write(before.run_id, now, {"by": by, "why": why, "word": "deactivated"})
        if now.calm:
            writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "steps": {}})
        return before.run_id

    def _open(self, standing: Standing, *, by: str = "") -> RunId:
        run_id = new_run_id("run", self._journal.clock())
        since = min([standing.seen_at, *standing.holding.values(), *(one.at for one in standing.troubled.values())])
        opening: dict[str, Json] = {
            "title": "business continuity",
            "detected_at": since.isoformat(),
            "target_ms": 0,
            "steps": [],
        }
        writer = self._journal.open(run_id, RUNBOOK, opening)
        writer.append("note", {**_note(standing), **({"by": by, "word": "activated"} if by else {})})
        return run_id

    def _write(self, run_id: RunId, standing: Standing, more: Mapping[str, Json]) -> Writer:
        writer = self._journal.resume(run_id, {})
        writer.append("note", {**_note(standing), **more})
        return writer


def _note(standing: Standing) -> dict[str, Json]:
    return {"text": _NOTE, "standing": _STANDING.dump_python(standing, mode="json")}


def _newest(entries: tuple[Entry, ...]) -> Standing | None:
    for entry in reversed(entries):
        if entry.kind == "note" and entry.payload.get("text") == _NOTE:
            with contextlib.suppress(ValidationError):  # of a version that knew other functions: the one before counts
                return _STANDING.validate_python(entry.payload.get("standing"))
    return None


def _is_old_news(before: Standing, now: Standing) -> bool:
    """Whether only time has passed, and little of it.

    How long it has been stable matters for leaving the plan only: else a gap in the looking is no news.
    """
    urgent = bool(now.active or now.holding)
    ignored = {"seen_at"} if urgent or not (before.restored_at and now.restored_at) else {"seen_at", "restored_at"}
    same = all(value == asdict(now)[name] for name, value in asdict(before).items() if name not in ignored)
    return same and now.seen_at - before.seen_at < dt.timedelta(seconds=KEEP_S if urgent else QUIET_KEEP_S)
