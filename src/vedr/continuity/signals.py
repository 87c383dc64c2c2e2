"""How the site is right now, as the plan asks: facts with the reason where one could not be had.

Guarantees: a fact that could not be had is `None` with its reason in `unseen`, never a good value.
Leaves out: looking (vedr.adapters.continuity_signals), judging (vedr.continuity.severity).
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NewType

from vedr.continuity.functions import Function

Percent = NewType("Percent", int)
Breach = Literal["none", "suspected", "confirmed"]


@dataclass(frozen=True, slots=True)
class Answering:
    """Of several like things, those that answered."""

    up: int
    total: int

    @property
    def all_up(self) -> bool:
        """Of none at all nobody can say so."""
        return 0 < self.total == self.up


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """A run of a runbook that is not closed."""

    run_id: str
    runbook: str
    detected_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Signals:
    """One look at the site.

    `last_block_at`: the newest block's time, by the highest of the nodes that answered.  `power`: voting power
    that signed it, of all; `fragile`: losing one more validator would halt the chain.  `regions`: whether anything
    in each region answered.  `unreached_pct`: users' share of the gateways that do not answer, by the regions' share
    of the workload.  `absent`: what the site's file has nothing of, so that there is nothing to see.  `unseen`: what
    could not be looked at, and why.
    """

    at: dt.datetime
    last_block_at: dt.datetime | None = None
    power: Answering | None = None
    fragile: bool = False
    gateways: Answering | None = None
    unreached_pct: Percent | None = None
    providers: Answering | None = None
    regions: Mapping[str, bool] | None = None
    monitoring: bool | None = None
    incidents: tuple[OpenIncident, ...] | None = None
    breach: Breach | None = None
    absent: tuple[Function, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def block_age_s(self) -> float | None:
        """Below 0 when the block is dated later than our clock: then one of the clocks is wrong."""
        return None if self.last_block_at is None else (self.at - self.last_block_at).total_seconds()

    @property
    def lost_regions(self) -> tuple[str, ...] | None:
        return None if self.regions is None else tuple(name for name, answers in self.regions.items() if not answers)
