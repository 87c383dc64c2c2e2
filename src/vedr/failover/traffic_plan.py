"""Who is to serve which name when a zone or region is lost or drained, and on the way back.

1. A gateway serves only with a proof of health, and never from a lost domain; an endpoint needs one such gateway.
2. Away: a region keeps the part of a global name's users that it has, as long as it has an endpoint.  What is left
   over goes to the target (or to all by workload_pct, as the site says).  A region's own name follows its region while
   that has an endpoint, then the target.
3. Back, a stage of p %: the returning region gets p % of what it has in calm times, the others the rest in their
   present proportions; at 100 % everything is as in calm times.
4. A region's part is divided evenly among its endpoints.

Guarantees: pure, and the same input gives the same plan.  Weights are whole, add up to 100, and none that should be
above 0 is rounded away.  A global name that nobody could serve is refused, so nothing is written that serves nobody.
Leaves out: looking and writing (`traffic_steering`); whether a proof is true.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError, RefusedError
from vedr.failover.traffic import TOTAL_WEIGHT, Change, Endpoint, Guard, Picture, Share, digest, share_document
from vedr.failover.traffic_division import (
    Moves,
    Parts,
    View,
    apportion,
    check_domain,
    home_parts,
    is_whole_region,
    lies_in,
    present,
    regional_names,
    staged,
    usable_gateways,
    without_lost,
    without_reserves,
)
from vedr.inventory import Gateway
from vedr.signature import Json

PartsOf = Callable[[View, str, Share, Mapping[str, list[Endpoint]]], Parts]
"""A name's parts, for the backend, the name, what it has now, and who could serve it by region."""


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Desired weights for every backend, and what they were when it was made."""

    purpose: str
    guard: Guard
    before: tuple[Picture, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def longest_ttl_s(self) -> int:
        """How long a resolver may go on giving an answer from before."""
        return max((share.ttl_s or 0 for picture in self.before for share in picture.names.values()), default=0)


def plan_away(moves: Moves, views: Sequence[View]) -> TrafficPlan:
    """Leave the lost domains.

    Raises:
        RefusedError: a global name would be served by nobody, or the named target can serve nothing.
    """
    if not moves.lost:
        raise InvalidInputError("away from what?", remedy="Name a zone or a region.")
    policy = moves.site.traffic

    def parts(view: View, name: str, share: Share, able: Mapping[str, list[Endpoint]]) -> Parts:
        own = regional_names(moves.site).get(name)
        now = {own: Fraction(1)} if own else present(moves.site, view, share)
        return without_lost(moves, now, able, view.backend.name, name)

    target = f" to {moves.target}" if moves.target else ""
    purpose = f"away from {', '.join(map(str, moves.lost))}{target}"
    return _plan(moves, views, purpose, parts, usable=usable_gateways(moves), ttl_s=policy.failover_ttl_s, slowed={})


def plan_back(moves: Moves, views: Sequence[View], returning: Domain, stage_pct: int) -> TrafficPlan:
    """Bring the zone or region back, at one stage of the policy.

    Raises:
        RefusedError: nothing in it has a proof of health.
        InvalidInputError: no such stage.
    """
    site, policy = moves.site, moves.site.traffic
    check_domain(site, returning)
    if stage_pct not in policy.stages_pct:
        raise InvalidInputError(
            f"{stage_pct} % is no stage of this site", remedy=f"Choose one of {', '.join(map(str, policy.stages_pct))}."
        )
    inside = [gateway for gateway in site.gateways if lies_in(gateway, returning)]
    if not any(gateway.name in moves.proven and gateway.name in usable_gateways(moves) for gateway in inside):
        raise RefusedError(
            f"{returning} has no gateway with a proof of health: {', '.join(g.name for g in inside) or 'it has none'}",
            remedy="Bring its nodes and gateways into service first.",
        )
    home_region = inside[0].region
    fraction = Fraction(stage_pct, TOTAL_WEIGHT)

    def parts(view: View, name: str, share: Share, able: Mapping[str, list[Endpoint]]) -> Parts:
        own = regional_names(site).get(name)
        home = {own: Fraction(1)} if own else home_parts(site)
        now = present(site, view, share)
        if stage_pct == policy.stages_pct[-1]:
            wanted = home
        elif is_whole_region(moves, returning):
            wanted = staged(now, home_region, home.get(home_region, Fraction(0)) * fraction)
        else:
            wanted = now
        return without_lost(moves, wanted, able, view.backend.name, name)

    last = stage_pct == policy.stages_pct[-1]
    slowed = {} if last else {gateway.name: fraction for gateway in inside}
    ttl_s = policy.ttl_s if last else policy.failover_ttl_s
    usable = without_reserves(site, usable_gateways(moves)) if last else usable_gateways(moves)
    purpose = f"back to {returning}, {stage_pct} %"
    return _plan(moves, views, purpose, parts, usable=usable, ttl_s=ttl_s, slowed=slowed)


def _plan(
    moves: Moves,
    views: Sequence[View],
    purpose: str,
    parts_of: PartsOf,
    *,
    usable: frozenset[str],
    ttl_s: int,
    slowed: Mapping[str, Fraction],
) -> TrafficPlan:
    if not views:
        raise InvalidInputError("[traffic] has no backends", remedy="Name them in the site file: docs/traffic.md.")
    notes = [f"{g.name} has no proof of health: nobody is sent there" for g in _unproven(moves)]
    desired: dict[str, dict[str, Share]] = {}
    for view in views:
        names: dict[str, Share] = {}
        for name, share in view.picture.names.items():
            able = _able(view, share, usable)
            parts = parts_of(view, name, share, able)
            if parts:
                weights = _spread(parts, able, usable, slowed)
                names[name] = Share(
                    {**dict.fromkeys(share.weights, 0), **weights}, ttl_s if view.backend.has_ttl else None
                )
                notes += _remarks(view, name, share, weights)
            elif name in regional_names(moves.site):
                notes.append(f"{view.backend.name}: {name} is left as it is, nobody can serve it")
            else:
                raise RefusedError(
                    f"{name} ({view.backend.name}) would be served by nobody",
                    remedy="Bring a gateway into service and prove its health first; nothing was changed.",
                )
        desired[view.backend.name] = names
    pictures = tuple(view.picture for view in views)
    return make_plan(purpose, moves.epoch, pictures, desired, notes=notes)


def make_plan(
    purpose: str,
    epoch: int,
    before: tuple[Picture, ...],
    desired: Mapping[str, dict[str, Share]],
    *,
    notes: Sequence[str] = (),
) -> TrafficPlan:
    """The plan, under its digest."""
    document: Json = {
        "purpose": purpose,
        "epoch": epoch,
        "before": {picture.backend: picture.tag for picture in before},
        "desired": {backend: share_document(names) for backend, names in desired.items()},
    }
    guard = Guard(epoch, digest(document))
    changes = tuple(
        Change(picture.backend, picture.tag, desired[picture.backend], guard)
        for picture in before
        if desired[picture.backend]
    )
    return TrafficPlan(purpose, guard, before, changes, tuple(notes))


def plan_undo(plan: TrafficPlan, epoch: int, now: Sequence[Picture]) -> TrafficPlan:
    """Everything as it was before that plan, if a run is abandoned; it does not ask for proofs of health."""
    old = {picture.backend: picture for picture in plan.before}
    desired = {
        change.backend: {name: old[change.backend].names[name] for name in change.names} for change in plan.changes
    }
    pictures = tuple(picture for picture in now if picture.backend in desired)
    return make_plan(f"undo: {plan.purpose}", epoch, pictures, desired)


def _unproven(moves: Moves) -> list[Gateway]:
    usable = usable_gateways(moves)
    return [
        gateway
        for gateway in moves.site.gateways
        if gateway.name not in usable
        and not gateway.reserve
        and not any(lies_in(gateway, domain) for domain in moves.lost)
    ]


def _able(view: View, share: Share, usable: frozenset[str]) -> dict[str, list[Endpoint]]:
    """By region, the endpoints of the name that can serve."""
    able: dict[str, list[Endpoint]] = {}
    for endpoint in view.backend.endpoints:
        if endpoint.name in share.weights and not usable.isdisjoint(endpoint.gateways):
            able.setdefault(endpoint.region, []).append(endpoint)
    return able


def _spread(
    parts: Parts, able: Mapping[str, list[Endpoint]], usable: Collection[str], slowed: Mapping[str, Fraction]
) -> dict[str, int]:
    """Each region's part, among its endpoints; one that consists of slowed gateways counts that much less."""
    ratios: dict[str, Fraction] = {}
    for region, part in parts.items():
        counts = {}
        for endpoint in able[region]:
            serving = [gateway for gateway in endpoint.gateways if gateway in usable]
            counts[endpoint.name] = sum((slowed.get(g, Fraction(1)) for g in serving), Fraction(0)) / len(serving)
        whole = sum(counts.values(), Fraction(0))
        ratios |= {name: part * count / whole for name, count in counts.items()}
    return apportion(TOTAL_WEIGHT, ratios)


def _remarks(view: View, name: str, share: Share, weights: Mapping[str, int]) -> list[str]:
    remarks = [
        f"{view.backend.name}: {name} leads to {who}, which is no endpoint here: taken out" for who in share.strangers
    ]
    if not view.backend.is_weighted and len({weight for weight in weights.values() if weight}) > 1:
        remarks.append(f"{view.backend.name}: {name} has no weights, its endpoints are in the answer or not")
    return remarks
