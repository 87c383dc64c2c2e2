"""What is moved where when a zone or region is lost or emptied: validators' keys, providers' state, gateways.

Guarantees: pure.  A key is only moved to a remote signer whose node serves, and only if its register refuses whoever
held it before; one that was revoked is moved nowhere; a validator that signs from a file is moved last, or left where
it is, and the reason said (`relocation_key_files`).  A plan that would take online power to 2/3 or below, when it is
above now, is refused.
Leaves out: looking, doing, and traffic (`traffic_plan`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from vedr.chain.quorum import Domain, needed_power
from vedr.errors import NotFoundError, RefusedError
from vedr.failover.relocation_key_files import KeyHosts, KeyMove, Room, choose_host, would_halt
from vedr.inventory import Gateway, Node, Provider, RemoteSigner, Site


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when a plan is made.

    Args:
        serving: Nodes in sync.
        signing: Validators that took part in the newest commit, or in the votes of a halted chain.
        powers: Voting power of every validator of the active set, by node name; others under `outside`.
        outside_online: Power of validators elsewhere that took part.
        holders: The signer that holds each remotely signing validator's key, by validator.
        revoked: Validators whose key must never sign again.
        tip_height: The newest block that any of them shows.
        tip_hash: Its hash, in hex; afterwards it has to be in the chain still.
        key_hosts: Where the validators that sign from a file do, and which of their hosts can be fenced.
        provider_states: By provider in reserve that serves with another's state, that other.
    """

    serving: frozenset[str]
    signing: frozenset[str]
    powers: Mapping[str, int]
    outside_online: int
    holders: Mapping[str, str]
    revoked: frozenset[str] = frozenset()
    tip_height: int = 0
    tip_hash: str = ""
    key_hosts: KeyHosts = field(default_factory=KeyHosts)
    provider_states: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Move:
    """A validator's key, from the signer that holds it to the one that is to.

    `others`: the signers that may have it when that one turns out not to sign, by preference; their nodes are in no
    other move.
    """

    validator: str
    power: int
    holder: str
    signer: str
    node: str
    zone: str
    region: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """What is not moved, and why."""

    name: str
    power: int
    reason: str


@dataclass(frozen=True, slots=True)
class Handover:
    """A provider's state, to one in reserve."""

    provider: str
    reserve: str
    zone: str


@dataclass(frozen=True, slots=True)
class Relocation:
    """The whole plan; powers are voting power of the active set.

    `cordons`: the place's hosts take nothing new, or are let to again; `scaled`: workloads that get more replicas, or
    fewer again, where nobody has seen to that.
    """

    domain: str
    target: str
    planned: bool
    moves: tuple[Move, ...]
    left: tuple[Left, ...]
    handovers: tuple[Handover, ...]
    gateways: tuple[str, ...]
    total_power: int
    online_before: int
    online_after: int
    tip_height: int
    tip_hash: str
    key_moves: tuple[KeyMove, ...] = ()
    cordons: bool = False
    scaled: tuple[str, ...] = ()

    @property
    def validators(self) -> tuple[str, ...]:
        """Whose keys are moved."""
        return (*(move.validator for move in self.moves), *(move.validator for move in self.key_moves))

    @property
    def needed_power(self) -> int:
        return needed_power(self.total_power)

    @property
    def deeds(self) -> tuple[object, ...]:
        """What makes another plan of it: who moves where, and whether it may.  Powers change with every delegation, and
        the standbys that come next with every node that catches up.
        """
        return (
            (self.domain, self.target, self.planned, self.handovers, self.gateways, self.cordons, self.scaled),
            tuple((move.validator, move.holder, move.signer, move.node) for move in self.moves),
            tuple(replace(move, power=0) for move in self.key_moves),
            tuple(left.name for left in self.left),
            (bool(self.refusals), self.online_after < self.needed_power),
        )

    def seen_again(self, now: "Relocation") -> "Relocation":
        """This plan, which people agreed to, with the newest tip, where a later look would do the same; else that."""
        return now if now.deeds != self.deeds else replace(self, tip_height=now.tip_height, tip_hash=now.tip_hash)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why it must not be carried out; empty: it may."""
        if self.online_after < self.needed_power <= self.online_before:
            fall = f"online power would go from {self.online_before} to {self.online_after} of {self.total_power}"
            return (f"{fall}, {self.needed_power} are needed: this would halt the chain",)
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever agrees to it has to weigh, and who else will be needed."""
        found = []
        if self.online_after < self.needed_power:
            short = self.needed_power - self.online_after
            found.append(f"the chain stays halted: {short} power is still short afterwards")
        found += [
            f"{move.validator}: nothing but its network can fence {' and '.join(move.by_word)}, so that two different "
            "people have to look at its console: the run asks them (vedr approve) once it is cut off"
            for move in self.key_moves
            if move.by_word
        ]
        return tuple(found)


