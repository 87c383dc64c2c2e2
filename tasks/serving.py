"""Steps that send users elsewhere, and look at what they get there: blocks, the API by its names, providers.

Guarantees: what is reported was seen from outside; traffic only goes to gateways that were just proven healthy.
Leaves out: moving what serves (tasks.relocating).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tasks.observing import Seen, ask, in_sync
from tasks.outages import holder_of
from vedr.adapters.answering import answers_http
from vedr.adapters.site import OpenSite, open_site
from vedr.chain import sync
from vedr.chain.block import Flag
from vedr.chain.light import LightClient
from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, DeadlineError, VedrError, VerificationFailedError
from vedr.failover.relocation import Relocation
from vedr.failover.traffic_plan import TrafficPlan
from vedr.failover.traffic_steering import Proof
from vedr.inventory import Height
from vedr.runbook.lease import Leases
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=2.0)
ACT: Final = Retry(attempts=4, delay_s=2.0)
BLOCKS: Final = 3  # seen after the failover before the chain counts as moving
WATCH_BLOCKS: Final = 10
BLOCK_TIMES: Final = 30.0  # a chain that was halted needs some rounds until all have found each other
MIN_COMPARED: Final = 2
MAX_PLANS: Final = 4  # of where users are sent, in one run: each but the first because somebody else wrote meanwhile

Ctx = Context[Order]


@dataclass(frozen=True, slots=True)
class Shifted:
    """Where users are sent now; with `stale`, why the plan is not carried out as it is: it has to be made anew."""

    purpose: str
    backends: tuple[str, ...]
    answered: str
    notes: tuple[str, ...]
    plan: TrafficPlan | None
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Serves:
    """What a user sees; `lost_blocks` is 0 because the tip from before is in the verified chain, or the step failed."""

    height: int
    app_hash: str
    compared: int
    signing: tuple[str, ...]
    api: tuple[str, ...]
    providers: tuple[str, ...]
    lost_blocks: int


@dataclass(frozen=True, slots=True)
class Watched:
    """The blocks that were looked at afterwards."""

    first: int
    last: int
    signed: dict[str, int]


@step(title="Plan where users are sent", budget_s=20, retry=PROBE, acts=False)
def plan_traffic(ctx: Ctx, found: Relocation) -> TrafficPlan | None:
    """Weights of every name away from what is lost, from gateways that answer now; recorded before anything is written.

    None where the site names no traffic backends.
    """
    with open_site(ctx.order.site) as opened:
        if not opened.site.traffic.backends:
            ctx.say("this site names no traffic backends")
            return None
        kind, name = found.domain.split(" ", 1)
        domain = Domain("zone" if kind == "zone" else "region", name)
        steering = opened.traffic
        proofs = steering.prove()
        return steering.plan_away(
            [domain], proofs, epoch=epoch_of(ctx, opened), target=_receiver(ctx, opened, found, domain, proofs)
        )


def _receiver(ctx: Ctx, opened: OpenSite, found: Relocation, lost: Domain, proofs: Sequence[Proof]) -> str | None:
    """The target's region; None, for any that serves, where none of its gateways does: it may have died meanwhile."""
    target = region_of(opened, found.target)
    if target == lost.name:
        return None
    there = {gateway.name for gateway in opened.site.gateways if gateway.region == target}
    if any(proof.gateway in there and not proof.problem for proof in proofs):
        return target
    ctx.say(f"no gateway of {target} answers: users are sent to whoever does")
    return None


def shift_back(ctx: Ctx, shifted: Shifted | None) -> str:
    """Serves every name as before, by the recorded plan: also where nobody knows whether it was carried out."""
    with open_site(ctx.order.site) as opened:
        plan = shifted.plan if shifted else _recorded_plan(ctx, opened)
        if plan is None:
            return "nothing was written by a plan that is known: see vedr traffic show"
        return carry_out(ctx, opened, opened.traffic.plan_undo(plan, epoch=epoch_of(ctx, opened))).answered


