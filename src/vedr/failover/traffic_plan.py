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
Leaves out: looking and writing (`steering`); whether a proof is true.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError, NotFoundError, RefusedError
from vedr.failover.traffic import (
    TOTAL_WEIGHT,
    Backend,
    Change,
    Endpoint,
    Guard,
    Picture,
    Share,
    digest,
    share_document,
)
from vedr.inventory import Gateway, Site
from vedr.signature import Json

Parts = dict[str, Fraction]
"""What part of a name's users each region has; they add up to 1."""


@dataclass(frozen=True, slots=True)
class View:
    """A backend and what it serves now."""

    backend: Backend
    picture: Picture


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


@dataclass(frozen=True, slots=True)
class Moves:
    """What a plan is made for.

    Args:
        site: Regions, gateways and the traffic policy.
        proven: Gateways that were just seen healthy.
        epoch: Of the lease under which it will be carried out.
        lost: What nobody is sent to: dead, or to be drained.
        target: The region that takes over; None: the first by priority that can.
    """

    site: Site
    proven: frozenset[str]
    epoch: int
    lost: tuple[Domain, ...] = ()
    target: str | None = None

    def __post_init__(self) -> None:
        for domain in self.lost:
            check_domain(self.site, domain)
        if self.target is not None:
            self.site.region(self.target)


def check_domain(site: Site, domain: Domain) -> None:
    """NotFoundError when the site has no such zone, region or gateway."""
    known = {
        "region": set(site.regions),
        "zone": {zone for region in site.regions.values() for zone in region.zones},
        "node": {gateway.name for gateway in site.gateways},
    }[domain.kind]
    if domain.name not in known:
        raise NotFoundError(
            f"site {site.name} has no {domain.kind} {domain.name!r} with traffic",
            remedy=f"Choose one of: {', '.join(sorted(known))}.",
        )


def lies_in(gateway: Gateway, domain: Domain) -> bool:
    """Whether the gateway is lost with the domain; the domain of one gateway is a `node`."""
    return domain.name == {"node": gateway.name, "zone": gateway.zone, "region": gateway.region}[domain.kind]


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
        now = {own: Fraction(1)} if own else _present(moves.site, view, share)
        return _without_lost(moves, now, able, view.backend.name, name)

    target = f" to {moves.target}" if moves.target else ""
    purpose = f"away from {', '.join(map(str, moves.lost))}{target}"
    return _plan(moves, views, purpose, parts, alive=_alive(moves), ttl_s=policy.failover_ttl_s, slowed={})


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
    if not any(gateway.name in moves.proven and gateway.name in _alive(moves) for gateway in inside):
        raise RefusedError(
            f"{returning} has no gateway with a proof of health: {', '.join(g.name for g in inside) or 'it has none'}",
            remedy="Bring its nodes and gateways into service first.",
        )
    home_region = inside[0].region
    fraction = Fraction(stage_pct, TOTAL_WEIGHT)

    def parts(view: View, name: str, share: Share, able: Mapping[str, list[Endpoint]]) -> Parts:
        own = regional_names(site).get(name)
        home = {own: Fraction(1)} if own else home_parts(site)
        now = _present(site, view, share)
        if stage_pct == policy.stages_pct[-1]:
            wanted = home
        elif _is_whole_region(moves, returning):
            wanted = _staged(now, home_region, home.get(home_region, Fraction(0)) * fraction)
        else:
            wanted = now
        return _without_lost(moves, wanted, able, view.backend.name, name)

    last = stage_pct == policy.stages_pct[-1]
    slowed = {} if last else {gateway.name: fraction for gateway in inside}
    ttl_s = policy.ttl_s if last else policy.failover_ttl_s
    alive = _without_reserves(site, _alive(moves)) if last else _alive(moves)
    purpose = f"back to {returning}, {stage_pct} %"
    return _plan(moves, views, purpose, parts, alive=alive, ttl_s=ttl_s, slowed=slowed)


def regional_names(site: Site) -> dict[str, str]:
    """Each region by the name that is its own."""
    pattern = site.traffic.regional_name
    return {pattern.format(region=region): region for region in site.regions} if pattern else {}


def home_parts(site: Site) -> Parts:
    """Who serves global names in calm times."""
    if site.traffic.home == "primary":
        return {site.regions_by_priority[0]: Fraction(1)}
    return _by_workload(site, site.regions)


