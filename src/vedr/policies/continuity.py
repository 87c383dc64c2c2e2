"""People and places of the business continuity plan: the `[continuity]` table of a site file.

Guarantees: either no role is filled, or every role is, each by somebody with two backups or more, nobody twice in one
role; whom to call is never empty.
Leaves out: who does what (vedr.continuity.roles), and whether anybody answers: `vedr notify test`, drills.
"""

from types import MappingProxyType
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from vedr.targets import Frozen

RoleName = Literal["bc-manager", "incident-commander", "technical-lead", "communications", "operations"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)
ROLE_TITLES: Final = MappingProxyType[RoleName, str](
    {
        "bc-manager": "BC manager",
        "incident-commander": "Incident commander",
        "technical-lead": "Technical lead",
        "communications": "Communications",
        "operations": "Operations",
    }
)
MIN_BACKUPS: Final = 2

PlainText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\r\n]+$")
]


class Contact(Frozen):
    """A named person, or a rotation that always has one, and how to reach them at three in the morning."""

    name: PlainText
    reach: PlainText


class Role(Frozen):
    """Who fills a role, and who does in which order when they cannot be reached."""

    primary: Contact
    backups: tuple[Contact, ...] = Field(min_length=MIN_BACKUPS, description="two or more, in order of succession")

    @property
    def succession(self) -> tuple[Contact, ...]:
        return (self.primary, *self.backups)

    @model_validator(mode="after")
    def _different_people(self) -> Self:
        names = [contact.name.casefold() for contact in self.succession]
        if len(set(names)) < len(names):
            raise ValueError("one person is named twice: a backup must be somebody else")
        return self


class Continuity(Frozen):
    """The plan's people and places."""

    roles: dict[RoleName, Role] = Field(default_factory=dict)
    status_page: str = Field(default="", pattern=r"^(https://\S+)?$")
    validator_channel: str = Field(default="#validator-coordination", description="where validators are answered")
    monitoring_url: str = Field(
        default="", pattern=r"^(https?://\S+)?$", description="answers 2xx while monitoring works; empty: not looked at"
    )

    @model_validator(mode="after")
    def _every_role(self) -> Self:
        if self.roles and (missing := [role for role in ROLES if role not in self.roles]):
            raise ValueError(f"nobody is named for {', '.join(missing)}: name all roles")
        return self
