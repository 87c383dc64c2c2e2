"""Steps of RB-DR-004: a node's state, databases or configuration are damaged.

Guarantees: a healthy node is refused; the damaged data is kept, whole, with a list of what it was, and never deleted by
this run; nothing takes its place that was not compared with headers verified over other nodes; a validator starts only
above a floor that its fence, its disk and the chain prove.
Leaves out: finding the root cause, which a person does within 72 hours from what was kept (`vedr bcp deadlines`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.corruption_bringing import Brought, bring_good_data, choices, prove_at_rest, size_of
from tasks.corruption_detecting import Looking
from tasks.corruption_orders import DataCorruption
from tasks.nodes import begin_state_sync, sync_plan
from tasks.observing import references
from tasks.recovery import bring, ensure_stopped, participation, points_of, swap, wait_in_sync
from tasks.signing import Guarded, give_sign_state, guard, set_aside_unreadable, start_guarded
from vedr.adapters.site import OpenSite, open_site
from vedr.backup import restore
from vedr.backup.layout import SnapshotId
from vedr.backup.restore import Staged, Swapped
from vedr.chain import state_sync, sync
from vedr.chain.diagnosis import claims_of_node, settle
from vedr.chain.durable import replace_file
from vedr.errors import DeadlineError, VerificationFailedError
from vedr.failover import corruption_evidence as evidence
from vedr.failover.corruption import Diagnosis, judge, merged, shown
from vedr.failover.corruption_config import GoodFile, good_file
from vedr.failover.corruption_offsets import Compared, compare_with_store
from vedr.failover.corruption_ways import Choices, Way
from vedr.inventory import Height, Node
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=3, delay_s=2.0)
ACT: Final = Retry(attempts=3, delay_s=5.0)
MIN_AGREEING: Final = 2
CONFIG_MODE: Final = 0o644

Ctx = Context[DataCorruption]


@dataclass(frozen=True, slots=True)
class Preserved:
    """Where the damage is kept, and the record of it."""

    folder: str
    record: str
    record_sha256: str
    files: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """A configuration file that was put in place, and where it is from."""

    name: str
    origin: str
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreed:
    """The node's state as verified: its app hash, and who else shows it."""

    height: int
    app_hash: str
    others: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class RootCause:
    """What a person starts from to find the root cause; due within 72 hours of the detection."""

    findings: tuple[str, ...]
    evidence: str
    compared_with: str
    compared_files: int
    damaged: tuple[str, ...]
    not_compared: str


@step(title="Detect what is damaged", budget_s=120, retry=PROBE, acts=False)
def detect_corruption(ctx: Ctx) -> Diagnosis:
    """Compares what the node says with verified headers, reads its files and log; refuses a healthy node."""
    with open_site(ctx.order.site) as opened:
        seen = Looking(opened, opened.site.node(ctx.order.node), ctx.order.kind).evidence()
    diagnosis = judge(seen, ctx.order.kind)
    ctx.say(f"{diagnosis.node}: {diagnosis.kind} is damaged: {shown(diagnosis.findings)}")
    if diagnosis.others_wrong:
        ctx.say(
            f"{', '.join(diagnosis.others_wrong)} show another block than the verified one: order this for them too"
        )
    return diagnosis


@step(title="Stop the node", budget_s=60, retry=ACT)
def stop_corrupt(ctx: Ctx) -> str:
    """Stops the unit on its host, by force when it does not end by itself, so that nothing writes and nothing signs."""
    with open_site(ctx.order.site) as opened:
        return ensure_stopped(ctx, opened, opened.site.node(ctx.order.node))


@step(title="Read all of it at rest", budget_s=300, retry=PROBE, acts=False)
def examine_at_rest(ctx: Ctx, diagnosis: Diagnosis) -> Diagnosis:
    """Opens the databases, now that no process uses them, reads every key where the site can, adds what it finds."""
    with open_site(ctx.order.site) as opened:
        seen = Looking(opened, opened.site.node(ctx.order.node), ctx.order.kind).evidence()
    whole = merged(diagnosis, seen)
    ctx.say(f"{len(whole.findings)} findings: {shown(whole.findings)}")
    return whole


