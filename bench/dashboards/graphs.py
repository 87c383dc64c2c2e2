"""Values over time in a box: lines, axes, limits, and a legend with the newest values.

Guarantees: a line ends where samples are missing and where they leave the axis; a limit that is above the axis is
named; series that the legend has no room for are counted.
Leaves out: colours of values, which come with them.
"""

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.dashboards.asking import Sample, Window
from bench.dashboards.layout import Look
from bench.dashboards.values import axis, clock_marks, written
from vedr.reports.svg import Canvas

_HUES: Final = 8
_LEFT: Final = 66.0
_INDENT: Final = 12.0
_LINE: Final = 17.0  # of the legend
_LEGEND_SHARE: Final = 0.45  # of the box at the most
_GAP_STEPS: Final = 1.5  # samples further apart than this many steps are not joined
_NEAR: Final = 3.0  # a limit above that many times the values is named, not drawn
_HEADROOM: Final = 1.08
_SIZE: Final = 12.0
_NARROW: Final = frozenset("ijltfrI.,:;|'!()[] -")
_WIDE: Final = frozenset("mwMW%@")


@dataclass(frozen=True, slots=True)
class Box:
    """In pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def below(self, height: float) -> "Box":
        """Without its upper part."""
        return Box(self.left, self.top + height, self.width, self.height - height)


@dataclass(frozen=True, slots=True)
class Line:
    """A series as the legend names it; its newest value's text, and the class of that text's colour."""

    name: str
    samples: tuple[Sample, ...]
    last: str
    kind: str

    @property
    def width(self) -> float:
        """In the legend."""
        return 44 + width_of(self.name, _SIZE) + width_of(self.last, _SIZE)


@dataclass(frozen=True, slots=True)
class Graph:
    """One or more lines; `marks` are times (seconds since 1970) that are marked."""

    look: Look
    lines: tuple[Line, ...]
    window: Window
    marks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where times and values stand in the plot."""

    plot: Box
    window: Window
    low: float
    high: float

    def x(self, at_s: float) -> float:
        return self.plot.left + self.plot.width * (at_s - self.window.start_s) / (
            self.window.end_s - self.window.start_s
        )

    def y(self, value: float) -> float:
        return self.plot.bottom - self.plot.height * (value - self.low) / (self.high - self.low)


def width_of(text: str, size: float) -> float:
    """About, in the widest of the fonts that are asked for."""
    return size * sum(0.38 if one in _NARROW else 0.92 if one in _WIDE else 0.66 for one in text)


def says_no_data(canvas: Canvas, box: Box, said: str) -> None:
    canvas.text((box.left + box.right) / 2, (box.top + box.bottom) / 2, said, "soft", size=15, end="middle")


def draw_graph(canvas: Canvas, box: Box, graph: Graph) -> None:
    """Axes, limits, marks, lines and legend."""
    legend = _legend(box, graph.lines)
    low, high = _ends(graph)
    above = [step.value for step in graph.look.limits() if step.value is not None and step.value > high]
    top = 16.0 if above else 4.0
    plot = Box(box.left + _LEFT, box.top + top, box.width - _LEFT - 14, box.height - top - 32 - _LINE * legend[-1].line)
    scale = _Scale(plot, graph.window, low, high)
    _draw_axes(canvas, scale, graph.look)
    _draw_limits(canvas, scale, graph.look, above)
    for at_s in graph.marks:
        canvas.line(scale.x(at_s), plot.top, scale.x(at_s), plot.bottom, "mark", dash="3 3")
    for number, line in enumerate(graph.lines):
        for part in unbroken(line.samples, graph.window.step_s, low, high):
            points = [(scale.x(sample.at_s), scale.y(sample.value)) for sample in part]
            if len(points) == 1:  # seen once: a dash of its own
                points = [(points[0][0] - 2, points[0][1]), *points]
            canvas.polyline(points, f"s s{number % _HUES} d{number // _HUES % 3}")
    _draw_legend(canvas, Box(box.left, plot.bottom + 30, box.width, 0), legend, graph.lines)


