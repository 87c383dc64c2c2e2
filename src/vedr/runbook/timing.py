"""Where the time of a run went, and where it is going: pure functions of ledger entries.

The RTO clock starts at detection.  A run's time is divided, without gap or overlap, into: before the run was opened,
each step's execution, waiting for people, interruption (a crash until the resume), taking steps back, and the rest,
which is vedr's own overhead. All figures are whole milliseconds of the ledger's clock; but steps and waits are measured
by a clock that never goes back, and a run took at least as long as its parts, though the ledger's was set back.
"""

import datetime as dt
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vedr.errors import InvalidInputError
from vedr.ledger import Entry
from vedr.signature import Json

StepState = Literal["to do", "running", "completed", "failed"]
MIN_SAMPLES = 3
"""Past runs needed before their median is believed rather than the budget."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step: planned and achieved.  `took_ms` leaves out `waited_ms`; None while it was never run to its end."""

    key: str
    title: str
    budget_ms: int
    state: StepState
    attempts: int
    took_ms: int | None
    waited_ms: int

    @property
    def over_budget(self) -> bool:
        return self.took_ms is not None and self.took_ms > self.budget_ms


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time from detection to the last entry went."""

    runbook: str
    target_ms: int
    detected_at: dt.datetime
    rows: tuple[StepRow, ...]
    total_ms: int
    before_ms: int
    waiting_ms: int
    interrupted_ms: int
    overhead_ms: int
    outcome: str | None
    undoing_ms: int = 0

    @property
    def met(self) -> bool:
        return self.total_ms <= self.target_ms

    @property
    def overhead_share_pct(self) -> float:
        """How much of the target is our own: neither a step's work nor people's; 0 for a run that has no target."""
        return 100 * self.overhead_ms / self.target_ms if self.target_ms else 0.0

    @property
    def critical_path(self) -> tuple[tuple[str, int], ...]:
        """What the total consists of, longest first; steps follow one another, so each is on the path."""
        parts = [("before the run", self.before_ms), ("waiting for people", self.waiting_ms)]
        parts += [("interrupted", self.interrupted_ms), ("taking steps back", self.undoing_ms)]
        parts += [("vedr itself", self.overhead_ms)]
        parts += [(row.title, row.took_ms) for row in self.rows if row.took_ms]
        return tuple(sorted(((name, ms) for name, ms in parts if ms), key=lambda part: -part[1]))


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the run is going to end if nothing else goes wrong, from detection."""

    predicted_ms: int
    target_ms: int
    basis: Literal["budgets", "medians", "both"]

    @property
    def overrun(self) -> bool:
        return self.predicted_ms > self.target_ms


def measure(entries: Sequence[Entry]) -> Timing:
    """The timing of a run that has at least its `opened` entry."""
    opened = entries[0].payload
    detected_at = _detected(entries[0])
    planned = opened.get("steps")
    plan = [item for item in planned if isinstance(item, dict)] if isinstance(planned, list) else []
    rows = {_text(item, "key"): _Row(_text(item, "title"), _number(item, "budget_ms")) for item in plan}
    waiting = interrupted = undoing = 0
    last = asked = None
    running: _Row | None = None
    for entry in entries:
        match entry.kind:
            case "resumed" if last:
                interrupted += max(0, millis(entry.time - last.time))
                waiting += millis(last.time - asked.time) if asked else 0  # nobody lived to say how long it waited
                running = asked = None
            case "waiting":
                asked = entry
            case "step_started":
                rows = _with(rows, _text(entry.payload, "step"), entry.payload)
                running = rows[_text(entry.payload, "step")]
                running.state = "running"
            case "step_completed" | "step_failed":
                rows = _with(rows, _text(entry.payload, "step"), entry.payload)
                running = rows[_text(entry.payload, "step")]
                running.attempts = _number(entry.payload, "attempts")
                running.took_ms = _number(entry.payload, "took_ms")
                running.state = "completed" if entry.kind == "step_completed" else "failed"
                running = None
            case "undo_completed" | "undo_failed":
                undoing += _number(entry.payload, "took_ms")
            case "waited":
                asked = None
                waiting += _number(entry.payload, "took_ms")
                if running:
                    running.waited_ms += _number(entry.payload, "took_ms")
            case _:
                pass
        last = entry
    waiting += millis(entries[-1].time - asked.time) if asked else 0
    before = max(0, millis(entries[0].time - detected_at))
    done = tuple(row.freeze(key) for key, row in rows.items())
    worked = sum(row.took_ms or 0 for row in done)
    parts = before + waiting + interrupted + undoing + worked
    total = max(parts, millis(entries[-1].time - detected_at))  # the clock may have been set back meanwhile
    closed = entries[-1].payload.get("outcome") if entries[-1].kind == "closed" else None
    return Timing(
        runbook=_text(opened, "runbook"),
        target_ms=_number(opened, "target_ms"),
        detected_at=detected_at,
        rows=done,
        total_ms=total,
        before_ms=before,
        waiting_ms=waiting,
        interrupted_ms=interrupted,
        overhead_ms=total - parts,
        outcome=closed if isinstance(closed, str) else None,
        undoing_ms=undoing,
    )


