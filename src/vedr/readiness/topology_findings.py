"""What is wrong with a topology: one function a rule, each finding with its severity and remedy.

Guarantees: pure.  A finding is critical when a rule of redundancy is broken, when the chain is halted, or when one loss
would halt it and no promotion makes that good; a halt that a promotion ends is a warning.
Leaves out: whether HSMs and stores answer, which the daily checks find out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.chain.quorum import OUTSIDE, PowerMap
from vedr.inventory import MIN_BACKUP_REGIONS, MIN_FULL_NODES_PER_REGION, MIN_ZONES_PER_REGION, Site
from vedr.readiness.topology_layout import MAX_DOMAIN_PCT, Layout
from vedr.readiness.topology_losses import Exposure, Loss, Standby
from vedr.readiness.topology_places import RegionRow, percent

Severity = Literal["critical", "warning", "note"]
Rule = Literal["quorum", "loss", "power", "layout", "zones", "full-nodes", "hsm", "backups", "validators", "standbys"]

SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "warning", "note")
MIN_HSM_REGIONS: Final = 2
MIN_DOMAINS: Final = 4  # see topology_layout: three cannot all be below a third


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be; `subject` is the place it is about."""

    rule: Rule
    severity: Severity
    subject: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


def judge_quorum(now: Exposure, *, moving: bool) -> Iterable[Finding]:
    if now.halted and now.restoration is not None:
        yield Finding(
            "quorum",
            "critical",
            "chain",
            f"the chain is halted: {now.online} power takes part, {now.needed} is needed; to restore it "
            f"{now.restoration}",
            "Run RB-DR-002 or RB-DR-003 for the place that is lost, or bring its validators back (RB-DR-001).",
        )
    elif not moving:
        yield Finding(
            "quorum",
            "critical",
            "chain",
            f"the chain stands still although {now.online} power takes part and {now.needed} is needed",
            "Look for diverging app hashes and consensus errors in the validators' logs: RB-DR-004 may apply.",
        )


def judge_losses(exposure: Exposure) -> Iterable[Finding]:
    for loss in exposure.halting:
        [domain] = loss.domains
        ours = domain.name != OUTSIDE
        severity: Severity = "warning" if loss.restorable or not ours else "critical"
        if loss.restoration is None:
            continue
        yield Finding(
            "loss",
            severity,
            str(domain),
            f"the loss of {domain} ({loss.lost} power) halts the chain, {-loss.margin} short; then {loss.restoration}",
            _remedy(loss) if ours else "Other operators' validators cannot be promoted: keep your own margin.",
        )


def _remedy(loss: Loss) -> str:
    runbook = {"region": "RB-DR-003", "zone": "RB-DR-002", "node": "RB-DR-001"}[loss.domains[0].kind]
    if loss.restorable:
        return f"{runbook} restores it; to survive without a halt, spread the power as the layout says."
    lacking = loss.restoration.without_standby if loss.restoration else ()
    return (
        f"Give {', '.join(lacking) or 'more validators'} a remote signer with an HSM replica elsewhere, "
        "or spread the power as the layout says."
    )


def judge_power(regions: Sequence[RegionRow]) -> Iterable[Finding]:
    total = sum(row.power for row in regions)
    for row in regions:
        if 100 * row.power > MAX_DOMAIN_PCT * total:
            severity: Severity = "warning" if row.loss.restorable else "critical"
            yield Finding(
                "power",
                "note" if row.name == OUTSIDE else severity,
                f"region {row.name}",
                f"{row.name} has {percent(row.share_permille)} of the voting power, above {MAX_DOMAIN_PCT} %",
                "Move power to other regions or to validators outside them, as the layout says.",
            )


def judge_zones(regions: Sequence[RegionRow]) -> Iterable[Finding]:
    for row in regions:
        if row.name == OUTSIDE:
            continue
        used = [zone.name for zone in row.zones if zone.full_nodes or zone.validators]
        if len(used) < MIN_ZONES_PER_REGION:
            yield Finding(
                "zones",
                "critical",
                f"region {row.name}",
                f"{row.name}: all nodes stand in {' and '.join(used) or 'no zone'}, "
                f"{MIN_ZONES_PER_REGION} zones are needed",
                "Place nodes in a second zone, so that the region survives the loss of one.",
            )


