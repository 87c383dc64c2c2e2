"""The fence: proof that a validator's old signers can't sign any more, and what the network saw them sign.

Guarantees: a `FenceProof` exists only when every host that was named has been asked, after the fence closed, and showed
that its signer can't sign.  Unreachable is not fenced.  `FinalState`, `FencedTip`, `Quiet`, `Halted` and `SeenVotes`
need a proof, so that they can't be older than the fence.
Leaves out: the ways to fence a host other than by its own supervisor (`vedr.failover.fencing`), and whether all hosts
that hold the key were named, which only the site knows.

This is steps 2 to 4 of the promotion protocol: fence, observe after the fence, quiet.
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Final, Literal, Protocol

from vedr.chain.block import Commit, Flag
from vedr.chain.rpc import ChainRpc, Status
from vedr.chain.sign_state import FILE_NAME, Hrs, SignState, highest, read_sign_state
from vedr.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.inventory import Height, Node
from vedr.ports import Clock, Files, Fleet

MIN_QUIET_COMMITS: Final = 20
MIN_OBSERVERS: Final = 2
MAX_SPREAD_BLOCKS: Final = 3  # honest nodes in sync differ by a block or two
LOOKBACK_COMMITS: Final = 50
_POLL_S: Final = 0.2
_NOTHING: Final[Hrs] = (0, 0, 0)
_SEAL: Final = object()


def _check_seal(seal: object, what: str) -> None:
    if seal is not _SEAL:
        raise RefusedError(f"{what} is only made by observing it", remedy="Follow the promotion protocol's order.")


FenceMethod = Literal[
    "unit stopped",
    "process ended and disk renamed",
    "instance stopped",
    "HSM key disabled",
    "network denied and attested",
]


@dataclass(frozen=True, slots=True)
class Closed:
    """What a fence saw on its host: the facts in words, and the signer's last state when its disk could be read."""

    facts: Mapping[str, str]
    final: SignState | None = None


class Fence(Protocol):
    """One way in which one host is kept from signing.  Both methods are safe to repeat."""

    @property
    def host(self) -> str:
        """The host's name in the site."""

    @property
    def method(self) -> FenceMethod:
        """Which way it is."""

    def close(self) -> None:
        """Make it so, as far as this way acts at all.

        Raises:
            UnavailableError: the host, or what stands for it, can't be reached.
            ConflictError: somebody with a newer epoch acts on the host.
        """

    def prove(self) -> Closed:
        """Look whether the host can sign, and change nothing.

        Raises:
            RefusedError: it can, or could again by itself.
            UnavailableError: that can't be told, which proves nothing.
        """


@dataclass(frozen=True, slots=True)
class HostFence:
    """One host's part of a proof."""

    host: str
    method: FenceMethod
    at: dt.datetime
    facts: Mapping[str, str]
    final: SignState | None


@dataclass(frozen=True, slots=True)
class FenceProof:
    """No host that was named can sign for this validator, since before `at`."""

    node: Node
    at: dt.datetime
    fences: tuple[HostFence, ...]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "a fence")

    @property
    def address(self) -> bytes:
        return bytes.fromhex(self.node.address)

    @property
    def evidence(self) -> str:
        """In one line, for people."""
        return "; ".join(f"{one.host}: {', '.join(one.facts.values())}" for one in self.fences)


@dataclass(frozen=True, slots=True)
class FinalState:
    """The highest last state of the fenced signers, from the disks that they wrote to; of every one of them."""

    proof: FenceProof
    state: SignState
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "a final sign state")


@dataclass(frozen=True, slots=True)
class FencedTip:
    """The chain's height, seen after the fence by at least two nodes; the highest that any of them shows."""

    proof: FenceProof
    height: Height
    observers: tuple[str, ...]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "a tip after the fence")


@dataclass(frozen=True, slots=True)
class Quiet:
    """From `first` to `last`, all after the fence, no commit holds anything of the validator."""

    proof: FenceProof
    first: Height
    last: Height
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "quiet")