def _recorded_plan(ctx: Ctx, opened: OpenSite) -> TrafficPlan | None:
    """The newest that this run recorded for this shift."""
    key = f"{plan_traffic.key}:{ctx.named}" if ctx.named else plan_traffic.key
    for entry in reversed(opened.journal.read(ctx.run_id).entries):
        if entry.kind == "step_completed" and entry.payload.get("step") == key:
            return plan_traffic.decode(entry.payload["result"])
    return None


@step(title="Send users elsewhere", budget_s=120, retry=ACT, undo=shift_back)
def shift_traffic(ctx: Ctx, plan: TrafficPlan | None) -> Shifted:
    """Serves the weights of the plan, and awaits that every name server that answers at all does so; safe to repeat."""
    if plan is None:
        return Shifted("", (), "this site names no traffic backends", (), None)
    with open_site(ctx.order.site) as opened:
        return carry_out_recorded(ctx, opened, plan)


def carry_out_recorded(ctx: Ctx, opened: OpenSite, plan: TrafficPlan) -> Shifted:
    """As `carry_out`, of a plan that may be old: `stale` when somebody wrote meanwhile, or a gateway of it fell silent.

    ConflictError when the lease has passed to another run.
    """
    if silent := opened.traffic.unproven(plan):
        return _stale(ctx, opened, plan, f"{', '.join(silent)} does not answer any more")
    try:
        return carry_out(ctx, opened, plan)
    except ConflictError as error:
        leases = Leases(opened.journal)
        leases.check(leases.acquire("failover", ctx.run_id))
        return _stale(ctx, opened, plan, error.message)


def _stale(ctx: Ctx, opened: OpenSite, plan: TrafficPlan, why: str) -> Shifted:
    """What it wrote, by the guard that it left, is this plan's to take back; the rest is as others have it."""
    ctx.say(f"{plan.purpose}: not as planned: {why}")
    stands = _what_stands(opened, plan)
    written = tuple(change.backend for change in stands.changes)
    return Shifted(plan.purpose, written, "", plan.notes, stands, stale=why)


def _what_stands(opened: OpenSite, plan: TrafficPlan) -> TrafficPlan:
    """The plan without what others have written since, or it never wrote."""
    written = opened.traffic.written_by(plan)
    return replace(plan, changes=tuple(change for change in plan.changes if change.backend in written))


def take_back(ctx: Ctx, opened: OpenSite, plan: TrafficPlan) -> str:
    """What this very plan wrote and nobody since, served as before it, as users' answers show; safe to repeat."""
    stands = _what_stands(opened, plan)
    if not stands.changes:
        return "nothing of it is served any more"
    return carry_out(ctx, opened, opened.traffic.plan_undo(stands, epoch=epoch_of(ctx, opened))).answered


def as_planned(plan_and_shift: Callable[[int], Shifted]) -> Shifted:
    """Plan and shift, again while a plan has become stale; each with its number, so that each is recorded apart.

    ConflictError when it never was as planned.
    """
    for number in range(1, MAX_PLANS + 1):
        shifted = plan_and_shift(number)
        if not shifted.stale:
            return shifted
    raise ConflictError(
        f"{shifted.purpose}: {MAX_PLANS} plans became stale, the last one: {shifted.stale}",
        remedy="Find out who else changes what users are sent to, then order a new run: keys that moved stay moved.",
    )


def carry_out(ctx: Ctx, opened: OpenSite, plan: TrafficPlan) -> Shifted:
    """Write it, and wait until users' answers show it."""
    leases = Leases(opened.journal)
    lease = leases.acquire("failover", ctx.run_id)
    written = opened.traffic.shift(plan, still_ours=lambda: leases.check(lease))
    answered = opened.traffic.wait_until_answered(plan)
    ctx.say(f"{plan.purpose}: {answered}")
    return Shifted(plan.purpose, written.written, str(answered), plan.notes, plan)


def epoch_of(ctx: Ctx, opened: OpenSite) -> int:
    """Of the lease under which this run acts."""
    return Leases(opened.journal).acquire("failover", ctx.run_id).epoch


