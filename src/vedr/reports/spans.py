"""Where the time of a run went, as spans on one line: what the picture of a run draws.

Guarantees: pure; spans are in order, from detection on, and what no span covers is vedr's own overhead.
Leaves out: sums, which vedr.runbook.timing has.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.ledger import Entry, Kind
from vedr.runbook.timing import millis

SpanKind = Literal["before", "step", "failed", "interrupted step", "running", "waiting", "interrupted", "undo"]

ATTEMPTS: Final[frozenset[SpanKind]] = frozenset({"step", "failed", "interrupted step", "running"})
_ENDS: Final[dict[Kind, SpanKind]] = {"step_completed": "step", "step_failed": "failed"}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in milliseconds since detection; `step` is the key of the step that it is in, or empty."""

    kind: SpanKind
    step: str
    label: str
    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        return self.end_ms - self.start_ms


def spans_of(entries: Sequence[Entry], detected_at: dt.datetime) -> tuple[Span, ...]:
    """All spans of a run, from its `opened` entry on."""
    return tuple(_Walk(entries, detected_at).spans())


@dataclass(frozen=True, slots=True)
class _Begun:
    step: str
    label: str
    at_ms: int


class _Walk:
    def __init__(self, entries: Sequence[Entry], detected_at: dt.datetime) -> None:
        self._entries = entries
        self._detected_at = detected_at
        self._step: _Begun | None = None
        self._wait: _Begun | None = None
        self._undo: _Begun | None = None

    def spans(self) -> Iterator[Span]:
        if (opened_ms := self._ms(self._entries[0])) > 0:
            yield Span("before", "", "before the run", 0, opened_ms)
        last_ms = opened_ms
        for entry in self._entries:
            at_ms = self._ms(entry)
            yield from self._of(entry, at_ms, last_ms)
            last_ms = at_ms
        if self._step:
            yield Span("running", self._step.step, self._step.label, self._step.at_ms, last_ms)
        if self._wait:
            yield Span("waiting", self._wait.step, self._wait.label, self._wait.at_ms, last_ms)

    def _of(self, entry: Entry, at_ms: int, last_ms: int) -> Iterator[Span]:
        step, title = _text(entry, "step"), _text(entry, "title")
        match entry.kind:
            case "step_started":
                self._step = _Begun(step, title or step, at_ms)
            case "step_completed" | "step_failed" if self._step:
                yield Span(_ENDS[entry.kind], step, self._step.label, self._step.at_ms, at_ms)
                self._step = None
            case "waiting":
                self._wait = _Begun(self._step.step if self._step else "", _text(entry, "what"), at_ms)
            case "waited" if self._wait:
                yield Span("waiting", self._wait.step, self._wait.label, self._wait.at_ms, at_ms)
                self._wait = None
            case "resumed":
                if self._step:
                    yield Span("interrupted step", self._step.step, self._step.label, self._step.at_ms, last_ms)
                if self._wait:
                    yield Span("waiting", self._wait.step, self._wait.label, self._wait.at_ms, last_ms)
                yield Span("interrupted", "", "nobody worked on it", last_ms, at_ms)
                self._step = self._wait = self._undo = None
            case "undo_started":
                self._undo = _Begun(step, title or step, at_ms)
            case "undo_completed" | "undo_failed" if self._undo:
                yield Span("undo", step, f"taken back: {self._undo.label}", self._undo.at_ms, at_ms)
                self._undo = None
            case _:
                pass

    def _ms(self, entry: Entry) -> int:
        return max(0, millis(entry.time - self._detected_at))


def _text(entry: Entry, key: str) -> str:
    value = entry.payload.get(key)
    return value if isinstance(value, str) else ""
