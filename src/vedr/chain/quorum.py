"""Voting power by place, and which losses halt the chain.

Guarantees: pure; the rule is CometBFT's: a block needs strictly more than 2/3 of the whole active set's power.
Validators that the site doesn't run stand in the place `outside`.
Leaves out: fetching; whether an online validator will stay so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vedr.chain.block import Commit, Flag, ValidatorSet
from vedr.errors import InvalidInputError
from vedr.inventory import Site

OUTSIDE: Final = "outside"
DomainKind = Literal["node", "zone", "region"]


@dataclass(frozen=True, slots=True)
class Domain:
    """Something that fails as a whole."""

    kind: DomainKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Member:
    """A validator of the active set, and where it stands."""

    address: bytes
    power: int
    node: str
    zone: str
    region: str

    def within(self, domain: Domain) -> bool:
        return domain.name == {"node": self.node, "zone": self.zone, "region": self.region}[domain.kind]


@dataclass(frozen=True, slots=True)
class PowerMap:
    """The active set by place."""

    members: tuple[Member, ...]

    @property
    def total(self) -> int:
        return sum(member.power for member in self.members)

    def by(self, kind: DomainKind) -> Mapping[Domain, int]:
        """Power of each domain of that kind, `outside` included, in the set's order."""
        powers: dict[Domain, int] = {}
        for member in self.members:
            domain = Domain(kind, {"node": member.node, "zone": member.zone, "region": member.region}[kind])
            powers[domain] = powers.get(domain, 0) + member.power
        return powers

    def of(self, addresses: Iterable[bytes]) -> int:
        chosen = frozenset(addresses)
        return sum(member.power for member in self.members if member.address in chosen)


@dataclass(frozen=True, slots=True)
class Impact:
    """What a loss means for consensus; powers in voting power.

    `margin` is what may still be lost before the chain halts; negative: what must come back.
    `halting` are the single domains whose loss, on top, would halt it; empty when it is halted already.
    """

    total: int
    needed: int
    online: int
    lost: int
    margin: int
    halted: bool
    halting: tuple[Domain, ...]

    def __str__(self) -> str:
        state = f"HALTED, {-self.margin} power short" if self.halted else f"margin {self.margin}"
        then = f"; would halt without: {', '.join(map(str, self.halting))}" if self.halting else ""
        return f"{self.online} of {self.total} voting power online, {self.needed} needed: {state}{then}"


def needed_power(total: int) -> int:
    """The least power that is strictly more than 2/3 of the total."""
    return total * 2 // 3 + 1


def map_power(site: Site, validators: ValidatorSet) -> PowerMap:
    """Place every active validator; those that no node of the site has are `outside`."""
    nodes = {bytes.fromhex(node.address): node for node in site.nodes if node.address}
    members = []
    for validator in validators.validators:
        node = nodes.get(validator.address)
        place = (node.name, node.zone, node.region) if node else (OUTSIDE, OUTSIDE, OUTSIDE)
        members.append(Member(validator.address, validator.power, *place))
    return PowerMap(tuple(members))


def online_addresses(commit: Commit) -> frozenset[bytes]:
    """Validators that took part in the commit; a vote for nil is a sign of life too."""
    return frozenset(sig.address for sig in commit.signatures if sig.flag is not Flag.ABSENT)


def assess(powers: PowerMap, online: Iterable[bytes], *, losing: Iterable[Domain] = ()) -> Impact:
    """Consensus impact of what is offline now and of what would be lost besides.

    Raises:
        InvalidInputError: there is no validator at all.
    """
    if not powers.members:
        raise InvalidInputError("the validator set is empty", remedy="Ask another node for /validators.")
    losses, alive = tuple(losing), frozenset(online)
    left = tuple(
        member
        for member in powers.members
        if member.address in alive and not any(member.within(domain) for domain in losses)
    )
    standing, needed = sum(member.power for member in left), needed_power(powers.total)
    halting = [
        domain
        for kind in _KINDS
        for domain, power in PowerMap(left).by(kind).items()
        if standing >= needed > standing - power and not (kind != "region" and domain.name == OUTSIDE)
    ]
    return Impact(
        total=powers.total,
        needed=needed,
        online=standing,
        lost=powers.total - standing,
        margin=standing - needed,
        halted=standing < needed,
        halting=tuple(halting),
    )


_KINDS: Final[tuple[DomainKind, ...]] = ("node", "zone", "region")