@dataclass(frozen=True, slots=True)
class Halted:
    """The chain stands at `tip`, seen twice after the fence, `still_s` apart; no vote of the validator came."""

    proof: FenceProof
    tip: FencedTip
    seen: "SeenVotes"
    still_s: float
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "a halted chain")


@dataclass(frozen=True, slots=True)
class SeenVotes:
    """The highest thing that survivors hold of the validator, None when they hold nothing."""

    proof: FenceProof
    highest: Hrs | None
    observers: tuple[str, ...]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _check_seal(seal, "what the network saw")


def prove(node: Node, fences: Sequence[Fence], *, clock: Clock) -> FenceProof:
    """Look at every host that holds the validator's key.

    Args:
        node: The validator whose key it is.
        fences: One for each host that has, had or may be given the key.
        clock: For the record.

    Raises:
        InvalidInputError: the node is no validator, or no host was named, or one twice.
        RefusedError, UnavailableError: as `Fence.prove`; one host that is not fenced is enough.
    """
    if not node.is_validator:
        raise InvalidInputError(f"{node.name} is a {node.role} node: it has no signer", remedy="Name a validator.")
    hosts = [fence.host for fence in fences]
    if not hosts or len(set(hosts)) != len(hosts):
        raise InvalidInputError(
            f"{node.name}: fences of {', '.join(hosts) or 'no host'}", remedy="Name each host with the key once."
        )
    proven = []
    for fence in fences:
        at = clock()
        closed = fence.prove()
        proven.append(HostFence(fence.host, fence.method, at, closed.facts, closed.final))
    return FenceProof(node, clock(), tuple(proven), seal=_SEAL)


@dataclass(frozen=True, slots=True)
class UnitStopped:
    """A validator's own unit, asked on its own host: enough for a signer that comes back on that same host."""

    fleet: Fleet
    node: Node
    method: FenceMethod = "unit stopped"

    @property
    def host(self) -> str:
        return self.node.name

    def close(self) -> None:
        self.fleet.stop(self.node.unit, self.node.zone)

    def prove(self) -> Closed:
        """The unit has no process and is meant to have none."""
        status = self.fleet.status(self.node.unit, self.node.zone)
        if status.state not in ("stopped", "failed") or status.pid is not None or status.desired != "stopped":
            raise RefusedError(
                f"{self.host} is not fenced: unit {status.name} is {status.state} (pid {status.pid}), meant to be "
                f"{status.desired}",
                remedy="Stop the unit on its host first, and let it stay stopped.",
            )
        return Closed({"unit": f"unit {status.name} {status.state} since {status.since.isoformat()}"})


def prove_stopped(fleet: Fleet, node: Node, *, clock: Clock) -> FenceProof:
    """Ask the supervisor on the validator's own host.

    Raises:
        InvalidInputError: the node is no validator.
        RefusedError: the unit runs, is paused, or would be started again.
        UnavailableError: the host does not answer, which proves nothing.
    """
    return prove(node, [UnitStopped(fleet, node)], clock=clock)


def read_final_state(proof: FenceProof, files: Files) -> FinalState:
    """The state file on the fenced node's own disk, for a signer that never left it.

    Raises:
        NotFoundError: it is gone: the final state is not known.
        CorruptError: it can't be trusted: the final state is not known.
    """
    return FinalState(proof, read_sign_state(files.home(proof.node) / "data" / FILE_NAME), seal=_SEAL)


def final_state_of(proof: FenceProof) -> FinalState:
    """The highest of what the fenced hosts' own disks said when they were proven fenced.

    Raises:
        NotFoundError: a host's last state is not known, so neither is the key's.
        RefusedError: two hosts signed different messages at one height, round and step.
    """
    unknown = [one.host for one in proof.fences if one.final is None]
    if unknown:
        raise NotFoundError(
            f"{proof.node.name}: the last state on {', '.join(unknown)} is not known",
            remedy="Bring back that host's disk, still fenced, or its sign-state file.",
        )
    return FinalState(proof, highest(*(one.final for one in proof.fences if one.final is not None)), seal=_SEAL)


