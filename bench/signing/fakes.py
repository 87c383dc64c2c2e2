"""The ports as a promotion sees them in the simulated world.

A process is a greenlet that is switched away at any call of a port: for a moment, for as long as a stopped process
sleeps, or for ever (kill -9), before the call takes effect or after.  Leases are the real ones, over three stores that
come and go.
"""

# ruff: noqa: ARG002, S101 - fakes take what the ports take

import datetime as dt
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from greenlet import getcurrent, greenlet

from bench.signing.world import ADDRESS, CHAIN_ID, TICK_S, VALIDATORS, Folder, Host, World
from vedr.chain.block import BlockId, Header, SignedHeader, ValidatorSet
from vedr.chain.floor import Floor
from vedr.chain.rpc import Block, ConsensusState, SeenVote, Status
from vedr.chain.sign_state import SignState, highest
from vedr.errors import ConflictError, DeadlineError, NotFoundError, UnavailableError
from vedr.failover.signer_disk import NO_TICKET, OPEN, Place, Ticket
from vedr.inventory import Height, Node
from vedr.ledger import GENESIS, Entry, RunId
from vedr.ports import DOCUMENT_BYTES, ObjectKey, ObjectStore, StoredObject, UnitStatus
from vedr.runbook.replicas import Replicas
from vedr.signature import Json, Signer

EPOCH: Final = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
SIGNER: Final = Signer(Ed25519PrivateKey.from_private_bytes(b"\7" * 32))
BEAT_S: Final = 10
T = TypeVar("T")


class Killed(BaseException):
    """kill -9 of the process: nothing of it runs any more."""


@functools.cache
def node_of(name: str) -> Node:
    """The host as the site has it; all can be the validator, whose address they share."""
    return Node(
        name=name,
        region="us-east",
        zone="us-east-1a",
        role="validator",
        rpc="http://h:1",
        p2p="h:2",
        home=Path("/simulated"),
        unit=name,
        power=10,
        address=ADDRESS.hex().upper(),
    )


@dataclass(slots=True)
class Process:
    """One process of a promoting run; `danger` is how often it is switched away, and `killing` how often for good."""

    world: World
    run: "Run"
    attempt: int
    danger: float
    killing: float
    skew_s: int = 0
    ready_s: float = 0.0
    stopped_since_s: int | None = None
    is_alive: bool = True
    body: greenlet | None = None

    def point(self) -> None:
        """Anything may happen to the process here."""
        if self.world.draw() < self.danger:
            self.happen()

    def happen(self) -> None:
        """It is killed, stopped for long, or for a moment."""
        chance = self.world.chance
        if chance.random() < self.killing:
            raise Killed
        if chance.random() < 0.4:  # SIGSTOP, or a pause of its machine: its heart stops too
            self.stopped_since_s = self.world.now_s
            self.wait(TICK_S * chance.randrange(4, 40))
            self.stopped_since_s = None
        else:
            self.wait(TICK_S * chance.randrange(1, 3))

    def wait(self, seconds: float) -> None:
        self.ready_s = self.world.now_s + seconds
        hub = getcurrent().parent
        assert hub is not None
        hub.switch()

    def sleep(self, seconds: float) -> None:
        """Short sleeps are polls: until the next tick."""
        if seconds < 1:
            self.wait(TICK_S)
            return
        self.ready_s = max(self.ready_s, self.world.now_s) + seconds
        if self.ready_s >= self.world.now_s + TICK_S:
            self.wait(self.ready_s - self.world.now_s)

    def monotonic(self) -> float:
        return max(self.ready_s, self.world.now_s)

    def clock(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=self.world.now_s + self.skew_s)


@dataclass(slots=True)
class Run:
    """A promoting run in the ledger: which process may write it, and what it wrote."""

    run_id: RunId
    standby: str
    attempts: int = 0
    records: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def record(self, process: Process, stage: str, evidence: Mapping[str, Json]) -> None:
        process.point()
        if process.attempt != self.attempts:
            raise ConflictError(f"run {self.run_id}: another process writes it")
        if process.world.log is not None:
            process.world.say(f"{self.run_id[-4:]}.{process.attempt} {stage} {dict(evidence)}")
        self.records.append((stage, evidence))
        process.point()

    def silent_since_s(self, now_s: int) -> int:
        """The last heartbeat of the process that writes it."""
        if not self.processes or not self.processes[-1].is_alive:
            return 0
        stopped = self.processes[-1].stopped_since_s
        return now_s if stopped is None else stopped


# --- leases