@dataclass(slots=True)
class _Row:
    title: str
    budget_ms: int
    state: StepState = "to do"
    attempts: int = 0
    took_ms: int | None = None
    waited_ms: int = 0

    def freeze(self, key: str) -> StepRow:
        took_ms = None if self.took_ms is None else max(0, self.took_ms - self.waited_ms)
        return StepRow(key, self.title, self.budget_ms, self.state, self.attempts, took_ms, self.waited_ms)


def _with(rows: dict[str, _Row], key: str, started: Mapping[str, Json]) -> dict[str, _Row]:
    """The rows with that step among them: one of several things takes the place of the step that it is one of."""
    if key in rows:
        return rows
    base = key.split(":", 1)[0]
    row = _Row(_text(started, "title"), _number(started, "budget_ms"))
    siblings = [known for known in rows if known.split(":", 1)[0] == base]
    if not siblings:
        return {**rows, key: row}
    placed: dict[str, _Row] = {}
    for known, other in rows.items():
        if known != base:
            placed[known] = other
        if known == siblings[-1]:
            placed[key] = row
    return placed


def forecast(
    *,
    elapsed_ms: int,
    target_ms: int,
    running: tuple[int, int] | None,
    to_do: Iterable[tuple[str, int]],
    medians: Mapping[str, int],
    running_key: str = "",
) -> Forecast:
    """Elapsed since detection, plus what is left of the running step, plus the steps to come.

    Args:
        elapsed_ms: Since detection.
        target_ms: The RTO.
        running: Budget of the running step and how long it runs already.
        to_do: Key and budget of each step to come.
        medians: By key, of past completed runs; they are believed rather than budgets.
        running_key: The running step's key, to find its median.
    """
    coming = list(to_do)
    left_ms = sum(medians.get(key, budget_ms) for key, budget_ms in coming)
    known = [key in medians for key, _ in coming]
    if running:
        budget_ms, so_far_ms = running
        left_ms += max(0, medians.get(running_key, budget_ms) - so_far_ms)
        known.append(running_key in medians)
    basis: Literal["budgets", "medians", "both"] = "both"
    if all(known) or not any(known):
        basis = "medians" if known and all(known) else "budgets"
    return Forecast(elapsed_ms + left_ms, target_ms, basis)


def not_done(measured: Timing) -> tuple[str, ...]:
    """Steps that were not completed; one that was done by name (`start_node:validator-0`) is in these."""
    by_name = {row.key.split(":", 1)[0] for row in measured.rows if ":" in row.key}
    return tuple(row.key for row in measured.rows if row.state != "completed" and row.key not in by_name)


def medians(closings: Iterable[Mapping[str, Json]]) -> dict[str, int]:
    """The median duration of each step over the `closed` payloads of past completed runs."""
    samples: dict[str, list[int]] = {}
    for payload in closings:
        steps = payload.get("steps")
        if payload.get("outcome") == "completed" and isinstance(steps, dict):
            for key, took_ms in steps.items():
                if isinstance(took_ms, int):
                    samples.setdefault(key, []).append(took_ms)
    return {key: int(statistics.median(values)) for key, values in samples.items() if len(values) >= MIN_SAMPLES}


def millis(span: dt.timedelta) -> int:
    return round(span / dt.timedelta(milliseconds=1))


def _detected(opened: Entry) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(_text(opened.payload, "detected_at"))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidInputError(
            f"run {opened.run_id}: its first entry tells no time of detection",
            remedy=f"Look at it: vedr ledger show {opened.run_id}; another program's key may have signed it.",
        )
    return found


def _text(payload: Mapping[str, Json], key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else ""


def _number(payload: Mapping[str, Json], key: str) -> int:
    value = payload.get(key)
    return value if isinstance(value, int) else 0
