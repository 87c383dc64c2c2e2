"""What a check finds, and how many subjects become one finding.

Guarantees: a check without a subject has failed; the worst subject decides; whatever a look raises becomes a result of
its subject, with a remedy, and never ends the others'.
Leaves out: looking.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from vedr.errors import DeadlineError, InvalidInputError, UnavailableError, VedrError

Status = Literal["passed", "warning", "failed", "could not run"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_SEVERITY: Final[tuple[Status, ...]] = ("passed", "warning", "could not run", "failed")
_SHOWN: Final = 8  # subjects that an observation names; the rest are counted
_REMEDIES: Final = 1
_MAX_TEXT: Final = 240  # of one subject


@dataclass(frozen=True, slots=True)
class Part:
    """What was seen of one subject."""

    subject: str
    status: Status
    observed: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of all its subjects."""

    status: Status
    observed: str
    expected: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: what `vedr check` shows and the ledger keeps."""

    check: str
    status: Status
    observed: str
    expected: str
    remedy: str
    took_s: float

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def is_failure(self) -> bool:
        """Failed, or could not run: the day is not proven."""
        return self.status in ("failed", "could not run")


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; passed when there are none."""
    return max(statuses, key=_SEVERITY.index, default="passed")


def look_at(subject: str, look: Callable[[], Part]) -> Part:
    """The look's part, or the part that its error amounts to."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever a probe stumbles over is this subject's result
        return part_of(subject, error)


def part_of(subject: str, error: BaseException) -> Part:
    """An error as a result: what did not answer could not be checked, what answered wrongly has failed."""
    if not isinstance(error, VedrError):
        return Part(subject, "could not run", type(error).__name__, "This is a fault of vedr: report it.")
    silent = isinstance(error, (UnavailableError, DeadlineError, InvalidInputError))
    return Part(subject, "could not run" if silent else "failed", _short(error.message), error.remedy)


def verdict_of(error: BaseException, expected: str) -> Verdict:
    """A whole check's error, as its verdict."""
    part = part_of("", error)
    return Verdict(part.status, part.observed, expected, part.remedy)


def combine(parts: Sequence[Part], *, expected: str, nothing: str, summary: str = "") -> Verdict:
    """One verdict over all subjects; the worst decides.

    Args:
        parts: What was seen of each.
        expected: What a healthy site shows.
        nothing: What to do when there is no subject at all.
        summary: What is said when all passed; else, how many there were.
    """
    if not parts:
        return Verdict("failed", "nothing to look at", expected, nothing)
    status = worst(part.status for part in parts)
    if status == "passed":
        return Verdict("passed", summary or _named(parts), expected)
    bad = sorted((p for p in parts if p.status != "passed"), key=lambda p: -_SEVERITY.index(p.status))
    good = len(parts) - len(bad)
    return Verdict(status, f"{_named(bad)}{f'; {good} of {len(parts)} well' if good else ''}", expected, _remedy(bad))


def combine_at_least(parts: Sequence[Part], least: int, *, expected: str, nothing: str) -> Verdict:
    """As `combine`, where `least` good subjects are enough: then what is wrong with the others is a warning."""
    verdict = combine(parts, expected=expected, nothing=nothing)
    enough = sum(part.status in ("passed", "warning") for part in parts) >= least
    if not parts or not enough or verdict.status == "passed":
        return verdict
    return Verdict("warning", verdict.observed, expected, verdict.remedy)


def _named(parts: Sequence[Part]) -> str:
    shown = "; ".join(f"{part.subject}: {part.observed}" for part in parts[:_SHOWN])
    return shown if len(parts) <= _SHOWN else f"{shown}; and {len(parts) - _SHOWN} more"


def _remedy(bad: Sequence[Part]) -> str:
    """Of the worst, each once."""
    return " ".join(tuple(dict.fromkeys(part.remedy for part in bad if part.remedy))[:_REMEDIES])


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
