"""The failover controller's judgement: which places are down, and what is done about each.

For each region, then each zone (`decide`):

1. Down: at least two vantage points, and a majority of the site's regions, say so in fresh reports.  Over: such a
   majority says `up`.  Anything else is not agreed, and an outage that was open stays open.
2. A zone of a region that is down is the region's.
3. An action that was begun is gone on with; one that was taken is never taken again for this outage.
4. Nothing is done in a maintenance window, while an incident is open on the place, in the cool-down, or while the
   ledger can't tell; and a zone waits for the verdict on its neighbours, which may make it a region's outage.
5. By policy a runbook is proposed or started.  A start waits for a moment, and then becomes a proposal, where a person
   has to look: the chain could not be asked, the place's validators still sign, fencing them would leave the chain
   without more than 2/3 of its power while it has that now, or another failover is under way.

Guarantees: pure: the same reports, book and time give the same decisions; every decision says why.
Leaves out: I/O, and who acts (vedr.failover.controller_loop).
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from vedr.chain.quorum import Domain, PowerMap, assess
from vedr.failover.controller_book import Outage
from vedr.failover.controller_maintenance import expected_until
from vedr.failover.controller_reports import Report
from vedr.inventory import Site
from vedr.policies.controller import ControllerPolicy
from vedr.targets import RunbookId

Action = Literal["nothing", "watch", "wait", "propose", "start", "resume", "close"]
"""`watch`: not agreed.  `wait`: agreed, and not now."""
_BY_POLICY: Final = "the site's policy for this kind of failure"

MIN_VANTAGES: Final = 2
START_SHOWS_S: Final = 300.0  # from a start until its run must be in the ledger
CHAIN_SETTLES_S: Final = 30.0  # after a loss: a chain that lost its quorum is seen to stand still by then
RUNBOOKS: Final[Mapping[str, RunbookId]] = {"zone": "RB-DR-002", "region": "RB-DR-003"}


@dataclass(frozen=True, slots=True)
class Places:
    """The site's regions, by priority, and the region of each zone."""

    regions: tuple[str, ...]
    zones: Mapping[str, str]

    @property
    def domains(self) -> tuple[Domain, ...]:
        return (*(Domain("region", name) for name in self.regions), *(Domain("zone", name) for name in self.zones))

    def region_of(self, domain: Domain) -> Domain:
        """The region that it is in, or is."""
        return domain if domain.kind == "region" else Domain("region", self.zones[domain.name])

    def within(self, domain: Domain) -> frozenset[Domain]:
        """A region's zones; nothing for a zone."""
        return frozenset(
            Domain("zone", zone)
            for zone, region in self.zones.items()
            if domain.kind == "region" and region == domain.name
        )


def places_of(site: Site) -> Places:
    regions = site.regions_by_priority
    return Places(regions, {zone: region for region in regions for zone in site.regions[region].zones})


@dataclass(frozen=True, slots=True)
class Chain:
    """The active set by place, who took part in the newest commit, and whether heights go on."""

    powers: PowerMap
    online: frozenset[bytes]
    height: int
    moves: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else the judgement needs.  `incidents`: open ones by place; None when the ledger can't tell."""

    incidents: Mapping[Domain, str] | None = None
    ledger_problem: str = ""
    chain: Chain | None = None
    chain_problem: str = "it was not asked"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the vantage points say about one place; the silent ones have no fresh report."""

    state: Literal["down", "up", "split"]
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{word} at {', '.join(names)}"
            for word, names in (("down", self.down), ("up", self.up), ("unsure", self.unsure), ("silent", self.silent))
            if names
        ]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about one place, and why.

    `outage`: as the book is to hold it when this controller has the lease; None when there is nothing to hold.
    `impact`: what the loss means for the chain.
    """

    domain: Domain
    action: Action
    why: str
    agreement: Agreement
    outage: Outage | None = None
    impact: str = ""
    reasons: tuple[str, ...] = field(default=())

    @property
    def runbook(self) -> RunbookId:
        return RUNBOOKS[self.domain.kind]


def is_fresh(policy: ControllerPolicy, report: Report, now: dt.datetime) -> bool:
    """Whether a report counts: neither old, nor from a future that no clock within the bound can be in."""
    age_s = (now - report.heard_at).total_seconds()
    ahead_s = (report.at - now).total_seconds()
    return age_s <= policy.fresh_s and ahead_s <= policy.max_clock_skew_s