def observe_tip(proof: FenceProof, observers: Sequence[ChainRpc], *, chain_id: str) -> FencedTip:
    """The tip as independent nodes show it now, which is after the fence.

    Raises:
        VerificationFailedError: fewer than two answer in sync and on this chain, or they are far apart.
    """
    seen: dict[str, Height] = {}
    reasons = []
    names = []
    for observer in observers:
        try:
            status = observer.status()
        except UnavailableError as error:
            reasons.append(error.message)
            continue
        if reason := _unfit(status, proof, chain_id):
            reasons.append(f"{observer.name} {reason}")
        elif status.node_id not in seen:
            seen[status.node_id] = status.latest_height
            names.append(observer.name)
    if len(seen) < MIN_OBSERVERS:
        raise VerificationFailedError(
            f"the tip after the fence: {len(seen)} nodes tell it, {MIN_OBSERVERS} are needed: {'; '.join(reasons)}",
            remedy="Bring back a second node that is in sync; without it no floor is safe.",
        )
    if max(seen.values()) - min(seen.values()) > MAX_SPREAD_BLOCKS:
        raise VerificationFailedError(
            f"the tip after the fence: nodes show {min(seen.values())} to {max(seen.values())}, more than "
            f"{MAX_SPREAD_BLOCKS} apart",
            remedy="Wait until they have caught up, or find the fork.",
        )
    return FencedTip(proof, max(seen.values()), tuple(names), seal=_SEAL)


def _unfit(status: Status, proof: FenceProof, chain_id: str) -> str:
    if status.chain_id != chain_id:
        return f"is on chain {status.chain_id}, not {chain_id}"
    if status.catching_up:
        return "is catching up"
    if status.validator_address == proof.address:
        return "is the fenced validator itself"
    return ""


