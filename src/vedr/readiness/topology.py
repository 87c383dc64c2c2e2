"""The topology audit: does the fleet stand where it must, and what does the loss of a place do to the chain?

Guarantees: pure; every rule of the reference (zones, full nodes, HSMs, backups, power per region) gives a finding when
it is broken; the loss of any node, zone or region that halts the chain is named, with what restores it.
Leaves out: asking the chain (`topology_facts`), the rules (`topology_findings`), the calculus (`topology_losses`,
`topology_layout`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vedr.chain.quorum import PowerMap
from vedr.errors import InvalidInputError, VerificationFailedError
from vedr.failover.key_places import placed
from vedr.inventory import Site
from vedr.readiness.topology_findings import (
    SEVERITIES,
    Finding,
    judge_full_nodes,
    judge_layout,
    judge_losses,
    judge_power,
    judge_quorum,
    judge_redundancy,
    judge_standbys,
    judge_validators,
    judge_zones,
)
from vedr.readiness.topology_layout import Layout, smallest_change, survives_any
from vedr.readiness.topology_losses import Exposure, Loss, Restoration, expose
from vedr.readiness.topology_places import RegionRow, places, standbys_of
from vedr.signature import Json


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audit found.  `now` is with those who take part, `at_best` with everybody taking part."""

    site: str
    total: int
    regions: tuple[RegionRow, ...]
    now: Exposure
    at_best: Exposure
    layout: Layout | None
    survives_any_region: bool
    findings: tuple[Finding, ...]

    @property
    def critical(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "critical")

    def require_sound(self) -> None:
        """VerificationFailedError naming every critical finding."""
        if self.critical:
            raise VerificationFailedError(
                f"topology of {self.site}: " + "; ".join(finding.message for finding in self.critical),
                remedy=" ".join(dict.fromkeys(finding.remedy for finding in self.critical)),
            )


def audit(
    site: Site,
    power_map: PowerMap,
    online: Iterable[bytes],
    *,
    moving: bool = True,
    hosts: Mapping[str, str | None] | None = None,
    serving: Iterable[str] | None = None,
) -> Audit:
    """Audit a site on the live validator set.

    Args:
        site: Where everything stands.
        power_map: The active set by place (`chain.quorum.map_power`).
        online: Addresses of the validators that take part.
        moving: Whether the chain makes blocks.
        hosts: By validator whose key may be elsewhere, the node that it signs at now; None where that is not known:
            then its own is assumed, and a finding.
        serving: Names of the nodes that answer and are in sync; None when nobody asked.

    Raises:
        InvalidInputError: the active set is empty.
    """
    if not power_map.members:
        raise InvalidInputError("the validator set is empty", remedy="Ask another node for /validators.")
    known = {validator: host for validator, host in (hosts or {}).items() if host is not None}
    alive, serves = frozenset(online), None if serving is None else frozenset(serving)
    standbys, power_map = standbys_of(site, known), placed(site, power_map, known)
    ready = [standby for standby in standbys if serves is None or standby.node in serves]
    priority = site.regions_by_priority
    now = expose(power_map, alive, standbys=ready, priority=priority)
    everybody = [member.address for member in power_map.members]
    at_best = expose(power_map, everybody, standbys=standbys, priority=priority)
    regions = places(site, power_map, alive, at_best if now.halted else now, standbys=standbys, serving=serves)
    powers = {row.name: row.power for row in regions}
    layout, survives = smallest_change(powers), survives_any(powers)
    findings = [
        *judge_quorum(now, moving=moving),
        *judge_losses(at_best if now.halted else now),
        *judge_power(regions),
        *judge_zones(regions),
        *judge_full_nodes(regions),
        *judge_redundancy(site),
        *judge_validators(site, power_map, alive),
        *judge_standbys(site, power_map, standbys, unknown=sorted(set(hosts or {}) - set(known))),
        *judge_layout(layout, regions, survives=survives),
    ]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Audit(site.name, power_map.total, regions, now, at_best, layout, survives, tuple(findings))


def audit_json(found: Audit) -> dict[str, Json]:
    """The audit as one JSON document; powers are voting power, shares thousandths."""
    return {
        "site": found.site,
        "sound": not found.critical,
        "total_power": found.total,
        "needed_power": found.now.needed,
        "online_power": found.now.online,
        "margin": found.now.margin,
        "halted": found.now.halted,
        "survives_any_region": found.survives_any_region,
        "findings": [
            {"rule": f.rule, "severity": f.severity, "subject": f.subject, "message": f.message, "remedy": f.remedy}
            for f in found.findings
        ],
        "regions": [_region_json(row) for row in found.regions],
        "now": _exposure_json(found.now),
        "with_all_online": _exposure_json(found.at_best),
        "layout": _layout_json(found.layout),
    }


def _region_json(row: RegionRow) -> Json:
    return {
        "region": row.name,
        "power": row.power,
        "online_power": row.online_power,
        "share_permille": row.share_permille,
        "full_nodes": row.full_nodes,
        "serving": row.serving,
        "hsm": row.hsm,
        "loss_halts": row.loss.halts,
        "zones": [
            {
                "zone": zone.name,
                "power": zone.power,
                "full_nodes": zone.full_nodes,
                "loss_halts": zone.loss.halts,
                "validators": [
                    {"name": one.name, "power": one.power, "online": one.online, "standbys": [*one.standbys]}
                    for one in zone.validators
                ],
            }
            for zone in row.zones
        ],
    }


def _exposure_json(exposure: Exposure) -> Json:
    return {
        "online_power": exposure.online,
        "margin": exposure.margin,
        "halted": exposure.halted,
        "restoration": _restoration_json(exposure.restoration),
        "halting": [_loss_json(loss) for loss in exposure.halting],
        "halting_pairs": [_loss_json(loss) for loss in exposure.pairs],
        "halting_pair_counts": {str(kind): count for kind, count in exposure.pair_counts.items()},
    }


def _loss_json(loss: Loss) -> Json:
    return {
        "lost": [str(domain) for domain in loss.domains],
        "power": loss.lost,
        "margin": loss.margin,
        "restoration": _restoration_json(loss.restoration),
    }


def _restoration_json(way: Restoration | None) -> Json:
    if way is None:
        return None
    return {
        "possible": way.possible,
        "missing_power": way.missing,
        "still_missing_power": way.still_missing,
        "promote": [
            {"validator": one.validator, "power": one.power, "node": one.node, "region": one.region}
            for one in way.promote
        ],
        "without_standby": [*way.without_standby],
    }


def _layout_json(layout: Layout | None) -> Json:
    if layout is None:
        return None
    return {
        "limit_power": layout.limit,
        "moved_power": layout.moved,
        "transfers": [{"from": one.source, "to": one.target, "power": one.power} for one in layout.transfers],
        "powers": dict(layout.powers),
        "growth_power": layout.growth,
    }