def agree(
    policy: ControllerPolicy, places: Places, reports: Mapping[str, Report], domain: Domain, now: dt.datetime
) -> Agreement:
    """What a majority of the regions' controllers, and two or more, say in fresh reports."""
    said: dict[str, list[str]] = {"down": [], "up": [], "unknown": [], "silent": []}
    for vantage in places.regions:
        report = reports.get(vantage)
        if report is None or not is_fresh(policy, report, now):
            said["silent"].append(vantage)
        else:
            verdict = report.verdicts.get(domain)
            said[verdict.confirmed if verdict else "unknown"].append(vantage)
    needed = needed_vantages(places)
    state: Literal["down", "up", "split"] = "split"
    if len(said["down"]) >= needed:
        state = "down"
    elif len(said["up"]) >= needed:
        state = "up"
    return Agreement(state, *(tuple(said[word]) for word in ("down", "up", "unknown", "silent")))


def needed_vantages(places: Places) -> int:
    return max(MIN_VANTAGES, len(places.regions) // 2 + 1)


def decide(
    policy: ControllerPolicy,
    places: Places,
    reports: Mapping[str, Report],
    outages: Mapping[Domain, Outage],
    *,
    around: Surroundings,
    now: dt.datetime,
) -> tuple[Decision, ...]:
    """One decision for each place that any report has a word on."""
    judged = [domain for domain in places.domains if any(domain in report.verdicts for report in reports.values())]
    case = _Case(policy, places, reports, outages, around, now, {})
    for domain in judged:
        case.agreements[domain] = agree(policy, places, reports, domain, now)
    decisions = []
    for domain in judged:
        decisions.append(case.decide(domain))
        if decisions[-1].action in ("start", "resume"):
            case.is_starting = True  # one failover at a time: what comes after it is a person's to judge
    return tuple(decisions)


def outage_id(domain: Domain, first_failed_at: dt.datetime) -> str:
    """`out-zone-us-east-1a-20260214T031500Z`; the time is of the first failure."""
    return f"out-{domain.kind}-{domain.name}-{first_failed_at.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}"


@dataclass(slots=True)
class _Case:
    """One call of `decide`."""

    policy: ControllerPolicy
    places: Places
    reports: Mapping[str, Report]
    outages: Mapping[Domain, Outage]
    around: Surroundings
    now: dt.datetime
    agreements: dict[Domain, Agreement]
    is_starting: bool = False

    def decide(self, domain: Domain) -> Decision:
        agreement, known = self.agreements[domain], self.outages.get(domain)
        if agreement.state != "down":
            return self._not_down(domain, agreement, known if known and known.is_open else None)
        outage = known if known and known.is_open else self._new_outage(domain, agreement, known)
        action, why = self._act(domain, outage)
        return Decision(domain, action, why, agreement, outage, self._impact(domain), self._reasons(domain))

    # --- (1)

    def _not_down(self, domain: Domain, agreement: Agreement, outage: Outage | None) -> Decision:
        if outage is None:
            quiet = agreement.state == "up" or not agreement.down
            why = "up" if agreement.state == "up" else "not agreed"
            return Decision(domain, "nothing" if quiet else "watch", why, agreement, None, "", self._reasons(domain))
        if agreement.state == "up":
            return Decision(domain, "close", "up again at a majority of the vantage points", agreement, outage)
        why = f"outage {outage.id} stays open until {needed_vantages(self.places)} vantage points say up"
        return Decision(domain, "watch", why, agreement, outage, "", self._reasons(domain))

    def _new_outage(self, domain: Domain, agreement: Agreement, before: Outage | None) -> Outage:
        failed = sorted(
            verdict.first_failed_at or verdict.since
            for vantage in agreement.down
            if (verdict := self.reports[vantage].verdicts[domain])
        )
        first = failed[needed_vantages(self.places) - 1]
        if before is not None:  # a vantage point that saw no recovery still counts from the outage before
            first = max(first, before.changed_at + dt.timedelta(seconds=1))
        return Outage(
            id=outage_id(domain, first),
            domain=domain,
            first_failed_at=first,
            opened_at=self.now,
            state="open",
            changed_at=self.now,
            epoch=0,
            acted_at=before.acted_at if before else None,
        )

    # --- (2) to (5)

    def _act(self, domain: Domain, outage: Outage) -> tuple[Action, str]:
        region = self.places.region_of(domain)
        if outage.state == "starting":
            return "resume", "its start was recorded, and what came of it was not"
        if outage.state != "open":
            return "wait", self._taken(outage)
        if domain != region and self._is_regions(region):
            return "wait", f"it is part of the outage of {region}"
        if why := self._held_back(domain, region, outage):
            return "wait", why
        return self._react(domain, outage)

    def _react(self, domain: Domain, outage: Outage) -> tuple[Action, str]:
        """By policy, and by what a person has to look at first."""
        reaction = self.policy.zone if domain.kind == "zone" else self.policy.region
        doubt = self._for_a_person(domain)
        if reaction == "propose":
            return "propose", f"{_BY_POLICY}; mind: {doubt}" if doubt else _BY_POLICY
        if not doubt:
            return "start", _BY_POLICY
        if (self.now - outage.opened_at).total_seconds() < self._patience_s + CHAIN_SETTLES_S:
            return "wait", f"not started yet: {doubt}"
        return "propose", f"not started: {doubt}"

    def _taken(self, outage: Outage) -> str:
        when = f"{outage.acted_at:%H:%M:%S} UTC" if outage.acted_at else "before"
        note = f": {outage.note}" if outage.note else ""
        return f"{RUNBOOKS[outage.domain.kind]} was {outage.state} at {when} for {outage.id}{note}"

    def _is_regions(self, region: Domain) -> bool:
        agreement, outage = self.agreements.get(region), self.outages.get(region)
        return (agreement is not None and agreement.state == "down") or (outage is not None and outage.is_open)

    def _held_back(self, domain: Domain, region: Domain, outage: Outage) -> str:
        if window := expected_until(self.policy, {domain.name, region.name}, self.now):
            return f"maintenance until {window[0]:%Y-%m-%d %H:%M} UTC: {window[1]}"
        if self.around.incidents is None:
            return f"the ledger can't tell whether an incident is open: {self.around.ledger_problem or 'not asked'}"
        for place in (domain, region):
            if incident := self.around.incidents.get(place):
                return f"incident {incident} is open on {place}"
        for place in (domain, region):
            if until := self._cooling(place, outage):
                return f"cool-down of {place} until {until:%H:%M:%S} UTC"
        return self._undecided_neighbour(domain, region, outage)

    def _cooling(self, place: Domain, outage: Outage) -> dt.datetime | None:
        known = outage if place == outage.domain else self.outages.get(place)
        if known is None or known.acted_at is None:
            return None
        until = known.acted_at + dt.timedelta(seconds=self.policy.cool_down_s)
        return until if self.now < until else None

    def _undecided_neighbour(self, domain: Domain, region: Domain, outage: Outage) -> str:
        if domain == region or (self.now - outage.opened_at).total_seconds() >= self._patience_s:
            return ""
        for vantage, report in self.reports.items():
            for other in self.places.within(region) - {domain}:
                verdict = report.verdicts.get(other)
                if verdict and verdict.bad and verdict.confirmed != "down" and is_fresh(self.policy, report, self.now):
                    return f"{other} fails too ({vantage}: {verdict}): it may be the whole region's outage"
        return ""

    @property
    def _patience_s(self) -> float:
        """In which a vantage point comes to a verdict."""
        return self.policy.interval_s * self.policy.failures

    def _for_a_person(self, domain: Domain) -> str:
        """Why a start needs a person's eyes; empty when it does not."""
        if self.is_starting:
            return "another failover is being started"
        for place, incident in (self.around.incidents or {}).items():
            return f"incident {incident} on {place} is under way"
        for other in self.outages.values():
            fresh = other.acted_at is not None and (self.now - other.acted_at).total_seconds() < START_SHOWS_S
            if other.domain != domain and (other.state == "starting" or (other.state == "started" and fresh)):
                return f"the failover of {other.domain} was started a moment ago"
        if self.around.chain is None:
            return f"the chain could not be asked: {self.around.chain_problem}"
        return danger(self.around.chain, domain)

    def _impact(self, domain: Domain) -> str:
        return "" if self.around.chain is None else impact_of(self.around.chain, domain)

    def _reasons(self, domain: Domain) -> tuple[str, ...]:
        """What was seen, with who saw it."""
        return tuple(
            f"{vantage}: {reason}"
            for vantage in self.places.regions
            if (report := self.reports.get(vantage)) and (verdict := report.verdicts.get(domain)) and verdict.bad
            for reason in verdict.reasons
        )


# --- the chain


def impact_of(chain: Chain, domain: Domain) -> str:
    """What the loss means for consensus, in a sentence."""
    if not chain.powers.members:
        return "the validator set is empty"
    without = assess(chain.powers, chain.online, losing=[domain])
    if chain.moves:
        return f"blocks go on (height {chain.height}); without {domain}: {without}"
    return f"the chain STANDS STILL at height {chain.height}; without {domain}: {without}"


def danger(chain: Chain, domain: Domain) -> str:
    """Why fencing what is in the domain could do harm; empty when the chain stands still, or nobody there signs."""
    signing = [m for m in chain.powers.members if m.address in chain.online and m.within(domain)]
    if not chain.moves or not signing:
        return ""
    names = ", ".join(sorted(member.node for member in signing))
    now, then = assess(chain.powers, chain.online), assess(chain.powers, chain.online, losing=[domain])
    if then.halted and not now.halted:
        return f"{names} still signs, and fencing it would halt the chain: {then}"
    return f"{names} still signs: {domain} is not lost to the chain"
