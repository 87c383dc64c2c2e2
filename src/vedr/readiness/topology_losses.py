"""Which losses halt the chain, and what would bring it back.

Guarantees: pure; a loss halts when what is left is not strictly more than 2/3 of the whole set's power, as in
`chain.quorum`; the validators named to restore it are the fewest that can, each with a place that survives the loss.
Leaves out: whether a promotion may begin, which the promotion protocol decides each time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from vedr.chain.quorum import OUTSIDE, Domain, DomainKind, Member, PowerMap, needed_power

KINDS: Final[tuple[DomainKind, ...]] = ("region", "zone", "node")
MAX_PAIRS: Final = 100  # listed; a thousand validators have half a million pairs, and nobody reads the hundred-first


@dataclass(frozen=True, slots=True)
class Standby:
    """A node besides its own where a validator's key can sign: a remote signer, with the key in that region's HSM."""

    validator: str
    node: str
    zone: str
    region: str

    def survives(self, losses: Iterable[Domain]) -> bool:
        place = {"node": self.node, "zone": self.zone, "region": self.region}
        return all(place[domain.kind] != domain.name for domain in losses)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A lost validator that can sign again, and where; a node signs for one validator."""

    validator: str
    power: int
    node: str
    region: str


@dataclass(frozen=True, slots=True)
class Restoration:
    """The way back to quorum after a loss; powers in voting power.

    `missing` is short of quorum; `promote` are the fewest validators that bring it, or all that can be promoted when
    that is not enough: then `still_missing` is positive. `without_standby` are lost validators of the site that have no
    surviving standby.
    """

    missing: int
    promote: tuple[Promotion, ...]
    still_missing: int
    without_standby: tuple[str, ...]

    @property
    def possible(self) -> bool:
        return self.still_missing == 0

    def __str__(self) -> str:
        back = ", ".join(f"{one.validator} at {one.node}" for one in self.promote)
        if self.possible:
            return f"promote {len(self.promote)}: {back}"
        can = f"promoting {back} is not enough" if back else "no validator can be promoted"
        who = f"; no standby elsewhere: {', '.join(self.without_standby)}" if self.without_standby else ""
        return f"{can}, {self.still_missing} power stays short{who}"


