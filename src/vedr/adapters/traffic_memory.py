"""Traffic in memory, for tests and for plans on paper: `vedr.failover.traffic.Traffic` without any server.

Guarantees: keeps the contract suite that the real backends keep; several of them over one `Served` see each other.
Leaves out: delay: what is set is served at once.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from vedr.failover.traffic import (
    TOTAL_WEIGHT,
    Answer,
    Backend,
    Change,
    Endpoint,
    Guard,
    Picture,
    Share,
    already_serves,
    check_basis,
    check_guard,
    check_serves,
    tag_of,
)
from vedr.failover.traffic_division import apportion, home_parts, regional_names
from vedr.inventory import Site


@dataclass
class Served:
    """What is served now; whoever holds the lock may change it."""

    names: dict[str, Share]
    guard: Guard | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class MemoryTraffic:
    """Weighted, one endpoint a gateway."""

    def __init__(self, site: Site, served: Served | None = None, *, name: str = "memory") -> None:
        endpoints = tuple(Endpoint(g.name, g.region, (g.name,)) for g in site.gateways)
        self._backend = Backend(name, endpoints, is_weighted=True)
        self.served = served or Served(calm(site))

    @property
    def backend(self) -> Backend:
        return self._backend

    def picture(self) -> Picture:
        names = dict(self.served.names)
        return Picture(self._backend.name, names, self.served.guard, tag_of(names, self.served.guard))

    def shift(self, change: Change) -> bool:
        check_serves(change)
        with self.served.lock:
            now = self.picture()
            check_guard(now, change)
            if already_serves(now, change, is_weighted=True):
                return False
            check_basis(now, change, self._backend.name)
            self.served.names |= change.names
            self.served.guard = change.guard
            return True

    def answers(self, names: Collection[str]) -> tuple[Answer, ...]:
        found: Mapping[str, Share] = dict(self.served.names)
        return tuple(
            Answer(
                self._backend.name, name, tuple(sorted(found[name].serving)), found[name].strangers, found[name].ttl_s
            )
            for name in names
        )


def calm(site: Site) -> dict[str, Share]:
    """As the site is in calm times."""
    own = regional_names(site)
    shares: dict[str, Share] = {}
    for name in (*site.traffic.global_names, *own):
        parts = {own[name]: Fraction(1)} if name in own else home_parts(site)
        inside = {region: [g.name for g in site.gateways if g.region == region and not g.reserve] for region in parts}
        ratios = {g: parts[region] / len(them) for region, them in inside.items() for g in them}
        weights = apportion(TOTAL_WEIGHT, ratios)
        shares[name] = Share({**dict.fromkeys((g.name for g in site.gateways), 0), **weights}, site.traffic.ttl_s)
    return shares
