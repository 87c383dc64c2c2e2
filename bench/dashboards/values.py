"""Values as people read them, and where an axis is marked.

Guarantees: a unit's value is written in the form that its size asks for; an axis has few and round marks.
Leaves out: colours.
"""

import math
from typing import Final

from bench.dashboards.layout import Unit
from vedr.reports.words import span

_DECIMAL: Final = (1.0, 2.0, 5.0)
_SECONDS: Final = (
    *(0.001, 0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 720, 2160, 8760)),
)
HOUR_S: Final = 3600.0
MOST_MARKS: Final = 5


def written(value: float, unit: Unit) -> str:
    """Such as 16, 12.3K, 85%, 1.2 MiB, 2 min 41 s, ∞."""
    if not math.isfinite(value):
        return str(value).replace("inf", "∞")
    match unit:
        case "percentunit":
            return f"{value * 100:,.0f}%" if abs(value) >= 1 else f"{value * 100:.3g}%"
        case "s" | "h":
            return span(round(value * 1000 * (HOUR_S if unit == "h" else 1)))
        case "bytes":
            return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), " ")
        case "none":
            return f"{value:,.10g}"
        case "short":
            return _scaled(value, 1000, ("", "K", "M", "B", "T"), "")


def _scaled(value: float, base: int, names: tuple[str, ...], between: str) -> str:
    size, power = value, 0
    while abs(size) >= base and power < len(names) - 1:
        size, power = size / base, power + 1
    return f"{size:.{3 if abs(size) < 1000 else 4}g}{between}{names[power]}"


def axis(low: float, high: float, unit: Unit) -> tuple[float, ...]:
    """Round values from `low` to `high`, five at the most."""
    step = _step(max(high - low, 1e-9) / MOST_MARKS, unit)
    first = math.ceil(low / step - 1e-9)
    return tuple(number * step for number in range(first, math.floor(high / step + 1e-9) + 1))


def _step(least: float, unit: Unit) -> float:
    """The least round step that is not below `least`."""
    if unit in ("s", "h"):
        scale = HOUR_S if unit == "h" else 1.0
        longest = _SECONDS[-1] * math.ceil(least * scale / _SECONDS[-1])
        return next((step for step in _SECONDS if step >= least * scale), longest) / scale
    if unit == "bytes":
        return float(2 ** max(0, math.ceil(math.log2(least))))
    whole = 10.0 ** math.floor(math.log10(least))
    return next(part * whole for part in (*_DECIMAL, 10.0) if part * whole >= least * (1 - 1e-9))


def clock_marks(start_s: float, end_s: float) -> tuple[float, ...]:
    """Round times of the window."""
    return axis(start_s, end_s, "s")
