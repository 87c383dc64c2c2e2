"""What is ordered of RB-DR-002, RB-DR-003 and the failback: their forms and options."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tasks.orders import OneLine
from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError
from vedr.inventory import Site, load_site
from vedr.policies.names import RegionName, ZoneName
from vedr.runbook.order import Order

Mode = Literal["outage", "planned"]

PLAN_HOLDS_S: Final = 120.0  # then, before it acts, a run looks again; who agrees at once waits for no second look

Place = Annotated[str, Field(pattern=r"^[a-z0-9-]*$", max_length=63)]


class Failover(Order):
    """What both failovers are told."""

    mode: Mode = Field(
        default="outage",
        title="Mode",
        description="outage: it is lost, which is confirmed first.  planned: it works and is emptied, for maintenance.",
    )
    target: Place = Field(
        default="",
        title="Target",
        description="Zone or region that takes over.  Empty: the next one that serves, by priority.",
        json_schema_extra={"vedr_choices": "places"},
    )
    reason: OneLine = Field(default="", title="What was seen", description="One line for the record.")


class ZoneFailover(Failover):
    """RB-DR-002: a zone is lost, or to be emptied."""

    zone: ZoneName = Field(
        title="Zone", description="The zone that is lost.", json_schema_extra={"vedr_choices": "zones"}
    )


class RegionFailover(Failover):
    """RB-DR-003: a region is lost, or to be emptied."""

    region: RegionName = Field(
        title="Region", description="The region that is lost.", json_schema_extra={"vedr_choices": "regions"}
    )


def domain_of(order: Failover) -> Domain:
    """What is lost or emptied."""
    match order:
        case ZoneFailover():
            return Domain("zone", order.zone)
        case RegionFailover():
            return Domain("region", order.region)
        case _:
            raise InvalidInputError("neither a zone nor a region is named", remedy="Order RB-DR-002 or RB-DR-003.")


class Failback(Order):
    """The way home after RB-DR-002 or RB-DR-003."""

    place: Place = Field(
        title="Zone or region", description="What is healthy again.", json_schema_extra={"vedr_choices": "places"}
    )
    stage_s: int = Field(
        default=0,
        ge=0,
        le=86_400,
        title="Seconds between stages of traffic",
        description="How long each stage is watched before the next one.  0: only until users' answers show it.",
    )
    reason: OneLine = Field(default="", title="Why now", description="One line for the record.")


def subjects_of_failover(order: Failover) -> list[str]:
    """One failover at a time; and no other run moves a key that this one may move."""
    return ["failover", *_signers(load_site(order.site or None))]


def subjects_of_failback(order: Failback) -> list[str]:
    """As a failover's."""
    return ["failover", *_signers(load_site(order.site or None))]


def _signers(site: Site) -> list[str]:
    """Every key that may be moved: which of them are affected is only known when registers and ledger were read."""
    movable = (node for node in site.nodes if site.signers_of(node.name) or site.key_file_of(node.name))
    return [f"signer/{node.address.lower()}" for node in movable]