def within(domain: Domain, zone: str, region: str) -> bool:
    """Whether a place lies in the zone or region."""
    return domain.name == (zone if domain.kind == "zone" else region)


def choose_target(site: Site, domain: Domain, wanted: str, serving: frozenset[str]) -> Domain:
    """The zone or region that takes over: the one that was named, or the next that has a node in sync.

    For a zone, another of its region, then the regions; for a region, those that follow it by priority.

    Raises:
        NotFoundError: the site has no such place.
        RefusedError: it is in what is lost, or no place has a node that serves.
    """
    if wanted:
        return _named_target(site, domain, wanted, serving)
    candidates = [place for place in _places_by_preference(site, domain) if _serves(site, place, serving)]
    if not candidates:
        raise RefusedError(
            f"no place outside {domain} has a node in sync", remedy="Bring back one node first (RB-DR-001, RB-DR-006)."
        )
    return candidates[0]


def plan(site: Site, domain: Domain, target: Domain, situation: Situation, *, planned: bool) -> Relocation:
    """Who moves where; see the module's text.

    Raises:
        NotFoundError: the site has no such zone or region.
    """
    check_place(site, domain)
    moves, left = _move_validators(site, domain, target, situation)
    handovers, stranded = _hand_over_providers(site, domain, target, situation)
    total = sum(situation.powers.values())
    online = situation.outside_online + sum(situation.powers.get(name, 0) for name in situation.signing)
    lost = sum(situation.powers.get(name, 0) for name in situation.signing if _stands_in(site, domain, name, situation))
    restored = online - lost + sum(move.power for move in moves)
    key_moves, kept = _move_key_files(
        site, domain, target, situation, moves, online=online if planned else restored, needed=needed_power(total)
    )
    return Relocation(
        domain=str(domain),
        target=str(target),
        planned=planned,
        moves=moves,
        left=(*left, *kept, *stranded),
        handovers=handovers,
        gateways=tuple(gateway.name for gateway in site.gateways if gateway.reserve and _is_at(target, gateway)),
        total_power=total,
        online_before=online,
        online_after=restored + sum(move.power for move in key_moves),
        tip_height=situation.tip_height,
        tip_hash=situation.tip_hash,
        key_moves=key_moves,
        cordons=_has_cluster(site, domain),
        scaled=_scaled_in(site, target),
    )


def check_place(site: Site, domain: Domain) -> None:
    """NotFoundError when the site has no such zone or region."""
    known = (
        site.regions if domain.kind == "region" else [zone for region in site.regions.values() for zone in region.zones]
    )
    if domain.name not in known:
        raise NotFoundError(f"site {site.name} has no {domain}", remedy=f"Choose one of: {', '.join(known)}.")


def place_of(site: Site, name: str) -> Domain:
    """The zone or region of that name; NotFoundError lists what there is."""
    domain = Domain("region" if name in site.regions else "zone", name)
    check_place(site, domain)
    return domain


def signer_named(site: Site, name: str) -> RemoteSigner:
    """NotFoundError when the site has no such signer."""
    for signer in site.signers:
        if signer.name == name:
            return signer
    raise NotFoundError(f"site {site.name} has no signer {name!r}", remedy="See [[signers]] in the site file.")


def _named_target(site: Site, domain: Domain, wanted: str, serving: frozenset[str]) -> Domain:
    target = place_of(site, wanted)
    if target == domain or (target.kind == "zone" and target.name in _zones(site, domain)):
        raise RefusedError(f"{target} lies in {domain}, which is to be left", remedy="Name another, or none.")
    if not _serves(site, target, serving):
        raise RefusedError(f"{target} has no node in sync", remedy="Name another, or none: then one is chosen.")
    return target


