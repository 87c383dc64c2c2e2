"""Moving a validator's key from one host to another, so that it never signs twice.

1. Lock: a lease on the key with an epoch that only grows.
2. Fence: every host that holds the key, the standby too, is kept from signing, and that is proven.
3. Observe: the tip from two nodes, and the validator's votes, seen after the fence.
4. Quiet: the chain moves and the validator is silent for N commits; or it stands still, and that is seen.
5. Floor: above everything that the key may have signed.
6. Key: put on the standby only now, where the floor is written already, and checked against the validator's address.
7. Arm: the floor, as before; lease, fence and quiet are checked again, the standby's disk is opened, the unit started.
8. Watch: blocks and votes; a signature that is not the standby's stops it at once.

Guarantees: no step begins before the one before is recorded (`Means.record` returned); each begins by checking the
lease; a process that was killed leaves every host either fenced or as it was; one that wakes up late is refused by the
lease, or by the disk, whose folder carries another's ticket.  A resumed promotion begins with the fence again and
trusts nothing that may have changed; only a standby that this run had armed is taken up, after all is proven again.
Leaves out: naming all hosts that ever held the key, which the site must; leasing the standby itself.

There is no flag that skips a step.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vedr.chain import fence as fences
from vedr.chain import floor as floors
from vedr.chain.attestation import Statement, two_people
from vedr.chain.fence import MIN_QUIET_COMMITS, Fence, FenceProof
from vedr.chain.rpc import ChainRpc
from vedr.chain.sign_state import SignState, highest
from vedr.errors import DeadlineError, NotFoundError, RefusedError
from vedr.failover.fencing import ProcessAndDisk
from vedr.failover.promotion_history import History, read_history, state_of
from vedr.failover.promotion_key import KeySeen, check_key
from vedr.failover.promotion_stages import (
    SEAL,
    Armed,
    Calm,
    Evidence,
    Fenced,
    Floored,
    HaltedEvidence,
    KeyReady,
    Locked,
    Observed,
    Order,
    Quieted,
    StageName,
    Watched,
)
from vedr.failover.signer_disk import Ticket
from vedr.failover.watch import MIN_SIGNED_BLOCKS, SecondSignerError, Watching, watch_blocks
from vedr.inventory import Height
from vedr.ledger import RunId
from vedr.ports import Clock
from vedr.runbook.lease import Lease

MAX_ROUND: Final = 2**31 - 1
CHECK_HEIGHT: Final = MIN_QUIET_COMMITS
"""`double_sign_check_height` for a standby on a moving chain.

CometBFT looks at the seen commits of the last CHECK_HEIGHT heights when consensus begins (one less before v0.38.25,
whose loop ended below it; consensus/state.go, checkDoubleSigningRisk) and refuses to start when one holds a COMMIT of
this key.  It must not be larger than the quiet that was seen, or the old host's own signatures keep the standby from
starting; and not below 20, the quiet that the protocol asks for.  On a halted chain the last commits are the
validator's own, so it is 0 there.  It stays set: a restart of the standby then waits until it has been silent for that
many blocks.
"""


class Leasing(Protocol):
    """`vedr.runbook.lease.Leases`, as far as it is used here."""

    def acquire(self, subject: str, run_id: RunId) -> Lease:
        """ConflictError when another run that is at work holds it."""

    def check(self, lease: Lease) -> None:
        """ConflictError when it has passed to another run."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """All hosts that have, had or may be given the key; `others` are all but the standby."""

    others: tuple[Fence, ...]
    standby: ProcessAndDisk


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to look; `still_s` should be several times the longest round that is usual."""

    quiet_s: float
    still_s: float
    watch_s: float
    quiet_commits: int = MIN_QUIET_COMMITS
    watch_blocks: int = MIN_SIGNED_BLOCKS