def observe_quiet(
    proof: FenceProof,
    tip: FencedTip,
    observer: ChainRpc,
    *,
    commits: int = MIN_QUIET_COMMITS,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Quiet:
    """Watch consecutive commits in which the validator is a member and absent.

    Begins two above the tip: for the block right above it the signer may have voted before it was fenced.  Only commits
    that the next block has fixed are counted.

    Raises:
        InvalidInputError: fewer than MIN_QUIET_COMMITS are asked for.
        RefusedError: the validator signed, or is not in the set.
        DeadlineError: the chain did not make that many blocks: it is halted or slow.
    """
    if commits < MIN_QUIET_COMMITS or tip.proof != proof:
        raise InvalidInputError(
            f"quiet needs {MIN_QUIET_COMMITS} commits or more after this fence's tip, asked for {commits}",
            remedy="Ask for more, and observe the tip again after fencing.",
        )
    deadline = monotonic() + deadline_s
    first = Height(tip.height + 2)
    height = first
    while height < first + commits:
        if observer.status().latest_height > height:
            _check_absent(observer, height, proof)
            height = Height(height + 1)
            progress(height - first, commits)
        elif monotonic() >= deadline:
            raise DeadlineError(
                f"{height - first} of {commits} quiet commits in {deadline_s:g} s: the chain is at {height}",
                remedy="If it is halted, only the signer's own final state gives a floor.",
            )
        else:
            sleep(_POLL_S)
    return Quiet(proof, first, Height(height - 1), seal=_SEAL)


def observe_quiet_again(quiet: Quiet, observer: ChainRpc) -> Quiet:
    """The same quiet, up to the newest commit that is fixed: what the chain did since it was observed.

    Raises:
        RefusedError: as `observe_quiet`, or the node is behind what was seen, so that it can't tell.
    """
    fixed = observer.status().latest_height - 1
    if fixed < quiet.last:
        raise RefusedError(
            f"{observer.name} is at height {fixed + 1}, quiet was seen to {quiet.last}",
            remedy="Ask a node that is in sync.",
        )
    for height in range(quiet.last + 1, fixed + 1):
        _check_absent(observer, Height(height), quiet.proof)
    return Quiet(quiet.proof, quiet.first, Height(fixed), seal=_SEAL)


def observe_halted(
    proof: FenceProof,
    observers: Sequence[ChainRpc],
    *,
    chain_id: str,
    still_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Halted:
    """See the tip twice; between, no block is made and the validator's votes do not grow.

    Raises:
        DeadlineError: it moved, so the chain is slow and not halted.
        RefusedError: a vote of the validator was added: a signer with this key is alive.
        VerificationFailedError: too few nodes answer, or they are far apart.
    """
    tip = observe_tip(proof, observers, chain_id=chain_id)
    seen = observe_votes(proof, tip, observers)
    sleep(still_s)
    later = observe_tip(proof, observers, chain_id=chain_id)
    if later.height != tip.height:
        raise DeadlineError(
            f"the chain went from {tip.height} to {later.height} in {still_s:g} s: it is slow, not halted",
            remedy="Wait for more blocks, then resume.",
        )
    seen_later = observe_votes(proof, later, observers)
    if (seen_later.highest or _NOTHING) > (seen.highest or _NOTHING):
        raise RefusedError(
            f"{proof.node.name} ({proof.node.address}) voted {seen_later.highest} after it was fenced",
            remedy="Another signer with this key is alive: find it and stop it; start none.",
        )
    return Halted(proof, later, seen_later, still_s, seal=_SEAL)


def _check_absent(observer: ChainRpc, height: Height, proof: FenceProof) -> None:
    commit, validators = observer.commit(height).commit, observer.validators(height).validators
    indices = [index for index, validator in enumerate(validators) if validator.address == proof.address]
    if len(indices) != 1 or len(commit.signatures) != len(validators):
        raise RefusedError(
            f"{proof.node.name} ({proof.node.address}) is not in the validator set of height {height}",
            remedy="Quiet can't be seen: check whether it is jailed, tombstoned or out of the set.",
        )
    sig = commit.signatures[indices[0]]
    if sig.flag is not Flag.ABSENT or any(other.address == proof.address for other in commit.signatures):
        raise RefusedError(
            f"{proof.node.name} ({proof.node.address}) signed height {height} after it was fenced",
            remedy="Another signer with this key is alive: find it and stop it; start none.",
        )


def observe_votes(
    proof: FenceProof, tip: FencedTip, survivors: Sequence[ChainRpc], *, lookback: int = LOOKBACK_COMMITS
) -> SeenVotes:
    """All that survivors hold of the validator: votes of the height being decided, and the last commits.

    Raises:
        VerificationFailedError: no survivor answers.
    """
    seen: list[Hrs] = []
    names, reasons = [], []
    for survivor in survivors:
        try:
            votes = survivor.consensus_state().votes_of(proof.address)
            committed = _last_committed(survivor, proof.address, tip.height, lookback)
        except UnavailableError as error:
            reasons.append(error.message)
            continue
        seen += [(vote.height, vote.round, vote.step) for vote in votes]
        seen += committed
        names.append(survivor.name)
    if not names:
        raise VerificationFailedError(
            f"votes of {proof.node.name}: no survivor tells them: {'; '.join(reasons) or 'none named'}",
            remedy="Bring back a node that took part in consensus.",
        )
    return SeenVotes(proof, max(seen, default=None), tuple(names), seal=_SEAL)


def _last_committed(survivor: ChainRpc, address: bytes, tip: Height, lookback: int) -> list[Hrs]:
    """The newest precommit of the validator among the last commits that the survivor has, if any."""
    for height in range(tip, max(tip - lookback, 0), -1):
        try:
            commit = survivor.commit(Height(height)).commit
        except NotFoundError:  # not yet made there, some blocks below the tip, or pruned
            continue
        if _signed(commit, address):
            return [(commit.height, commit.round, 3)]
    return []


def _signed(commit: Commit, address: bytes) -> bool:
    return any(sig.address == address for sig in commit.signatures)
