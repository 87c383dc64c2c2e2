"""What is watched after a failover: an hour after a zone's, four after a region's, a day after the way home.

Guarantees: every moved key is seen to sign under the signer that was put in charge, blocks go on, and no block since
the last look holds evidence; what could not be looked at is a failure.
Leaves out: acting.
"""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from tasks.key_hosts import check_signs_alone, holders_in_ledger
from tasks.observing import ask, in_sync
from tasks.outages import decide, holders_of
from tasks.relocating import promote
from tasks.returning import decide_return
from tasks.serving import await_blocks
from vedr.adapters.site import OpenSite, open_site
from vedr.chain.block import Flag
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.failover.relocation import Move
from vedr.failover.relocation_key_files import KeyMove
from vedr.inventory import Height
from vedr.ledger import Entry, RunId
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

WATCHED_S: Final = {"RB-DR-002": 3600, "RB-DR-003": 4 * 3600, "failback": 24 * 3600}
SIGNED_BLOCKS: Final = 10  # in one of so many a moved key has to have signed
MAX_BLOCKS: Final = 1000  # a look at a quarter of an hour of one-second blocks
PROBE: Final = Retry(attempts=3, delay_s=2.0)

Ctx = Context[Order]
AnyMove: TypeAlias = Move | KeyMove


@dataclass(frozen=True, slots=True)
class Looked:
    """The runs that are still watched, and the blocks that were looked at."""

    runs: tuple[str, ...]
    first: int
    last: int
    validators: tuple[str, ...]


@step(title="Look after the last failovers", budget_s=300, retry=PROBE, acts=False)
def look_after(ctx: Ctx) -> Looked:
    """Holder, signatures and evidence of every key that a failover or failback of the last hours moved."""
    with open_site(ctx.order.site) as opened:
        watched = watched_runs(opened)
        if not watched:
            return Looked((), 0, 0, ())
        moves = {move.validator: move for moved in watched.values() for move in moved}  # the newest counts
        seen = in_sync(ask(opened, opened.site.nodes))
        last = await_blocks(opened, seen, 1)
        first = Height(max(1, last - MAX_BLOCKS, _looked_until(opened) + 1))
        remote = {name: move for name, move in moves.items() if isinstance(move, Move)}
        _check_holders(opened, remote)
        _check_key_files(opened, {name: move for name, move in moves.items() if isinstance(move, KeyMove)})
        _check_blocks(opened, tuple(moves), first, last)
    ctx.say(f"blocks {first} to {last - 1}: no evidence, {', '.join(moves) or 'no moved key'} signs")
    return Looked(tuple(watched), first, last - 1, tuple(moves))


def watched_runs(opened: OpenSite) -> dict[RunId, tuple[AnyMove, ...]]:
    """The completed runs whose time is not over, with what each moved, in the order in which they ended."""
    now = opened.journal.clock()
    found: list[tuple[dt.datetime, RunId, tuple[AnyMove, ...]]] = []
    for runbook, watched_s in WATCHED_S.items():
        for run_id in opened.journal.runs_of(runbook):
            entries = opened.journal.read(run_id).entries
            closing = entries[-1]
            is_done = closing.kind == "closed" and closing.payload.get("outcome") == "completed"
            if is_done and now - closing.time <= dt.timedelta(seconds=watched_s):
                found.append((closing.time, run_id, _moves(entries)))
    return {run_id: moves for _, run_id, moves in sorted(found)}


def _moves(entries: tuple[Entry, ...]) -> tuple[AnyMove, ...]:
    """As it was decided last: what grew old before anything acted was decided anew."""
    for entry in reversed(entries):
        for one in (decide, decide_return):
            if entry.kind == "step_completed" and str(entry.payload.get("step")).partition(":")[0] == one.key:
                signers = _signers(entries)
                decided = one.decode(entry.payload["result"])
                moves = (replace(move, signer=signers.get(move.validator, move.signer)) for move in decided.moves)
                return (*moves, *decided.key_moves)
    return ()


def _signers(entries: tuple[Entry, ...]) -> dict[str, str]:
    """Where each key went to: not where it was to go when its first standby did not sign."""
    done = [entry for entry in entries if entry.kind == "step_completed"]
    results = [entry.payload["result"] for entry in done if str(entry.payload.get("step")).split(":")[0] == promote.key]
    moved = [result for result in results if isinstance(result, list)]  # an older version recorded each key apart
    return {one.validator: one.signer for result in moved for one in promote.decode(result)}


def _looked_until(opened: OpenSite) -> int:
    """The last block that an earlier look saw; 0 when there was none."""
    for run_id in sorted(opened.journal.runs_of("failover-watch"), reverse=True):
        for entry in opened.journal.read(run_id).entries:
            if entry.kind == "step_completed" and entry.payload.get("step") == look_after.key:
                return look_after.decode(entry.payload["result"]).last
    return 0


def _check_holders(opened: OpenSite, moves: dict[str, Move]) -> None:
    holders = holders_of(opened)
    strange = [
        f"{move.validator} is held by {holders.get(move.validator) or 'nobody'}, not by {move.signer}"
        for move in moves.values()
        if holders.get(move.validator) != move.signer
    ]
    if strange:
        raise VerificationFailedError(
            "; ".join(strange), remedy="Find out who took it over: vedr signer status, and the signers' logs."
        )


def _check_key_files(opened: OpenSite, moves: dict[str, KeyMove]) -> None:
    """The ledger names the host, and none of the others could sign."""
    holders = holders_in_ledger(opened) if moves else {}
    for name, move in moves.items():
        key_file = opened.site.key_file_of(name)
        if key_file is None or holders.get(name) != move.host:
            raise VerificationFailedError(
                f"the key file of {name} signs at {holders.get(name) or 'nobody knows where'}, not at {move.host}",
                remedy="See who moved it: vedr ledger list.",
            )
        check_signs_alone(opened, key_file, move.host)


def _check_blocks(opened: OpenSite, moves: tuple[str, ...], first: Height, last: Height) -> None:
    """Evidence in any, signatures in the newest; UnavailableError when no node serves them."""
    seen = in_sync(ask(opened, opened.site.nodes))
    witness = max(seen, key=lambda one: one.status.latest_height, default=None)
    if witness is None:
        raise UnavailableError("no node answers in sync", remedy="Bring one back: RB-DR-001.")
    silent = {bytes.fromhex(opened.site.node(name).address): name for name in moves}
    for height in map(Height, range(first, last)):
        if evidence := witness.rpc.block(height).evidence:
            raise VerificationFailedError(
                f"block {height} holds {len(evidence)} pieces of evidence of misbehaviour",
                remedy="Stop the signers of the validators that it names and run RB-DR-005.",
            )
    for height in map(Height, range(max(1, last - SIGNED_BLOCKS), last)):
        for sig in witness.rpc.commit(height).commit.signatures:
            if sig.flag is Flag.COMMIT:
                silent.pop(sig.address, None)
    if silent:
        raise VerificationFailedError(
            f"{', '.join(silent.values())} signed none of the last {SIGNED_BLOCKS} blocks",
            remedy="Look at its signer's log; RB-DR-001 brings it back.",
        )
