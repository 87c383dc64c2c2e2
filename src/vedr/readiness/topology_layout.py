"""How voting power must be spread to survive the loss of any one domain, and the least that must change.

A block needs strictly more than 2/3 of the total T.  The loss of a domain with power p leaves T - p, so the chain goes
on exactly when 3·p < T.  Three domains with all the power cannot all be below a third: their powers sum to T, so the
largest is at least T/3.  Hence a fourth domain, however small: 33/33/33/1.

Guarantees: pure; `smallest_change` gives a layout that survives, and no layout reached by moving less does.
Leaves out: how power is moved (delegations; validators of other operators), and whether "outside" fails as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_DOMAIN_PCT: Final = 33  # VirtEngine's rule for a region
NEW_DOMAIN: Final = "new domain"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Voting power that moves from one domain to another."""

    source: str
    target: str
    power: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout that survives the loss of any one domain.

    `limit` is the most that a domain may have; `transfers` lead from the present powers to `powers`, empty when nothing
    must change; `growth` is the other way: the least power that new validators in one new domain must add, nobody else
    moving, None when one new domain cannot do it.
    """

    limit: int
    powers: Mapping[str, int]
    transfers: tuple[Transfer, ...]
    growth: int | None

    @property
    def moved(self) -> int:
        return sum(transfer.power for transfer in self.transfers)

    @property
    def shares(self) -> str:
        """Such as 33/33/33/1."""
        total = sum(self.powers.values())
        return "/".join(f"{100 * power / total:.3g}" for power in self.powers.values())


def survives_any(powers: Mapping[str, int]) -> bool:
    """Whether the chain goes on after the loss of any one of these domains, everybody else taking part."""
    return 3 * max(powers.values(), default=0) < sum(powers.values())


def limit_of(total: int, *, max_pct: int = MAX_DOMAIN_PCT) -> int:
    """The most power that one domain may have: less than a third, and no more than the rule's share."""
    return min((total - 1) // 3, total * max_pct // 100)


def smallest_change(powers: Mapping[str, int], *, max_pct: int = MAX_DOMAIN_PCT) -> Layout | None:
    """The layout nearest to the present one that survives; None when the total is too small to be spread (below 4).

    Every domain above the limit must lose what it has above it, and loses no more: so nothing that moves less survives.
    What it loses fills the domains that have room, then new ones.
    """
    total = sum(powers.values())
    limit = limit_of(total, max_pct=max_pct)
    if limit < 1:
        return None
    after = dict(powers)
    excess = [(name, power - limit) for name, power in powers.items() if power > limit]
    transfers: list[Transfer] = []
    for source, above in sorted(excess, key=lambda item: -item[1]):
        left = above
        while left:
            target = _roomiest(after, limit)
            moved = min(left, limit - after.setdefault(target, 0))
            after[target] += moved
            after[source] -= moved
            left -= moved
            transfers.append(Transfer(source, target, moved))
    return Layout(limit, after, tuple(transfers), _growth(powers, max_pct))


def _roomiest(powers: Mapping[str, int], limit: int) -> str:
    """The domain with the most room, else a new one."""
    name = min(powers, key=lambda name: powers[name])
    if powers[name] < limit:
        return name
    made = sum(name.startswith(NEW_DOMAIN) for name in powers)
    return NEW_DOMAIN if not made else f"{NEW_DOMAIN} {made + 1}"


def _growth(powers: Mapping[str, int], max_pct: int) -> int | None:
    total, largest = sum(powers.values()), max(powers.values())
    added = max(0, 3 * largest + 1 - total, -(-100 * largest // max_pct) - total)
    return added if added <= limit_of(total + added, max_pct=max_pct) else None
