"""One injected corruption, and the judgement on what the verification made of it.

A subject damages something and gives the look that a user or a schedule would take at it.  The look must end in one of:
    refused    one of our own errors, with what to do next
    healed     what came out is the original, from another copy, and the report names the damaged one
    harmless   what came out is the original, and the damaged bytes were never part of it
    as signed  the damage was signed by a trusted key again: it is read as it stands, or refused
Anything else is a failure: damaged data that passed, an error that is not ours, one without a remedy, a hang.

Guarantees: a trial is a function of its seed; a failure names what replays it.
Leaves out: the damage (bench.corrupting.damage) and the subjects.
"""

import contextlib
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final, Literal, Protocol, TypeVar

from vedr.errors import VedrError

Verdict = Literal["refused", "healed", "harmless", "as signed"]
FAILED: Final = "failed"
HANG_S: Final = 120.0  # the slowest look takes a second or two on a quiet machine
T = TypeVar("T")


class FalsePass(Exception):  # noqa: N818 (not an error of the look: what the look failed to see)
    """Something was accepted that is not what it was."""


class Hang(BaseException):
    """The look did not end."""


@dataclass(frozen=True, slots=True)
class Case:
    """What was damaged and how, and the look at it."""

    kind: str
    what: str
    look: Callable[[], Verdict]


class Subject(Protocol):
    """A kind of stored thing, with its original state at hand."""

    @property
    def name(self) -> str: ...

    def case(self, chance: random.Random) -> Case:
        """Restore the original state, damage it, and give the look."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Result:
    """A trial's end.  `why` tells a failure."""

    subject: str
    number: int
    kind: str
    what: str
    verdict: str
    why: str = ""

    @property
    def is_failure(self) -> bool:
        return self.verdict == FAILED


def run(subject: Subject, seed: int, number: int) -> Result:
    """The trial of that number: the same each time."""
    chance = random.Random(f"{seed}/{subject.name}/{number}")
    case = subject.case(chance)
    verdict, why = judged(case.look)
    return Result(subject.name, number, case.kind, case.what, verdict, why)


def judged(look: Callable[[], Verdict]) -> tuple[str, str]:
    """The verdict; for a failure, why."""
    try:
        with _limit(HANG_S):
            return look(), ""
    except VedrError as error:
        return ("refused", "") if error.remedy else (FAILED, f"no remedy: {type(error).__name__}: {error}")
    except FalsePass as error:
        return FAILED, f"damage passed: {error}"
    except Hang:
        return FAILED, f"no end within {HANG_S:g} s"
    except Exception:  # noqa: BLE001 (just this is what is looked for)
        return FAILED, traceback.format_exc()


def tried(act: Callable[[], T]) -> T | VedrError:
    """What it gives, or our error."""
    try:
        return act()
    except VedrError as error:
        return error


def require_remedy(error: VedrError) -> None:
    """For errors that a report carries instead of raising them."""
    if not error.remedy:
        raise FalsePass(f"an error without a remedy: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
