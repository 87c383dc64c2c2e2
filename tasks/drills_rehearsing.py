"""Steps of the non-disruptive drill: a node restored and booted in isolation, and promotions rehearsed up to the vote.

For each validator whose key might have to move:

1. A key in hardware: every token that should hold it signs a fresh challenge, which is no vote; a majority of the
   registers shows the floor; a standby serves, and its host can be controlled.
2. A key in a file: its newest backup is decrypted and its public key gives the validator's address; the floor that a
   promotion would write now is computed; its host, which would be fenced, can be controlled.

Guarantees: nothing that signs is started, stopped, appointed or fenced; no key is written anywhere.
Leaves out: the faults (tasks.drills).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tasks.drills_looking import look, take_census
from tasks.drills_orders import Rehearsal
from tasks.failover_orders import Failover, RegionFailover, ZoneFailover
from tasks.observing import ask, in_sync, tip_of
from tasks.outages import describe, relocate
from vedr.adapters import pkcs11_token_site, snapshots
from vedr.adapters.privval_signer import register_of
from vedr.adapters.site import OpenSite, open_site
from vedr.backup import restore
from vedr.chain.register import Validator
from vedr.chain.shipping_watch import look_at_copies
from vedr.custody import key_backup_store
from vedr.custody.hsm_check import Replication
from vedr.custody.key_material_process import no_core_dumps
from vedr.drills import census, rehearsal, steady
from vedr.drills.census import Census, Compared
from vedr.drills.rehearsal import Tried
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Node, Site
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=2.0)
Ctx = Context[Rehearsal]


@dataclass(frozen=True, slots=True)
class Restored:
    """A snapshot that a node was booted from, apart from everything."""

    region: str
    snapshot: str
    app_hash: str


@step(title="Check the steady state", budget_s=60, retry=PROBE, acts=False)
def check_steady(ctx: Ctx) -> str:
    """Asks every node, unit, service, store and register; refuses when anything is degraded or an incident is open."""
    with open_site(ctx.order.site) as opened:
        steady.require(look(opened, besides=[ctx.run_id]))
        return f"{len(opened.site.nodes)} nodes in sync, every validator signs, nothing is open"


@step(title="Count everything", budget_s=60, retry=PROBE, acts=False)
def count_before(ctx: Ctx) -> Census:
    """Lists units, keys' holders, names' answers, identities and restores, as they have to be again afterwards."""
    with open_site(ctx.order.site) as opened:
        return take_census(opened, deep=False)


@step(title="Restore and boot in isolation", budget_s=20 * 60, retry=PROBE)
def restore_isolated(ctx: Ctx) -> Restored:
    """Restores the region's newest snapshot to scratch, boots a node without keys or peers, compares its app hash."""
    with open_site(ctx.order.site) as opened:
        check_target(opened.site, ctx.order)
        region = region_of(opened.site, ctx.order)
        listed = next(iter(restore.candidates(opened.repository, origins=[region])), None)
        if listed is None:
            raise NotFoundError(f"{region} has no snapshot to restore", remedy="Take one: vedr run chain-snapshot.")
        outcome = snapshots.prove_by_boot(opened, listed).require()
    ctx.say(f"{listed.id}: app hash {outcome.facts.get('app_hash', '')}")
    return Restored(region, listed.id, str(outcome.facts.get("app_hash", "")))


def region_of(site: Site, order: Rehearsal) -> str:
    """The region of what was named, else the primary; NotFoundError when the site has nothing of that name."""
    if not order.target:
        return site.regions_by_priority[0]
    for name, region in site.regions.items():
        if order.target in (name, *region.zones):
            return name
    return site.node(order.target).region


def check_target(site: Site, order: Rehearsal) -> None:
    """InvalidInputError for a node where promotions are rehearsed: no key would move, and nothing be tried."""
    if order.cadence != "weekly" and any(node.name == order.target for node in site.nodes):
        raise InvalidInputError(
            f"the {order.cadence} drill is not about one node, such as {order.target}",
            remedy="Name a zone or region, or order the weekly one.",
        )


@step(title="Plan the failover", budget_s=60, retry=PROBE, acts=False)
def plan_failover(ctx: Ctx) -> str:
    """Decides what would move where, as RB-DR-002 or -003 would now; refused plans fail here."""
    with open_site(ctx.order.site) as opened:
        region = region_of(opened.site, ctx.order)
        order: Failover
        if ctx.order.target not in ("", region):
            order = ZoneFailover(site=ctx.order.site, zone=ctx.order.target, mode="planned")
        else:
            order = RegionFailover(site=ctx.order.site, region=region, mode="planned")
        plan = describe(relocate(opened, order))
    plan.check()
    ctx.say(f"{plan.title}: {len(plan.actions)} actions")
    return f"{plan.title}: {', '.join(action.what for action in plan.actions)}"