def _places_by_preference(site: Site, domain: Domain) -> list[Domain]:
    home = domain.name if domain.kind == "region" else _region_of(site, domain.name)
    order = site.regions_by_priority
    after = [*order[order.index(home) + 1 :], *order[: order.index(home)]]
    siblings = [] if domain.kind == "region" else [zone for zone in site.regions[home].zones if zone != domain.name]
    return [*(Domain("zone", zone) for zone in siblings), *(Domain("region", region) for region in after)]


def _serves(site: Site, place: Domain, serving: frozenset[str]) -> bool:
    return any(node.name in serving for node in site.nodes if _is_at(place, node))


def _move_validators(
    site: Site, domain: Domain, target: Domain, situation: Situation
) -> tuple[tuple[Move, ...], tuple[Left, ...]]:
    moves: list[Move] = []
    left: list[Left] = []
    busy = _busy(site, situation)
    for validator in site.nodes:
        signers = site.signers_of(validator.name)
        if not signers or not _stands_in(site, domain, validator.name, situation):
            continue
        power = situation.powers.get(validator.name, 0)
        able = [one for one in signers if one.node not in busy and _can_serve(site, domain, one, situation.serving)]
        if validator.name in situation.revoked:
            left.append(Left(validator.name, power, "its key was revoked (RB-DR-005): no signer may use it again"))
        elif able:
            signer = min(able, key=partial(_preference, site, target))
            busy.add(signer.node)
            moves.append(_move(site, signer, situation.holders.get(validator.name, ""), power))
        else:
            left.append(Left(validator.name, power, "none of its standbys' nodes is in sync and free"))
    return _with_others(site, domain, target, situation, moves), tuple(left)


def _busy(site: Site, situation: Situation) -> set[str]:
    """Nodes that sign already: a remote signer's, and full nodes that were given a key file."""
    return {signer_named(site, holder).node for holder in situation.holders.values() if holder} | {
        situation.key_hosts.holder(one.validator) for one in site.key_files
    }


def _move_key_files(
    site: Site,
    domain: Domain,
    target: Domain,
    situation: Situation,
    moves: Sequence[Move],
    *,
    online: int,
    needed: int,
) -> tuple[tuple[KeyMove, ...], tuple[Left, ...]]:
    """After the remote keys, with the nodes that these leave; `online`: the power while the first of them is silent."""
    taken = _busy(site, situation) | {node for move in moves for node in _nodes_of(site, move)}
    found: list[KeyMove] = []
    left: list[Left] = []
    for node in site.nodes:
        if not node.is_validator or site.signers_of(node.name) or not _stands_in(site, domain, node.name, situation):
            continue
        power = situation.powers.get(node.name, 0)
        room = Room(
            site, partial(_is_at, domain), partial(_is_at, target),
            partial(_could_serve, site, serving=situation.serving),
            taken - {situation.key_hosts.holder(node.name)} | {move.host for move in found},
        )  # fmt: skip
        chosen: KeyMove | str = "its key was revoked (RB-DR-005): no host may be given it again"
        if node.name not in situation.revoked:
            chosen = choose_host(room, node, situation.key_hosts, power)
        signs = power if node.name in situation.signing else 0
        if isinstance(chosen, KeyMove):
            chosen = would_halt(replace(chosen, power=signs), online=online, needed=needed) or chosen
        if isinstance(chosen, KeyMove):
            found.append(chosen)
        else:
            left.append(Left(node.name, power, chosen))
    return tuple(found), tuple(left)


def _nodes_of(site: Site, move: Move) -> tuple[str, ...]:
    return (move.node, *(signer_named(site, name).node for name in move.others))


def _with_others(
    site: Site, domain: Domain, target: Domain, situation: Situation, moves: Sequence[Move]
) -> tuple[Move, ...]:
    """Each with what is left of its standbys, each node given to one move only, in turn."""
    taken = _busy(site, situation) | {move.node for move in moves}
    others: dict[str, list[str]] = {move.validator: [] for move in moves}
    for _ in range(max((len(site.signers_of(move.validator)) for move in moves), default=0)):
        for move in moves:
            signers = site.signers_of(move.validator)
            able = [one for one in signers if one.node not in taken]
            if fit := [one for one in able if _can_serve(site, domain, one, situation.serving)]:
                chosen = min(fit, key=partial(_preference, site, target))
                taken.add(chosen.node)
                others[move.validator].append(chosen.name)
    return tuple(replace(move, others=tuple(others[move.validator])) for move in moves)


