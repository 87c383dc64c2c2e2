"""Steps that move things: a validator's key to a standby, a provider's state to one in reserve, reserves into service.

1. Appoint the standby's signer by name, in a majority of the regions.
2. Start its unit: it connects to its node and waits; at the node's first request it takes the registers over, and
   whoever held them before is refused from then on, dead, cut off or alive.
3. Let its node wait for it, and restart that.
4. Await that the registers name it: a node in sync that is refused its first signature, because the registers did not
   answer just then, does not ask for it again, which on a halted chain is for ever; it is restarted, and asks anew.
   Then release the one that held it before, if that answers.
5. A standby that ends by itself, or whose host is silent, is released, and the next one appointed.

Guarantees: no key is used by two signers, whatever happens between these; each step may be repeated.
Leaves out: validators that sign from a key file, which stay where they are (relocation says so).
"""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.observing import ask, in_sync
from tasks.outages import named_in, shown_of
from tasks.provider_states import earlier_holders, newest_state, passings
from tasks.providers import take_state
from tasks.serving import reserves_in_use
from tasks.signing import start_with_signer, wait_until
from vedr.adapters.answering import answers_http
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.adapters.snapshots import reconcile_provider
from vedr.backup import restore
from vedr.chain.appointment import appoint, appointed
from vedr.chain.node_config import set_signer_address, signer_address
from vedr.chain.register import Content, Validator
from vedr.errors import DeadlineError, NotFoundError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.relocation import Handover, Move, signer_named
from vedr.inventory import Node, Provider, RemoteSigner
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

ACT: Final = Retry(attempts=3, delay_s=2.0)
HOLD_LIMIT_S: Final = 60.0  # until the standby's signer was asked for a signature, and holds the registers
SERVE_LIMIT_S: Final = 30.0
ASK_ANEW_S: Final = 20.0  # a node in sync asks for its first signature within a block, or a round's first timeouts
MOST_STARTS: Final = 3  # of a signer that ends: a register that was slow at its first look is not its token's loss

Ctx = Context[Order]