def apportion(total: int, ratios: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers in these ratios that add up to `total`: the largest remainders round up, and nothing above 0 to 0.

    InvalidInputError when there are more of them than `total`.
    """
    positive = {key: ratio for key, ratio in ratios.items() if ratio > 0}
    if not positive or len(positive) > total:
        raise InvalidInputError(f"{total} cannot be divided among {len(positive)}", remedy="Give fewer endpoints.")
    whole = sum(positive.values())
    exact = {key: ratio * total / whole for key, ratio in positive.items()}
    given = {key: max(1, int(value)) for key, value in exact.items()}
    by_remainder = sorted(positive, key=lambda key: (exact[key] - given[key], key), reverse=True)
    while (rest := total - sum(given.values())) > 0:
        for key in by_remainder[:rest]:
            given[key] += 1
    while sum(given.values()) > total:  # what was lifted to 1 is taken from who is furthest above
        given[max(given, key=lambda key: (given[key] - exact[key], key) if given[key] > 1 else (Fraction(-1), ""))] -= 1
    return {key: given.get(key, 0) for key in ratios}


def _alive(moves: Moves) -> frozenset[str]:
    """Gateways with a proof, outside what is lost."""
    return frozenset(
        gateway.name
        for gateway in moves.site.gateways
        if gateway.name in moves.proven and not any(lies_in(gateway, domain) for domain in moves.lost)
    )


def _without_reserves(site: Site, alive: frozenset[str]) -> frozenset[str]:
    """In calm times a reserve serves only where its region has nobody else."""
    regular = {gateway.name: gateway.region for gateway in site.gateways if not gateway.reserve}
    served = {region for name, region in regular.items() if name in alive}
    return frozenset(g.name for g in site.gateways if g.name in alive and (not g.reserve or g.region not in served))


def _is_whole_region(moves: Moves, returning: Domain) -> bool:
    """Whether its region has nobody else who can serve."""
    alive = _alive(moves)
    regions = {gateway.region for gateway in moves.site.gateways if lies_in(gateway, returning)}
    others = [g for g in moves.site.gateways if g.region in regions and not lies_in(g, returning) and g.name in alive]
    return not others


def _by_workload(site: Site, regions: Collection[str]) -> Parts:
    """Evenly when none of them has a workload."""
    chosen = [region for region in site.regions_by_priority if region in regions]
    total = sum(site.regions[region].workload_pct for region in chosen)
    return {
        region: Fraction(site.regions[region].workload_pct, total) if total else Fraction(1, len(chosen))
        for region in chosen
    }


def _present(site: Site, view: View, share: Share) -> Parts:
    """By weights, or, where there are none, by the workload of the regions that are there."""
    region_of = {endpoint.name: endpoint.region for endpoint in view.backend.endpoints}
    if not view.backend.is_weighted:
        return _by_workload(site, {region_of[name] for name in share.serving})
    total = sum(share.weights.values())
    parts: Parts = {}
    for name, weight in share.weights.items():
        if weight:
            parts[region_of[name]] = parts.get(region_of[name], Fraction(0)) + Fraction(weight, total)
    return parts


def _staged(now: Parts, region: str, part: Fraction) -> Parts:
    """That part to the region, the rest to the others in their present proportions."""
    others = {name: value for name, value in now.items() if name != region}
    rest = sum(others.values())
    if not rest:
        return now  # nobody else serves it: it is back already
    return {region: part, **{name: value / rest * (1 - part) for name, value in others.items()}}


def _without_lost(moves: Moves, wanted: Parts, able: Mapping[str, list[Endpoint]], backend: str, name: str) -> Parts:
    """What regions that can't serve would have had goes to the target, or to all by workload; {} when nobody can."""
    if not able:
        return {}
    kept = {region: part for region, part in wanted.items() if region in able and part}
    left = 1 - sum(kept.values())
    if not left:
        return kept
    if moves.target is not None and moves.target not in able:
        raise RefusedError(
            f"{moves.target} can't take over {name} ({backend}): it has no endpoint there with a proof of health",
            remedy=f"Choose one of: {', '.join(able)}, or let the plan choose.",
        )
    if moves.site.traffic.lost_share == "workload" and moves.target is None:
        receivers = _by_workload(moves.site, able.keys())
    else:
        receivers = {moves.target or next(r for r in moves.site.regions_by_priority if r in able): Fraction(1)}
    regions = [*kept, *(region for region in receivers if region not in kept)]
    return {r: kept.get(r, Fraction(0)) + left * receivers.get(r, Fraction(0)) for r in regions}


def _plan(
    moves: Moves,
    views: Sequence[View],
    purpose: str,
    parts_of: PartsOf,
    *,
    alive: frozenset[str],
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
            able = _able(view, share, alive)
            parts = parts_of(view, name, share, able)
            if parts:
                weights = _spread(parts, able, alive, slowed)
                names[name] = Share({**dict.fromkeys(share.weights, 0), **weights}, share.ttl_s and ttl_s)
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
    alive = _alive(moves)
    return [
        gateway
        for gateway in moves.site.gateways
        if gateway.name not in alive
        and not gateway.reserve
        and not any(lies_in(gateway, domain) for domain in moves.lost)
    ]


def _able(view: View, share: Share, alive: frozenset[str]) -> dict[str, list[Endpoint]]:
    """By region, the endpoints of the name that can serve."""
    able: dict[str, list[Endpoint]] = {}
    for endpoint in view.backend.endpoints:
        if endpoint.name in share.weights and not alive.isdisjoint(endpoint.gateways):
            able.setdefault(endpoint.region, []).append(endpoint)
    return able


def _spread(
    parts: Parts, able: Mapping[str, list[Endpoint]], alive: Collection[str], slowed: Mapping[str, Fraction]
) -> dict[str, int]:
    """Each region's part, among its endpoints; one that consists of slowed gateways counts that much less."""
    ratios: dict[str, Fraction] = {}
    for region, part in parts.items():
        counts = {}
        for endpoint in able[region]:
            serving = [gateway for gateway in endpoint.gateways if gateway in alive]
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
