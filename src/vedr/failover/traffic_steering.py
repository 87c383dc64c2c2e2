"""All of a site's traffic backends together: look, plan, shift, wait.

    steering = opened.traffic
    proven = steering.prove()                            # gateways that just answered
    plan = steering.plan_away([Domain("region", "us-east")], proven, epoch=lease.epoch, target="eu-west")
    steering.shift(plan, still_ours=lambda: leases.check(lease))
    steering.wait_until_answered(plan)

Guarantees: a plan needs a look at every backend, but for those in a lost region's cluster and those left out by name;
each backend's write is tried although another's fails, and any failure is raised at the end.
Leaves out: deciding what is lost; fencing, which has to come before consensus moves and does not depend on traffic.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError, UnavailableError, VedrError
from vedr.failover import traffic_answers
from vedr.failover.traffic import Picture, Traffic
from vedr.failover.traffic_answers import Answered
from vedr.failover.traffic_division import Moves, View
from vedr.failover.traffic_plan import TrafficPlan, plan_away, plan_back, plan_undo
from vedr.inventory import Gateway, Site
from vedr.ports import Clock


@dataclass(frozen=True, slots=True)
class Proof:
    """A gateway that answered for its region's nodes, and when; with a `problem` it is none."""

    gateway: str
    at: dt.datetime
    problem: str = ""


