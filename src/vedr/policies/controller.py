"""When the failover controller speaks up, and when it acts: the `[controller]` table of a site file.

Defaults are VirtEngine's: a probe every 30 s, three failures in a row.  A site that says nothing is proposed to, never
acted upon.
"""

import datetime as dt
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from vedr.targets import HOUR_S, Cron, Frozen

Reaction = Literal["propose", "start"]
DomainName = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}-[a-z]+(-[a-z0-9]+)?$")]
"""A zone or a region; regions are told from zones by the site."""


class Maintenance(Frozen):
    """A time in which outages of these places are expected: either once (`start`, `end`) or by `cron`, in UTC."""

    domains: tuple[DomainName, ...] = Field(
        default=(), description="zones, or regions with all their zones; empty: everything"
    )
    reason: str = Field(min_length=1, max_length=200)
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    cron: Cron | None = Field(default=None, description="when each window begins")
    duration_s: int = Field(default=0, ge=0, le=24 * HOUR_S, description="of each window that `cron` begins")

    @field_validator("start", "end")
    @classmethod
    def _is_utc(cls, value: dt.datetime | None) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        once = self.start is not None and self.end is not None and self.cron is None and not self.duration_s
        often = self.start is None and self.end is None and self.cron is not None and self.duration_s > 0
        if once == often:
            raise ValueError("a maintenance window has start and end, or cron and duration_s")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("a maintenance window ends after it starts")
        return self


class ControllerPolicy(Frozen):
    """How outages are found and what is done about them.

    A vantage point is the controller of one region.  `failures`, `recoveries`: probes in a row at one vantage point.
    """

    interval_s: float = Field(default=30.0, gt=0, le=HOUR_S, description="between probes of everything")
    failures: int = Field(default=3, ge=1, le=100)
    recoveries: int = Field(default=3, ge=1, le=100)
    probe_deadline_s: float = Field(default=3.0, gt=0, le=60, description="for each service")
    fresh_s: float = Field(default=90.0, gt=0, description="a vantage point that is silent for longer does not count")
    max_clock_skew_s: float = Field(default=10.0, ge=0, description="between the controllers' clocks")
    max_behind_blocks: int = Field(default=100, ge=1, description="a node further behind the best does not serve")
    zone_gone_pct: int = Field(default=100, ge=1, le=100, description="of a zone's services, or more: it is failing")
    region_gone_pct: int = Field(
        default=50, ge=1, le=99, description="more of a region's services, over all its zones: it is failing"
    )
    zone: Reaction = Field(default="propose", description="when a zone is down: RB-DR-002")
    region: Reaction = Field(default="propose", description="when a region is down: RB-DR-003")
    cool_down_s: int = Field(default=HOUR_S, ge=0, description="after an action, before the next on the same place")
    lease_s: float = Field(default=90.0, gt=0, description="a holder that is silent for longer loses the lease")
    maintenance: tuple[Maintenance, ...] = ()

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        problems = [
            f"{name} = {value:g} is less than two intervals: one late probe would end it"
            for name, value in (("fresh_s", self.fresh_s), ("lease_s", self.lease_s))
            if value < 2 * self.interval_s
        ]
        if self.probe_deadline_s > self.interval_s:
            problems.append("probe_deadline_s is longer than interval_s: a dead zone would delay every probe")
        if problems:
            raise ValueError("; ".join(problems))
        return self
