"""Two people's word, where no machine can tell.

Guarantees: `TwoPeople` exists only when two different people said the very same sentence, after what it is about and
not long ago.
Leaves out: who a person is.  The caller has authenticated them, and the ledger keeps what they said.
"""

import datetime as dt
import unicodedata
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Final

from vedr.errors import InvalidInputError, RefusedError

MAX_AGE: Final = dt.timedelta(hours=1)  # what somebody saw longer ago may have changed
MAX_AHEAD: Final = dt.timedelta(seconds=10)  # two hosts' clocks differ by less
NEEDED: Final = 2
_UNSEEN: Final = "Cf"  # joiners, soft hyphens, direction marks
_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Statement:
    """One person's word."""

    person: str
    says: str
    at: dt.datetime

    @property
    def identity(self) -> str:
        """The name without what makes one person look like two: case, spaces, signs that nobody sees, ways of writing a
        letter, and an address's domain: `zoe` and `zoe@virtengine.com` are one.
        """
        seen = (sign for sign in unicodedata.normalize("NFKC", self.person) if unicodedata.category(sign) != _UNSEEN)
        return " ".join("".join(seen).casefold().partition("@")[0].split())


@dataclass(frozen=True, slots=True)
class TwoPeople:
    """Both names, as given, and what they said."""

    people: tuple[str, ...]
    says: str
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise RefusedError("two people's word is only made from their statements", remedy="Ask them.")


def two_people(statements: Sequence[Statement], says: str, *, after: dt.datetime, now: dt.datetime) -> TwoPeople:
    """Their common word.

    Args:
        statements: What was said; statements of other things count for nothing.
        says: The exact sentence.
        after: When the thing happened that they speak of.
        now: The present time.

    Raises:
        InvalidInputError: a statement has no name, or the sentence is empty.
        RefusedError: fewer than two different people said it in that time.
    """
    if not says.strip() or any(not one.identity for one in statements):
        raise InvalidInputError("a statement without a name or a sentence", remedy="Give the full name of each person.")
    fitting = [one for one in statements if one.says == says and _in_time(one, after, now)]
    people = {one.identity: one.person for one in fitting}
    if len(people) < NEEDED:
        raise RefusedError(
            f"{len(people)} of {NEEDED} people said since {after.isoformat()}, at most {MAX_AGE} ago: {says}",
            remedy="Two different people have to see for themselves and say so, in these words.",
        )
    return TwoPeople(tuple(people.values()), says, seal=_SEAL)


def _in_time(one: Statement, after: dt.datetime, now: dt.datetime) -> bool:
    return max(after, now - MAX_AGE) <= one.at <= now + MAX_AHEAD
