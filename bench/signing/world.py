"""The world that file-based signers live in: a chain, hosts with disks and supervisors, everything that breaks.

One tick is a block's time.  All chance comes from the schedule's generator, so that a seed is a schedule.  The signer
is FilePV's rule: it keeps height, round and step in memory, writes them by path before it releases, and dies when it
can't write.  Which block it votes for is a draw each time, the worst that two processes can do.
"""

# ruff: noqa: S101 - the state is this file's own

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.signing.oracle import Oracle
from vedr.chain.block import BlockId, Commit, CommitSig, Flag, Validator, ValidatorSet
from vedr.chain.sign_state import SignState
from vedr.failover.signer_disk import NO_TICKET, OPEN, Ticket
from vedr.inventory import Height

TICK_S: Final = 5
CHAIN_ID: Final = "simulated-1"
PUBLIC_KEY: Final = bytes(range(32))
OUR_VALIDATOR: Final = Validator(PUBLIC_KEY, 10)
ADDRESS: Final = OUR_VALIDATOR.address
_OTHERS_VALIDATOR: Final = Validator(b"\1" * 32, 10)


@dataclass(frozen=True, slots=True)
class Member:
    """A validator whose address was hashed once, and not at each look."""

    key: bytes
    power: int
    address: bytes


VALIDATORS: Final = ValidatorSet(
    tuple(Member(one.key, one.power, one.address) for one in (OUR_VALIDATOR, _OTHERS_VALIDATOR))  # type: ignore[misc]
)
_OTHER: Final = CommitSig(Flag.COMMIT, _OTHERS_VALIDATOR.address, 0, b"")
_SIGNATURES: Final = {
    Flag.ABSENT: (CommitSig(Flag.ABSENT, b"", 0, b""), _OTHER),
    Flag.COMMIT: (CommitSig(Flag.COMMIT, ADDRESS, 0, b""), _OTHER),
    Flag.NIL: (CommitSig(Flag.NIL, ADDRESS, 0, b""), _OTHER),
}
_BLOCK: Final = BlockId(b"", 0, b"")
NIL: Final = 0
Vote = tuple[int, int, int]
PROPOSE, PREVOTE, PRECOMMIT = 1, 2, 3


@dataclass(slots=True)
class Folder:
    """A host's data folder; `state` None: lost or unreadable."""

    name: str
    state: SignState | None
    ticket: Ticket = NO_TICKET


@dataclass(slots=True)
class Signer:
    """A process with the key: FilePV with what it remembers."""

    memory: SignState
    paused_until_s: int = 0
    holding: tuple[Vote, int] | None = None  # signed, stored, not yet let out


@dataclass(slots=True)
class Host:
    """A machine that holds the key or may be given it."""

    name: str
    folder: Folder | None
    has_key: bool
    wants_running: bool
    signer: Signer | None = None
    node_runs: bool = False  # without the key: a full node
    is_reachable: bool = True  # its supervisor and disk, by whoever promotes
    is_connected: bool = True  # to the chain
    view: int = 0
    round: int = 0
    lag: int = 0
    promised: Vote = (0, 0, 0)

    @property
    def can_start(self) -> bool:
        return self.folder is not None and self.folder.name == OPEN and self.folder.state is not None

    def start(self) -> None:
        """As the supervisor does it; without the state file the node ends at once."""
        if self.signer is not None or self.node_runs or not self.can_start:
            return
        if self.has_key:
            assert self.folder is not None
            assert self.folder.state is not None
            self.signer = Signer(self.folder.state)
        else:
            self.node_runs = True

    def end(self) -> None:
        self.signer, self.node_runs = None, False


@functools.cache
def _commit(height: int, round_: int, flag: Flag) -> Commit:
    return Commit(Height(height), round_, _BLOCK, _SIGNATURES[flag])


@functools.lru_cache(maxsize=8192)
def _state(hrs: Vote, block: int) -> SignState:
    return SignState(Height(hrs[0]), hrs[1], hrs[2], b"", bytes((block,)))


