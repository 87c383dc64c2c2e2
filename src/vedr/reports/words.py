"""How durations, sizes of time and moments read in reports."""

import datetime as dt
from typing import Final

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_FORMS: Final = (
    (MINUTE_MS, SECOND_MS, ("{} min {:02} s", "{} min"), 60),
    (HOUR_MS, MINUTE_MS, ("{} h {:02} min", "{} h"), 24),
    (DAY_MS, HOUR_MS, ("{} d {} h", "{} d"), 1 << 40),
)
"""Unit, its part, how both and the unit alone are written, and up to how many of the unit."""


def span(ms: int) -> str:
    """Such as 840 ms, 4.2 s, 2 min 41 s, 1 h 03 min, 3 d 4 h; rounded down."""
    if ms < 0:
        return f"-{span(-ms)}"
    if 0 < ms < SECOND_MS:
        return f"{ms} ms"
    if ms < MINUTE_MS:
        return f"{ms // 100 / 10:g} s" if ms < 10 * SECOND_MS else f"{ms // SECOND_MS} s"
    whole_ms, part_ms, form, _ = next(one for one in _FORMS if ms < one[0] * one[3])
    whole, rest = divmod(ms, whole_ms)
    part = rest // part_ms
    return form[0].format(whole, part) if part else form[1].format(whole)


def moment(when: dt.datetime) -> str:
    """Such as 2026-02-14 03:15:00 UTC."""
    return f"{when.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
