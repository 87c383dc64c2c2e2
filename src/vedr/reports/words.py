"""How durations, sizes of time and moments read in reports."""

import datetime as dt
from typing import Final

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000


def span(ms: int) -> str:
    """Such as 840 ms, 4.2 s, 2 min 41 s, 1 h 03 min, 3 d 4 h."""
    if ms < 0:
        return f"-{span(-ms)}"
    if ms < 1000:  # noqa: PLR2004 - a second
        return f"{ms} ms"
    if ms < MINUTE_MS:
        return f"{ms / 1000:.3g} s" if ms < 10_000 else f"{ms // 1000} s"  # noqa: PLR2004 - two digits tell enough
    if ms < HOUR_MS:
        minutes, seconds = divmod(ms // 1000, 60)
        return f"{minutes} min {seconds:02} s" if seconds else f"{minutes} min"
    if ms < DAY_MS:
        hours, minutes = divmod(ms // MINUTE_MS, 60)
        return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"
    days, hours = divmod(ms // HOUR_MS, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def moment(when: dt.datetime) -> str:
    """Such as 2026-02-14 03:15:00 UTC."""
    return f"{when.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
