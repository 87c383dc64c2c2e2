"""Steps that look before a failover: is it lost, what would be moved where, and who has to know.

Guarantees: nothing is changed here; an outage is confirmed by sources that fail apart.
Leaves out: acting (tasks.relocating, tasks.serving).
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tasks.failover_orders import Failover, domain_of
from tasks.key_hosts import key_hosts_of
from tasks.notifying import Announced, announce
from tasks.observing import MAX_ASKED_AT_ONCE, Seen, ask, in_sync
from tasks.provider_states import states_away
from vedr.adapters.answering import answers_http
from vedr.adapters.privval_signer import register_of
from vedr.adapters.site import OpenSite, open_site
from vedr.chain import quorum
from vedr.chain.appointment import NOBODY, appointed
from vedr.chain.fence import MIN_QUIET_COMMITS
from vedr.chain.quorum import OUTSIDE, Domain
from vedr.chain.register import Content, Validator
from vedr.chain.rpc import signing_lately
from vedr.errors import NotFoundError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover import outage, relocation
from vedr.failover.outage import Outage, Sight
from vedr.failover.relocation import Relocation, Situation, within
from vedr.failover.relocation_key_files import KeyMove
from vedr.inventory import Gateway, Node, Provider
from vedr.ports import UnitState
from vedr.runbook.plan import Action, Plan
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=1.0)
PROMOTE_BUDGET_S: Final = 120.0
KEY_FILE_BUDGET_S: Final = 220.0  # at VirtEngine's 5 s a block: 22 of quiet, some of starting, 10 that are watched
MIN_WITNESSES: Final = 2

Ctx = Context[Failover]


@step(title="Confirm the outage", budget_s=30, retry=PROBE, acts=False)
def confirm_outage(ctx: Ctx) -> Outage:
    """Asks services, supervisors and the nodes elsewhere; refuses when it serves, or is silent to this process only."""
    with open_site(ctx.order.site) as opened:
        domain = domain_of(ctx.order)
        relocation.check_place(opened.site, domain)
        sights = look_at(opened, domain)
        if ctx.order.mode == "planned":
            answering = sum(sight.answers for sight in sights)
            found = Outage(str(domain), (), len(sights), f"planned: {answering} of {len(sights)} services answer")
        else:
            found = outage.judge(domain, sights)
    ctx.say(found.finding)
    return found


@step(title="Declare and notify", budget_s=10, acts=False)
def declare(ctx: Ctx, found: Outage) -> Announced:
    """Tells the site's channels; one that is dead is reported and stops nothing."""
    with open_site(ctx.order.site) as opened:
        facts = {"place": found.domain, "mode": ctx.order.mode, "gone": f"{len(found.gone)} of {found.total}"}
        return announce(opened, ctx, "declared", facts)


@step(title="Decide what moves where", budget_s=30, retry=PROBE, acts=False)
def decide(ctx: Ctx) -> Relocation:
    """Reads the validator set, the registers and who serves; chooses the target and the standbys; counts the power."""
    with open_site(ctx.order.site) as opened:
        found = relocate(opened, ctx.order)
    for left in found.left:
        ctx.say(f"{left.name} stays: {left.reason}")
    for move in found.key_moves:
        ctx.say(f"{move.validator}: its key file goes to {move.host}, last")
    ctx.say(f"{found.domain} -> {found.target}: online power {found.online_before} -> {found.online_after}")
    return found


def relocate(opened: OpenSite, order: Failover) -> Relocation:
    """What would be moved where, as everything is now.

    Raises:
        VerificationFailedError: fewer than two nodes elsewhere are in sync.
        RefusedError: the wanted target can't take over.
    """
    site, domain = opened.site, domain_of(order)
    relocation.check_place(site, domain)
    elsewhere = [node for node in site.nodes if not within(domain, node.zone, node.region)]
    seen = in_sync(ask(opened, site.nodes if order.mode == "planned" else elsewhere))
    situation = situation_of(opened, seen, lost=None if order.mode == "planned" else domain)
    target = relocation.choose_target(site, domain, order.target, situation.serving)
    return relocation.plan(site, domain, target, situation, planned=order.mode == "planned")


