"""Looks at many subjects at once; one part each, whatever happens to the others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from vedr.readiness.finding import Part, look_at, part_of
from vedr.readiness.side_by_side import MAX_THREADS, side_by_side

MARGIN: Final = 0.9  # of a check's deadline: what the others said is to be heard before it ends


def examine(looks: Mapping[str, Callable[[], Part]], *, deadline_s: float, threads: int = MAX_THREADS) -> list[Part]:
    """Every subject's part, in order; one that gave none in time could not be looked at.

    With one thread, one after the other.
    """
    calls = {subject: partial(look_at, subject, look) for subject, look in looks.items()}
    answers = side_by_side(calls, deadline_s=deadline_s, threads=threads)
    return [answer.value or part_of(subject, answer.error or TimeoutError()) for subject, answer in answers.items()]
