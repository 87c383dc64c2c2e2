"""The recovery targets, retention and schedule of VirtEngine, as data; a site may override them.

Guarantees: all defaults are valid; an override of no known target, or a schedule without five fields, is refused when
the site's file is read.
Leaves out: what the checks take for healthy (vedr.policies.checks).

Source: VirtEngine's disaster-recovery and business-continuity plans.  All times are seconds, schedules are cron in UTC.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MINUTE_S: Final = 60
HOUR_S: Final = 3600


class Category(StrEnum):
    """Disaster categories D1 to D5."""

    COMPONENT = "D1"
    ZONE = "D2"
    REGION = "D3"
    CORRUPTION = "D4"
    KEY_COMPROMISE = "D5"


class Component(StrEnum):
    VALIDATOR = "validator"
    FULL_NODE = "full-node"
    PROVIDER = "provider-daemon"
    GATEWAY = "api-gateway"
    MONITORING = "monitoring"


RunbookId = Literal["RB-DR-001", "RB-DR-002", "RB-DR-003", "RB-DR-004", "RB-DR-005", "RB-DR-006"]

RUNBOOK_RTO_S: Final = MappingProxyType[RunbookId, int](
    {
        "RB-DR-001": 5 * MINUTE_S,
        "RB-DR-002": 15 * MINUTE_S,
        "RB-DR-003": 30 * MINUTE_S,
        "RB-DR-004": HOUR_S,
        "RB-DR-005": 15 * MINUTE_S,
        "RB-DR-006": 2 * HOUR_S,
    }
)


def _row(*minutes: int | None) -> MappingProxyType[Category, int | None]:
    return MappingProxyType(
        {category: None if m is None else m * MINUTE_S for category, m in zip(Category, minutes, strict=True)}
    )


COMPONENT_RTO_S: Final = MappingProxyType[Component, MappingProxyType[Category, int | None]](
    {
        Component.VALIDATOR: _row(5, 15, 30, 60, 15),
        Component.FULL_NODE: _row(15, 30, 60, 120, None),
        Component.PROVIDER: _row(5, 15, 30, 60, 30),
        Component.GATEWAY: _row(2, 10, 20, 30, None),
        Component.MONITORING: _row(15, 30, 60, 60, None),
    }
)
"""RTO by component and disaster category; None where the plan sets none."""


class Subject(StrEnum):
    """What is backed up."""

    CHAIN_STATE = "chain-state"
    VALIDATOR_KEYS = "validator-keys"
    PROVIDER_KEYS = "provider-keys"
    PROVIDER_STATE = "provider-state"
    CONFIGURATION = "configuration"
    METRICS = "metrics"


RPO_S: Final = MappingProxyType[Subject, int | None](
    {
        Subject.CHAIN_STATE: 0,
        Subject.VALIDATOR_KEYS: 0,
        Subject.PROVIDER_KEYS: 0,
        Subject.PROVIDER_STATE: None,
        Subject.CONFIGURATION: HOUR_S,
        Subject.METRICS: 24 * HOUR_S,
    }
)

Cron = Annotated[str, StringConstraints(pattern=r"^\S+ \S+ \S+ \S+ \S+$")]
Days = Annotated[int, Field(ge=1, le=36500)]


class Frozen(BaseModel):
    """A table of a site file: read once, unknown keys refused, values never repeated in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TargetOverrides(Frozen):
    """A site's own RTOs, by runbook; what is not named keeps VirtEngine's value."""

    rto_s: dict[RunbookId, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)

    def rto(self, runbook: RunbookId) -> int:
        return self.rto_s.get(runbook, RUNBOOK_RTO_S[runbook])


class Retention(Frozen):
    """How long each kind is kept."""

    chain_state_days: Days = 90
    provider_state_days: Days = 90
    configuration_days: Days = 30
    provider_keys_days: Days = 365
    keep_all_days: Days = 7
    """Snapshots younger than this are all kept; older ones are thinned to the newest of each day."""
    epoch_days: Days = 10
    """Every epoch starts with a full set of objects: see docs/formats/store.md."""


class Schedule(Frozen):
    """Cron expressions, UTC."""

    chain_state: Cron = "0 */4 * * *"
    provider_state: Cron = "30 */4 * * *"
    configuration: Cron = "0 * * * *"
    keys: Cron = "0 2 * * *"
    validation: Cron = "0 6 * * *"
    snapshot_verify: Cron = "0 5 * * *"
    failover_watch: Cron = "*/15 * * * *"
    drill_weekly: Cron = "0 3 * * 0"
    drill_monthly: Cron = "0 4 1 * *"
    drill_quarterly: Cron = "0 4 8 1,4,7,10 *"  # not on the 1st: the monthly one would keep it from running
    drill_annual: Cron = "0 4 15 1 *"