def reserves_in_use(opened: OpenSite) -> frozenset[str]:
    """Gateways in reserve that some name leads to, which nothing but reserves serves there.

    A mesh that is silent was lost with its region.  UnavailableError when another backend can't be looked at.
    """
    if not opened.site.traffic.backends:
        return frozenset()
    reserves = {gateway.name for gateway in opened.site.gateways if gateway.reserve}
    found: set[str] = set()
    for traffic, picture in zip(opened.traffic.backends, opened.traffic.pictures(), strict=True):
        if isinstance(picture, VedrError):
            if traffic.backend.region is None:
                raise picture
            continue
        served = {name for share in picture.names.values() for name in share.serving}
        for endpoint in traffic.backend.endpoints:
            if endpoint.name in served and reserves.issuperset(endpoint.gateways):
                found.update(endpoint.gateways)
    return frozenset(found)


def region_of(opened: OpenSite, place: str) -> str:
    """The region that a place, `zone …` or `region …`, lies in."""
    name = place.split(" ", 1)[1]
    return next(
        (region for region, described in opened.site.regions.items() if name in (region, *described.zones)), name
    )


@step(title="Verify what users see", budget_s=90, retry=PROBE, acts=False)
def verify_service(ctx: Ctx, found: Relocation) -> Serves:
    """Awaits blocks, compares app hashes with a verified header, sees moved keys sign, asks the API and providers."""
    with open_site(ctx.order.site) as opened:
        seen = in_sync(ask(opened, opened.site.nodes))
        height = await_blocks(opened, seen, BLOCKS)
        light = opened.light_client(near=region_of(opened, found.target))  # what is lost is asked last
        app_hash, compared = compare(opened, light, seen, height)
        check_kept(light, found)
        signing = tuple(name for name in found.validators if await_signature(opened, seen, name, height))
        api = _api_through_names(opened)
        providers = tuple(
            provider.name
            for provider in opened.site.providers
            if provider.name in {one.reserve for one in found.handovers}
            and answers_http(f"{provider.url}{opened.site.traffic.health_path}", healthy=True)
        )
    missing = {one.reserve for one in found.handovers} - set(providers)
    if missing:
        raise VerificationFailedError(
            f"{', '.join(sorted(missing))} took over and does not serve", remedy="Look at its log, then resume."
        )
    ctx.say(f"height {height}, {compared} nodes agree on its app hash; {', '.join(signing) or 'no moved key'} signs")
    return Serves(height, app_hash, compared, signing, api, providers, lost_blocks=0)


def await_blocks(opened: OpenSite, seen: tuple[Seen, ...], blocks: int) -> Height:
    """The tip, once it grew by so many; VerificationFailedError when nobody answers or it stands."""
    if not seen:
        raise VerificationFailedError("no node answers in sync", remedy="Bring one back: RB-DR-001.")
    witness = max(seen, key=lambda one: one.status.latest_height)
    limit_s = BLOCK_TIMES * opened.site.chain.block_time_s
    try:
        return sync.wait_for_height(
            witness.rpc, Height(witness.status.latest_height + blocks), deadline_s=limit_s + blocks
        )
    except DeadlineError as error:
        raise VerificationFailedError(
            f"the chain makes no blocks: {error.message}",
            remedy="See which power is missing: vedr topology; bring back another validator.",
        ) from error


def compare(opened: OpenSite, light: LightClient, seen: tuple[Seen, ...], height: Height) -> tuple[str, int]:
    """The app hash of that block, and how many of the nodes show it; VerificationFailedError when one shows another."""
    header = light.verified_header(height)
    agree, differ = 0, []
    for one in in_sync(ask(opened, (known.node for known in seen))):
        if one.status.latest_height < height:
            continue
        if one.rpc.commit(height).header.app_hash.hex().upper() == header.app_hash:
            agree += 1
        else:
            differ.append(one.node.name)
    if differ or agree < MIN_COMPARED:
        raise VerificationFailedError(
            f"at height {height} {agree} nodes show the verified app hash, {', '.join(differ) or 'none'} another",
            remedy="Stop the nodes that differ and run RB-DR-004." if differ else "Bring back another node.",
        )
    return header.app_hash, agree


def check_kept(light: LightClient, found: Relocation) -> None:
    """VerificationFailedError when the newest block from before is not in the chain any more."""
    kept = light.verified_header(Height(found.tip_height))
    if kept.hash != found.tip_hash:
        raise VerificationFailedError(
            f"block {found.tip_height} was {found.tip_hash} before, the verified chain has {kept.hash}",
            remedy="Stop the validators: two histories exist.  Find out which signers made the other one (RB-DR-005).",
        )


