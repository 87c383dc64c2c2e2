"""Regions, zones and validators as the audit shows them, each with what its loss does.

Guarantees: pure; every region of the site is there, by priority, and `outside` last when it has power.
Leaves out: judging them (`topology_findings`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vedr.chain.quorum import OUTSIDE, Domain, Member, PowerMap
from vedr.inventory import Site
from vedr.readiness.topology_losses import Exposure, Loss, Standby


@dataclass(frozen=True, slots=True)
class ValidatorRow:
    """A validator of the active set that the site runs; `standbys` are the nodes where it can be promoted."""

    name: str
    power: int
    online: bool
    standbys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ZoneRow:
    name: str
    power: int
    validators: tuple[ValidatorRow, ...]
    full_nodes: int
    loss: Loss


@dataclass(frozen=True, slots=True)
class RegionRow:
    """A region, or `outside`, which has no zones; `serving` is None when nobody asked."""

    name: str
    power: int
    online_power: int
    share_permille: int
    zones: tuple[ZoneRow, ...]
    full_nodes: int
    serving: int | None
    hsm: bool
    loss: Loss


def places(
    site: Site,
    powers: PowerMap,
    alive: frozenset[bytes],
    exposure: Exposure,
    *,
    standbys: Sequence[Standby] = (),
    serving: frozenset[str] | None = None,
) -> tuple[RegionRow, ...]:
    """The rows; `exposure` tells what each loss does, `serving` which nodes answer in sync, None when nobody asked."""
    losses = {loss.domains[0]: loss for loss in exposure.singles}
    elsewhere: dict[str, tuple[str, ...]] = {}
    for standby in standbys:
        elsewhere[standby.validator] = (*elsewhere.get(standby.validator, ()), standby.node)
    members: dict[str, list[Member]] = {}
    for member in powers.members:
        members.setdefault(member.zone, []).append(member)

    def loss(domain: Domain) -> Loss:
        return losses.get(domain) or Loss((domain,), 0, exposure.margin, None)  # nobody validates there

    def zone(name: str) -> ZoneRow:
        here = members.get(name, [])
        rows = tuple(
            ValidatorRow(m.node, m.power, m.address in alive, elsewhere.get(m.node, ()))
            for m in here
            if m.node != OUTSIDE
        )
        full = sum(node.zone == name and not node.is_validator for node in site.nodes)
        return ZoneRow(name, sum(m.power for m in here), rows, full, loss(Domain("zone", name)))

    def region(name: str) -> RegionRow:
        outside = name == OUTSIDE
        zones = () if outside else tuple(map(zone, site.regions[name].zones))
        standing = [m for m in powers.members if m.region == name]
        power = sum(m.power for m in standing)
        keepers = [node.name for node in site.nodes_in(name, "full", "archive")]
        return RegionRow(
            name=name,
            power=power,
            online_power=sum(m.power for m in standing if m.address in alive),
            share_permille=1000 * power // powers.total,
            zones=zones,
            full_nodes=len(keepers),
            serving=None if serving is None else sum(keeper in serving for keeper in keepers),
            hsm=not outside and site.regions[name].hsm is not None,
            loss=loss(Domain("region", name)),
        )

    names = [*site.regions_by_priority, *([OUTSIDE] if OUTSIDE in members else [])]
    return tuple(map(region, names))


def percent(permille: int) -> str:
    return f"{permille / 10:.1f} %"


def standbys_of(site: Site, hosts: Mapping[str, str] | None = None) -> tuple[Standby, ...]:
    """Where the site's validators can sign besides the place where they do, in regions that have an HSM.

    Args:
        site: Its remote signers.
        hosts: By validator, the node that it signs at now; default: its own.
    """
    used = hosts or {}
    nodes = {node.name: node for node in site.nodes}
    busy = set(used.values())
    return tuple(
        Standby(signer.validator, signer.node, nodes[signer.node].zone, nodes[signer.node].region)
        for signer in site.signers
        if signer.node != used.get(signer.validator, signer.validator)
        and signer.node not in busy
        and site.regions[nodes[signer.node].region].hsm is not None
    )
