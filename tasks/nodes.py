"""Steps of RB-DR-001: one node crashed, lost its disk, or does not answer.

Guarantees: a healthy node is refused; a validator is recovered in place, on its own host, and starts only above a floor
that its fence, its disk and the chain prove; what was there before is kept until the node is seen to serve again.
Leaves out: moving a validator to another host, which the promotion protocol of RB-DR-002 and -003 does.
"""

from dataclasses import dataclass
from typing import Final

from tasks.observing import Seen, ask, others, references, tip_of
from tasks.orders import SingleNodeFailure
from tasks.recovery import Participating, Proven, bring, ensure_stopped, participation, points_of, swap, wait_in_sync
from tasks.signing import (
    SLOWEST_BLOCK_TIMES,
    Guarded,
    give_sign_state,
    guard,
    set_aside_unreadable,
    signer_state,
    start_guarded,
)
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.backup import restore
from vedr.backup.layout import parse_id
from vedr.backup.restore import Swapped
from vedr.chain import quorum, state_sync, sync
from vedr.chain.light import VerifiedHeader
from vedr.chain.rpc import signing_lately
from vedr.errors import CorruptError, DeadlineError, UnavailableError, VedrError
from vedr.failover import node_failure
from vedr.failover.node_failure import Choice, Evidence, Judgement, Symptom, Way
from vedr.inventory import Height, Node
from vedr.ports import UnitState
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=1.0)
ACT: Final = Retry(attempts=3, delay_s=2.0)

RATES_BLOCKS_PER_S: Final = 20.0
RATES_STATE_SYNC_BYTES_PER_S: Final = 10e6
RATES_RESTORE_BYTES_PER_S: Final = 50e6
"""Cautious rates for the prediction; a node restores and applies faster than this, or the prediction is late."""

Ctx = Context[SingleNodeFailure]


@dataclass(frozen=True, slots=True)
class Impact:
    """What the node's absence means for consensus."""

    summary: str
    online_power: int
    needed_power: int
    total_power: int
    halted: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """How the node's data came to be what it is now."""

    way: Way
    snapshot: str
    height: int
    detail: str


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Where the node and the chain stood when it had caught up, and whether the way had to be changed."""

    height: int
    tip: int
    way: Way


@step(title="Verify the failure", budget_s=25, retry=PROBE, acts=False)
def verify_failure(ctx: Ctx) -> Judgement:
    """Asks the node's supervisor and its RPC, and compares with the other nodes; refuses when the node is healthy."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        judgement = node_failure.judge(_evidence(opened, node))
    ctx.say(f"{node.name} is confirmed {judgement.symptom}: {judgement.finding}")
    return judgement


def _evidence(opened: OpenSite, node: Node) -> Evidence:
    try:
        unit: UnitState | None = opened.fleet.status(node.unit, node.zone).state
    except UnavailableError:
        unit = None
    own = ask(opened, [node])
    opens, finding = (None, "") if unit in ("running", "paused", None) else _data_opens(opened, node)
    return Evidence(
        node=node.name,
        unit=unit,
        height=own[0].status.latest_height if own else None,
        catching_up=own[0].status.catching_up if own else None,
        tip=tip_of(others(opened, node)),
        data_opens=opens,
        data_finding=finding,
        signer=signer_state(opened, node),
    )


def _data_opens(opened: OpenSite, node: Node) -> tuple[bool, str]:
    home = opened.files.home(node)
    try:
        inspected = opened.inspector.inspect(home, home / "data")
    except (CorruptError, DeadlineError) as error:
        return False, error.message
    if inspected.chain_id != opened.site.chain.chain_id:
        return False, f"its data is of chain {inspected.chain_id}"
    return True, ""


@step(title="Assess the impact on consensus", budget_s=10, retry=PROBE, acts=False)
def assess_consensus(ctx: Ctx) -> Impact:
    """Counts the voting power that still signs, and what further loss would halt the chain."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        witness = references(opened, node)[0]
        height = witness.status.latest_height
        powers = quorum.map_power(opened.site, witness.rpc.validators(height))
        impact = quorum.assess(powers, signing_lately(witness.rpc, height), losing=[quorum.Domain("node", node.name)])
    ctx.say(str(impact))
    return Impact(str(impact), impact.online, impact.needed, impact.total, impact.halted)


@step(title="Choose the way back", budget_s=20, retry=PROBE, acts=False)
def choose_way(ctx: Ctx, judgement: Judgement) -> Choice:
    """Predicts the time of block sync, state sync and a store snapshot; a restart goes first where the data opens."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        local = Height(0)
        if judgement.symptom is not Symptom.DATA_LOST:
            local = Height((tip_of(references(opened, node)) or 0) - (judgement.lag_blocks or 0))
        predictions = sync.predict(situation(opened, node, local), rates(opened))
    choice = node_failure.choose_way(judgement, ctx.order.way, predictions)
    ctx.say(f"{choice.way}: about {choice.predicted_s:.0f} s, {choice.reason}")
    return choice