class Prober(Protocol):
    """Asks gateways as users do."""

    def probe(self, gateways: Sequence[Gateway]) -> tuple[Proof, ...]:
        """One each, in order; who does not answer has a problem, no error is raised for it."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a shift did: the backends that were written, and those that served it already."""

    written: tuple[str, ...]
    unchanged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """A site's traffic."""

    site: Site
    backends: tuple[Traffic, ...]
    prober: Prober
    clock: Clock

    def prove(self) -> tuple[Proof, ...]:
        """Every gateway of the site, asked now."""
        return self.prober.probe(self.site.gateways)

    def unproven(self, plan: TrafficPlan) -> tuple[str, ...]:
        """Endpoints that the plan sends users to and none of whose gateways answers now: for a plan that is not new."""
        by_name = {backend.backend.name: backend.backend for backend in self.backends}
        needed = {
            endpoint
            for change in plan.changes
            for endpoint in by_name[change.backend].endpoints
            if any(endpoint.name in share.serving for share in change.names.values())
        }
        gateways = {name for endpoint in needed for name in endpoint.gateways}
        proofs = self.prober.probe([gateway for gateway in self.site.gateways if gateway.name in gateways])
        healthy = {proof.gateway for proof in proofs if not proof.problem}
        return tuple(sorted({endpoint.name for endpoint in needed if healthy.isdisjoint(endpoint.gateways)}))

    def written_by(self, plan: TrafficPlan) -> tuple[str, ...]:
        """The backends that serve what this very plan wrote; UnavailableError when one can't be looked at."""
        wanted = {change.backend for change in plan.changes}
        pictures = [traffic.picture() for traffic in self.backends if traffic.backend.name in wanted]
        return tuple(picture.backend for picture in pictures if picture.guard == plan.guard)

    def views(self, *, lost: Collection[Domain] = (), without: Collection[str] = ()) -> tuple[View, ...]:
        """What each backend serves; UnavailableError when one that is needed can't be looked at."""
        if not self.backends:
            raise InvalidInputError(
                f"site {self.site.name} has no [traffic] backends", remedy="Name them: docs/traffic.md."
            )
        unknown = set(without) - {backend.backend.name for backend in self.backends}
        if unknown:
            raise InvalidInputError(
                f"no backend {', '.join(sorted(unknown))}",
                remedy=f"There are: {', '.join(backend.backend.name for backend in self.backends)}.",
            )
        gone = {domain.name for domain in lost if domain.kind == "region"}
        return tuple(
            View(traffic.backend, traffic.picture())
            for traffic in self.backends
            if traffic.backend.name not in without and traffic.backend.region not in gone
        )

    def plan_away(
        self,
        lost: Iterable[Domain],
        proofs: Sequence[Proof],
        *,
        epoch: int,
        target: str | None = None,
        without: Collection[str] = (),
    ) -> TrafficPlan:
        """Leave zones or regions that are dead, or to be drained; see `traffic_plan.plan_away`."""
        moves = Moves(self.site, self._fresh(proofs), epoch, tuple(lost), target)
        return plan_away(moves, self.views(lost=moves.lost, without=without))

    def plan_back(
        self,
        returning: Domain,
        proofs: Sequence[Proof],
        *,
        epoch: int,
        stage_pct: int,
        without: Collection[str] = (),
    ) -> TrafficPlan:
        """Bring one back, at one stage; see `traffic_plan.plan_back`."""
        moves = Moves(self.site, self._fresh(proofs), epoch)
        return plan_back(moves, self.views(without=without), returning, stage_pct)

    def plan_undo(self, plan: TrafficPlan, *, epoch: int) -> TrafficPlan:
        """As it was before that plan."""
        wanted = {change.backend for change in plan.changes}
        now = [traffic.picture() for traffic in self.backends if traffic.backend.name in wanted]
        return plan_undo(plan, epoch, now)

    def shift(self, plan: TrafficPlan, *, still_ours: Callable[[], None] = lambda: None) -> Written:
        """Carry it out, every backend; safe to repeat.

        Args:
            plan: What to serve.
            still_ours: Raises when the lease has passed to another run; asked before each write.

        Raises:
            VedrError: of the backends that failed, the first error that no retry can help, or else the first.
        """
        by_name = self._by_name()
        done: dict[str, bool] = {}
        failed: dict[str, VedrError] = {}
        for change in plan.changes:
            still_ours()
            try:
                done[change.backend] = by_name[change.backend].shift(change)
            except VedrError as error:
                failed[change.backend] = error
        if failed:
            raise _joined(failed, done)
        return Written(
            tuple(name for name, changed in done.items() if changed),
            tuple(name for name, changed in done.items() if not changed),
        )

    def wait_until_answered(self, plan: TrafficPlan, *, deadline_s: float | None = None) -> Answered:
        """Until every server sends users where the plan says; by default for the longest TTL and a margin."""
        limit_s = plan.longest_ttl_s + self.site.traffic.margin_s if deadline_s is None else deadline_s
        return traffic_answers.wait_until_answered(self.backends, plan, deadline_s=limit_s)

    def pictures(self) -> tuple[Picture | VedrError, ...]:
        """What each backend serves, or why that is not known; in the backends' order."""
        return tuple(_attempt(traffic) for traffic in self.backends)

    def _fresh(self, proofs: Sequence[Proof]) -> frozenset[str]:
        oldest = self.clock() - dt.timedelta(seconds=self.site.traffic.proof_age_s)
        return frozenset(proof.gateway for proof in proofs if not proof.problem and proof.at >= oldest)

    def _by_name(self) -> Mapping[str, Traffic]:
        return {traffic.backend.name: traffic for traffic in self.backends}


def _attempt(traffic: Traffic) -> Picture | VedrError:
    try:
        return traffic.picture()
    except VedrError as error:
        return error


def _joined(failed: Mapping[str, VedrError], done: Mapping[str, bool]) -> VedrError:
    """One error for all: permanent before transient, for a retry would not help."""
    first = min(failed.values(), key=lambda error: error.transient)
    if len(failed) + len(done) == 1:
        return first
    reasons = "; ".join(f"{name}: {error.message}" for name, error in failed.items())
    told = f" ({', '.join(done)}: shifted)" if done else ""
    kind = type(first) if not first.transient else UnavailableError
    return kind(f"traffic was not shifted everywhere{told}: {reasons}", remedy=first.remedy)
