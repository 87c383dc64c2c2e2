"""How old something is, judged and put in words.  Pure."""

import datetime as dt
from typing import Final

from vedr.readiness.finding import Part

MAX_SKEW_S: Final = 300.0  # between the clocks of two hosts


def is_to_come(moment: dt.datetime, now: dt.datetime) -> bool:
    """Whether it is dated further ahead than clocks may differ: of whatever is, nobody knows how old it is."""
    return (moment - now).total_seconds() > MAX_SKEW_S


def judge_age(
    subject: str, taken: dt.datetime, now: dt.datetime, *, warn_s: float, limit_s: float, remedy: str
) -> Part:
    """Young enough, nearly too old, or too old; a time to come is no one's true date."""
    age_s = (now - taken).total_seconds()
    if is_to_come(taken, now):
        return Part(subject, "failed", f"dated {duration(-age_s)} in the future", "Set the clocks right, take another.")
    if age_s > limit_s:
        return Part(subject, "failed", f"{duration(age_s)} old, limit {duration(limit_s)}", remedy)
    if age_s > warn_s:
        return Part(subject, "warning", f"{duration(age_s)} old, usual is {duration(warn_s)}", remedy)
    return Part(subject, "passed", f"{duration(max(0.0, age_s))} old")


def duration(seconds: float) -> str:
    """As people say it, to two digits or so."""
    for size_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size_s:
            return f"{seconds / size_s:.1f} {unit}"
    return f"{seconds:.1f} s"