@dataclass(slots=True)
class Store:
    """A region's objects; nobody asks it while it `is_down`, and some answers are lost on their way."""

    region: str
    loses: float
    chance: random.Random
    objects: dict[str, bytes] = field(default_factory=dict)
    is_down: bool = False
    listings: dict[str, list[StoredObject]] = field(default_factory=dict)  # by prefix, until something is created

    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        if self.objects.setdefault(key, data) is not data:
            raise ConflictError(f"{key} exists")
        self.listings.clear()
        return StoredObject(key, len(data), None, EPOCH)

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        del version, limit_bytes
        if key not in self.objects:
            raise NotFoundError(key)
        return self.objects[key]

    def view(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int) -> memoryview:
        return memoryview(self.get(key, version=version, limit_bytes=limit_bytes))

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        return StoredObject(key, len(self.get(key)), version, EPOCH)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        listing = self.listings.get(prefix)
        if listing is None:
            listing = self.listings[prefix] = [_listed(key) for key in self.objects if key.startswith(prefix)]
        return iter(listing)

    def delete(self, key: ObjectKey) -> None:
        raise AssertionError(f"nothing in here removes {key}")


@functools.cache
def _listed(key: str) -> StoredObject:
    return StoredObject(ObjectKey(key), 0, None, EPOCH)


class SteppedReplicas(Replicas):
    """The real rules of slots, asking one region after the other in an order by chance."""

    def __init__(self, stores: Mapping[str, "Store"], process: Process) -> None:
        self._stores = dict(stores)
        self._process = process

    def _each(self, work: Callable[[ObjectStore], T], only: Sequence[str] | None = None) -> Iterator[tuple[str, T]]:
        stores, process, draw = self._stores, self._process, self._process.world.draw
        names = list(stores if only is None else only)
        if draw() < 0.5:  # a write that is cut short reaches other regions
            names.reverse()
        for name in names:
            if draw() < process.danger:
                process.happen()
            store = stores[name]
            if not store.is_down:
                answer = work(store)
                if not store.loses or store.chance.random() >= store.loses:
                    yield name, answer