@step(
    title="Keep the damaged data",
    budget_s=300,
    retry=ACT,
    cannot_undo="The damaged data lies beside the node as vedr-damaged-<run>; move it back by hand only to look at it.",
)
def preserve_damage(ctx: Ctx, diagnosis: Diagnosis) -> Preserved:
    """Renames the damaged data aside, lists every file with its SHA-256; nothing of it is deleted by this run."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        home = opened.files.home(node)
        evidence.copy_files(home, ctx.run_id, diagnosis.config_files)
        if diagnosis.is_data_lost:
            evidence.require_room(home, size_of(home / "data"))
            if node.is_validator and not opened.site.signers_of(node.name):
                set_aside_unreadable(opened, node, ctx.say)
            evidence.set_aside_data(home, ctx.run_id)
        elif diagnosis.is_log_lost:
            evidence.set_aside_log(home, ctx.run_id)
        kept = evidence.write_record(home, ctx.run_id, node.name, diagnosis.findings)
    ctx.say(f"{kept.files} files, {kept.total_bytes} bytes kept in {kept.folder}")
    return Preserved(str(kept.folder), str(kept.record), kept.record_sha256, kept.files, kept.total_bytes)


@step(title="Restore the configuration", budget_s=120, retry=ACT)
def restore_configuration(ctx: Ctx, diagnosis: Diagnosis) -> tuple[Replaced, ...]:
    """Replaces broken files from the newest good configuration backup, the genesis from the site's own; never keys."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        home, chain = opened.files.home(node), opened.site.chain
        good = [good_file(opened.repository, chain, node, name) for name in diagnosis.config_files]
        for one in good:
            replace_file(home / one.name, one.content, mode=CONFIG_MODE)
            ctx.say(_said(one))
    return tuple(Replaced(one.name, one.origin, one.passed_over) for one in good)


def _said(one: GoodFile) -> str:
    passed = f"; passed over: {shown(one.passed_over)}" if one.passed_over else ""
    return f"{one.name} is restored from {one.origin}{passed}"


@step(title="Choose the way back", budget_s=60, retry=PROBE, acts=False)
def choose_recovery(ctx: Ctx, diagnosis: Diagnosis) -> Choices:
    """Predicts the time of every way: new log, rollback, local copy, state sync, snapshot, block sync."""
    with open_site(ctx.order.site) as opened:
        found = choices(opened, opened.site.node(ctx.order.node), diagnosis, ctx.run_id)
    first = found.ways[0]
    ctx.say(f"{first.way}: about {first.predicted_s:.0f} s, {first.reason}; {len(found.ways) - 1} other ways are open")
    return found


@step(title="Bring good data and prove it", budget_s=1800, retry=ACT)
def bring_and_prove(ctx: Ctx, found: Choices) -> Brought:
    """Brings it beside the node, by the quickest way whose data matches verified headers, key by key if possible."""
    with open_site(ctx.order.site) as opened:
        brought = bring_good_data(ctx, opened, opened.site.node(ctx.order.node), found)
    ctx.say(f"{brought.way} from {brought.source}: {brought.proof}")
    return brought


@step(title="Put it in place", budget_s=60, retry=ACT)
def put_in_place(ctx: Ctx, brought: Brought) -> str:
    """Swaps by rename; a validator's sign-state is carried over and never lowered."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        ensure_stopped(ctx, opened, node)  # once more: since it was, somebody may have started the node, or its host
        match brought.way:
            case Way.KEEP | Way.NEW_LOG:
                return "its own databases stay"
            case Way.STATE_SYNC:
                trusted = begin_state_sync(ctx.run_id, opened, node)
                return f"it will trust header {trusted.height} {trusted.hash}"
            case Way.BLOCK_SYNC:
                state_sync.start_afresh(sync_plan(ctx.run_id, opened, node))
                give_sign_state(opened, node)
                return "it will fetch all blocks from its peers"
            case _:
                restore.swap_in(_staged(ctx, opened, node, brought), validator=node.is_validator)
                return f"{brought.source} is in place"


def _staged(ctx: Ctx, opened: OpenSite, node: Node, brought: Brought) -> Staged:
    home = opened.files.home(node)
    source = SnapshotId(brought.source)
    return Staged(home, ctx.run_id, source, Path(brought.folder), brought.total_bytes, (), took_s=0.0)


@step(title="Guard against a second signature", budget_s=150, retry=PROBE)
def guard_signing(ctx: Ctx) -> Guarded:
    """Validators: fences the old signer, finds the floor that its disk, the chain and survivors prove, writes it."""
    with open_site(ctx.order.site) as opened:
        return guard(opened, opened.site.node(ctx.order.node), ctx.say)


@step(title="Start the node", budget_s=60, retry=ACT)
def start_recovered(ctx: Ctx, guarded: Guarded) -> str:
    """Starts the unit on its host."""
    with open_site(ctx.order.site) as opened:
        return start_guarded(opened, opened.site.node(ctx.order.node), guarded)


@step(title="Watch it catch up", budget_s=300, retry=PROBE)
def watch_catching_up(ctx: Ctx, brought: Brought) -> int:
    """Waits until it is at the tip; a state sync or block sync that stalls is replaced by a snapshot."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        try:
            return wait_in_sync(ctx, opened, node).height
        except DeadlineError as stalled:
            if brought.way not in (Way.STATE_SYNC, Way.BLOCK_SYNC):
                raise
            ctx.say(f"{brought.way} stalled ({stalled.message}): a snapshot takes its place")
        return _replace_by_snapshot(ctx, opened, node).height


