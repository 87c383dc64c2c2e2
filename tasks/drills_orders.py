"""What is ordered of the drills: their forms and options."""

from typing import Literal

from pydantic import Field

from tasks.failover_orders import Place
from tasks.orders import OneLine
from vedr.inventory import load_site
from vedr.readiness.drill_schedule import Cadence
from vedr.runbook.order import Order

Form = Literal["as the site allows", "disruptive", "non-disruptive"]


class Drill(Order):
    """A drill: something is broken on purpose, and the runbook that is for it is run."""

    form: Form = Field(
        default="as the site allows",
        title="Form",
        description="disruptive: faults are injected, where the site allows that.  non-disruptive: restores and "
        "rehearses beside the site.",
    )
    reason: OneLine = Field(default="", title="Why now", description="One line for the record.")


class NodeDrill(Drill):
    """The weekly drill."""

    target: Place = Field(
        default="",
        title="Node",
        description="A full or archive node.  Empty: the one that was drilled the longest ago.",
        json_schema_extra={"vedr_choices": "nodes"},
    )


class ZoneDrill(Drill):
    """The monthly drill."""

    target: Place = Field(
        default="",
        title="Zone",
        description="A zone whose loss does not halt the chain.  Empty: the one that was drilled the longest ago.",
        json_schema_extra={"vedr_choices": "zones"},
    )


class RegionDrill(Drill):
    """The quarterly drill."""

    target: Place = Field(
        default="",
        title="Region",
        description="A region.  Empty: the one that was drilled the longest ago, of those that may be lost.",
        json_schema_extra={"vedr_choices": "regions"},
    )


class FullDrill(Drill):
    """The annual drill, which chooses all its targets itself."""


def rehearses(order: Drill) -> bool:
    """Whether it is the non-disruptive form; a drill that goes on is what it was."""
    if order.incident:
        return False
    if order.form == "as the site allows":
        return load_site(order.site or None).drills.faults == "none"
    return order.form == "non-disruptive"


class Rehearsal(Order):
    """The non-disruptive form of a drill."""

    cadence: Cadence = Field(
        default="weekly",
        title="In place of",
        description="weekly: a node is restored in isolation.  The others rehearse promotions as well.",
    )
    target: Place = Field(
        default="",
        title="Zone or region",
        description="Whose keys would move.  Empty: all of the site.",
        json_schema_extra={"vedr_choices": "places"},
    )
    reason: OneLine = Field(default="", title="Why now", description="One line for the record.")
