"""Steps of the failback: what was moved away from a zone or region goes home, under the same protocol.

1. The place is healthy: its supervisors answer, its full nodes are in sync, its gateways serve.
2. Each key that has its home there: the home signer is appointed and started, its node catches up, and takes the key
   over at its first request; until then the standby signs.  Then the standby's node is a full node again.
3. Users come back in stages; each provider's state comes back with what its disk proves.
4. Last, key files: the same promotion with the roles changed, then off the standby's disk (tasks.key_files).

Guarantees: as tasks.relocating; nothing is stopped away from home before its counterpart at home is seen to serve.
Leaves out: repairing what is not healthy (RB-DR-001, RB-DR-006).
"""

import time
from typing import Final

from tasks.cordoning import cordoned_in
from tasks.failover_orders import Failback
from tasks.key_hosts import is_away
from tasks.observing import Seen, ask, in_sync, tip_of
from tasks.outages import appointments_of, describe_key_move, situation_of
from tasks.provider_states import states_away
from tasks.providers import take_state
from tasks.relocating import (
    HandedOver,
    Promoted,
    give_state,
    provider_named,
    put_in_charge,
    release,
    stop_unit,
)
from tasks.scaling import raised
from tasks.serving import Shifted, await_blocks, carry_out_recorded, epoch_of, reserves_in_use, take_back
from vedr.adapters.answering import answers_http
from vedr.adapters.site import OpenSite, open_site
from vedr.chain.quorum import Domain
from vedr.errors import RefusedError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS
from vedr.failover.relocation import Handover, Left, Move, Relocation, Situation, place_of, signer_named, within
from vedr.failover.relocation_key_files import KeyMove, go_home
from vedr.failover.traffic_plan import TrafficPlan
from vedr.runbook.plan import Action, Plan
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=2.0)
ACT: Final = Retry(attempts=3, delay_s=2.0)
CATCH_UP_LIMIT_S: Final = 900.0

Ctx = Context[Failback]


@step(title="Confirm that home is healthy", budget_s=60, retry=PROBE, acts=False)
def confirm_home(ctx: Ctx) -> str:
    """Asks its supervisors, full nodes, gateways and store; refuses while any of them does not serve."""
    with open_site(ctx.order.site) as opened:
        domain = place_of(opened.site, ctx.order.place)
        problems = _ailments(opened, domain)
    if problems:
        raise RefusedError(
            f"{domain} is not healthy: {'; '.join(problems)}",
            remedy="Start what is down, bring nodes back by RB-DR-001 or RB-DR-006, then order the failback again.",
        )
    ctx.say(f"{domain} is healthy")
    return f"{domain}: supervisors, full nodes, gateways and store serve"


def _ailments(opened: OpenSite, domain: Domain) -> list[str]:
    site = opened.site
    inside = [node for node in site.nodes if within(domain, node.zone, node.region)]
    everywhere = in_sync(ask(opened, site.nodes))
    tip = tip_of(everywhere) or 0
    by_name = {one.node.name: one for one in everywhere}
    problems = [_ailment(by_name.get(node.name), node.name, tip) for node in inside if not node.is_validator]
    for zone in sorted({node.zone for node in inside}):
        try:
            opened.fleet.status(next(node.unit for node in inside if node.zone == zone), zone)
        except UnavailableError as error:
            problems.append(f"the supervisor of {zone}: {error.message}")
    for gateway in site.gateways:
        if within(domain, gateway.zone, gateway.region) and not gateway.reserve:
            is_up = answers_http(f"{gateway.url}{site.traffic.health_path}", healthy=True)
            problems.append("" if is_up else f"{gateway.name} does not serve")
    for region in sorted({node.region for node in inside}):
        try:
            next(iter(opened.stores[region].list("ledger/")), None)
        except VedrError as error:
            problems.append(f"the store of {region}: {error.message}")
    return [problem for problem in problems if problem]


def _ailment(seen: Seen | None, name: str, tip: int) -> str:
    if seen is None:
        return f"{name} does not answer in sync"
    lag = tip - seen.status.latest_height
    return f"{name} is {lag} blocks behind" if lag > MAX_HEALTHY_LAG_BLOCKS else ""


@step(title="Decide what goes home", budget_s=30, retry=PROBE, acts=False)
def decide_return(ctx: Ctx) -> Relocation:
    """Reads the registers and the ledger of the failovers: which keys and which providers' states are away."""
    with open_site(ctx.order.site) as opened:
        found = what_is_away(opened, ctx.order)
    for left in found.left:
        ctx.say(f"{left.name} stays where it is: {left.reason}")
    ctx.say(
        f"home to {found.domain}: {', '.join(found.validators) or 'no key'}; "
        f"{', '.join(one.reserve for one in found.handovers) or 'no provider'}"
    )
    return found