@step(title="Rehearse the promotions", budget_s=20 * 60, retry=PROBE)
def rehearse_promotions(ctx: Ctx) -> tuple[Tried, ...]:
    """Opens key backups, asks the tokens, reads the floors, reaches the hosts; nothing signs a vote."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        validators = validators_of(opened, ctx.order)
        tried = tuple(one for node in validators for one in _rehearse(opened, node))
    for one in tried:
        ctx.say(str(one))
    return tried


def validators_of(opened: OpenSite, order: Rehearsal) -> tuple[Node, ...]:
    """Those of the place that was named, or all."""
    found = (node for node in opened.site.nodes if node.is_validator)
    return tuple(node for node in found if order.target in ("", node.zone, node.region))


def _rehearse(opened: OpenSite, node: Node) -> Iterator[Tried]:
    parts: dict[str, Callable[[OpenSite, Node], str]]
    if opened.site.signers_of(node.name):
        parts = {"tokens": _tokens, "registers": _registers, "standby": _standby}
    else:
        parts = {"key backup": _key_backup, "floor": _floor, "fence": _fence}
    for part, attempt in parts.items():
        try:
            yield Tried(node.name, part, attempt(opened, node))
        except VedrError as error:
            yield Tried(node.name, part, "", error.message)


def _tokens(opened: OpenSite, node: Node) -> str:
    found: Replication | None = next(
        (one for one in pkcs11_token_site.check(opened) if one.reference.consensus_address == node.address), None
    )
    if found is None:
        raise NotFoundError(f"no reference of the key of {node.name}", remedy="Make it: vedr hsm reference.")
    found.require_whole()
    return f"signed a fresh challenge, no vote, in {', '.join(token.region for token in found.tokens)}"


def _registers(opened: OpenSite, node: Node) -> str:
    seen = register_of(opened, node).look()
    if not seen.is_majority or seen.newest is None:
        raise UnavailableError("no majority of the regions shows its register", remedy="Restore a region's store.")
    return f"a standby would sign above {seen.newest.position}"


def _standby(opened: OpenSite, node: Node) -> str:
    site = opened.site
    serving = {one.node.name for one in in_sync(ask(opened, site.nodes))}
    able = []
    for signer in site.signers_of(node.name)[1:]:
        zone = site.node(signer.node).zone
        if signer.node in serving and opened.fleet.status(signer.unit, zone).state != "running":
            able.append(f"{signer.name} in {zone}")
    if not able:
        raise VerificationFailedError("no standby serves with its signer at rest", remedy="See vedr topology.")
    return f"ready: {', '.join(able)}"


def _key_backup(opened: OpenSite, node: Node) -> str:
    backup = key_backup_store.newest(opened.keys, node.region, "validator", node.name)
    if backup is None:
        raise NotFoundError("its key has no backup", remedy=f"vedr run key-backup --region {node.region}")
    bundle = key_backup_store.open_from(opened.keys, backup)
    addresses = {file.identity.address for file in bundle.files}
    if node.address not in addresses:
        raise VerificationFailedError(
            f"{backup.id} holds the key of {', '.join(sorted(addresses))}", remedy="Find out whose backup it is."
        )
    return f"{backup.id} opens, its public key gives {node.address}"


def _floor(opened: OpenSite, node: Node) -> str:
    """What the protocol's fifth step would write while the chain moves; a real one needs the fence first."""
    copies = look_at_copies(Validator(opened.site.chain.chain_id, node.address), opened.registers).states
    tip = tip_of(in_sync(ask(opened, opened.site.nodes)))
    if tip is None or not copies:
        raise UnavailableError("neither the tip nor a shipped sign-state is known", remedy="See vedr sign-state.")
    height = max(tip + 1, *(state.height for state in copies)) + 1
    return f"({height}, 0, 0), above {len(copies)} shipped copies and the tip {tip}"


def _fence(opened: OpenSite, node: Node) -> str:
    status = opened.fleet.status(node.unit, node.zone)
    return f"its host answers: unit {status.state}; it would be stopped and its signer disk renamed"


@step(title="Count everything again", budget_s=60, retry=PROBE, acts=False)
def compare_census(ctx: Ctx, before: Census) -> Compared:
    """Compares with the count from before: a rehearsal changes nothing."""
    with open_site(ctx.order.site) as opened:
        return census.compare(before, take_census(opened, deep=False))


@step(title="Conclude", budget_s=10, acts=False)
def conclude(ctx: Ctx, tried: tuple[Tried, ...], seen: Compared) -> str:
    """Passed only when every part worked for every validator, and nothing changed."""
    if ctx.order.cadence != "weekly":
        with open_site(ctx.order.site) as opened:
            wanted = [(node.name, bool(opened.site.signers_of(node.name))) for node in validators_of(opened, ctx.order)]
        rehearsal.require(tried, wanted)
    if not seen.clean:
        raise VerificationFailedError(
            f"the rehearsal left something: {'; '.join(map(str, seen.differences)) or 'nothing was counted'}",
            remedy=f"Repair what is left, then vedr abandon {ctx.run_id}.",
        )
    return f"{len(tried)} parts of promotions rehearsed, {seen.counted} things as they were"
