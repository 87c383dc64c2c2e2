"""Steps of RB-DR-006: a node's chain state comes back from a snapshot.

Guarantees: those of tasks.recovery and tasks.signing; the node that was there is stopped only after its replacement is
proven; given up, the node serves again what it served before, as long as that is kept.
"""

from dataclasses import dataclass
from typing import Final

from tasks.orders import BackupRestore
from tasks.recovery import (
    Participating,
    Points,
    Proven,
    bring,
    ensure_stopped,
    participation,
    points_of,
    swap,
    wait_in_sync,
)
from tasks.signing import Guarded, guard, set_aside_unreadable, start_guarded
from vedr.adapters.site import open_site
from vedr.backup import restore
from vedr.backup.restore import Swapped
from vedr.runbook.steps import Context, Retry, step

STORE_RETRY: Final = Retry(attempts=3, delay_s=2.0)

Ctx = Context[BackupRestore]


@dataclass(frozen=True, slots=True)
class Gap:
    """The blocks between the snapshot and the chain's tip, which the node fetched from its peers."""

    restored_height: int
    height: int
    tip: int

    @property
    def blocks(self) -> int:
        return self.height - self.restored_height


@step(title="Choose the point to restore", budget_s=60, retry=STORE_RETRY, acts=False)
def choose_point(ctx: Ctx) -> Points:
    """Lists the snapshots of all regions that fit the order, newest first."""
    with open_site(ctx.order.site) as opened:
        points = points_of(opened, snapshot=ctx.order.snapshot, max_height=ctx.order.max_height)
    ctx.say(f"newest that fits: {points.points[0].snapshot}, {len(points.points)} in all")
    return points


def discard_fetched(ctx: Ctx, _: Proven | None) -> str:
    """Removes the copy beside the live data."""
    with open_site(ctx.order.site) as opened:
        restore.discard_staged(opened.files.home(opened.site.node(ctx.order.node)), ctx.run_id)
    return "the fetched copy is removed"


@step(title="Bring the data and prove it", budget_s=3600, retry=STORE_RETRY, undo=discard_fetched)
def fetch_and_prove(ctx: Ctx, points: Points) -> Proven:
    """Fetches the snapshot beside the live data, boots it apart, compares its app hash with a verified header."""
    with open_site(ctx.order.site) as opened:
        return bring(ctx, opened, opened.site.node(ctx.order.node), points)


def serve_again(ctx: Ctx, _: str | None) -> str:
    """Starts it, a validator under the same guard as any that comes back; one that was never stopped runs on."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        if opened.fleet.status(node.unit, node.zone).state == "running":
            return f"{node.name} runs"
        return start_guarded(opened, node, guard(opened, node, ctx.say))


@step(title="Stop the node", budget_s=60, retry=STORE_RETRY, undo=serve_again)
def stop_for_restore(ctx: Ctx) -> str:
    """Stops the unit on its host, by force when it does not end by itself."""
    with open_site(ctx.order.site) as opened:
        return ensure_stopped(ctx, opened, opened.site.node(ctx.order.node))


def swap_back(ctx: Ctx, _: str | None) -> str:
    """Puts the old data back; what the node signed on the new data stays known."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        home = opened.files.home(node)
        old = restore.old_path(home, ctx.run_id)
        if not old.exists():
            return f"{home / 'data'} stays: no old data lies beside it"
        ensure_stopped(ctx, opened, node)
        restore.roll_back(Swapped(home, ctx.run_id, home / "data", old), validator=node.is_validator)
    return "the old data is in place again"


@step(title="Put the proven data in place", budget_s=60, retry=STORE_RETRY, undo=swap_back)
def swap_in(ctx: Ctx, proven: Proven) -> str:
    """Swaps by rename; the old data is kept, a validator's sign-state is carried over and never lowered."""
    with open_site(ctx.order.site) as opened:
        node = opened.site.node(ctx.order.node)
        if node.is_validator:
            set_aside_unreadable(opened, node, ctx.say)
        swapped = swap(ctx, opened, node, proven)
    return f"the old data is in {swapped.old}" if swapped.old else "there was no data before"


@step(
    title="Guard against a second signature", budget_s=300, retry=STORE_RETRY,
    cannot_undo="a sign-state only ever rises: nothing has to be done",
)  # fmt: skip
def guard_signing(ctx: Ctx) -> Guarded:
    """Validators: fences the old signer, finds the floor that its disk, the chain and survivors prove, writes it."""
    with open_site(ctx.order.site) as opened:
        return guard(opened, opened.site.node(ctx.order.node), ctx.say)


def stop_again(ctx: Ctx, _: str | None) -> str:
    """Stops it, so that its data can be exchanged."""
    with open_site(ctx.order.site) as opened:
        return ensure_stopped(ctx, opened, opened.site.node(ctx.order.node))


@step(title="Start the node", budget_s=60, retry=STORE_RETRY, undo=stop_again)
def start_restored(ctx: Ctx, guarded: Guarded) -> str:
    """Starts the unit; the node replays its write-ahead log and the last block."""
    with open_site(ctx.order.site) as opened:
        return start_guarded(opened, opened.site.node(ctx.order.node), guarded)


@step(title="Reconcile the gap", budget_s=1800, retry=STORE_RETRY, acts=False)
def reconcile_gap(ctx: Ctx, proven: Proven) -> Gap:
    """Waits until the node has fetched the blocks since the snapshot from its peers and is in sync."""
    with open_site(ctx.order.site) as opened:
        seen = wait_in_sync(ctx, opened, opened.site.node(ctx.order.node))
    gap = Gap(proven.height, seen.height, seen.tip)
    ctx.say(f"{gap.blocks} blocks were fetched since the snapshot's height {gap.restored_height}")
    return gap


@step(title="Verify what is served", budget_s=120, retry=STORE_RETRY, acts=False)
def verify_service(ctx: Ctx) -> Participating:
    """Compares its block and app hash with a verified header; a validator's signature must be in a new commit."""
    with open_site(ctx.order.site) as opened:
        return participation(opened, opened.site.node(ctx.order.node))


@step(
    title="Tidy up", budget_s=60, retry=STORE_RETRY,
    cannot_undo="the data from before may be gone: the node serves what was restored",
)  # fmt: skip
def tidy_up(ctx: Ctx) -> str:
    """Removes the data that was kept for the way back, now that the node is seen to serve."""
    with open_site(ctx.order.site) as opened:
        home = opened.files.home(opened.site.node(ctx.order.node))
        old = restore.old_path(home, ctx.run_id)
        restore.discard_old(Swapped(home, ctx.run_id, home / "data", old if old.exists() else None))
        restore.discard_staged(home, ctx.run_id)
    return "the old data is removed"