def situation_of(opened: OpenSite, seen: Iterable[Seen], *, lost: Domain | None) -> Situation:
    """What is known now; a validator whose key is used in what is lost counts as silent.

    Raises:
        VerificationFailedError: fewer than two nodes answer in sync, or the tip of one is not the others'.
    """
    site, nodes = opened.site, tuple(seen)
    if len(nodes) < MIN_WITNESSES:
        raise VerificationFailedError(
            f"{len(nodes)} nodes outside answer in sync, {MIN_WITNESSES} are needed",
            remedy="Bring back one first: RB-DR-001, or RB-DR-006 with a snapshot.",
        )
    witness = max(nodes, key=lambda one: one.status.latest_height)
    height = witness.status.latest_height
    powers = quorum.map_power(site, witness.rpc.validators(height))
    online = signing_lately(witness.rpc, height)
    holders = holders_of(opened)
    key_hosts = key_hosts_of(opened)
    names = {bytes.fromhex(node.address): node.name for node in site.nodes if node.address}
    signing = {names[address] for address in online if address in names}
    if lost:
        places = {name: relocation.signs_at(site, name, holders, key_hosts) for name in signing}
        signing = {name for name, node in places.items() if not within(lost, node.zone, node.region)}
    by_name = {member.node: member.power for member in powers.members if member.node != OUTSIDE}
    strangers = [member for member in powers.members if member.node == OUTSIDE]
    return Situation(
        serving=frozenset(one.node.name for one in nodes),
        signing=frozenset(signing),
        powers={**by_name, OUTSIDE: sum(member.power for member in strangers)},
        outside_online=sum(member.power for member in strangers if member.address in online),
        holders=holders,
        revoked=frozenset(name for name, appointed_name in appointments_of(opened).items() if appointed_name == NOBODY),
        tip_height=height,
        tip_hash=witness.status.latest_block_hash.hex().upper(),
        key_hosts=key_hosts,
        provider_states=states_away(opened),
    )


def holders_of(opened: OpenSite) -> dict[str, str]:
    """The signer that each register names, by validator; "" where nobody has held it yet.

    UnavailableError when no majority of the regions shows one of them.
    """
    return _of_each(opened, lambda node: holder_of(opened, node))


def holder_of(opened: OpenSite, validator: Node) -> str:
    """The signer's name, without its process.  UnavailableError without a majority."""
    return named_in(opened, shown_of(opened, validator))


def shown_of(opened: OpenSite, validator: Node) -> Content:
    """What a majority of the regions shows of its register.  UnavailableError without one."""
    seen = register_of(opened, validator).glance()
    if not seen.is_majority or seen.newest is None:
        raise UnavailableError(
            f"no majority of the regions shows who holds the key of {validator.name}: "
            + "; ".join(f"{region}: {problem}" for region, problem in seen.problems.items()),
            remedy="Two regions' stores have to answer; restore one.",
        )
    return seen.newest


def named_in(opened: OpenSite, shown: Content) -> str:
    """The signer of the site that the register names; "" where it names none of them."""
    name = shown.holder.partition("/")[0]
    return name if any(signer.name == name for signer in opened.site.signers) else ""


def appointments_of(opened: OpenSite) -> dict[str, str]:
    """The signer that is appointed for each remotely signing validator; "" where nobody ever was.

    UnavailableError when no majority of the regions shows one of them.
    """

    def one(node: Node) -> str:
        order = appointed(opened.registers, Validator(opened.site.chain.chain_id, node.address))
        return order.name if order else ""

    return _of_each(opened, one)


def _of_each(opened: OpenSite, question: Callable[[Node], str]) -> dict[str, str]:
    """The answer for each validator that signs remotely, all asked at once."""
    nodes = [node for node in opened.site.nodes if opened.site.signers_of(node.name)]
    with ThreadPoolExecutor(max(1, min(MAX_ASKED_AT_ONCE, len(nodes))), "registers") as pool:
        return dict(zip((node.name for node in nodes), pool.map(question, nodes), strict=True))


# --- looking at a place


