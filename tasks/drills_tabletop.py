"""The record of a tabletop exercise: who sat there, which sheet was gone through, what was found.

Guarantees: one that too few people held, or whose sheet is not the present one's quarter, is refused: not held.
Leaves out: proof that the people named were there; a record is what its author says, signed by the site.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from tasks.orders import OneLine
from vedr.drills.tabletop import MIN_PARTICIPANTS, Quarter, digest
from vedr.errors import RefusedError
from vedr.policies.approval import parse_person
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, step

MAX_TEXT: Final = 2000
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Tabletop(Order):
    """A tabletop exercise that was held."""

    quarter: Quarter = Field(title="Quarter", description="Whose sheet was gone through: vedr drill sheet Q1.")
    moderator: OneLine = Field(title="Moderator", description="Who led it, and did not answer.", min_length=1)
    participants: OneLine = Field(title="Participants", description="Names with commas between them.")
    findings: Text = Field(
        default="", title="Findings", description="What was decided, what nobody knew, what the runbook lacked."
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A tabletop as it is on record."""

    quarter: str
    sheet_sha256: str
    moderator: str
    participants: tuple[str, ...]
    findings: str


@step(title="Record the tabletop", budget_s=60, acts=False)
def record_tabletop(ctx: Context[Tabletop]) -> Held:
    """Puts the sheet's digest, who took part and what was found into the ledger; refuses when too few took part."""
    order = ctx.order
    people = tuple(dict.fromkeys(parse_person(name) for name in order.participants.split(",") if name.strip()))
    moderator = parse_person(order.moderator)
    at_table = [name for name in people if name != moderator]
    if len(at_table) < MIN_PARTICIPANTS:
        raise RefusedError(
            f"not held: {len(at_table)} people besides the moderator, {MIN_PARTICIPANTS} are needed",
            remedy="Hold it with those who decide, act and tell others.",
        )
    if not order.findings.strip():
        raise RefusedError("not held: it found nothing at all", remedy="Say what was decided; something always is.")
    ctx.say(f"tabletop {order.quarter}: {len(at_table)} people and {moderator}")
    return Held(order.quarter, digest(order.quarter), moderator, tuple(at_table), order.findings.strip())
