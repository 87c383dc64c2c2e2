"""Who has to agree before a runbook acts: the `[approval]` table of a site file.

Guarantees: nobody is asked unless the site says so; where two people are asked and the site names its approvers, there
are two of them.
Leaves out: asking and counting (vedr.runbook.approval), and proof of identity: a name is what its owner says it is.
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from vedr.errors import InvalidInputError, RefusedError
from vedr.targets import MINUTE_S, Frozen, RunbookId

Asking = RunbookId | Literal["failback"]
"""Runbooks that may ask; a name that is none is refused, since it would ask nobody."""
People = Literal["none", "one", "two"]
PEOPLE: Final[dict[People, int]] = {"none": 0, "one": 1, "two": 2}

PERSON: Final = r"^[a-z0-9][a-z0-9._@-]{0,63}$"
Person = Annotated[str, StringConstraints(pattern=PERSON)]
"""As the site's directory knows them, lower case: `zoe` or `zoe@virtengine.com`, which are one person."""


def identity_of(person: str) -> str:
    """What two spellings of one person share: an address's part before the `@`."""
    return person.partition("@")[0]


class Approval(Frozen):
    """How many people each runbook asks, who they may be, and how long it waits for them."""

    runbooks: dict[Asking, People] = Field(
        default_factory=dict, description="people who have to agree, by runbook; one that is not named asks nobody"
    )
    people: tuple[Person, ...] = Field(default=(), description="who may answer; empty: whoever has the site's file")
    limit_s: int = Field(
        default=30 * MINUTE_S, gt=0, description="how long a run waits before it is left to be resumed"
    )

    @model_validator(mode="after")
    def _enough_people(self) -> Self:
        most = max((PEOPLE[people] for people in self.runbooks.values()), default=0)
        different = len({identity_of(person) for person in self.people})
        if self.people and different < most:
            raise ValueError(f"{most} people have to agree, but only {different} may: name more in people")
        return self

    def needed(self, runbook: str) -> int:
        """How many different people have to agree to a plan of this runbook."""
        return next((PEOPLE[people] for known, people in self.runbooks.items() if known == runbook), 0)

    def asking(self, runbook: str, people: People) -> Self:
        """The same people and the same patience, for a question that needs so many whatever the runbook asks."""
        return self.model_copy(update={"runbooks": {**self.runbooks, runbook: people}})

    def check_person(self, person: str) -> None:
        """RefusedError when this person may not answer."""
        if self.people and person not in self.people:
            raise RefusedError(
                f"{person} is not among the site's approvers", remedy=f"They are {', '.join(self.people)}."
            )


def parse_person(text: str) -> str:
    """The name in its one spelling; InvalidInputError when it is not one."""
    name = text.strip().lower()
    if not re.fullmatch(PERSON, name):
        raise InvalidInputError(
            f"{text!r} is not a person's name here",
            remedy="Give it as your directory has it: zoe or zoe@virtengine.com.",
        )
    return name
