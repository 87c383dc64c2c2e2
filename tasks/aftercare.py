"""What is watched after a failover: an hour after a zone's, four after a region's, a day after the way home.

Guarantees: every moved key is seen to sign under the signer that was put in charge, blocks go on, and no block since
the last look, or since the failover, holds evidence: after an outage of the schedule the oldest come first, and a watch
that ended in it is ended by a look.  What could not be looked at is a failure.
Leaves out: acting.
"""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from tasks.key_hosts import check_signs_alone, holders_in_ledger
from tasks.observing import ask, in_sync
from tasks.outages import decide, holders_of
from tasks.relocating import promote
from tasks.returning import decide_return, take_key_home
from tasks.serving import await_blocks
from vedr.adapters.site import OpenSite, open_site
from vedr.chain.block import Flag
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.failover.relocation import Move
from vedr.failover.relocation_key_files import KeyMove
from vedr.inventory import Height
from vedr.ledger import Entry, RunId, is_closed
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

WATCHED_S: Final = {"RB-DR-002": 3600, "RB-DR-003": 4 * 3600, "failback": 24 * 3600}
SIGNED_BLOCKS: Final = 10  # in one of so many a moved key has to have signed
MAX_BLOCKS: Final = 2000  # in one look; a quarter of an hour of one-second blocks is half of it: it catches up
LATE: Final = dt.timedelta(days=7)  # a watch whose last looks did not happen is ended by one that comes later
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


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run moved, and the newest block before it."""

    tip: int
    moves: tuple[AnyMove, ...]


@step(title="Look after the last failovers", budget_s=300, retry=PROBE, acts=False)
def look_after(ctx: Ctx) -> Looked:
    """Holder, signatures and evidence of every key that a failover or failback of the last hours moved."""
    with open_site(ctx.order.site) as opened:
        watched = watched_runs(opened)
        if not watched:
            return Looked((), 0, 0, ())
        moves = {move.validator: move for one in watched.values() for move in one.moves}  # the newest counts
        seen = in_sync(ask(opened, opened.site.nodes))
        last = await_blocks(opened, seen, 1)
        first = Height(max(1, min(one.tip or last for one in watched.values()), _last_look(opened)[0] + 1))
        until = Height(min(last, first + MAX_BLOCKS))
        remote = {name: move for name, move in moves.items() if isinstance(move, Move)}
        _check_holders(opened, remote)
        _check_key_files(opened, {name: move for name, move in moves.items() if isinstance(move, KeyMove)})
        _check_evidence(opened, first, until)
        _check_signatures(opened, tuple(moves), last)
    ctx.say(f"blocks {first} to {until - 1}: no evidence, {', '.join(moves) or 'no moved key'} signs")
    if until < last:
        ctx.say(f"{last - until} blocks more are left to the next looks")
    return Looked(tuple(watched), first, until - 1, tuple(moves))


def watched_runs(opened: OpenSite) -> dict[RunId, Watched]:
    """The ended runs whose time is not over, or that nobody looked at since, in the order in which they ended."""
    now, (_, looked_at) = opened.journal.clock(), _last_look(opened)
    found: list[tuple[dt.datetime, RunId, Watched]] = []
    for runbook, watched_s in WATCHED_S.items():
        for run_id in opened.journal.runs_of(runbook):
            entries = opened.journal.read(run_id).entries
            if not is_closed(entries):  # also one that is just being opened
                continue
            closing = entries[-1]
            ends = closing.time + dt.timedelta(seconds=watched_s)
            is_due = now <= ends or (now <= ends + LATE and (looked_at is None or looked_at < ends))
            if is_due and (watched := _watched(entries)):
                found.append((closing.time, run_id, watched))
    return {run_id: watched for _, run_id, watched in sorted(found, key=lambda one: one[:2])}


def _watched(entries: tuple[Entry, ...]) -> Watched | None:
    """Of a run that completed, or was given up after keys had moved; None of one that moved nothing."""
    outcome, tip, moves = entries[-1].payload.get("outcome"), *_moves(entries)
    if outcome == "completed":
        return Watched(tip, moves)
    moved = {*_signers(entries), *(key.partition(":")[2] for key in _completed(entries, take_key_home.key))}
    stand = tuple(move for move in moves if isinstance(move, Move) and move.validator in moved)
    return Watched(tip, stand) if outcome == "abandoned" and stand else None


def _completed(entries: tuple[Entry, ...], base_key: str) -> tuple[str, ...]:
    done = (str(entry.payload.get("step")) for entry in entries if entry.kind == "step_completed")
    return tuple(key for key in done if key.partition(":")[0] == base_key)


def _moves(entries: tuple[Entry, ...]) -> tuple[int, tuple[AnyMove, ...]]:
    """The tip and the moves as decided last: what grew old before anything acted was decided anew."""
    for entry in reversed(entries):
        for one in (decide, decide_return):
            if entry.kind == "step_completed" and str(entry.payload.get("step")).partition(":")[0] == one.key:
                signers = _signers(entries)
                decided = one.decode(entry.payload["result"])
                moves = (replace(move, signer=signers.get(move.validator, move.signer)) for move in decided.moves)
                return decided.tip_height, (*moves, *decided.key_moves)
    return 0, ()


def _signers(entries: tuple[Entry, ...]) -> dict[str, str]:
    """Where each key went to: not where it was to go when its first standby did not sign."""
    done = [entry for entry in entries if entry.kind == "step_completed"]
    results = [entry.payload["result"] for entry in done if str(entry.payload.get("step")).split(":")[0] == promote.key]
    moved = [result for result in results if isinstance(result, list)]  # an older version recorded each key apart
    return {one.validator: one.signer for result in moved for one in promote.decode(result)}


def _last_look(opened: OpenSite) -> tuple[int, dt.datetime | None]:
    """The last block that an earlier look saw, and when that was; 0 and None when there was none."""
    for run_id in sorted(opened.journal.runs_of("failover-watch"), reverse=True):
        for entry in opened.journal.read(run_id).entries:
            if entry.kind == "step_completed" and entry.payload.get("step") == look_after.key:
                return look_after.decode(entry.payload["result"]).last, entry.time
    return 0, None


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


def _check_evidence(opened: OpenSite, first: Height, until: Height) -> None:
    """In each block; VerificationFailedError when one holds some, or no node has them all any more."""
    seen = in_sync(ask(opened, opened.site.nodes))
    oldest = min((one.status.earliest_height for one in seen), default=None)
    witness = next((one for one in seen if one.status.earliest_height <= first), None)
    if witness is None:
        raise VerificationFailedError(
            f"blocks from {first} are to be looked at, and the oldest that a node has is {oldest}",
            remedy="Bring an archive node back: RB-DR-001.  What nobody can look at has not been looked at.",
        )
    for height in map(Height, range(first, until)):
        if evidence := witness.rpc.block(height).evidence:
            raise VerificationFailedError(
                f"block {height} holds {len(evidence)} pieces of evidence of misbehaviour",
                remedy="Stop the signers of the validators that it names and run RB-DR-005.",
            )


def _check_signatures(opened: OpenSite, moves: tuple[str, ...], last: Height) -> None:
    """In the newest blocks; UnavailableError when no node serves them."""
    seen = in_sync(ask(opened, opened.site.nodes))
    witness = max(seen, key=lambda one: one.status.latest_height, default=None)
    if witness is None:
        raise UnavailableError("no node answers in sync", remedy="Bring one back: RB-DR-001.")
    silent = {bytes.fromhex(opened.site.node(name).address): name for name in moves}
    for height in map(Height, range(max(1, last - SIGNED_BLOCKS), last)):
        for sig in witness.rpc.commit(height).commit.signatures:
            if sig.flag is Flag.COMMIT:
                silent.pop(sig.address, None)
    if silent:
        raise VerificationFailedError(
            f"{', '.join(silent.values())} signed none of the last {SIGNED_BLOCKS} blocks",
            remedy="Look at its signer's log; RB-DR-001 brings it back.",
        )