@dataclass(frozen=True, slots=True)
class Promoted:
    """A key that signs elsewhere now."""

    validator: str
    signer: str
    node: str
    position: str
    appointment: int
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A provider's state in another's hands; `replayed_from` is the lowest sequence that is handled next."""

    provider: str
    reserve: str
    snapshot: str
    replayed_from: int
    detail: str


@step(title="Move the keys", budget_s=120, retry=ACT, cannot_undo="the keys sign where they are now: run the failback")
def promote(ctx: Ctx, moves: tuple[Move, ...]) -> tuple[Promoted, ...]:
    """Appoints the standbys' signers, starts them, lets their nodes wait, and awaits that the registers name them.

    All at once: each key has its own appointment, register, signer and node.  One that fails holds up no other.
    """
    with open_site(ctx.order.site) as opened, ThreadPoolExecutor(len(moves), "promoting") as pool:
        under_way = [pool.submit(_promoted, ctx, opened, move) for move in moves]
        failed = [error for one in under_way if (error := one.exception()) is not None]
        if failed:
            raise _joined(failed)
        return tuple(one.result() for one in under_way)


def _promoted(ctx: Ctx, opened: OpenSite, move: Move) -> Promoted:
    """To the first of its standbys that signs; who has the key already, or was appointed by this run, is the first."""
    candidates = _candidates(ctx, opened, move)
    for name in candidates:
        signer = signer_named(opened.site, name)
        try:
            promoted = put_in_charge(ctx, opened, signer)
            break
        except (DeadlineError, NotFoundError, UnavailableError, VerificationFailedError) as error:
            held_by = named_in(opened, shown_of(opened, opened.site.node(move.validator)))  # raises without a majority
            if name in (candidates[-1], held_by):
                raise
            ctx.say(f"{name} does not sign ({error.message}): the next of {move.validator}'s standbys is tried")
            _release_if_it_answers(ctx, opened, signer)
    if move.holder:
        _release_if_it_answers(ctx, opened, signer_named(opened.site, move.holder))
    return promoted


def _candidates(ctx: Ctx, opened: OpenSite, move: Move) -> tuple[str, ...]:
    """A repetition goes on with the one that an earlier attempt had come to."""
    wanted = (move.signer, *move.others)
    validator = opened.site.node(move.validator)
    order = appointed(opened.registers, Validator(opened.site.chain.chain_id, validator.address))
    reached = [named_in(opened, shown_of(opened, validator))]
    reached += [order.name] if order and order.run_id == ctx.run_id else []
    first = next((name for name in reached if name in wanted), move.signer)
    return wanted[wanted.index(first) :]


def _release_if_it_answers(ctx: Ctx, opened: OpenSite, signer: RemoteSigner) -> None:
    try:
        release(ctx, opened, signer)
    except (UnavailableError, DeadlineError) as error:
        ctx.say(f"{signer.name} can't be stopped ({error.message}): the registers refuse it in any case")


def _joined(failed: Sequence[BaseException]) -> BaseException:
    """One error for all: what no retry can help before what one may."""
    ours = [error for error in failed if isinstance(error, VedrError)]
    if len(ours) < len(failed):  # a fault of this program
        return next(error for error in failed if error not in ours)
    first = min(ours, key=lambda error: error.transient)
    return type(first)("; ".join(error.message for error in ours), remedy=first.remedy) if len(ours) > 1 else first


def put_in_charge(ctx: Ctx, opened: OpenSite, signer: RemoteSigner, *, hold_limit_s: float = HOLD_LIMIT_S) -> Promoted:
    """(1) to (4); `hold_limit_s` has room for what its node has to catch up with before it asks for a signature.

    Raises:
        UnavailableError: no majority of the regions, or the standby's host does not answer.
        DeadlineError: its node does not come up, or asked for no signature in time.
        VerificationFailedError: it ends by itself: without its token, for one.
    """
    began = time.monotonic()
    validator, node = opened.site.node(signer.validator), opened.site.node(signer.node)
    known = Validator(opened.site.chain.chain_id, validator.address)
    appointed = appoint(opened.registers, known, signer.name, run_id=ctx.run_id, at=utc_now())  # (1)
    ctx.say(f"{signer.name} is to hold the key of {validator.name} (appointment {appointed.seq})")
    opened.fleet.start(signer.unit, node.zone)  # (2)
    check_signer = _restarted(opened, signer)
    let_wait(ctx, opened, node, signer.listen, check_signer=check_signer)  # (3)
    last: list[Content] = []

    ask_anew = _asking(ctx, opened, node, signer.listen, check_signer=check_signer)

    def is_named() -> bool:
        check_signer()
        last[:] = [shown_of(opened, validator)]  # while no majority answers, its node could only be refused again
        if named_in(opened, last[0]) == signer.name:
            return True
        ask_anew()
        return False

    wait_until(  # (4)
        is_named,
        hold_limit_s,
        f"{signer.name} was not asked for a signature",
        f"See the logs of {signer.unit} and {node.unit} in {node.zone}; then resume.",
    )
    ctx.say(f"the registers name {signer.name} at {last[0].position}: every other signer of this key is refused")
    took_ms = round((time.monotonic() - began) * 1000)
    return Promoted(validator.name, signer.name, node.name, str(last[0].position), appointed.seq, took_ms)


def _restarted(opened: OpenSite, signer: RemoteSigner) -> Callable[[], None]:
    """Starts it again when it has ended by itself; VerificationFailedError when that was its last start."""
    zone, starts = opened.site.node(signer.node).zone, 1

    def check() -> None:
        nonlocal starts
        if opened.fleet.status(signer.unit, zone).state != "failed":
            return
        if starts == MOST_STARTS:
            raise VerificationFailedError(
                f"{signer.name} ends by itself", remedy=f"See the log of {signer.unit} in {zone}; vedr hsm check."
            )
        starts += 1
        opened.fleet.start(signer.unit, zone)

    return check


def _asking(
    ctx: Ctx, opened: OpenSite, node: Node, address: str, *, check_signer: Callable[[], None]
) -> Callable[[], None]:
    """Restarts the node when it has been in sync for ASK_ANEW_S, and its signer still holds nothing."""
    since_s: float | None = None

    def check() -> None:
        nonlocal since_s
        if not in_sync(ask(opened, [node])):
            since_s = None
        elif since_s is None:
            since_s = time.monotonic()
        elif time.monotonic() - since_s >= ASK_ANEW_S:
            ctx.say(f"{node.name} is in sync and its signer was given nothing to sign: it is restarted, and asks anew")
            stop_unit(ctx, opened, node)
            start_with_signer(opened, node, address, check_signer=check_signer)
            since_s = None

    return check


def release(ctx: Ctx, opened: OpenSite, signer: RemoteSigner) -> None:
    """End a superseded signer.  A full node that it served is one again; a validator's own, which would hang, ends.

    UnavailableError when its host does not answer.
    """
    node = opened.site.node(signer.node)
    opened.fleet.stop(signer.unit, node.zone)
    if node.is_validator:
        stop_unit(ctx, opened, node)
    else:
        let_wait(ctx, opened, node, "")
        ctx.say(f"{node.name} is a full node again")


def let_wait(
    ctx: Ctx, opened: OpenSite, node: Node, address: str, *, check_signer: Callable[[], None] = lambda: None
) -> None:
    """(3) Restart the node with that signer address where it has another; start it where it does not run.

    It is stopped before its configuration is changed: whoever repeats this finds the old one in the file as long as
    the node may run with it.
    """
    home = opened.files.home(node)
    if signer_address(home) != address:
        stop_unit(ctx, opened, node)
        set_signer_address(home, address)
    start_with_signer(opened, node, address, check_signer=check_signer)


def stop_unit(ctx: Ctx, opened: OpenSite, thing: Node | Provider) -> None:
    """End it, by force when it does not end by itself."""
    try:
        opened.fleet.stop(thing.unit, thing.zone)
    except DeadlineError:
        ctx.say(f"{thing.name} does not end by itself: it is killed")
        opened.fleet.kill(thing.unit, thing.zone)
        opened.fleet.stop(thing.unit, thing.zone)


def stop_reserves(ctx: Ctx, started: tuple[str, ...] | None) -> str:
    """Stops the gateways that it started, where no name leads to them."""
    if started is None:
        return "which reserves it started is not known: vedr traffic show; stop by hand those that no name leads to"
    with open_site(ctx.order.site) as opened:
        used = reserves_in_use(opened)
        for gateway in opened.site.gateways:
            if gateway.name in started and gateway.name not in used:
                opened.fleet.stop(gateway.unit, gateway.zone)
    serving = f"; {', '.join(sorted(used.intersection(started)))} serves on" if used.intersection(started) else ""
    return f"stopped {', '.join(name for name in started if name not in used) or 'nothing'}{serving}"


@step(title="Bring reserves into service", budget_s=30, retry=ACT, undo=stop_reserves)
def start_reserves(ctx: Ctx, gateways: tuple[str, ...]) -> tuple[str, ...]:
    """Starts the gateways that stand in reserve in the target, and names those that did not serve already."""
    with open_site(ctx.order.site) as opened:
        chosen = [gateway for gateway in opened.site.gateways if gateway.name in gateways]
        stopped = [one for one in chosen if opened.fleet.status(one.unit, one.zone).state != "running"]
        for gateway in chosen:
            opened.fleet.start(gateway.unit, gateway.zone)
    return tuple(gateway.name for gateway in stopped)


@step(
    title="Hand the provider's state over", budget_s=90, retry=ACT,
    cannot_undo="the reserve serves with its state: run the failback, which gives it back",
)  # fmt: skip
def hand_over(ctx: Ctx, handover: Handover) -> HandedOver:
    """Restores a provider's newest state into the one in reserve, reconciled with the chain, and starts that one.

    Whoever had the state before, and may be at work again where it was lost, is stopped first, where it answers.
    """
    with open_site(ctx.order.site) as opened:
        given, taker = provider_named(opened, handover.provider), provider_named(opened, handover.reserve)
        is_proven_stopped = True
        try:
            if opened.fleet.status(given.unit, given.zone).state == "running":  # emptied, not lost: nothing need be old
                ctx.say(f"{given.name}: {take_state(opened, given).snapshot} stored")
            stop_unit(ctx, opened, given)
        except UnavailableError as error:
            is_proven_stopped = False
            ctx.say(f"{given.name} can't be asked to stop ({error.message}): its disk proves nothing")
        _stop_earlier_holders(ctx, opened, given)
        found = give_state(ctx, opened, given, taker, survivor=given.home if is_proven_stopped else None)
    ctx.say(found.detail)
    return found


def _stop_earlier_holders(ctx: Ctx, opened: OpenSite, given: Provider) -> None:
    for name in earlier_holders(passings(opened), given.name):
        if earlier := next((one for one in opened.site.providers if one.name == name), None):
            try:
                stop_unit(ctx, opened, earlier)
            except UnavailableError as error:
                ctx.say(f"{name}, which had that state before, can't be asked to stop ({error.message})")


def give_state(ctx: Ctx, opened: OpenSite, given: Provider, taker: Provider, *, survivor: Path | None) -> HandedOver:
    """The newest stored state of one in the other's home, its checkpoints at what the surviving disk proves; started.

    Raises:
        NotFoundError: no state of it was ever stored.
    """
    newest = newest_state(opened, passings(opened), given)
    verified = restore.open_manifest(opened.repository, newest, chain_id=None, prefer=(taker.region,))
    stop_unit(ctx, opened, taker)
    scratch = taker.home / f"handover-{ctx.run_id}"
    scratch.mkdir(parents=True, exist_ok=True)
    staged = restore.fetch(opened.repository, verified, scratch, ctx.run_id, prefer=(taker.region,))
    has_survivor = survivor is not None and (survivor / "data").is_dir()
    advances = reconcile_provider(opened, staged.path, survivor if has_survivor else None)
    _take_its_place(staged.path / "data", taker.home, ctx.run_id)
    shutil.rmtree(scratch)
    opened.fleet.start(taker.unit, taker.zone)
    health = f"{taker.url}{opened.site.traffic.health_path}"
    wait_until(
        lambda: answers_http(health, healthy=True),
        SERVE_LIMIT_S,
        f"{taker.name} does not serve with {given.name}'s state",
        f"See its log on its host in {taker.zone}; resume.",
    )
    skipped = max(advance.skips_replay_of for advance in advances)
    proven = f"its disk proves {skipped} sequences more" if has_survivor else "what it did since is handled again"
    return HandedOver(
        provider=given.name,
        reserve=taker.name,
        snapshot=newest.id,
        replayed_from=min(advance.last_sequence for advance in advances),
        detail=f"{taker.name} goes on where {given.name} was in {newest.id}; {proven}",
    )


def _take_its_place(data: Path, home: Path, run_id: str) -> None:
    """The new data for the old, by rename; the old is kept beside it."""
    kept = home / f"data.vedr-old-{run_id}"
    if (home / "data").exists():
        if kept.exists():  # an earlier try came this far
            shutil.rmtree(home / "data")
        else:
            (home / "data").rename(kept)
    data.rename(home / "data")


def provider_named(opened: OpenSite, name: str) -> Provider:
    """NotFoundError when the site has no such provider."""
    for provider in opened.site.providers:
        if provider.name == name:
            return provider
    raise NotFoundError(f"site {opened.site.name} has no provider {name!r}", remedy="See vedr site show.")
