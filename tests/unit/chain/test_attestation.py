import datetime as dt

import pytest

from vedr.chain.attestation import Statement, two_people
from vedr.errors import InvalidInputError, RefusedError

NOW = dt.datetime(2027, 1, 1, 12, tzinfo=dt.UTC)
SAYS = "The instance is stopped."


def said(*people: str) -> list[Statement]:
    return [Statement(person, SAYS, NOW) for person in people]


def test_two_people_who_say_the_same_are_two() -> None:
    assert two_people(said("Zoe Roth", "Max Roth"), SAYS, after=NOW, now=NOW).people == ("Zoe Roth", "Max Roth")


@pytest.mark.parametrize(
    "again",
    [
        "zoe  ROTH ",
        "Zoe\u00a0Roth",
        "Zoe Ro\u200bth",  # a space without width
        "Zoe Ro\u00adth",  # a soft hyphen
        "\u2066Zoe Roth\u2069",  # direction marks
        "\uff3aoe Roth",  # a wide letter
    ],
)
def test_one_person_written_in_two_ways_is_one(again: str) -> None:
    with pytest.raises(RefusedError, match="1 of 2 people"):
        two_people(said("Zoe Roth", again), SAYS, after=NOW, now=NOW)


def test_a_name_that_nobody_can_see_is_no_name() -> None:
    with pytest.raises(InvalidInputError, match="without a name"):
        two_people(said("Zoe", "\u200b"), SAYS, after=NOW, now=NOW)
