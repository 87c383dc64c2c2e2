"""A dashboard's panels and their answers as one picture.

Guarantees: every panel stands at its place in the grid; where there is no answer the panel says so, and what does not
fit is counted.
Leaves out: asking.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.dashboards.asking import Answers, Series, Window
from bench.dashboards.frames import Cell, name_of, table_of
from bench.dashboards.graphs import Box, Graph, Line, draw_graph, says_no_data, width_of
from bench.dashboards.layout import COLUMNS, Color, Dashboard, Look, Panel
from bench.dashboards.values import written
from vedr.reports.svg import Canvas

WIDTH: Final = 1440.0
_MARGIN: Final = 14.0
_GAP: Final = 8.0
_HEADER: Final = 52.0
_UNIT: Final = 33.0  # one row of the grid
_TABLE_ROW: Final = 21.0
_LARGEST: Final = 40.0  # of a stat's text
TEXT_OF: Final[dict[Color, str]] = {"green": "good", "yellow": "warn", "red": "bad", "blue": "ink"}
FILL_OF: Final[dict[Color, str]] = {"green": "green", "yellow": "amber", "red": "red", "blue": "blue"}
STYLE: Final = """
.mark{stroke:#d64545;opacity:.45}.limit-red{stroke:#c62828}.limit-yellow{stroke:#b26a00}.limit-green{stroke:#1a7f4b}
.limit-blue{stroke:#3b6ea8}.s{fill:none;stroke-width:1.7;stroke-linejoin:round}.d1{stroke-dasharray:7 3}
.d2{stroke-dasharray:2 3}.s0{stroke:#3b6ea8}.s1{stroke:#2a9d8f}.s2{stroke:#8e6bbf}.s3{stroke:#c08a2d}.s4{stroke:#d1495b}
.s5{stroke:#5b8c3a}.s6{stroke:#7a8894}.s7{stroke:#b3589a}.k0{fill:#3b6ea8}.k1{fill:#2a9d8f}.k2{fill:#8e6bbf}
.k3{fill:#c08a2d}.k4{fill:#d1495b}.k5{fill:#5b8c3a}.k6{fill:#7a8894}.k7{fill:#b3589a}
"""


@dataclass(frozen=True, slots=True)
class Content:
    """What a panel draws: the series of each of its targets, and the whole picture's window and marks."""

    panel: Panel
    frames: tuple[tuple[Series, ...], ...]
    window: Window
    marks: tuple[Series, ...]

    @property
    def named(self) -> list[tuple[str, Series]]:
        """Every series with its name in the legend."""
        return [
            (name_of(series, target.legend_format), series)
            for target, frame in zip(self.panel.targets, self.frames, strict=True)
            for series in frame
        ]


def draw_dashboard(dashboard: Dashboard, answers: Answers) -> str:
    """The SVG."""
    rows = max(panel.place.y + panel.place.h for panel in dashboard.panels)
    canvas = Canvas(WIDTH, _HEADER + rows * _UNIT + _MARGIN, dashboard.title, style=STYLE)
    canvas.rect(0, 0, WIDTH, canvas.height, "paper")
    _draw_header(canvas, dashboard, answers)
    for panel in dashboard.panels:
        box = _box(panel)
        if panel.kind == "row":
            canvas.text(box.left + 2, box.bottom - 6, panel.title, size=16, bold=True)
            continue
        canvas.rect(box.left, box.top, box.width, box.height, "card", radius=4)
        canvas.text(box.left + 10, box.top + 19, fitted(panel.title, box.width - 20, 13), size=13, bold=True)
        content = Content(panel, answers.panels[panel.id], answers.window, answers.marks)
        DRAW[panel.kind](canvas, box.below(26), content)
    return str(canvas)


def _box(panel: Panel) -> Box:
    column, place = (WIDTH - 2 * _MARGIN + _GAP) / COLUMNS, panel.place
    return Box(_MARGIN + place.x * column, _HEADER + place.y * _UNIT, place.w * column - _GAP, place.h * _UNIT - _GAP)


def _draw_header(canvas: Canvas, dashboard: Dashboard, answers: Answers) -> None:
    chosen = ", ".join(f"{name} {', '.join(values)}" for name, values in answers.chosen.items())
    start, end = (dt.datetime.fromtimestamp(at, dt.UTC) for at in (answers.window.start_s, answers.window.end_s))
    said = f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC, as Prometheus {answers.version} answered"
    canvas.text(_MARGIN + 2, 33, dashboard.title, size=22, bold=True)
    canvas.text(_MARGIN + 24 + width_of(dashboard.title, 22), 33, chosen, "soft", size=15)
    canvas.text(WIDTH - _MARGIN, 33, said, "soft", size=13, end="end")


def _draw_stat(canvas: Canvas, box: Box, content: Content) -> None:
    look, named = content.panel.look, content.named
    if not named:
        says_no_data(canvas, box, look.no_value)
        return
    height = box.height / len(named)
    for number, (name, series) in enumerate(named):
        part = Box(box.left + 6, box.top + number * height, box.width - 12, height - 6)
        text, color = _shown(look, series.last)
        canvas.rect(part.left, part.top, part.width, part.height, FILL_OF[color or "blue"], radius=3)
        size = min(_LARGEST, part.height * 0.6, (part.width - 16) / max(1.0, width_of(text, 1)))
        middle = (part.left + part.right) / 2
        canvas.text(middle, (part.top + part.bottom) / 2 + size * 0.36, text, "onc", size=size, bold=True, end="middle")
        if len(named) > 1:
            canvas.text(part.left + 6, part.top + 13, fitted(name, part.width - 12, 11), "onc", size=11)


def _draw_bars(canvas: Canvas, box: Box, content: Content) -> None:
    look, named = content.panel.look, content.named
    if not named:
        says_no_data(canvas, box, look.no_value)
        return
    most = look.max if look.max is not None else max(*(series.last for _, series in named), 0.0) or 1.0
    row = min(62.0, (box.height - 8) / len(named))
    for number, (name, series) in enumerate(named):
        text, color = _shown(look, series.last)
        top = box.top + 6 + number * row
        canvas.text(box.left + 10, top + 12, fitted(name, box.width - 90, 12), size=12)
        canvas.text(box.right - 10, top + 12, text, TEXT_OF[color or "blue"], size=13, bold=True, end="end")
        canvas.rect(box.left + 10, top + 18, box.width - 20, row - 28, "off", radius=2)
        share = min(1.0, max(0.0, series.last / most))
        canvas.rect(box.left + 10, top + 18, (box.width - 20) * share, row - 28, FILL_OF[color or "blue"], radius=2)


def _draw_table(canvas: Canvas, box: Box, content: Content) -> None:
    panel, table = content.panel, table_of(content.panel, content.frames)
    if not table.rows:
        says_no_data(canvas, box, panel.look.no_value)
        return
    told = [[_cell(panel, name, cell) for name, cell in zip(table.columns, row, strict=True)] for row in table.rows]
    widths = [max(len(column), *(len(row[place][0]) for row in told)) + 2 for place, column in enumerate(table.columns)]
    unit = (box.width - 20) / sum(widths)
    lefts = [box.left + 10 + unit * sum(widths[:place]) for place in range(len(widths))]
    fits = int((box.height - 30) / _TABLE_ROW)
    if len(told) > fits:
        canvas.text(box.left + 10, box.bottom - 8, f"and {len(told) - fits + 1} rows more", "soft", size=12)
        told = told[: fits - 1]
    for left, column, width in zip(lefts, table.columns, widths, strict=True):
        canvas.text(left, box.top + 14, fitted(column, width * unit, 12), "soft", size=12, bold=True)
    for number, row in enumerate(told):
        bottom = box.top + 22 + (number + 1) * _TABLE_ROW
        canvas.line(box.left + 10, bottom - _TABLE_ROW, box.right - 10, bottom - _TABLE_ROW, "grid")
        for left, (text, kind), width in zip(lefts, row, widths, strict=True):
            canvas.text(left, bottom - 6, fitted(text, width * unit, 12.5), kind, size=12.5, bold=kind != "ink")


def _cell(panel: Panel, column: str, cell: Cell) -> tuple[str, str]:
    """Its text, and the class of its colour."""
    look = panel.looks.get(column, panel.look)
    if cell is None:
        return "-", "soft"
    if isinstance(cell, str):
        mapped = look.mapped(cell)
        text, color = (mapped and mapped.text) or cell, mapped and mapped.color
    else:
        text, color = _shown(look, cell)
    return text, TEXT_OF[color] if color and look.custom.cell_options.type == "color-text" else "ink"


def _shown(look: Look, value: float) -> tuple[str, Color | None]:
    """A value's text and colour: a mapping's, else its unit's and its threshold's."""
    mapped = look.mapped(value)
    text = (mapped and mapped.text) or written(value, look.unit)
    return text, (mapped and mapped.color) or look.color_of(value)


def _draw_graph(canvas: Canvas, box: Box, content: Content) -> None:
    look = content.panel.look
    if not content.named:
        says_no_data(canvas, box, look.no_value)
        return
    lines = []
    for name, series in content.named:
        mapped = look.mapped(series.last)
        text = mapped.text if mapped else written(series.last, look.unit)
        lines.append(Line(name, series.samples, text, TEXT_OF[mapped.color or "blue"] if mapped else "soft"))
    began = tuple(mark.samples[0].at_s for mark in content.marks)
    draw_graph(canvas, box, Graph(look, tuple(lines), content.window, began))


def fitted(text: str, width: float, size: float) -> str:
    """The text, cut to that width."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


DRAW: Final[dict[str, Callable[[Canvas, Box, Content], None]]] = {
    "stat": _draw_stat,
    "bargauge": _draw_bars,
    "table": _draw_table,
    "timeseries": _draw_graph,
}