def what_is_away(opened: OpenSite, order: Failback) -> Relocation:
    """Everything that has its home in the place and serves elsewhere now; users are asked to come back in any case."""
    site, domain = opened.site, place_of(opened.site, order.place)
    situation = situation_of(opened, in_sync(ask(opened, site.nodes)), lost=None)
    holders, orders = situation.holders, appointments_of(opened)
    moves = []
    for node in site.nodes:
        if node.name not in orders or node.name in situation.revoked or not within(domain, node.zone, node.region):
            continue
        home = site.signers_of(node.name)[0].name
        # also one that is only appointed elsewhere: after a failover that stopped half-way a restart at home is refused
        away = next((name for name in (holders[node.name], orders[node.name]) if name not in ("", home)), "")
        if away:
            power = situation.powers.get(node.name, 0)
            moves.append(Move(node.name, power, away, home, node.name, node.zone, node.region))
    key_moves, left = _key_files_home(opened, domain, situation)
    online = situation.outside_online + sum(situation.powers.get(name, 0) for name in situation.signing)
    return Relocation(
        domain=str(domain),
        target=str(domain),
        planned=True,
        moves=tuple(moves),
        left=left,
        handovers=_handovers_home(opened, domain),
        gateways=tuple(gateway.name for gateway in site.gateways if gateway.reserve),
        total_power=sum(situation.powers.values()),
        online_before=online,
        online_after=online,
        tip_height=situation.tip_height,
        tip_hash=situation.tip_hash,
        key_moves=key_moves,
        cordons=bool(cordoned_in(opened, order.place)),
        scaled=tuple(map(str, raised(opened))) if site.fleet.kubernetes else (),
    )


def _key_files_home(
    opened: OpenSite, domain: Domain, situation: Situation
) -> tuple[tuple[KeyMove, ...], tuple[Left, ...]]:
    """Of the validators at home there whose key file signs elsewhere, or whose disk a move that stopped has fenced."""
    moves: list[KeyMove] = []
    left: list[Left] = []
    for key_file in opened.site.key_files:
        node = opened.site.node(key_file.validator)
        if not within(domain, node.zone, node.region) or not is_away(opened, situation.key_hosts, node):
            continue
        power = situation.powers.get(node.name, 0)
        chosen = go_home(key_file, node, situation.key_hosts, power)
        if isinstance(chosen, KeyMove):
            moves.append(chosen)
        else:
            left.append(Left(node.name, power, chosen))
    return tuple(moves), tuple(left)


def _handovers_home(opened: OpenSite, domain: Domain) -> tuple[Handover, ...]:
    """The reserves that serve with the state of the place's providers."""
    providers = {one.name: one for one in opened.site.providers}
    away = ((taker, providers[owner]) for taker, owner in states_away(opened).items() if owner in providers)
    return tuple(
        Handover(taker, home.name, home.zone) for taker, home in away if within(domain, home.zone, home.region)
    )


def plan_of_return(order: Failback) -> Plan:
    """What the failback would do, as everything is now; changes nothing."""
    with open_site(order.site) as opened:
        return describe_return(what_is_away(opened, order), stages_of(opened, order.place))


def describe_return(found: Relocation, stages_pct: tuple[int, ...]) -> Plan:
    """The plan that is shown and approved."""
    keys = [
        Action(
            f"take the key of {move.validator} home", f"{move.zone}, node {move.node}", 240,
            f"{move.power} power signs at home; {move.holder} is refused by the registers",
        )
        for move in found.moves
    ]  # fmt: skip
    users = [
        Action(f"send {pct} % of its users home", found.domain, 60, "as the names' answers show") for pct in stages_pct
    ]
    providers = [
        Action(f"give {one.provider}'s state back to {one.reserve}", one.zone, 90, "its orders are served at home")
        for one in found.handovers
    ]
    opened_up = (
        [Action(f"let the hosts of {found.domain} be used", "its cluster", 15, "what is placed there runs again")]
        if found.cordons
        else []
    )
    stopped = [Action(f"stop {name}", "in reserve", 10, "unless a name still leads there") for name in found.gateways]
    lowered = [
        Action(f"scale {one} down", "where users were sent", 30, "to what it had, unless somebody changed it since")
        for one in found.scaled
    ]
    return Plan(
        title=f"failback to {found.domain}",
        actions=(
            *opened_up,
            *keys,
            *users,
            *providers,
            *map(describe_key_move, found.key_moves),
            *stopped,
            *lowered,
        ),
        notes=tuple(f"{left.name} stays where it is: {left.reason}" for left in found.left),
        warnings=found.warnings,
    )


@step(
    title="Take the key home", budget_s=960, retry=ACT,
    cannot_undo="the key signs at home: to move it away again run RB-DR-002 or RB-DR-003",
)  # fmt: skip
def take_key_home(ctx: Ctx, move: Move) -> Promoted:
    """Appoints the home signer; its node catches up and takes the key over; the standby's node is a full node again."""
    with open_site(ctx.order.site) as opened:
        site = opened.site
        promoted = put_in_charge(ctx, opened, signer_named(site, move.signer), hold_limit_s=CATCH_UP_LIMIT_S)
        release(ctx, opened, signer_named(site, move.holder))
    return promoted


