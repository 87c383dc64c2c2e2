"""A run as two pictures: its whole time against the target, and each step against its budget on one time line.

Guarantees: drawn from the evidence alone; waiting for people, interruption and failure have colours of
their own.
Leaves out: figures, which the page's table has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vedr.reports.evidence import Evidence
from vedr.reports.spans import Span, SpanKind
from vedr.reports.svg import Canvas, clipped
from vedr.reports.words import DAY_MS, HOUR_MS, MINUTE_MS, span

WIDTH: Final = 1000.0
_LABELS: Final = 250.0
_FIGURES: Final = 190.0
_CHART: Final = WIDTH - _LABELS - _FIGURES
_ROW: Final = 30.0
_TOP: Final = 40.0
_TARGET_IN_VIEW: Final = 1.6  # a target further away than this many times the total would squeeze the steps
_TICKS_MS: Final = (
    *(100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000, MINUTE_MS, 2 * MINUTE_MS, 5 * MINUTE_MS),
    *(10 * MINUTE_MS, 20 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 2 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS),
)
_NEVER_MS: Final = 1 << 62
_MAX_TICKS: Final = 6

_COLOURS: Final[dict[SpanKind, str]] = {
    "before": "grey",
    "step": "green",
    "running": "blue",
    "failed": "red",
    "interrupted step": "red",
    "waiting": "amber",
    "interrupted": "grey",
    "undo": "c2",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture; `over` when the step took longer than its budget."""

    label: str
    figures: str
    spans: tuple[Span, ...]
    budget_ms: int = 0
    over: bool = False


def draw_gantt(evidence: Evidence) -> str:
    """Each step on its row, with its budget behind it."""
    rows = rows_of(evidence)
    measured = evidence.timing
    in_view = measured.target_ms <= _TARGET_IN_VIEW * measured.total_ms
    longest = max(measured.total_ms, measured.target_ms if in_view else 0, 1)
    scale = _CHART / (1.04 * longest)
    canvas = Canvas(WIDTH, _TOP + _ROW * len(rows) + 44, f"Time line of {evidence.run_id}")
    bottom = _TOP + _ROW * len(rows) + 4
    _axis(canvas, longest, scale, bottom)
    for one in evidence.spans:
        if one.kind == "interrupted":
            canvas.rect(_LABELS + one.start_ms * scale, _TOP - 4, one.length_ms * scale, bottom - _TOP + 4, "away")
    for number, row in enumerate(rows):
        _draw_row(canvas, row, _TOP + number * _ROW, scale)
    if in_view:
        x = _LABELS + measured.target_ms * scale
        canvas.line(x, _TOP - 10, x, bottom, "target", width=2, dash="5 3")
        canvas.text(x, _TOP - 14, f"target {span(measured.target_ms)}", "bad", size=11, bold=True, end="middle")
    else:
        canvas.text(WIDTH, bottom + 26, f"target {span(measured.target_ms)}, not in view", "soft", size=11, end="end")
    _legend(canvas, evidence, bottom + 26)
    return str(canvas)


def rows_of(evidence: Evidence) -> list[Row]:
    """The lines, in the order in which they begin; what did not happen comes last."""

    def of(step: str, *kinds: SpanKind) -> tuple[Span, ...]:
        return tuple(one for one in evidence.spans if one.step == step and (not kinds or one.kind in kinds))

    rows = []
    if before := of("", "before"):
        rows.append(Row("Before the run", span(before[0].length_ms), before))
    for step in evidence.steps:
        took = "not run" if step.row.took_ms is None else span(step.row.took_ms)
        figures = f"{took} of {span(step.row.budget_ms)}"
        waited = f" + {span(step.row.waited_ms)} wait" if step.row.waited_ms else ""
        spans = of(step.row.key, "step", "failed", "running", "interrupted step", "waiting")
        rows.append(Row(step.row.title, figures + waited, spans, step.row.budget_ms, step.row.over_budget))
    if waiting := of("", "waiting"):
        rows.append(Row("Waiting for people", span(sum(one.length_ms for one in waiting)), waiting))
    if away := of("", "interrupted"):
        rows.append(Row("Interrupted", span(sum(one.length_ms for one in away)), away))
    if undone := tuple(one for one in evidence.spans if one.kind == "undo"):
        rows.append(Row("Taking steps back", span(sum(one.length_ms for one in undone)), undone))
    return sorted(rows, key=lambda row: min((one.start_ms for one in row.spans), default=_NEVER_MS))