@dataclass(frozen=True, slots=True)
class Means:
    """What a promotion works with.

    Args:
        leases: The site's leases.
        hosts: The hosts with their fences, for the ticket that they carry from now on.
        observers: Nodes that are no signer of this key, two or more.
        copies: Shipped or backed-up copies of the sign-state, however old; they only ever raise the floor.
        earlier: All stages that this run's processes and runs before recorded of this key, the oldest first.
        statements: What people said about a risk that is put to them; only asked on a halted chain without proof.
        place_key: Puts the key on the standby, or finds the HSM replica there, and tells what is there.
        record: Makes a stage durable; the next step begins when it has returned.
        patience: Deadlines and counts.
        clock: Wall clock, for the record.
    """

    leases: Leasing
    hosts: Callable[[Ticket], Hosts]
    observers: Sequence[ChainRpc]
    copies: Callable[[], Sequence[SignState]]
    earlier: Callable[[], Sequence[tuple[StageName, Evidence]]]
    statements: Callable[[str], Sequence[Statement]]
    place_key: Callable[[], KeySeen]
    record: Callable[[StageName, Evidence], None]
    patience: Patience
    clock: Clock
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def promote(means: Means, order: Order, recorded: Iterable[tuple[StageName, Evidence]] = ()) -> Watched:
    """All steps, in order.

    Args:
        means: What it works with.
        order: What is asked for.
        recorded: What earlier processes of this same run recorded.

    Raises:
        RefusedError, VerificationFailedError: a step said no; the standby is fenced, the run may be resumed, except
            after a second signer was met.
        ConflictError: another run or process has taken over; nothing more may be done here.
        UnavailableError, DeadlineError: resume later.
    """
    past = list(recorded)
    if any(name == "second_signer" for name, _ in past):
        raise RefusedError(
            f"run {order.run_id} met a second signer with the key of {order.validator.name}",
            remedy="Find it first (RB-DR-005).  Then begin a new run.",
        )
    was_armed = [evidence for name, evidence in past if name == "armed"]
    locked = lock(means, order)
    if was_armed and (armed := take_up(means, locked, was_armed[-1])):
        return watch(means, armed)
    observed = observe(means, fence(means, locked))
    return watch(means, arm(means, key(means, floor(means, quiet(means, observed)))))


def lock(means: Means, order: Order) -> Locked:
    """(1) ConflictError when another run moves this key."""
    locked = Locked(order, means.leases.acquire(order.subject, order.run_id), seal=SEAL)
    means.record("locked", locked.evidence())
    return locked


def fence(means: Means, locked: Locked) -> Fenced:
    """(2) The others first, so that nothing is stopped on the standby's host while they can't be.

    Raises:
        UnavailableError: a host does not answer, which is no fence.
        RefusedError: a host can still sign.
    """
    means.leases.check(locked.lease)
    every = _every(means, locked)
    for one in every:
        one.close()
    fenced = Fenced(locked, fences.prove(locked.order.validator, every, clock=means.clock), seal=SEAL)
    means.record("fenced", fenced.evidence())
    return fenced


def observe(means: Means, fenced: Fenced) -> Observed:
    """(3) VerificationFailedError when fewer than two nodes tell the tip, or no survivor the votes."""
    means.leases.check(fenced.locked.lease)
    tip = fences.observe_tip(fenced.proof, means.observers, chain_id=fenced.locked.order.chain_id)
    seen = fences.observe_votes(fenced.proof, tip, means.observers)
    observed = Observed(fenced, tip, seen, seal=SEAL)
    means.record("observed", observed.evidence())
    return observed


def quiet(means: Means, observed: Observed) -> Calm:
    """(4) On a chain that makes no block at all, that it stands still.

    Raises:
        RefusedError: the validator signed, or is not in the set.
        DeadlineError: the chain moves too slowly to tell.
    """
    means.leases.check(observed.fenced.locked.lease)
    patience, proof = means.patience, observed.fenced.proof
    witness = _witnesses(means, observed)[0]
    calm: Calm
    try:
        found = fences.observe_quiet(
            proof,
            observed.tip,
            witness,
            commits=patience.quiet_commits,
            deadline_s=patience.quiet_s,
            sleep=means.sleep,
            monotonic=means.monotonic,
        )
    except DeadlineError:
        chain_id = observed.fenced.locked.order.chain_id
        halted = fences.observe_halted(
            proof, means.observers, chain_id=chain_id, still_s=patience.still_s, sleep=means.sleep
        )
        calm = HaltedEvidence(observed, halted, seal=SEAL)
        means.record("halted", calm.evidence())
    else:
        calm = Quieted(observed, found, seal=SEAL)
        means.record("quieted", calm.evidence())
    return calm


def floor(means: Means, calm: Calm) -> Floored:
    """(5) RefusedError when the chain is halted, the last signature not proven and no two people take the risk."""
    observed = calm.observed
    means.leases.check(observed.fenced.locked.lease)
    history = read_history(observed.fenced.locked.order.validator.name, means.earlier())
    if isinstance(calm, Quieted):
        known = _highest_known(observed.fenced.proof, (*means.copies(), *history.known))
        found = floors.floor_while_moving(observed.tip, calm.quiet, observed.seen, known)
    else:
        found = _floor_while_halted(means, calm, tuple(means.copies()), history)
    floored = Floored(calm, found, seal=SEAL)
    means.record("floored", floored.evidence())
    return floored