def rates(opened: OpenSite) -> sync.Measured:
    """How fast things are taken to go, cautiously."""
    return sync.Measured(
        apply_blocks_per_s=RATES_BLOCKS_PER_S,
        chain_blocks_per_s=1 / opened.site.chain.block_time_s,
        state_sync_bytes_per_s=RATES_STATE_SYNC_BYTES_PER_S,
        restore_bytes_per_s=RATES_RESTORE_BYTES_PER_S,
    )


def situation(opened: OpenSite, node: Node, local_height: Height) -> sync.Situation:
    """Where the node, whose own data reaches `local_height`, and its helpers stand."""
    peers = references(opened, node)
    tip = max(one.status.latest_height for one in peers)
    interval = opened.site.chain.state_sync_interval
    size, snapshot_height = _newest_snapshot(opened)
    return sync.Situation(
        local_height=local_height,
        tip=tip,
        earliest_served=min(one.status.earliest_height for one in peers),
        chain_moves=_moves(opened, peers),
        state_sync_servers=sum(one.node.role != "validator" for one in peers) if interval else 0,
        state_sync_height=Height(tip // interval * interval) if interval and tip > interval else None,
        state_sync_bytes=size,
        snapshot_height=snapshot_height,
        snapshot_bytes=size,
    )


def _moves(opened: OpenSite, peers: tuple[Seen, ...]) -> bool:
    """Whether the newest block is young enough for a chain that makes blocks."""
    newest_ns = max(one.status.latest_time_ns for one in peers)
    age_s = utc_now().timestamp() - newest_ns / 1e9
    return age_s < opened.site.chain.max_clock_drift_s + SLOWEST_BLOCK_TIMES * opened.site.chain.block_time_s


def _newest_snapshot(opened: OpenSite) -> tuple[int, Height | None]:
    """Bytes and height of the newest snapshot in the stores, `(0, None)` when there is none or no store answers."""
    try:
        listed = points_of(opened).points[0].listed()
        verified = restore.open_manifest(opened.repository, listed, chain_id=opened.site.chain.chain_id)
    except VedrError:
        return 0, None
    return verified.manifest.total_bytes, verified.manifest.height


@step(
    title="Stop what is left of it", budget_s=30, retry=ACT,
    cannot_undo="the node had failed before: run RB-DR-001 for it again, which guards its signature",
)  # fmt: skip
def stop_node(ctx: Ctx) -> str:
    """Stops the unit on its host, by force when it does not end by itself, so that nothing writes and nothing signs."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        return ensure_stopped(ctx, opened, node)


@step(
    title="Recover the data", budget_s=90, retry=ACT,
    cannot_undo="what was there before lies in the node's home as data.vedr-old-<run>, where it was exchanged",
)  # fmt: skip
def recover_data(ctx: Ctx, choice: Choice) -> Recovered:
    """Brings the data back by the chosen way; the old data stays beside it until the node serves again."""
    with open_site(ctx.order.site) as opened:
        return _recover(ctx, opened, opened.site.node(ctx.order.node), choice.way)


def _recover(ctx: Ctx, opened: OpenSite, node: Node, way: Way) -> Recovered:
    if way is not Way.RESTART:
        restore.require_exchangeable(opened.files.home(node))
        ensure_stopped(ctx, opened, node)  # once more: since it was, somebody may have started the node, or its host
    if way is not Way.RESTART and node.is_validator and not opened.site.signers_of(node.name):
        set_aside_unreadable(opened, node, ctx.say)
    match way:
        case Way.RESTART:
            return Recovered(way, "", 0, "its own data is kept")
        case Way.SNAPSHOT if done := restore.swapped_before(opened.files.home(node), ctx.run_id):
            return Recovered(way, done, parse_id(done).height, "a try that was cut short had it proven and in place")
        case Way.SNAPSHOT:
            proven = bring(ctx, opened, node, points_of(opened))
            swap(ctx, opened, node, proven)
            return Recovered(way, proven.snapshot, proven.height, _what_was_brought(proven))
        case Way.BLOCK_SYNC:
            state_sync.start_afresh(sync_plan(ctx.run_id, opened, node))
            give_sign_state(opened, node)
            return Recovered(way, "", 0, "starts from genesis and fetches all blocks from its peers")
        case Way.STATE_SYNC:
            trusted = begin_state_sync(ctx.run_id, opened, node)
            return Recovered(way, "", 0, f"trusts header {trusted.height} {trusted.hash}")


def _what_was_brought(proven: Proven) -> str:
    regions = ", ".join(proven.from_regions) or "an earlier try"
    passed = f"; passed over: {'; '.join(proven.passed_over)}" if proven.passed_over else ""
    return (
        f"{proven.total_bytes} bytes from {regions} in {proven.fetch_ms} ms, "
        f"app hash {proven.app_hash} at height {proven.height} proven by a boot of {proven.boot_ms} ms{passed}"
    )


def begin_state_sync(run_id: str, opened: OpenSite, node: Node) -> VerifiedHeader:
    """Let the stopped node start by state sync; the header that it trusts."""
    servers = [one for one in references(opened, node) if one.node.role != "validator"]
    chosen = [one.node.rpc for one in servers[: sync.STATE_SYNC_SERVERS]]
    trusted = opened.light_client(near=node.region, besides=node.name).verified_tip()
    state_sync.prepare(
        sync_plan(run_id, opened, node), chosen, trusted, trust_period_s=opened.site.chain.trust_period_s
    )
    give_sign_state(opened, node)
    return trusted


def sync_plan(run_id: str, opened: OpenSite, node: Node) -> state_sync.StateSyncPlan:
    """Where the run keeps what state sync and block sync set aside."""
    return state_sync.StateSyncPlan(opened.files.home(node), run_id)


@step(
    title="Guard against a second signature", budget_s=25, retry=PROBE,
    cannot_undo="a sign-state only ever rises: nothing has to be done",
)  # fmt: skip
def guard_signing(ctx: Ctx) -> Guarded:
    """Validators: fences the old signer, finds the floor that its disk, the chain and survivors prove, writes it."""
    with open_site(ctx.order.site) as opened:
        return guard(opened, opened.site.node(ctx.order.node), ctx.say)


@step(title="Start the node", budget_s=10, retry=ACT, cannot_undo="the node runs, and signs above its floor only")
def start_node(ctx: Ctx, guarded: Guarded) -> str:
    """Starts the unit on its host."""
    with open_site(ctx.order.site) as opened:
        return start_guarded(opened, opened.site.node(ctx.order.node), guarded)


@step(title="Watch it catch up", budget_s=40, retry=PROBE, cannot_undo="the node runs with what was brought")
def monitor_sync(ctx: Ctx, recovered: Recovered) -> CaughtUp:
    """Waits until it is at the tip; a state sync or block sync that stalls is replaced by a snapshot."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        try:
            seen = wait_in_sync(ctx, opened, node)
            way = recovered.way
        except DeadlineError as stalled:
            if recovered.way is Way.SNAPSHOT:
                raise
            ctx.say(f"{recovered.way} stalled ({stalled.message}): a snapshot takes its place")
            seen, way = _replace_by_snapshot(ctx, opened, node), Way.SNAPSHOT
    return CaughtUp(seen.height, seen.tip, way)


def _replace_by_snapshot(ctx: Ctx, opened: OpenSite, node: Node) -> sync.CatchUp:
    ensure_stopped(ctx, opened, node)
    state_sync.undo(sync_plan(ctx.run_id, opened, node))
    proven = bring(ctx, opened, node, points_of(opened))
    swap(ctx, opened, node, proven)
    start_guarded(opened, node, guard(opened, node, ctx.say))
    return wait_in_sync(ctx, opened, node)


@step(title="Verify that it takes part", budget_s=15, retry=PROBE, acts=False)
def verify_participation(ctx: Ctx) -> Participating:
    """Compares its block and app hash with a verified header; a validator's signature must be in a new commit."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        return participation(opened, node)


@step(title="Tidy up", budget_s=5, retry=ACT, cannot_undo="the data from before may be gone: the node serves")
def tidy_up(ctx: Ctx, caught_up: CaughtUp) -> str:
    """Removes the data that was kept for the way back, now that the node is seen to serve."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        home = opened.files.home(node)
        if caught_up.way is Way.RESTART:
            return "nothing was kept"
        state_sync.finish(sync_plan(ctx.run_id, opened, node))
        restore.discard_old(Swapped(home, ctx.run_id, home / "data", None))
        restore.discard_staged(home, ctx.run_id)
        return "the old data is removed"
