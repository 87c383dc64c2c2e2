"""Points over time as a picture: achieved recovery times against their target, gaps between backups.

Guarantees: drawn from the points alone; a point above its limit is red.
Leaves out: what the points mean.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vedr.reports.svg import Canvas
from vedr.reports.words import span

WIDTH: Final = 1000.0
HEIGHT: Final = 190.0
_LEFT: Final = 92.0
_RIGHT: Final = 44.0
_TOP: Final = 22.0
_BOTTOM: Final = 34.0
_LABELS: Final = 6  # dates under the chart


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a time; `limit_ms` is what it must not exceed, None when there is no limit."""

    at: dt.datetime
    value_ms: int
    limit_ms: int | None
    hint: str


def draw_series(title: str, points: Sequence[Point]) -> str:
    """The points joined by a line, with their limit when it is near enough to be seen."""
    canvas = Canvas(WIDTH, HEIGHT, title)
    largest = max(point.value_ms for point in points)
    limits = [point.limit_ms for point in points if point.limit_ms is not None]
    limit = limits[-1] if limits else None
    top_ms = max(1, largest if limit is None or limit > 5 * largest else max(limit, largest)) * 1.08
    first, last = points[0].at, points[-1].at
    seconds = max(1.0, (last - first).total_seconds())

    def x(when: dt.datetime) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (when - first).total_seconds() / seconds

    def y(value_ms: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value_ms / top_ms

    for share in (0, 0.5, 1):
        value = round(largest * share)
        canvas.line(_LEFT, y(value), WIDTH - _RIGHT, y(value), "grid")
        canvas.text(_LEFT - 8, y(value) + 4, span(value), "soft", size=11, end="end")
    if limit is not None and limit <= top_ms:
        canvas.line(_LEFT, y(limit), WIDTH - _RIGHT, y(limit), "target", width=2, dash="5 3")
        canvas.text(_LEFT + 6, y(limit) - 5, f"target {span(limit)}", "bad", size=11, bold=True)
    elif limit is not None:
        canvas.text(WIDTH - _RIGHT, 13, f"target {span(limit)}, far above", "soft", size=11, end="end")
    canvas.polyline([(x(point.at), y(point.value_ms)) for point in points], "plot")
    for point in points:
        over = point.limit_ms is not None and point.value_ms > point.limit_ms
        canvas.circle(x(point.at), y(point.value_ms), 4, "red" if over else "blue", hint=point.hint)
    step = max(1, -(-len(points) // _LABELS))
    for point in points[::step]:
        canvas.text(x(point.at), HEIGHT - 12, f"{point.at:%Y-%m-%d}", "soft", size=11, end="middle")
    return str(canvas)