@dataclass(slots=True)
class Chain:
    """The other validators' chain; `moves` when it makes blocks without the key."""

    moves: bool
    tip: int
    round: int = 0
    commits: dict[int, Commit] = field(default_factory=dict)
    votes: dict[Vote, int] = field(default_factory=dict)  # of our key, as survivors hold them
    by_height: dict[int, list[tuple[Vote, int]]] = field(default_factory=dict)  # the same, as they came

    def commit(self, height: int) -> Commit:
        return self.commits.get(height) or _commit(height, 0, Flag.COMMIT)

    def take(self, hrs: Vote, block: int) -> None:
        """A vote of our key arrives; survivors keep the first."""
        if hrs not in self.votes:
            self.votes[hrs] = block
            self.by_height.setdefault(hrs[0], []).append((hrs, block))

    def advance(self) -> None:
        """The next block, with our precommit where one arrived in time."""
        height = self.tip + 1
        block = self.votes.get((height, self.round, PRECOMMIT))
        flag = Flag.ABSENT if block is None else Flag.NIL if block == NIL else Flag.COMMIT
        self.commits[height] = _commit(height, self.round, flag)
        self.tip, self.round = height, 0


@dataclass(slots=True)
class World:
    """Everything at one moment."""

    chance: random.Random
    chain: Chain
    hosts: dict[str, Host]
    oracle: Oracle
    now_s: int = 0
    log: list[str] | None = None
    draw: Callable[[], float] = field(init=False)

    def __post_init__(self) -> None:
        self.draw = self.chance.random

    def say(self, text: str) -> None:
        if self.log is not None:
            self.log.append(f"{self.now_s:5} s  tip {self.chain.tip}/{self.chain.round}  {text}")

    def tick(self) -> None:
        """One block's time: supervisors, signers, the chain."""
        self.now_s += TICK_S
        draw, chain = self.draw, self.chain
        for host in self.hosts.values():
            if host.signer is None and host.wants_running and not host.node_runs and draw() < 0.5:
                host.start()
            if host.is_connected:
                host.view = chain.tip - host.lag
                host.round = chain.round if host.lag == 0 else 0
            if host.signer is not None:
                self._sign(host, host.signer)
        ours = chain.votes.get((chain.tip + 1, chain.round, PRECOMMIT))
        if (chain.moves and draw() < 0.95) or ours:
            chain.advance()
        elif chain.moves or ours is not None:  # more than 2/3 voted, so that there is a next round
            chain.round += 1

    def _sign(self, host: Host, signer: Signer) -> None:
        if signer.paused_until_s > self.now_s:
            return
        if signer.holding is not None:  # it was stopped between storing and letting out
            (hrs, block), signer.holding = signer.holding, None
            self._release(host, hrs, block)
        draw = self.draw
        for step in (PROPOSE, PREVOTE, PRECOMMIT):
            if draw() < (0.2 if step == PROPOSE else 0.85):
                self._ask(host, (host.view + 1, host.round, step), int(draw() * 3))
                if host.signer is not signer or signer.paused_until_s > self.now_s:
                    return

    def _ask(self, host: Host, hrs: Vote, block: int) -> None:
        """FilePV.signVote: refuse what is lower, repeat what is equal, store and release what is higher."""
        signer = host.signer
        assert signer is not None
        last = signer.memory.hrs
        if hrs < last:
            return
        if hrs == last:
            if signer.memory.sign_bytes:
                self._release(host, hrs, signer.memory.sign_bytes[0])
            return
        signer.memory = _state(hrs, block)
        if not host.can_start or host.folder is None:
            self.say(f"{host.name} can't store {hrs} and dies")
            host.end()
            return
        host.folder.state = signer.memory
        fate = self.draw()
        if fate < 0.01:
            host.end()  # between storing and letting out
        elif fate < 0.03:
            signer.holding = (hrs, block)
            signer.paused_until_s = self.now_s + TICK_S * self.chance.randrange(2, 40)
        else:
            self._release(host, hrs, block)

    def _release(self, host: Host, hrs: Vote, block: int) -> None:
        if self.log is not None:
            self.say(f"{host.name} releases {hrs} for block {block}")
        self.oracle.release(host.name, hrs, block, self.now_s, promised=host.promised)
        if host.is_connected and self.draw() < 0.8:
            self.chain.take(hrs, block)
