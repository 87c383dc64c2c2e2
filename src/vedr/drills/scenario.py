"""The drills as data: how often, how long at most, which runbooks each of them exercises, and with which fault.

Source: VirtEngine's disaster-recovery plan: weekly single-node recovery (30 min, no impact), monthly zone failover
(1 h), quarterly region failover (4 h), annual full drill (8 h) with all six runbooks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from vedr.chain.quorum import Domain, DomainKind
from vedr.inventory import Site
from vedr.readiness.drill_schedule import Cadence, drill_crons
from vedr.targets import HOUR_S, MINUTE_S, RunbookId

Fault = Literal["killed", "killed, its database damaged", "killed, its disk lost", "its p2p key suspected"]


@dataclass(frozen=True, slots=True)
class Exercise:
    """One runbook of a drill: what it is about, and what is done to it first.  `way`: how a failover comes home."""

    runbook: RunbookId
    kind: DomainKind
    fault: Fault
    failback: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A drill that comes again and again."""

    cadence: Cadence
    title: str
    target_s: int
    exercises: tuple[Exercise, ...]

    @property
    def runbook(self) -> str:
        """Its id, under which the ledger has its runs."""
        return f"drill-{self.cadence}"

    def cron(self, site: Site) -> str:
        """When it is due, UTC."""
        return drill_crons(site)[self.cadence]


@dataclass(frozen=True, slots=True)
class Act:
    """An exercise with its target chosen; the name tells it from the drill's others."""

    runbook: RunbookId
    kind: DomainKind
    target: str
    fault: Fault
    failback: bool

    @property
    def domain(self) -> Domain:
        return Domain(self.kind, self.target)

    def __str__(self) -> str:
        return f"{self.runbook}: {self.kind} {self.target} {self.fault}"


_NODE: Final = Exercise("RB-DR-001", "node", "killed")
_ZONE: Final = Exercise("RB-DR-002", "zone", "killed", failback=True)
_REGION: Final = Exercise("RB-DR-003", "region", "killed", failback=True)
_CORRUPTION: Final = Exercise("RB-DR-004", "node", "killed, its database damaged")
_KEY: Final = Exercise("RB-DR-005", "node", "its p2p key suspected")
_RESTORE: Final = Exercise("RB-DR-006", "node", "killed, its disk lost")

SCENARIOS: Final[Mapping[Cadence, Scenario]] = MappingProxyType(
    {
        "weekly": Scenario("weekly", "single-node recovery drill", 30 * MINUTE_S, (_NODE,)),
        "monthly": Scenario("monthly", "zone failover drill", HOUR_S, (_ZONE,)),
        "quarterly": Scenario("quarterly", "region failover drill", 4 * HOUR_S, (_REGION,)),
        "annual": Scenario(
            "annual",
            "full drill of all six runbooks",
            8 * HOUR_S,
            (_NODE, _CORRUPTION, _KEY, _RESTORE, _ZONE, _REGION),
        ),
    }
)
HOME_S: Final[Mapping[DomainKind, int]] = MappingProxyType(
    {"node": 10 * MINUTE_S, "zone": 20 * MINUTE_S, "region": HOUR_S}
)
"""How long bringing it home may take: starting, catching up, and the failback."""
REHEARSAL_TITLE: Final = "non-disruptive drill"
