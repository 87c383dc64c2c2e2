"""What a site consists of, counted before a drill and after it: the proof that a drill cleaned up.

Guarantees: pure; everything that is in one census and not alike in the other is a difference; what could not be counted
is one too, also when it could not be counted before, and also of what the drill is about.
Leaves out: counting (tasks.drills_looking).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

UNSEEN: Final = "could not be seen"
GONE: Final = "is not there"


@dataclass(frozen=True, slots=True)
class Census:
    """By name, such as `unit validator-us-east-0`, what it is, such as `running`."""

    things: dict[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it was."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name}: was {self.before}, is {self.after}"


@dataclass(frozen=True, slots=True)
class Compared:
    """Both counts side by side.  `expected` are differences that the drill is about, such as a replaced key."""

    counted: int
    differences: tuple[Difference, ...]
    expected: tuple[Difference, ...]

    @property
    def clean(self) -> bool:
        return self.counted > 0 and not self.differences


def compare(before: Census, after: Census, *, expecting: Collection[str] = ()) -> Compared:
    """What changed."""
    found = [
        Difference(name, then, now)
        for name in sorted({*before.things, *after.things})
        for then, now in [(_get(before.things, name), _get(after.things, name))]
        if then != now or now.startswith(UNSEEN)
    ]
    return Compared(
        counted=len(before.things),
        differences=tuple(one for one in found if not _is_expected(one, expecting)),
        expected=tuple(one for one in found if _is_expected(one, expecting)),
    )


def _is_expected(one: Difference, expecting: Collection[str]) -> bool:
    """It became something else, which was seen."""
    return one.name in expecting and one.after != GONE and not one.after.startswith(UNSEEN)


def _get(things: Mapping[str, str], name: str) -> str:
    return things.get(name, GONE)
