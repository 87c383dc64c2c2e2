"""What one vantage point knows of every zone and region: single answers, turned into verdicts that do not flap.

A service is *gone* at a vantage point when it does not answer, or answers and does not serve: a node that catches up,
is far behind the best height, or stands still while others go on.  On a halted chain nobody goes on, and so a halt is
nobody's fault here.

    1. A zone fails when so many of its services are gone as the policy says (default: all).
    2. A region fails when all its zones do, or when over half of its services are gone and every one of its zones has
       lost some: one zone's outage is the zone's, however large the zone is.
    3. A verdict becomes `down` after `failures` failing looks in a row, `up` after `recoveries` good ones; until the
       first of these it is `unknown`, which is neither.

Guarantees: pure; a domain without services is not judged.
Leaves out: asking (vedr.adapters.probing), and what other vantage points see (vedr.failover.controller).
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.chain.quorum import Domain
from vedr.inventory import Gateway, Node, Site
from vedr.policies.controller import ControllerPolicy

ServiceKind = Literal["node", "gateway", "provider"]
Confirmed = Literal["up", "down", "unknown"]
MAX_REASONS: Final = 6  # a verdict is read in a terminal
MAX_REASON_LENGTH: Final = 160
STANDSTILL_BLOCKS: Final = 3  # two probes of a healthy node can fall before one block; the best is this far by then


@dataclass(frozen=True, slots=True)
class Service:
    """Something that users, or the chain, need; it stands in one zone."""

    name: str
    kind: ServiceKind
    zone: str
    region: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said when it was asked, or why it did not.

    `answers`: it serves, as far as it can tell by itself.  `height`: of nodes only.
    """

    service: Service
    answers: bool
    said: str
    height: int | None = None


class Prober(Protocol):
    """Asks every service of the site, from where this process is."""

    def look(self) -> Sequence[Answer]:
        """One answer for each service, all asked at once; returns within the probe's deadline and never raises for a
        service that is gone.
        """


@dataclass(frozen=True, slots=True)
class Verdict:
    """One vantage point's word on one domain.

    `good`, `bad`: looks in a row, the newest included; one of them is 0.  `since`: when `confirmed` became so.
    `first_failed_at`: the first of the failing looks that go on, or that made it `down`.
    """

    domain: Domain
    confirmed: Confirmed
    good: int
    bad: int
    since: dt.datetime
    first_failed_at: dt.datetime | None
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        if self.confirmed != "up" and self.good:
            return f"{self.confirmed}, {self.good} good in a row"
        if self.confirmed != "down" and self.bad:
            return f"{self.confirmed}, {self.bad} failed in a row"
        return self.confirmed


def services_of(site: Site) -> tuple[Service, ...]:
    """Everything that is looked at; what stands by, stopped, is no loss."""
    return tuple(
        Service(thing.name, _kind(thing), thing.zone, thing.region)
        for thing in site.placed
        if isinstance(thing, Node) or not thing.reserve
    )


def _kind(thing: object) -> ServiceKind:
    if isinstance(thing, Node):
        return "node"
    return "gateway" if isinstance(thing, Gateway) else "provider"


class Vantage:
    """Keeps count of one vantage point's looks; not thread-safe."""

    def __init__(self, policy: ControllerPolicy, services: Iterable[Service]) -> None:
        self._policy = policy
        self._zones: dict[str, dict[str, list[Service]]] = {}
        for service in services:
            self._zones.setdefault(service.region, {}).setdefault(service.zone, []).append(service)
        self._verdicts: dict[Domain, Verdict] = {}
        self._heights: dict[str, tuple[int, int]] = {}  # by node: its height, and the best when it last went on
        self.height = 0

    @property
    def verdicts(self) -> Mapping[Domain, Verdict]:
        """The newest verdict on each domain, regions first."""
        return dict(self._verdicts)

    def observe(self, answers: Sequence[Answer], now: dt.datetime) -> Mapping[Domain, Verdict]:
        """Count one look at everything; a service that nobody asked is gone."""
        self.height = max(self.height, _best([answer.height for answer in answers if answer.height]))
        gone = {answer.service.name: why for answer in answers if (why := self._why_gone(answer))}
        asked = {answer.service.name for answer in answers}
        for region, zones in self._zones.items():
            failing = []
            lost: list[dict[str, str]] = []
            for zone, services in zones.items():
                names = [service.name for service in services]
                lost.append(
                    {name: gone.get(name, "was not asked") for name in names if name in gone or name not in asked}
                )
                is_failing = 100 * len(lost[-1]) >= self._policy.zone_gone_pct * len(names)
                failing.append(is_failing)
                self._count(Domain("zone", zone), lost[-1], is_failing=is_failing, now=now)
            everything = sum(len(services) for services in zones.values())
            share_pct = 100 * sum(map(len, lost)) / everything
            is_region = all(failing) or (all(lost) and share_pct > self._policy.region_gone_pct)
            reasons = {name: why for zone_lost in lost for name, why in zone_lost.items()}
            self._count(Domain("region", region), reasons, is_failing=is_region, now=now)
        return self.verdicts

    def _why_gone(self, answer: Answer) -> str:
        """Empty when it serves."""
        if not answer.answers:
            return answer.said
        if answer.height is None:
            return ""
        height, best_then = self._heights.get(answer.service.name, (-1, 0))
        if answer.height != height:
            self._heights[answer.service.name] = (answer.height, self.height)
        elif self.height - max(best_then, height) >= STANDSTILL_BLOCKS:
            return f"stands at height {height} while others are at {self.height}"
        behind = self.height - answer.height
        return f"{behind} blocks behind" if behind > self._policy.max_behind_blocks else ""

    def _count(self, domain: Domain, lost: Mapping[str, str], *, is_failing: bool, now: dt.datetime) -> None:
        reasons = tuple(f"{name}: {why}"[:MAX_REASON_LENGTH] for name, why in lost.items())
        if len(reasons) > MAX_REASONS:
            reasons = (*reasons[: MAX_REASONS - 1], f"and {len(reasons) - MAX_REASONS + 1} more")
        before = self._verdicts.get(domain) or Verdict(domain, "unknown", 0, 0, now, None, ())
        self._verdicts[domain] = count(self._policy, before, is_failing=is_failing, reasons=reasons, now=now)


def _best(heights: Sequence[int]) -> int:
    """The greatest height that two nodes have reached: one that lies can't make all others look behind."""
    ranked = sorted(heights, reverse=True)
    return ranked[min(1, len(ranked) - 1)] if ranked else 0


def count(
    policy: ControllerPolicy, before: Verdict, *, is_failing: bool, reasons: tuple[str, ...], now: dt.datetime
) -> Verdict:
    """The verdict after one more look."""
    good, bad = (0, before.bad + 1) if is_failing else (before.good + 1, 0)
    confirmed = before.confirmed
    if bad >= policy.failures:
        confirmed = "down"
    elif good >= policy.recoveries:
        confirmed = "up"
    first = before.first_failed_at
    if bad == 1 and before.confirmed != "down":
        first = now
    elif good and confirmed != "down":
        first = None
    since = before.since if confirmed == before.confirmed else now
    return Verdict(before.domain, confirmed, good, bad, since, first, reasons)