def stages_of(opened: OpenSite, place: str) -> tuple[int, ...]:
    """In which users come home, in percent; none where the site names no backends, or nobody was served there."""
    domain = place_of(opened.site, place)
    served = any(within(domain, one.zone, one.region) for one in opened.site.gateways if not one.reserve)
    return opened.site.traffic.stages_pct if opened.site.traffic.backends and served else ()


@step(title="Plan a stage of the users' return", budget_s=20, retry=PROBE, acts=False)
def plan_return(ctx: Ctx, stage_pct: int) -> TrafficPlan:
    """Weights of every name at that stage, from what is served now; recorded before anything is written."""
    with open_site(ctx.order.site) as opened:
        steering = opened.traffic
        domain = place_of(opened.site, ctx.order.place)
        return steering.plan_back(domain, steering.prove(), epoch=epoch_of(ctx, opened), stage_pct=stage_pct)


@step(title="Send users home, by stages", budget_s=600, retry=ACT, cannot_undo="to leave again: vedr traffic set")
def return_traffic(ctx: Ctx, found: Relocation, plan: TrafficPlan) -> Shifted:
    """Serves the stage's weights, awaits that users' answers show it, and that blocks go on and the place serves.

    Where they do not, users are sent where they were before this stage, and the error is raised: the plan is stale
    then, so that whoever resumes the run plans the stage anew.
    """
    with open_site(ctx.order.site) as opened:
        shifted = carry_out_recorded(ctx, opened, plan)
        if shifted.stale:
            return shifted
        try:
            _watch_stage(opened, ctx.order.stage_s, found)
        except VedrError as error:
            _send_back(ctx, opened, plan, error)
            raise
    return shifted


def _send_back(ctx: Ctx, opened: OpenSite, plan: TrafficPlan, why: VedrError) -> None:
    """VerificationFailedError, which nothing tries again by itself, when that is not seen to be done."""
    try:
        done = take_back(ctx, opened, plan)
    except VedrError as error:
        raise VerificationFailedError(
            f"{why.message}; and users may still be sent there, for the stage could not be taken back: {error.message}",
            remedy=f"See vedr traffic show, and send users elsewhere by vedr traffic set.  {why.remedy}".rstrip(),
        ) from why
    ctx.say(f"{plan.purpose}: {why.message}; taken back: {done}")


def _watch_stage(opened: OpenSite, stage_s: int, found: Relocation) -> None:
    """For so long, blocks have to go on and the place's gateways to serve."""
    until = time.monotonic() + stage_s
    while True:
        await_blocks(opened, in_sync(ask(opened, opened.site.nodes)), 1)
        domain = place_of(opened.site, found.domain.split(" ", 1)[1])
        silent = [problem for problem in _ailments(opened, domain) if "does not serve" in problem]
        if silent:
            raise RefusedError(
                f"{'; '.join(silent)} at this stage", remedy="Repair it and resume, or run RB-DR-002/-003 again."
            )
        if time.monotonic() >= until:
            return


@step(title="Give the provider's state back", budget_s=120, retry=ACT, cannot_undo="it serves at home: nothing is lost")
def give_back(ctx: Ctx, handover: Handover) -> HandedOver:
    """Stores the reserve's newest state, restores it at home with what the reserve's disk proves, starts it there."""
    with open_site(ctx.order.site) as opened:
        reserve, home = provider_named(opened, handover.provider), provider_named(opened, handover.reserve)
        stop_unit(ctx, opened, home)
        if opened.fleet.status(reserve.unit, reserve.zone).state == "running":  # it is only stopped once that is stored
            ctx.say(f"{reserve.name}: {take_state(opened, reserve).snapshot} stored")
        stop_unit(ctx, opened, reserve)
        found = give_state(ctx, opened, reserve, home, survivor=reserve.home)
    ctx.say(found.detail)
    return found


@step(title="Stand the reserves down", budget_s=120, retry=ACT, cannot_undo="start its unit if it is needed")
def stand_down(ctx: Ctx, shifted: tuple[Shifted, ...], gateways: tuple[str, ...]) -> tuple[str, ...]:
    """Stops the gateways in reserve when nobody can have an older answer any more that leads to them.

    One that a name leads to, since another place is still away, serves on.
    """
    with open_site(ctx.order.site) as opened:
        used = reserves_in_use(opened)
        running = [
            gateway
            for gateway in opened.site.gateways
            if gateway.name in gateways
            and gateway.name not in used
            and opened.fleet.status(gateway.unit, gateway.zone).state == "running"
        ]
        if running and shifted:
            ctx.say(f"older answers live {opened.site.traffic.failover_ttl_s} s: {len(running)} gateways wait for that")
            time.sleep(opened.site.traffic.failover_ttl_s)
        for gateway in running:
            opened.fleet.stop(gateway.unit, gateway.zone)
    return tuple(gateway.name for gateway in running)