def _floor_while_halted(
    means: Means, calm: HaltedEvidence, copies: tuple[SignState, ...], history: History
) -> floors.Floor:
    halted, proof = calm.halted, calm.observed.fenced.proof
    try:
        final = fences.final_state_of(proof)
        history.check_final(proof, final.state)
        return floors.floor_from_final_state(final, halted.seen, copies)
    except (NotFoundError, RefusedError):
        pass  # the last signature is not proven: two people, or nobody
    known = _highest_known(proof, (*copies, *history.known)) or SignState(Height(0), 0, 0)
    risk = floors.risk_of(halted, known)
    statements = means.statements(risk)
    if not statements:
        raise floors.refuse_while_halted(halted.tip, halted.seen, known)
    return floors.floor_by_two_people(halted, known, two_people(statements, risk, after=proof.at, now=means.clock()))


def _highest_known(proof: FenceProof, copies: tuple[SignState, ...]) -> SignState | None:
    known = (*(one.final for one in proof.fences if one.final), *copies)
    return highest(*known) if known else None


def key(means: Means, floored: Floored) -> KeyReady:
    """(6) The floor first: a disk that somebody opens by hand never has the key with an older state.

    RefusedError when it is another key, or others may read it.
    """
    locked = floored.calm.observed.fenced.locked
    means.leases.check(locked.lease)
    _prepare(means, floored)
    seen = means.place_key()
    check_key(seen, locked.order.validator)
    ready = KeyReady(floored, seen.public_key, seen.where, seal=SEAL)
    means.record("key_ready", ready.evidence())
    return ready


def arm(means: Means, ready: KeyReady) -> Armed:
    """(7) Write the floor, then look at everything again, then open the disk and start.

    Raises:
        ConflictError: the lease has passed, or another process of this run acts on the standby.
        RefusedError: a host is not fenced any more or signed meanwhile, or the chain shows a signature.
    """
    calm = ready.floored.calm
    locked = calm.observed.fenced.locked
    means.leases.check(locked.lease)
    standby = means.hosts(locked.ticket).standby
    written = _prepare(means, ready.floored)
    means.record("arming", {"epoch": locked.lease.epoch, "host": standby.node.name, "floor": str(written)})
    tip = recheck(means, ready, written)
    standby.disk.bring_back(locked.ticket)
    started = standby.fleet.start(standby.node.unit, standby.node.zone)
    armed = Armed(
        locked,
        written,
        _excused(calm, written),
        tip,
        _check_height(calm),
        f"{started.state} since {started.since.isoformat()}",
        seal=SEAL,
    )
    means.record("armed", armed.evidence())
    return armed


def _prepare(means: Means, floored: Floored) -> SignState:
    """Write the floor on the standby's fenced disk, safe to repeat; what its sign-state says then."""
    calm = floored.calm
    locked = calm.observed.fenced.locked
    standby = means.hosts(locked.ticket).standby
    return standby.disk.prepare(locked.ticket, floored.floor, check_height=_check_height(calm))


def _check_height(calm: Calm) -> int:
    return CHECK_HEIGHT if isinstance(calm, Quieted) else 0


def _excused(calm: Calm, written: SignState) -> SignState:
    """The highest signature that may be older than the fence."""
    if isinstance(calm, Quieted):
        return SignState(Height(written.height - 1), MAX_ROUND, 3)
    return written


def recheck(means: Means, ready: KeyReady, written: SignState) -> Height:
    """Everything that may have changed since it was proven; the chain's tip.

    Raises:
        ConflictError: the lease has passed to another run.
        RefusedError: a fence opened or a signature appeared; or the state that was written is below the floor.
    """
    calm = ready.floored.calm
    fenced = calm.observed.fenced
    if not floors.holds(ready.floored.floor, written):
        raise RefusedError(
            f"{fenced.locked.order.standby.name}: its sign-state says {written}, the floor is "
            f"{ready.floored.floor.state}",
            remedy="Look at its disk: what was written did not stay.",
        )
    means.leases.check(fenced.locked.lease)
    _check_fences(fenced, fences.prove(fenced.proof.node, _every(means, fenced.locked), clock=means.clock))
    return _check_calm(means, calm)


