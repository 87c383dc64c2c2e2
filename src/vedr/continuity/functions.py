"""The business impact analysis as data: what has to work, how long it may be away, what it needs, how it comes back.

Source: VirtEngine's business continuity plan.  All times are seconds.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from vedr.policies.notifications import Severity
from vedr.targets import HOUR_S, MINUTE_S, RUNBOOK_RTO_S, Category, RunbookId

Priority = Literal["P0", "P1", "P2"]

MTD_S: Final = 4 * HOUR_S
"""Maximum tolerable downtime of the whole."""
WORK_RECOVERY_S: Final = 2 * HOUR_S
"""From restored service to full capacity."""


class Function(StrEnum):
    """What the business does."""

    BLOCKS = "block-production"
    TRANSACTIONS = "transactions"
    GATEWAY = "api-gateway"
    IDENTITY = "identity-scoring"
    PROVIDER = "provider-daemon"
    MARKETPLACE = "marketplace"
    ESCROW = "escrow"
    MONITORING = "monitoring"


@dataclass(frozen=True, slots=True)
class Impact:
    """A function's place in the plan.  `dependencies` that are not functions are things it stands on."""

    title: str
    priority: Priority
    mtd_s: int
    rto_s: int
    needs: tuple[Function, ...]
    stands_on: tuple[str, ...]
    when_away: str

    @property
    def is_critical(self) -> bool:
        """Whether its degradation alone may call for the plan: P0 and P1."""
        return self.priority in ("P0", "P1")


FUNCTIONS: Final[dict[Function, Impact]] = {
    Function.BLOCKS: Impact(
        "Block production", "P0", HOUR_S, 15 * MINUTE_S, (), ("validators", "HSM"), "everything stands"
    ),
    Function.TRANSACTIONS: Impact(
        "Transactions", "P0", HOUR_S, 15 * MINUTE_S, (Function.BLOCKS,), ("full nodes",), "users cannot transact"
    ),
    Function.GATEWAY: Impact(
        "API gateway", "P1", 2 * HOUR_S, 30 * MINUTE_S, (), ("full nodes", "DNS"), "client applications fail"
    ),
    Function.IDENTITY: Impact(
        "Identity scoring",
        "P1",
        4 * HOUR_S,
        HOUR_S,
        (Function.BLOCKS,),
        ("validators", "scoring models"),
        "new users cannot be verified",
    ),
    Function.PROVIDER: Impact(
        "Provider daemon",
        "P1",
        4 * HOUR_S,
        30 * MINUTE_S,
        (Function.BLOCKS,),
        ("Kubernetes", "provider keys"),
        "new deployments fail",
    ),
    Function.MARKETPLACE: Impact(
        "Marketplace",
        "P1",
        4 * HOUR_S,
        30 * MINUTE_S,
        (Function.TRANSACTIONS, Function.PROVIDER),
        (),
        "orders are not fulfilled",
    ),
    Function.ESCROW: Impact(
        "Escrow settlement", "P2", 8 * HOUR_S, 2 * HOUR_S, (Function.TRANSACTIONS,), (), "payments are late"
    ),
    Function.MONITORING: Impact(
        "Monitoring", "P2", 8 * HOUR_S, HOUR_S, (), ("Prometheus", "Grafana"), "failures are seen late"
    ),
}


@dataclass(frozen=True, slots=True)
class Tier:
    """Services that come back in the same way."""

    number: int
    services: str
    strategy: str
    method: str


TIERS: Final = (
    Tier(0, "validators", "hot standby", "a standby in another zone or region takes the key over, behind a fence"),
    Tier(1, "full nodes, API gateways, provider daemons", "active-active", "traffic leaves what is lost"),
    Tier(2, "identity scoring, marketplace", "active-passive", "started in the target region"),
    Tier(3, "monitoring and logging", "pilot light", "scaled from a minimum that always runs"),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """A severity: what makes it, and who comes."""

    severity: Severity
    criterion: str
    response: str
    updates_s: int | None


SCALES: Final = (
    Scale("SEV-1", "block production halted, or more than 50 % of users", "all hands, executives told", 30 * MINUTE_S),
    Scale("SEV-2", "a critical function degraded, or 10 to 50 % of users", "on call and experts", 30 * MINUTE_S),
    Scale("SEV-3", "another function degraded, or less than 10 % of users", "on call", None),
    Scale("SEV-4", "no user affected", "working hours", None),
)
SEV1_USERS_PCT: Final = 50
SEV2_USERS_PCT: Final = 10


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a category of disaster is answered."""

    category: Category
    event: str
    runbook: RunbookId
    way: str

    @property
    def rto_s(self) -> int:
        return RUNBOOK_RTO_S[self.runbook]


STRATEGIES: Final = (
    Strategy(Category.COMPONENT, "one node, disk or daemon", "RB-DR-001", "recovered in its place from the best copy"),
    Strategy(Category.ZONE, "a zone", "RB-DR-002", "fenced; standbys in other zones of the region take over"),
    Strategy(
        Category.REGION, "a region, or over half of its services", "RB-DR-003", "fenced; another region takes over"
    ),
    Strategy(Category.CORRUPTION, "state, database or configuration", "RB-DR-004", "the newest state that verifies"),
    Strategy(Category.KEY_COMPROMISE, "a key in other hands", "RB-DR-005", "contained first, then replaced"),
    Strategy(Category.CORRUPTION, "data lost everywhere", "RB-DR-006", "restored from a verified snapshot"),
)
