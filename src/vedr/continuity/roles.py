"""Who does what when the plan is active: roles, the RACI matrix, succession.

Guarantees: each activity has exactly one role that is accountable and at least one that is responsible; a role is
filled by the first of its people who is available, then by the role that takes it over.
Leaves out: the people (vedr.policies.continuity).

Source: VirtEngine's business continuity plan; `takes over` is ours.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from vedr.errors import NotFoundError
from vedr.policies.continuity import ROLE_TITLES, Contact, Continuity, RoleName

Part = Literal["R", "A", "C", "I", "R/A"]


@dataclass(frozen=True, slots=True)
class Duty:
    """What a role is there for, and which role takes over when nobody of it can be reached."""

    duty: str
    successor: RoleName


DUTIES: Final[dict[RoleName, Duty]] = {
    "bc-manager": Duty("owns the plan; activates and deactivates it", "incident-commander"),
    "incident-commander": Duty("leads the response; declares; decides on runbooks", "technical-lead"),
    "technical-lead": Duty("decides what is technically done; assesses", "operations"),
    "communications": Duty("tells users, validators, providers, executives", "bc-manager"),
    "operations": Duty("carries runbooks out; brings people and machines", "technical-lead"),
}


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity and each role's part in it: responsible, accountable, consulted, informed."""

    name: str
    parts: dict[RoleName, Part]


def _row(name: str, *parts: Part) -> Activity:
    return Activity(name, dict(zip(ROLE_TITLES, parts, strict=True)))


RACI: Final = (
    _row("Declaring an incident", "I", "R/A", "C", "I", "C"),
    _row("Technical assessment", "I", "I", "R/A", "I", "C"),
    _row("Carrying out runbooks", "I", "A", "R", "I", "C"),
    _row("Telling people", "C", "A", "C", "R", "I"),
    _row("Bringing people and machines", "A", "R", "C", "I", "C"),
    _row("Post-incident review", "R/A", "C", "C", "I", "C"),
)


@dataclass(frozen=True, slots=True)
class Filled:
    """Who fills a role now; `deputising` names the role they come from when it is another."""

    role: RoleName
    contact: Contact
    deputising: RoleName | None = None


def fill(policy: Continuity, role: RoleName, *, unavailable: Collection[str] = ()) -> Filled:
    """The first who is available: of the role in order of succession, then of the roles that take it over.

    Args:
        policy: The site's people.
        role: Which role.
        unavailable: Names of people who cannot be reached.

    Raises:
        NotFoundError: nobody is named, or nobody is left.
    """
    away = {name.casefold() for name in unavailable}
    asked: list[RoleName] = []
    at = role
    while at not in asked and at in policy.roles:
        for contact in policy.roles[at].succession:
            if contact.name.casefold() not in away:
                return Filled(role, contact, at if at != role else None)
        asked.append(at)
        at = DUTIES[at].successor
    raise NotFoundError(
        f"nobody fills the role {ROLE_TITLES[role]}" + (f": {', '.join(asked)} cannot be reached" if asked else ""),
        remedy="Name people in [continuity.roles] of the site file.",
    )