def unbroken(samples: Sequence[Sample], step_s: float, low: float, high: float) -> Iterator[list[Sample]]:
    """Runs of samples that follow each other and are on the axis."""
    run: list[Sample] = []
    for sample in samples:
        on_axis = low <= sample.value <= high  # neither NaN nor an infinite value is
        if run and (not on_axis or sample.at_s - run[-1].at_s > _GAP_STEPS * step_s):
            yield run
            run = []
        if on_axis:
            run.append(sample)
    if run:
        yield run


def _ends(graph: Graph) -> tuple[float, float]:
    """Of the axis: from 0 where nothing is below, to the values, and to a limit that is near."""
    look = graph.look
    values = [one.value for line in graph.lines for one in line.samples if math.isfinite(one.value)] or [0.0]
    low = look.min if look.min is not None else min(0.0, min(values) * _HEADROOM)
    near = [step.value for step in look.limits() if step.value is not None and step.value <= max(values) * _NEAR]
    high = look.max if look.max is not None else max(*values, *near, 0.0) * _HEADROOM
    return low, high if high > low else low + 1.0


def _draw_axes(canvas: Canvas, scale: _Scale, look: Look) -> None:
    plot = scale.plot
    for value in axis(scale.low, scale.high, look.unit):
        canvas.line(plot.left, scale.y(value), plot.right, scale.y(value), "grid", width=0.7)
        canvas.text(plot.left - 8, scale.y(value) + 4, written(value, look.unit), "soft", size=11, end="end")
    for at_s in clock_marks(scale.window.start_s, scale.window.end_s):
        said = f"{dt.datetime.fromtimestamp(at_s, dt.UTC):%H:%M}"
        canvas.line(scale.x(at_s), plot.top, scale.x(at_s), plot.bottom, "grid", width=0.7)
        canvas.text(scale.x(at_s), plot.bottom + 14, said, "soft", size=11, end="middle")


def _draw_limits(canvas: Canvas, scale: _Scale, look: Look, above: Sequence[float]) -> None:
    plot = scale.plot
    for step in look.limits():
        if step.value is not None and step.value <= scale.high:
            y = scale.y(step.value)
            canvas.line(plot.left, y, plot.right, y, f"limit-{step.color}", width=1.2, dash="6 4")
    if above:
        said = f"limit far above: {', '.join(written(value, look.unit) for value in above)}"
        canvas.text(plot.right, plot.top - 5, said, "soft", size=11, end="end")


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a line stands in the legend: on which of its lines, from 1, and how far from the left.

    The last one stands for all that are left when `number` is below 0.
    """

    number: int
    line: int
    left: float


def _legend(box: Box, lines: Sequence[Line]) -> list[_Entry]:
    """As many as fit."""
    most = max(1, int(box.height * _LEGEND_SHARE / _LINE))
    entries: list[_Entry] = []
    row, left = 1, _INDENT
    for number, line in enumerate(lines):
        if left + line.width > box.width and left > _INDENT:
            row, left = row + 1, _INDENT
        if row > most:
            return [*entries, _Entry(-1, row, _INDENT)]
        entries.append(_Entry(number, row, left))
        left += line.width
    return entries


def _draw_legend(canvas: Canvas, place: Box, legend: Sequence[_Entry], lines: Sequence[Line]) -> None:
    for shown, entry in enumerate(legend):
        left, base = place.left + entry.left, place.top + _LINE * (entry.line - 1)
        if entry.number < 0:
            canvas.text(left, base, f"and {len(lines) - shown} more", "soft", size=_SIZE)
            continue
        line = lines[entry.number]
        canvas.rect(left, base - 6, 12, 3, f"k{entry.number % _HUES}")
        canvas.text(left + 17, base, line.name, size=_SIZE)
        canvas.text(
            left + 24 + width_of(line.name, _SIZE), base, line.last, line.kind, size=_SIZE, bold=line.kind != "soft"
        )
