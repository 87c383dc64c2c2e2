"""How a name's users are divided among regions and endpoints: exact fractions, then whole weights.

Guarantees: pure; parts add up to 1, weights to their total, and what should be above 0 is never rounded to it.
Leaves out: plans (`traffic_plan`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError, NotFoundError, RefusedError
from vedr.failover.traffic import Backend, Endpoint, Picture, Share
from vedr.inventory import Gateway, Site

Parts = dict[str, Fraction]
"""What part of a name's users each region has; they add up to 1."""


@dataclass(frozen=True, slots=True)
class View:
    """A backend and what it serves now."""

    backend: Backend
    picture: Picture


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


def regional_names(site: Site) -> dict[str, str]:
    """Each region by the name that is its own."""
    pattern = site.traffic.regional_name
    return {pattern.format(region=region): region for region in site.regions} if pattern else {}


def home_parts(site: Site) -> Parts:
    """Who serves global names in calm times."""
    if site.traffic.home == "primary":
        return {site.regions_by_priority[0]: Fraction(1)}
    return by_workload(site, site.regions)


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
    by_remainder = sorted(positive, key=lambda key: exact[key] - given[key], reverse=True)
    while (rest := total - sum(given.values())) > 0:
        for key in by_remainder[:rest]:
            given[key] += 1
    while sum(given.values()) > total:  # what was lifted to 1 is taken from who is furthest above
        given[max((key for key in given if given[key] > 1), key=lambda key: given[key] - exact[key])] -= 1
    return {key: given.get(key, 0) for key in ratios}


def usable_gateways(moves: Moves) -> frozenset[str]:
    """Gateways with a proof, outside what is lost."""
    return frozenset(
        gateway.name
        for gateway in moves.site.gateways
        if gateway.name in moves.proven and not any(lies_in(gateway, domain) for domain in moves.lost)
    )


def without_reserves(site: Site, usable: frozenset[str]) -> frozenset[str]:
    """In calm times a reserve serves only where its region has nobody else."""
    regular = {gateway.name: gateway.region for gateway in site.gateways if not gateway.reserve}
    served = {region for name, region in regular.items() if name in usable}
    return frozenset(g.name for g in site.gateways if g.name in usable and (not g.reserve or g.region not in served))


def is_whole_region(moves: Moves, returning: Domain) -> bool:
    """Whether its region has nobody else who can serve."""
    usable = usable_gateways(moves)
    regions = {gateway.region for gateway in moves.site.gateways if lies_in(gateway, returning)}
    others = [g for g in moves.site.gateways if g.region in regions and not lies_in(g, returning) and g.name in usable]
    return not others


def by_workload(site: Site, regions: Collection[str]) -> Parts:
    """Evenly when none of them has a workload."""
    chosen = [region for region in site.regions_by_priority if region in regions]
    total = sum(site.regions[region].workload_pct for region in chosen)
    return {
        region: Fraction(site.regions[region].workload_pct, total) if total else Fraction(1, len(chosen))
        for region in chosen
    }


def present(site: Site, view: View, share: Share) -> Parts:
    """By weights, or, where there are none, by the workload of the regions that are there."""
    region_of = {endpoint.name: endpoint.region for endpoint in view.backend.endpoints}
    if not view.backend.is_weighted:
        return by_workload(site, {region_of[name] for name in share.serving})
    total = sum(share.weights.values())
    parts: Parts = {}
    for name, weight in share.weights.items():
        if weight:
            parts[region_of[name]] = parts.get(region_of[name], Fraction(0)) + Fraction(weight, total)
    return parts


def staged(now: Parts, region: str, part: Fraction) -> Parts:
    """That part to the region, the rest to the others in their present proportions."""
    others = {name: value for name, value in now.items() if name != region}
    rest = sum(others.values())
    if not rest:
        return now  # nobody else serves it: it is back already
    return {region: part, **{name: value / rest * (1 - part) for name, value in others.items()}}


def without_lost(moves: Moves, wanted: Parts, able: Mapping[str, list[Endpoint]], backend: str, name: str) -> Parts:
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
        receivers = by_workload(moves.site, able.keys())
    else:
        receivers = {moves.target or next(r for r in moves.site.regions_by_priority if r in able): Fraction(1)}
    regions = [*kept, *(region for region in receivers if region not in kept)]
    return {r: kept.get(r, Fraction(0)) + left * receivers.get(r, Fraction(0)) for r in regions}
