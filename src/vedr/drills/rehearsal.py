"""The non-disruptive drill, judged: could each key sign elsewhere?  Everything is tried but the signing.

Guarantees: pure; a key that was not tried, or a try that could not be made, is a problem.
Leaves out: trying (tasks.drills_rehearsing).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vedr.errors import VerificationFailedError

MUST_FILE: Final = ("key backup", "floor", "fence")
MUST_HSM: Final = ("tokens", "registers", "standby")


@dataclass(frozen=True, slots=True)
class Tried:
    """One part of a shadow promotion.  `problem` is empty when it worked; `seen` says what was seen."""

    validator: str
    part: str
    seen: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.validator}, {self.part}: {self.problem or self.seen}"


def require(tried: Sequence[Tried], wanted: Sequence[tuple[str, bool]]) -> None:
    """VerificationFailedError unless every part was tried for every validator, and worked.

    Args:
        tried: What was tried.
        wanted: The validators, and whether each signs remotely, with a key in hardware.
    """
    problems = [str(one) for one in tried if one.problem]
    done = {(one.validator, one.part) for one in tried}
    for validator, is_remote in wanted:
        must = MUST_HSM if is_remote else MUST_FILE
        problems += [f"{validator}, {part}: was not tried" for part in must if (validator, part) not in done]
    if problems or not wanted:
        raise VerificationFailedError(
            f"the rehearsal failed: {'; '.join(problems) or 'there is no validator to rehearse'}",
            remedy="Repair what is named; until then a failover would stop there.",
        )
