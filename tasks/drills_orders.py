"""What is ordered of the drills: their forms and options."""

from typing import Literal

from pydantic import Field

from tasks.failover_orders import Place
from tasks.orders import OneLine
from vedr.drills.scenario import Scenario
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


def instead_of(order: Drill, scenario: Scenario) -> "Rehearsal":
    """The non-disruptive drill in a drill's place, of the same target."""
    target = getattr(order, "target", "")
    return Rehearsal(site=order.site, cadence=scenario.cadence, target=target, reason=order.reason)


class Rehearsal(Order):
    """The non-disruptive form of a drill."""

    cadence: Cadence = Field(
        default="weekly",
        title="In place of",
        description="weekly: a node is restored in isolation.  The others rehearse promotions as well.",
    )
    target: Place = Field(
        default="",
        title="Node, zone or region",
        description="Whose region's snapshot is restored: a node, for weekly only.  Whose keys would move: a zone or "
        "region.  Empty: the primary region, and all of the site.",
        json_schema_extra={"vedr_choices": "nodes_and_places"},
    )
    reason: OneLine = Field(default="", title="Why now", description="One line for the record.")