@dataclass(frozen=True, slots=True)
class Loss:
    """What the loss of these domains leaves: `margin` above what is needed, negative when the chain halts."""

    domains: tuple[Domain, ...]
    lost: int
    margin: int
    restoration: Restoration | None

    @property
    def halts(self) -> bool:
        return self.margin < 0

    @property
    def restorable(self) -> bool:
        return self.restoration is None or self.restoration.possible

    def __str__(self) -> str:
        return " and ".join(map(str, self.domains))


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the present state can and cannot lose.

    `singles` are all single losses, regions first. `pairs` are losses of two domains of one kind that halt although
    neither does alone, at most MAX_PAIRS, those with the most power first; `pair_counts` has their number by kind.
    `restoration` is how to end a halt that is there already.
    """

    online: int
    needed: int
    singles: tuple[Loss, ...]
    pairs: tuple[Loss, ...]
    pair_counts: Mapping[DomainKind, int]
    restoration: Restoration | None

    @property
    def margin(self) -> int:
        return self.online - self.needed

    @property
    def halted(self) -> bool:
        return self.margin < 0

    @property
    def halting(self) -> tuple[Loss, ...]:
        """Single losses that halt a chain that is not halted; empty when it is."""
        return () if self.halted else tuple(loss for loss in self.singles if loss.halts)


def expose(
    powers: PowerMap, online: Iterable[bytes], *, standbys: Sequence[Standby] = (), priority: Sequence[str] = ()
) -> Exposure:
    """What would halt the chain now.

    Args:
        powers: The active set by place.
        online: Addresses of those that take part.
        standbys: Where validators can sign besides their own place.
        priority: Regions in the order in which they are chosen as targets.
    """
    return _Calculus(powers, frozenset(online), tuple(standbys), tuple(priority)).exposure()


class _Calculus:
    def __init__(
        self, powers: PowerMap, online: frozenset[bytes], standbys: tuple[Standby, ...], priority: tuple[str, ...]
    ) -> None:
        self.members = powers.members
        self.needed = needed_power(powers.total)
        self.alive = PowerMap(tuple(member for member in powers.members if member.address in online))
        self.online = self.alive.total
        self.dead = tuple(member for member in powers.members if member.address not in online)
        self.within: dict[Domain, list[Member]] = {}
        for member in self.alive.members:
            for domain in (Domain("region", member.region), Domain("zone", member.zone), Domain("node", member.node)):
                self.within.setdefault(domain, []).append(member)
        rank = {name: place for place, name in enumerate(priority)}
        self.standbys: dict[str, list[Standby]] = {}
        for standby in sorted(standbys, key=lambda one: rank.get(one.region, len(rank))):
            self.standbys.setdefault(standby.validator, []).append(standby)

    def exposure(self) -> Exposure:
        online = self.online
        by_kind = {kind: self._domains(kind) for kind in KINDS}
        singles = [self._loss((domain,), power) for kind in KINDS for domain, power in by_kind[kind].items()]
        pairs: list[Loss] = []
        counts: dict[DomainKind, int] = dict.fromkeys(KINDS, 0)
        if online >= self.needed:
            for kind in KINDS:
                halting = self._halting_pairs(by_kind[kind], online - self.needed)
                counts[kind] = len(halting)
                listed = sorted(halting, key=lambda pair: -pair[1])[: MAX_PAIRS - len(pairs)]
                pairs += [self._loss(domains, power) for domains, power in listed]
        return Exposure(
            online=online,
            needed=self.needed,
            singles=tuple(singles),
            pairs=tuple(pairs),
            pair_counts=counts,
            restoration=self._restoration((), online) if online < self.needed else None,
        )

    def _domains(self, kind: DomainKind) -> dict[Domain, int]:
        """Power online by domain, also of domains that have none; those outside are one domain, a region."""
        powers = dict.fromkeys(PowerMap(self.members).by(kind), 0) | dict(self.alive.by(kind))
        return {domain: power for domain, power in powers.items() if kind == "region" or domain.name != OUTSIDE}

    @staticmethod
    def _halting_pairs(powers: Mapping[Domain, int], margin: int) -> list[tuple[tuple[Domain, Domain], int]]:
        survivable = [(domain, power) for domain, power in powers.items() if 0 < power <= margin]
        return [
            ((one, other), power + more)
            for (one, power), (other, more) in combinations(survivable, 2)
            if power + more > margin
        ]

    def _loss(self, domains: tuple[Domain, ...], lost: int) -> Loss:
        left = self.online - lost
        return Loss(domains, lost, left - self.needed, self._restoration(domains, left) if left < self.needed else None)

    def _restoration(self, losses: tuple[Domain, ...], left: int) -> Restoration:
        """The heaviest first, each as long as all chosen ones find a node: no choice of as many has more power.

        (Sets of validators that can be matched to nodes are a matroid, where the greedy choice is the best.)
        """
        lost = {member.address: member for domain in losses for member in self.within.get(domain, ())}
        gone = (*self.dead, *lost.values())
        ours = sorted((m for m in gone if m.node != OUTSIDE), key=lambda member: -member.power)
        missing = short = self.needed - left
        able = {
            m.node: surviving
            for m in ours
            if m.node in self.standbys and (surviving := [one for one in self.standbys[m.node] if one.survives(losses)])
        }
        at: dict[str, Standby] = {}
        chosen = []
        for member in ours:
            if short > 0 and member.node in able and _place(member.node, able, at, set()):
                chosen.append(member)
                short -= member.power
        hosts = {standby.validator: standby for standby in at.values()}
        return Restoration(
            missing,
            tuple(Promotion(m.node, m.power, hosts[m.node].node, hosts[m.node].region) for m in chosen),
            max(0, short),
            tuple(member.node for member in ours if member.node not in able),
        )


def _place(validator: str, able: Mapping[str, Sequence[Standby]], at: dict[str, Standby], tried: set[str]) -> bool:
    """Find it a node, moving those placed before to their other nodes where that makes room (an augmenting path)."""
    for standby in able[validator]:
        if standby.node in tried:
            continue
        tried.add(standby.node)
        if standby.node not in at or _place(at[standby.node].validator, able, at, tried):
            at[standby.node] = standby
            return True
    return False