def _can_serve(site: Site, domain: Domain, signer: RemoteSigner, serving: frozenset[str]) -> bool:
    """Whether its node stands elsewhere and is in sync; the validator's own, which waits for it, by its neighbours."""
    node = site.node(signer.node)
    return not _is_at(domain, node) and _could_serve(site, node, serving=serving)


def _could_serve(site: Site, node: Node, *, serving: frozenset[str]) -> bool:
    return node.name in serving or (node.is_validator and _serves(site, Domain("zone", node.zone), serving))


def _preference(site: Site, target: Domain, signer: RemoteSigner) -> tuple[bool, int, bool]:
    """The target first, then regions by priority; an archive last, whose history users ask for."""
    node = site.node(signer.node)
    return (not _is_at(target, node), site.regions_by_priority.index(node.region), node.role == "archive")


def _move(site: Site, signer: RemoteSigner, holder: str, power: int) -> Move:
    node = site.node(signer.node)
    return Move(signer.validator, power, holder, signer.name, node.name, node.zone, node.region)


def _hand_over_providers(
    site: Site, domain: Domain, target: Domain, situation: Situation
) -> tuple[tuple[Handover, ...], tuple[Left, ...]]:
    """The states that are served in what is lost, at home there or from an earlier loss, each to a reserve that is free
    and whose region is not lost itself; those that left before stay away.
    """
    states = situation.provider_states
    lost = [
        provider
        for provider in site.providers
        if _is_at(domain, provider)
        and (provider.name in states or (not provider.reserve and provider.name not in states.values()))
    ]
    reserves = [
        provider
        for provider in site.providers
        if provider.reserve
        and not _is_at(domain, provider)
        and provider.name not in states
        and _serves(site, Domain("region", provider.region), situation.serving)
    ]
    reserves.sort(key=lambda provider: (not _is_at(target, provider), _is_dark(site, provider, situation.serving)))
    pairs = tuple(Handover(one.name, other.name, other.zone) for one, other in zip(lost, reserves, strict=False))
    return pairs, tuple(_stranded(one, states) for one in lost[len(pairs) :])


def _is_dark(site: Site, provider: Provider, serving: frozenset[str]) -> bool:
    """Whether its zone has nodes, and none of them serves."""
    inside = [node.name for node in site.nodes if node.zone == provider.zone]
    return bool(inside) and serving.isdisjoint(inside)


def _stranded(provider: Provider, states: Mapping[str, str]) -> Left:
    owner = states.get(provider.name)
    if owner is None:
        return Left(provider.name, 0, "no provider in reserve is left")
    return Left(provider.name, 0, f"it serves with {owner}'s state, and no provider in reserve is left to have it")


def signs_at(site: Site, validator: str, holders: Mapping[str, str], key_hosts: KeyHosts) -> Node:
    """The node where the key is used now: its holder's where it signs remotely, else the one that has the file."""
    holder = holders.get(validator, "")
    return site.node(signer_named(site, holder).node if holder else key_hosts.holder(validator))


def _stands_in(site: Site, domain: Domain, validator: str, situation: Situation) -> bool:
    return _is_at(domain, signs_at(site, validator, situation.holders, situation.key_hosts))


def _is_at(domain: Domain, thing: Node | Provider | Gateway) -> bool:
    return within(domain, thing.zone, thing.region)


def _has_cluster(site: Site, domain: Domain) -> bool:
    """Whether it is a zone whose hosts can be cordoned."""
    policy = site.fleet.kubernetes
    return policy is not None and domain.kind == "zone" and _region_of(site, domain.name) in policy.clusters


def _scaled_in(site: Site, target: Domain) -> tuple[str, ...]:
    """What the target's cluster is asked for while a place is lost."""
    region = target.name if target.kind == "region" else _region_of(site, target.name)
    cluster = site.fleet.kubernetes.clusters.get(region) if site.fleet.kubernetes else None
    if cluster is None:
        return ()
    wanted = {workload: cluster.failover_replicas.get(workload, 0) for workload in cluster.scaled}
    return tuple(f"{workload} in {region} to {replicas}" for workload, replicas in wanted.items() if replicas)


def _region_of(site: Site, zone: str) -> str:
    return next(name for name, region in site.regions.items() if zone in region.zones)


def _zones(site: Site, domain: Domain) -> Sequence[str]:
    return site.regions[domain.name].zones if domain.kind == "region" else (domain.name,)