def _replace_by_snapshot(ctx: Ctx, opened: OpenSite, node: Node) -> sync.CatchUp:
    ensure_stopped(ctx, opened, node)
    state_sync.undo(sync_plan(ctx.run_id, opened, node))
    proven = bring(ctx, opened, node, points_of(opened))
    prove_at_rest(opened, node, proven.path)
    swap(ctx, opened, node, proven)
    start_guarded(opened, node, guard(opened, node, ctx.say))
    return wait_in_sync(ctx, opened, node)


@step(title="Verify the state across nodes", budget_s=120, retry=PROBE, acts=False)
def verify_across_nodes(ctx: Ctx) -> Agreed:
    """Compares its app hash with a verified header, and that with two other nodes; a validator has to sign."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        return _agreed(opened, node)


def _agreed(opened: OpenSite, node: Node) -> Agreed:
    rpc, light = opened.rpc(node), opened.light_client(near=node.region, besides=node.name)
    app = rpc.abci_info()
    settled = settle(claims_of_node(rpc.status(), app), light)
    if settled.false or settled.unsettled:
        raise VerificationFailedError(
            f"{node.name}: {'; '.join((*settled.false, *settled.unsettled))}",
            remedy="Stop it; resume with an older snapshot (RB-DR-006).",
        )
    header = light.verified_header(Height(app.height + 1))
    agreeing = []
    for one in references(opened, node):
        sync.wait_for_height(
            one.rpc, header.height, deadline_s=sync.NEAR_TIP_BLOCKS * 10 * opened.site.chain.block_time_s
        )
        if one.rpc.commit(header.height).header.app_hash.hex().upper() == header.app_hash:
            agreeing.append(one.node.name)
    if len(agreeing) < MIN_AGREEING:
        raise VerificationFailedError(
            f"only {', '.join(agreeing) or 'no other node'} shows the app hash of {node.name} at height {app.height}",
            remedy="Look which nodes differ from the verified header, and order RB-DR-004 for them.",
        )
    return Agreed(app.height, header.app_hash, tuple(agreeing), participation(opened, node).detail)


@step(title="Record what the root cause is looked for in", budget_s=100, retry=PROBE)
def record_root_cause(ctx: Ctx, diagnosis: Diagnosis, preserved: Preserved) -> RootCause:
    """Compares the kept tables with the store's proven copies, names damaged offsets; tidies what this run staged."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        compared = compare_with_store(opened.repository, node, Path(preserved.folder) / "data")
        _tidy(ctx, opened, node)
    for line in compared.damaged:
        ctx.say(line)
    return _root_cause(diagnosis, preserved, compared)


def _root_cause(diagnosis: Diagnosis, preserved: Preserved, compared: Compared) -> RootCause:
    return RootCause(
        findings=tuple(str(one) for one in diagnosis.findings),
        evidence=preserved.folder,
        compared_with=compared.snapshot,
        compared_files=compared.files,
        damaged=compared.damaged,
        not_compared=compared.reason,
    )


def _tidy(ctx: Ctx, opened: OpenSite, node: Node) -> None:
    """Remove what was staged and set aside after the damage was kept; never the evidence."""
    home = opened.files.home(node)
    state_sync.finish(sync_plan(ctx.run_id, opened, node))
    old = restore.old_path(home, ctx.run_id)
    restore.discard_old(Swapped(home, ctx.run_id, home / "data", old if old.exists() else None))
    restore.discard_staged(home, ctx.run_id)