def await_signature(opened: OpenSite, seen: tuple[Seen, ...], validator: str, first: Height) -> bool:
    """Until the commit of a block from `first` on holds its signature.

    VerificationFailedError when none does in time, or evidence is against it.
    """
    node = opened.site.node(validator)
    address = bytes.fromhex(node.address)
    witness = max(seen, key=lambda one: one.status.latest_height)
    for height in map(Height, range(first, first + round(BLOCK_TIMES))):
        sync.wait_for_height(witness.rpc, Height(height + 1), deadline_s=BLOCK_TIMES * opened.site.chain.block_time_s)
        if any(address in evidence.addresses for evidence in witness.rpc.block(height).evidence):
            raise VerificationFailedError(
                f"block {height} holds evidence against {validator}",
                remedy="Stop its signers at once and run RB-DR-005.",
            )
        commit = witness.rpc.commit(height).commit
        if any(sig.address == address and sig.flag is Flag.COMMIT for sig in commit.signatures):
            return True
    raise VerificationFailedError(
        f"{validator} signed none of the blocks {first} to {first + round(BLOCK_TIMES) - 1}",
        remedy=f"Its key is held by {holder_of(opened, node) or 'nobody'}: look at that signer's log.",
    )


def _api_through_names(opened: OpenSite) -> tuple[str, ...]:
    """What the global names lead to, each asked; VerificationFailedError when one of them does not serve."""
    if not opened.site.traffic.backends:
        return ()
    proven = {proof.gateway: proof.problem for proof in opened.traffic.prove()}
    found = []
    for traffic in opened.traffic.backends:
        answers = traffic.answers(opened.site.traffic.global_names)
        heard = {answer.name for answer in answers if not answer.silent}
        for answer in answers:
            if answer.silent and answer.name in heard:  # lost with its place: another server tells users
                found.append(f"{answer.name} at {answer.server}: not seen, it does not answer")
                continue
            gateways = {one.name: one.gateways for one in traffic.backend.endpoints}
            dead = [
                name
                for endpoint in answer.endpoints
                for name in gateways[endpoint]
                if proven.get(name, "is not of this site")
            ]
            if answer.problem or dead or not answer.endpoints:
                raise VerificationFailedError(
                    f"{answer.name} at {answer.server}: {answer.problem or f'leads to {dead or None}, not serving'}",
                    remedy="See vedr traffic show; then resume.",
                )
            found.append(f"{answer.name} at {answer.server}: {', '.join(answer.endpoints)}")
    return tuple(found)


@step(title="Watch for a second signature", budget_s=60, retry=PROBE, acts=False)
def watch_blocks(ctx: Ctx, found: Relocation) -> Watched:
    """Looks at the next blocks: evidence of misbehaviour ends it, and every moved key has to sign on."""
    with open_site(ctx.order.site) as opened:
        seen = in_sync(ask(opened, opened.site.nodes))
        last = await_blocks(opened, seen, WATCH_BLOCKS)
        first = Height(last - WATCH_BLOCKS + 1)
        witness = max(seen, key=lambda one: one.status.latest_height).rpc
        addresses = {bytes.fromhex(opened.site.node(name).address): name for name in found.validators}
        signed = dict.fromkeys(addresses.values(), 0)
        for height in map(Height, range(first, last)):
            if evidence := witness.block(height).evidence:
                raise VerificationFailedError(
                    f"block {height} holds {len(evidence)} pieces of evidence of misbehaviour",
                    remedy="Stop the signers of the validators that it names and run RB-DR-005.",
                )
            for sig in witness.commit(height).commit.signatures:
                if sig.flag is Flag.COMMIT and sig.address in addresses:
                    signed[addresses[sig.address]] += 1
    silent = [name for name, count in signed.items() if not count]
    if silent:
        raise VerificationFailedError(
            f"{', '.join(silent)} signed none of the blocks {first} to {last - 1}", remedy="Look at its signer's log."
        )
    return Watched(first, last - 1, signed)