class SimulatedJournal:
    """What leases need of a journal; a run's entries are its heartbeats."""

    site: Final = "simulated"
    trusted: Final = (SIGNER.public_hex,)

    def __init__(self, process: Process, stores: Mapping[str, Store], runs: Mapping[RunId, Run]) -> None:
        self.replicas = SteppedReplicas(stores, process)
        self.signer = CachedSigner()
        self.clock = process.clock
        self.process = process
        self._runs = runs

    def read(self, run_id: RunId) -> "SimulatedJournal.Recorded":
        return SimulatedJournal.Recorded((self.last(run_id),))

    def last(self, run_id: RunId) -> Entry:
        since_s = self._runs[run_id].silent_since_s(self.process.world.now_s)
        when = EPOCH + dt.timedelta(seconds=since_s)
        return Entry("simulated", run_id, since_s // BEAT_S, "heartbeat", when, 1, {}, GENESIS)

    @dataclass(frozen=True, slots=True)
    class Recorded:
        entries: tuple[Entry, ...]


class CachedSigner:
    """Signing is deterministic, and the same few leases are signed in every schedule."""

    def seal_document(self, signed: Mapping[str, Json]) -> bytes:
        return _sealed(tuple(signed.items()))


@functools.cache
def _sealed(items: tuple[tuple[str, Json], ...]) -> bytes:
    return SIGNER.seal_document(dict(items))


# --- hosts


@dataclass(slots=True)
class SimulatedFleet:
    """The supervisors."""

    process: Process

    def _host(self, unit: str) -> Host:
        self.process.point()
        host = self.process.world.hosts[unit]
        if not host.is_reachable:
            raise UnavailableError(f"{unit} does not answer")
        return host

    def status(self, unit: str, zone: str) -> UnitStatus:
        host = self._host(unit)
        runs = host.signer is not None or host.node_runs
        desired = "running" if host.wants_running else "stopped"
        return UnitStatus(unit, "running" if runs else "stopped", 7 if runs else None, EPOCH, None, desired)

    def start(self, unit: str, zone: str) -> UnitStatus:
        host = self._host(unit)
        host.wants_running = True
        host.start()
        self.process.world.say(f"{unit} started: {host.signer}")
        self.process.point()
        return UnitStatus(unit, "running", 7, EPOCH, None, "running")

    def stop(self, unit: str, zone: str) -> UnitStatus:
        host = self._host(unit)
        host.wants_running = False
        if host.signer is not None and host.signer.paused_until_s > self.process.world.now_s:
            raise DeadlineError(f"{unit} did not end")
        host.end()
        self.process.point()
        return UnitStatus(unit, "stopped", None, EPOCH, 0, "stopped")

    def kill(self, unit: str, zone: str) -> UnitStatus:
        host = self._host(unit)
        host.end()
        self.process.point()
        return UnitStatus(unit, "failed", None, EPOCH, 9, "stopped")

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        raise AssertionError(f"no promotion pauses {unit}")

    def resume(self, unit: str, zone: str) -> None:
        raise AssertionError(f"no promotion resumes {unit}")


@dataclass(slots=True)
class SimulatedDisk:
    """A host's folder; renames are atomic, writes are not: between reading and replacing anything may happen."""

    process: Process
    host: Host

    def _reach(self) -> None:
        self.process.point()
        if not self.host.is_reachable:
            raise UnavailableError(f"{self.host.name}'s disk does not answer")

    def place(self) -> Place:
        self._reach()
        folder = self.host.folder
        if folder is None:
            return Place("missing", NO_TICKET)
        return Place("open" if folder.name == OPEN else "fenced", folder.ticket)

    def take_away(self, ticket: Ticket) -> None:
        now = self.place()
        if now.ticket > ticket:
            raise ConflictError(f"{self.host.name} carries ticket {now.ticket}")
        self.process.point()
        folder = self.host.folder
        if folder is None or now.where == "missing":
            return
        if folder.name != (OPEN if now.where == "open" else now.ticket.folder):
            raise ConflictError(f"{self.host.name}: its folder moved")
        folder.name, folder.ticket = ticket.folder, ticket
        self.process.point()

    def state(self, ticket: Ticket | None) -> SignState:
        self._reach()
        folder = self.host.folder
        if folder is None or folder.state is None or folder.name != (ticket.folder if ticket else OPEN):
            raise NotFoundError(f"{self.host.name}: no state")
        return folder.state

    def prepare(self, ticket: Ticket, floor: Floor, *, check_height: int) -> SignState:
        self._reach()
        before = self._mine(ticket).state
        written = self.merged(before, floor.state)
        self.process.point()
        self._mine(ticket).state = written
        self.host.promised = max(self.host.promised, written.hrs)
        self.process.point()
        return written

    def merged(self, before: SignState | None, floor: SignState) -> SignState:
        """What the file says after the floor was applied."""
        return floor if before is None else highest(before, floor)

    def bring_back(self, ticket: Ticket) -> None:
        self._reach()
        self._mine(ticket).name = OPEN
        self.process.world.say(f"{self.host.name} opened under {ticket}")
        self.process.point()

    def _mine(self, ticket: Ticket) -> Folder:
        folder = self.host.folder
        if folder is None or folder.name != ticket.folder:
            raise ConflictError(f"{self.host.name} does not carry ticket {ticket}")
        return folder


# --- the chain's nodes


@functools.cache
def _signed_header(height: int) -> Header:
    return Header(11, 1, CHAIN_ID, Height(height), 0, BlockId(b"", 0, b""), b"", b"", b"", b"", b"", b"", b"", b"", b"")


@functools.cache
def _status(name: str, tip: int) -> Status:
    return Status(name, CHAIN_ID, name, "", Height(tip), b"", b"", 0, Height(1), False, b"", 0)


@functools.cache
def _seen(hrs: tuple[int, int, int], block: int) -> SeenVote:
    return SeenVote(ADDRESS, Height(hrs[0]), hrs[1], hrs[2], for_nil=block == 0)


@dataclass(slots=True)
class Observer:
    """A full node, some blocks behind."""

    process: Process
    name: str
    lag: int
    is_down: bool = False

    @property
    def _tip(self) -> int:
        if self.is_down:
            raise UnavailableError(f"{self.name} is down")
        return self.process.world.chain.tip - self.lag

    def status(self) -> Status:
        self.process.point()
        return _status(self.name, self._tip)

    def commit(self, height: Height | None = None) -> SignedHeader:
        chosen = self._tip if height is None else height
        return _Signed(self.process.world.chain.commit(chosen))  # type: ignore[return-value]

    def validators(self, height: Height) -> ValidatorSet:
        return VALIDATORS

    def consensus_state(self) -> ConsensusState:
        """Votes for the height being decided and the one before, as they arrived."""
        self.process.point()
        chain, height = self.process.world.chain, self._tip + 1
        votes = tuple(_seen(hrs, block) for at in (height - 1, height) for hrs, block in chain.by_height.get(at, ()))
        return ConsensusState(Height(height), chain.round, 1, VALIDATORS, votes)

    def block(self, height: Height | None = None) -> Block:
        return _NO_EVIDENCE  # what the oracle sees ends the schedule before evidence could be on the chain


@dataclass(frozen=True, slots=True)
class _Signed:
    commit: object


_NO_EVIDENCE: Final = Block(b"", _signed_header(1), ())