def _check_fences(fenced: Fenced, again: FenceProof) -> None:
    before = {one.host: one.final for one in fenced.proof.fences}
    for one in again.fences:
        if one.host != fenced.locked.order.standby.name and one.final != before[one.host]:
            raise RefusedError(
                f"{one.host}: its sign-state was {before[one.host]} when it was fenced and is {one.final} now",
                remedy="Something signed there after the fence, or somebody changed its disk.  Fence again: resume.",
            )


def _check_calm(means: Means, calm: Calm) -> Height:
    proof, observed = calm.observed.fenced.proof, calm.observed
    chain_id = observed.fenced.locked.order.chain_id
    tip = fences.observe_tip(proof, means.observers, chain_id=chain_id)
    seen = fences.observe_votes(proof, tip, means.observers)
    if isinstance(calm, Quieted):
        fences.observe_quiet_again(calm.quiet, max(_witnesses(means, observed), key=_height_of))
        limit = (observed.tip.height + 1, MAX_ROUND, 3)
    else:
        if tip.height != calm.halted.tip.height:
            raise RefusedError(
                f"the chain was halted at {calm.halted.tip.height} and is at {tip.height} now",
                remedy="Resume: on a moving chain quiet has to be seen.",
            )
        limit = calm.halted.seen.highest or (0, 0, 0)
    if seen.highest and seen.highest > limit:
        raise RefusedError(
            f"{proof.node.name} ({proof.node.address}) signed {'/'.join(map(str, seen.highest))} after it was fenced",
            remedy="Another signer with this key is alive: find it and stop it; start none.",
        )
    return tip.height


def take_up(means: Means, locked: Locked, recorded: Evidence) -> Armed | None:
    """The standby that an earlier process of this run armed, when all still is as it was recorded; else None.

    Then the promotion has to begin with the fence again, which stops the standby: safe, and slower.
    """
    match recorded:
        case {"epoch": int(epoch), "host": str(host), "floor": str(floor), "excused": str(excused), "tip": int(tip)}:
            pass
        case _:
            return None
    order, hosts = locked.order, means.hosts(locked.ticket)
    place = hosts.standby.disk.place()
    status = hosts.standby.fleet.status(order.standby.unit, order.standby.zone)
    if (epoch, host) != (locked.lease.epoch, order.standby.name) or status.state != "running":
        return None
    if place.where != "open" or place.ticket.epoch != epoch:
        return None
    for other in hosts.others:
        other.close()  # under this process's own ticket, so that the earlier one can't open it
    try:
        fences.prove(order.validator, hosts.others, clock=means.clock)
    except RefusedError:
        return None
    least, check_height = state_of(floor), recorded.get("double_sign_check_height")
    if hosts.standby.disk.state(None).hrs < least.hrs:
        return None
    return Armed(
        locked,
        least,
        state_of(excused),
        Height(tip),
        check_height if isinstance(check_height, int) else 0,
        f"{status.state} since {status.since.isoformat()}",
        seal=SEAL,
    )


def watch(means: Means, armed: Armed) -> Watched:
    """(8) Stops the standby at once when it is not alone.

    Raises:
        SecondSignerError: somebody else signs with this key; the standby is stopped and fenced.
        ConflictError: another run took the key over, which has fenced the standby.
        DeadlineError: it signed too few blocks; it goes on running.
    """
    order, patience = armed.locked.order, means.patience
    standby = means.hosts(armed.locked.ticket).standby
    watching = Watching(
        order.validator.name,
        bytes.fromhex(order.validator.address),
        armed.floor.hrs,
        armed.excused.hrs,
        lambda: standby.disk.state(None),
    )
    try:
        span = watch_blocks(
            watching,
            means.observers,
            after=armed.tip,
            blocks=patience.watch_blocks,
            deadline_s=patience.watch_s,
            still_ours=lambda: means.leases.check(armed.locked.lease),
            sleep=means.sleep,
            monotonic=means.monotonic,
        )
    except SecondSignerError as error:
        standby.fleet.kill(standby.node.unit, standby.node.zone)
        standby.close()
        means.record("second_signer", {"epoch": armed.locked.lease.epoch, "seen": error.message})
        raise
    watched = Watched(armed, span.first, span.last, span.signed, means.clock(), seal=SEAL)
    means.record("watched", watched.evidence())
    return watched


def _every(means: Means, locked: Locked) -> tuple[Fence, ...]:
    hosts = means.hosts(locked.ticket)
    return (*hosts.others, hosts.standby)


def _height_of(observer: ChainRpc) -> Height:
    return observer.status().latest_height


def _witnesses(means: Means, observed: Observed) -> list[ChainRpc]:
    """The nodes that told the tip: two or more."""
    return [one for one in means.observers if one.name in observed.tip.observers]
