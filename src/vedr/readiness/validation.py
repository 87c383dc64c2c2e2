"""Runs checks side by side: each opens the site for itself, has its own deadline, and becomes one finding.

Guarantees: as many findings as checks, in their order, no later than the longest deadline; a check that raised, hung or
found nothing to look at is a failure; no check can hold up, or fail, another.
Leaves out: what checks look at (registry).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from vedr.errors import InvalidInputError
from vedr.policies.checks import Checks
from vedr.readiness.finding import Finding, Verdict, verdict_of
from vedr.readiness.ports import Ports
from vedr.readiness.side_by_side import Answer, side_by_side

OpenPorts = Callable[[], AbstractContextManager[Ports]]
"""Opens the site anew, for one check: what one breaks or blocks is no other's.  A node's client may be shared."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name on the command line, what it makes sure of, and how."""

    name: str
    makes_sure: str
    look: Callable[[Ports], Verdict]


def choose(checks: Sequence[Check], names: Sequence[str]) -> tuple[Check, ...]:
    """The named ones, in their own order; all when none is named.  InvalidInputError for a name that is no check's."""
    known = {check.name for check in checks}
    if unknown := [name for name in names if name not in known]:
        raise InvalidInputError(
            f"no check {', '.join(map(repr, unknown))}", remedy=f"Choose of: {', '.join(c.name for c in checks)}."
        )
    return tuple(check for check in checks if not names or check.name in names)


def validate(checks: Sequence[Check], open_ports: OpenPorts, policy: Checks) -> tuple[Finding, ...]:
    """Run them all, at once."""
    calls = {
        check.name: partial(_within, policy.deadline_of(check.name), partial(_look, check, open_ports))
        for check in checks
    }
    longest_s = max((policy.deadline_of(check.name) for check in checks), default=0.0)
    answers = side_by_side(calls, deadline_s=longest_s, threads=len(calls))
    return tuple(_finding(check, answers[check.name]) for check in checks)


def _within(limit_s: float, look: Callable[[], Verdict]) -> Verdict:
    """A check's own deadline, shorter than the others' or not."""
    return side_by_side({"": look}, deadline_s=limit_s)[""].get()


def _look(check: Check, open_ports: OpenPorts) -> Verdict:
    with open_ports() as ports:
        return check.look(ports)


def _finding(check: Check, answer: Answer[Verdict]) -> Finding:
    verdict = answer.value or verdict_of(answer.error or TimeoutError(), check.makes_sure)
    return Finding(
        check=check.name,
        status=verdict.status,
        observed=verdict.observed,
        expected=verdict.expected,
        remedy=verdict.remedy,
        took_s=round(answer.took_s, 3),
    )


class Stopwatch:
    """How long something took, where a check judges it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began_s = monotonic()

    @property
    def took_s(self) -> float:
        return self._monotonic() - self._began_s