def look_at(opened: OpenSite, domain: Domain) -> tuple[Sight, ...]:
    """Everything that should serve there, each asked at once."""
    site = opened.site
    things: list[tuple[str, Node | Provider | Gateway]] = [
        *(("node", node) for node in site.nodes),
        *(("gateway", gateway) for gateway in site.gateways if not gateway.reserve),
        *(("provider", provider) for provider in site.providers if not provider.reserve),
    ]
    inside = [(kind, thing) for kind, thing in things if within(domain, thing.zone, thing.region)]
    outside = [node for node in site.nodes if not within(domain, node.zone, node.region)]
    peers = peers_of(opened, outside)
    with ThreadPoolExecutor(max(1, 2 * len(inside)), "looking") as pool:  # two sources each, both slow where it is cut
        answers = [pool.submit(_answers, opened, thing) for _, thing in inside]
        units = [pool.submit(_unit_state, opened, thing) for _, thing in inside]
        return tuple(
            Sight(thing.name, kind, answer.result(), unit.result(), _known_by(kind, thing, peers))
            for (kind, thing), answer, unit in zip(inside, answers, units, strict=True)
        )


def peers_of(opened: OpenSite, nodes: Iterable[Node]) -> dict[str, int] | None:
    """How many of these nodes have a peer of each name; None when none of them can be asked."""
    counts: dict[str, int] = {}
    has_answer = False  # silence about peers must not count as their absence
    for one in ask(opened, nodes):
        with contextlib.suppress(VedrError):
            peers = one.rpc.net_info().peers
            has_answer = True
            for peer in peers:
                counts[peer.moniker] = counts.get(peer.moniker, 0) + 1
    return counts if has_answer else None


def _known_by(kind: str, thing: Node | Provider | Gateway, peers: Mapping[str, int] | None) -> int | None:
    return None if peers is None or kind != "node" else peers.get(thing.name, 0)


def _answers(opened: OpenSite, thing: Node | Provider | Gateway) -> bool:
    """A gateway has to say that its nodes serve; a provider, whose health hangs on the chain's, only to answer."""
    if isinstance(thing, Node):
        return bool(ask(opened, [thing]))
    path = opened.site.traffic.health_path
    return answers_http(f"{thing.url}{path}", healthy=isinstance(thing, Gateway))


def _unit_state(opened: OpenSite, thing: Node | Provider | Gateway) -> UnitState | None:
    try:
        return opened.fleet.status(thing.unit, thing.zone).state
    except (UnavailableError, NotFoundError):
        return None


# --- the plan as people read it


def describe_key_move(move: KeyMove) -> Action:
    """A key file's move, which comes last and fails alone."""
    return Action(
        f"move the key file of {move.validator} from {move.origin}",
        f"{move.zone}, node {move.host}", KEY_FILE_BUDGET_S,
        f"{move.power} power signs there, after {MIN_QUIET_COMMITS} blocks without it; every host that may have the "
        "key is proven fenced first, or it stays",
    )  # fmt: skip


def plan_of(order: Failover) -> Plan:
    """What the run would do, as everything is now; changes nothing."""
    with open_site(order.site) as opened:
        return describe(relocate(opened, order))


def describe(found: Relocation) -> Plan:
    """The plan that is shown and approved."""
    power = f"online power {found.online_before} -> {found.online_after} of {found.total_power}"
    moved = [
        Action(
            f"move the key of {move.validator} to {move.signer}",
            f"{move.zone}, node {move.node}",
            PROMOTE_BUDGET_S / len(found.moves),
            f"{move.power} power signs there; {move.holder or 'whoever held it'} is refused by the registers",
        )
        for move in found.moves
    ]
    handed = [
        Action(f"give {one.provider}'s state to {one.reserve}", one.zone, 60, "its orders are served there")
        for one in found.handovers
    ]
    closed = (
        [Action(f"cordon {found.domain}", "its cluster", 15, "nothing new is placed there")] if found.cordons else []
    )
    opened_up = [Action(f"start {name}", found.target, 10, "one more API gateway") for name in found.gateways]
    scaled = [Action(f"scale {one}", found.target, 45, "where it has fewer") for one in found.scaled]
    traffic = Action(f"send users to {found.target}", "DNS and mesh", 60, f"nobody is sent to {found.domain}")
    return Plan(
        title=f"{'empty' if found.planned else 'leave'} {found.domain}, to {found.target}",
        actions=(
            *(() if found.planned else closed),
            *opened_up,
            *moved,
            *scaled,
            traffic,
            *handed,
            *map(describe_key_move, found.key_moves),
            *(closed if found.planned else ()),
        ),
        notes=(power, *(f"{left.name} stays: {left.reason}" for left in found.left)),
        warnings=found.warnings,
        refusals=found.refusals,
    )