def _axis(canvas: Canvas, longest: int, scale: float, bottom: float) -> None:
    tick = next((ms for ms in _TICKS_MS if longest / ms <= _MAX_TICKS), DAY_MS * (1 + longest // (_MAX_TICKS * DAY_MS)))
    for at_ms in range(0, longest + 1, tick):
        x = _LABELS + at_ms * scale
        canvas.line(x, _TOP - 4, x, bottom, "grid")
        canvas.text(x, _TOP - 24, span(at_ms) if at_ms else "detected", "soft", size=11, end="middle")


def _draw_row(canvas: Canvas, row: Row, y: float, scale: float) -> None:
    canvas.text(0, y + 18, clipped(row.label, _LABELS - 10, 13), size=13)
    canvas.text(
        WIDTH, y + 18, clipped(row.figures, _FIGURES - 14, 12), "bad" if row.over else "soft", size=12, end="end"
    )
    steps = [one for one in row.spans if one.kind != "waiting"]
    if row.budget_ms and steps:
        x = _LABELS + steps[-1].start_ms * scale
        canvas.rect(x, y + 3, min(row.budget_ms * scale, _LABELS + _CHART - x), _ROW - 10, "budget", radius=2)
    for one in (*steps, *(each for each in row.spans if each.kind == "waiting")):
        colour = "red" if one.kind == "step" and row.over else _COLOURS[one.kind]
        canvas.rect(_LABELS + one.start_ms * scale, y + 7, max(2.0, one.length_ms * scale), _ROW - 18, colour, radius=2)


def _legend(canvas: Canvas, evidence: Evidence, y: float) -> None:
    kinds = {one.kind for one in evidence.spans}
    entries = [("budget", "budget"), ("green", "within budget")]
    if any(step.row.over_budget for step in evidence.steps) or kinds & {"failed", "interrupted step"}:
        entries.append(("red", "over budget or failed"))
    if "waiting" in kinds:
        entries.append(("amber", "waiting for people"))
    if kinds & {"before", "interrupted"}:
        entries.append(("grey", "nobody worked on it"))
    x = _LABELS
    for colour, words in entries:
        canvas.rect(x, y - 10, 14, 11, colour, radius=2)
        canvas.text(x + 20, y, words, "soft", size=11)
        x += 40 + 6.3 * len(words)


def draw_target(evidence: Evidence) -> str:
    """One bar: the whole time, by what it went into, against the target."""
    measured = evidence.timing
    longest = max(measured.target_ms, measured.total_ms, 1)
    scale = (WIDTH - 2) / longest
    canvas = Canvas(WIDTH, 62, f"{span(measured.total_ms)} of {span(measured.target_ms)}")
    canvas.rect(1, 10, measured.target_ms * scale, 26, "budget", radius=3)
    x = 1.0
    for ms, colour in _parts(evidence):
        canvas.rect(x, 14, max(ms * scale, 1.5 if ms else 0), 18, colour)
        x += ms * scale
    at = measured.target_ms * scale
    canvas.line(at, 6, at, 40, "target", width=2)
    canvas.text(1, 56, f"detected, then {span(measured.total_ms)}", "soft", size=12)
    canvas.text(max(at, 300), 56, f"target {span(measured.target_ms)}", "bad", size=12, bold=True, end="end")
    return str(canvas)


def _parts(evidence: Evidence) -> Sequence[tuple[int, str]]:
    measured = evidence.timing
    worked = sum(row.took_ms or 0 for row in measured.rows)
    late = "red" if evidence.verdict == "missed" else "green"
    return (
        (measured.before_ms + measured.interrupted_ms, "grey"),
        (measured.waiting_ms, "amber"),
        (worked + measured.undoing_ms + measured.overhead_ms, late if evidence.verdict != "open" else "blue"),
    )