def judge_full_nodes(regions: Sequence[RegionRow]) -> Iterable[Finding]:
    for row in regions:
        if row.name == OUTSIDE:
            continue
        subject = f"region {row.name}"
        if row.full_nodes < MIN_FULL_NODES_PER_REGION:
            yield Finding(
                "full-nodes",
                "critical",
                subject,
                f"{row.name} has {row.full_nodes} full nodes, {MIN_FULL_NODES_PER_REGION} are needed",
                "Add full nodes there: restores and state sync need two sources.",
            )
        elif row.serving is not None and row.serving < MIN_FULL_NODES_PER_REGION:
            yield Finding(
                "full-nodes",
                "warning" if row.serving else "critical",
                subject,
                f"{row.name}: {row.serving} of {row.full_nodes} full nodes answer in sync, "
                f"{MIN_FULL_NODES_PER_REGION} are needed",
                "Bring them back: RB-DR-001 for each.",
            )


def judge_redundancy(site: Site) -> Iterable[Finding]:
    tokens = [name for name, region in site.regions.items() if region.hsm]
    if len(tokens) < MIN_HSM_REGIONS:
        yield Finding(
            "hsm",
            "critical",
            f"site {site.name}",
            f"{len(tokens)} regions have an HSM ({', '.join(tokens) or 'none'}), {MIN_HSM_REGIONS} are needed",
            "Give [regions.….hsm] of a second region, and replicate the keys there (vedr hsm reference).",
        )
    clouds = {(region.store.endpoint, region.store.cloud_region) for region in site.regions.values()}
    if len(clouds) < MIN_BACKUP_REGIONS:
        yield Finding(
            "backups",
            "critical",
            f"site {site.name}",
            f"the stores of {len(site.regions)} regions stand in {len(clouds)} cloud regions, "
            f"{MIN_BACKUP_REGIONS} are needed",
            "Move buckets so that each region's store is in a cloud region of its own.",
        )


def judge_validators(site: Site, powers: PowerMap, alive: frozenset[bytes]) -> Iterable[Finding]:
    active = {member.node for member in powers.members}
    subject = f"site {site.name}"
    if missing := [node.name for node in site.nodes if node.is_validator and node.name not in active]:
        yield Finding(
            "validators",
            "warning",
            subject,
            f"not in the active set: {', '.join(missing)}",
            "See whether they are jailed, unbonded or given a wrong address in the site file.",
        )
    if absent := [m.node for m in powers.members if m.node != OUTSIDE and m.address not in alive]:
        yield Finding(
            "validators",
            "warning",
            subject,
            f"not taking part: {', '.join(absent)}",
            "Bring each back with RB-DR-001 before anything else is lost.",
        )


def judge_standbys(
    site: Site, powers: PowerMap, standbys: Sequence[Standby], *, unknown: Sequence[str]
) -> Iterable[Finding]:
    subject = f"site {site.name}"
    region_of = {member.node: member.region for member in powers.members}
    movable = {one.validator for one in standbys if one.region != region_of.get(one.validator)}
    if fixed := [m.node for m in powers.members if m.node != OUTSIDE and m.node not in movable]:
        yield Finding(
            "standbys",
            "warning",
            subject,
            f"cannot be promoted in another region at once: {', '.join(fixed)}",
            "Let them sign remotely, with their key in the HSMs of two regions (docs/signer.md).",
        )
    if unknown:
        yield Finding(
            "standbys",
            "warning",
            subject,
            f"where they sign now is not known, their own place is assumed: {', '.join(unknown)}",
            "No majority of the registers, or of the ledger, answers: see vedr signer status, vedr ledger verify.",
        )


def judge_layout(layout: Layout | None, regions: Sequence[RegionRow], *, survives: bool) -> Iterable[Finding]:
    if survives and (layout is None or not layout.transfers):
        return
    with_power = sum(row.power > 0 for row in regions)
    why = (
        f"all power is in {with_power} domains, of which the largest always has a third or more: no layout survives"
        if with_power < MIN_DOMAINS
        else "a domain has a third or more of the power"
    )
    yield Finding(
        "layout", "note", "layout", "power could be spread better" if survives else why, describe_layout(layout)
    )


def describe_layout(layout: Layout | None) -> str:
    """The smallest change that makes the chain survive the loss of any one region, as a sentence."""
    if layout is None:
        return "The total power is too small to be spread over four domains: raise it first."
    moves = "; ".join(f"{one.power} from {one.source} to {one.target}" for one in layout.transfers)
    shares = ", ".join(f"{name} {power}" for name, power in layout.powers.items())
    other = "" if layout.growth is None else f"  Or add validators with {layout.growth} power in one new domain."
    return f"Move {layout.moved} power: {moves}.  Then {shares} survives the loss of any one.{other}"
