"""One schedule with file-based signers: a disaster, promotions that race and die, everything else that breaks.

The promotion, fence, floor, quiet and lease code is the program's own; the world is simulated.
"""

# ruff: noqa: S101 - the state is this file's own

import random
from collections.abc import Callable, Sequence
from typing import Final

from greenlet import greenlet

from bench.signing import rules
from bench.signing.copies import Copies
from bench.signing.fakes import (
    Killed,
    Observer,
    Process,
    Run,
    SimulatedDisk,
    SimulatedFleet,
    SimulatedJournal,
    Store,
    node_of,
)
from bench.signing.oracle import Oracle
from bench.signing.world import CHAIN_ID, PUBLIC_KEY, TICK_S, Chain, Folder, Host, World
from vedr.chain.attestation import Statement
from vedr.chain.sign_state import SignState
from vedr.errors import VedrError
from vedr.failover.promotion import Hosts, Means, Patience, promote
from vedr.failover.promotion_key import KeySeen
from vedr.failover.promotion_stages import Order
from vedr.failover.signer_disk import OPEN, Ticket
from vedr.inventory import Height
from vedr.ledger import RunId
from vedr.runbook.lease import Leases

NAMES: Final = ("a", "b", "c")
FIRST_TIP: Final = 100
SHIPPING: Final = 0.2  # of the ticks; copies are that old
HANDS: Final = (0, 0, 0, 1, 3, 6)  # how often one reaches into buckets or sets clocks
LOSING: Final = (0.0, 0.0, 0.02, 0.1)  # of the answers of stores that did what they were asked
JUMPS_S: Final = (-31_536_000, -86_400, -3_600, 3_600, 86_400, 31_536_000)
REGIONS: Final = ("us-east", "eu-west", "ap-south")
_KEY: Final = KeySeen("hsm", PUBLIC_KEY, "token")
_MOVING: Final = Patience(quiet_s=40 * TICK_S, still_s=2 * TICK_S, watch_s=12 * TICK_S, watch_blocks=2)
_HALTED: Final = Patience(quiet_s=2 * TICK_S, still_s=2 * TICK_S, watch_s=12 * TICK_S, watch_blocks=2)


class FileSchedule:
    """A seed's life."""

    def __init__(self, seed: int, off: frozenset[str] = frozenset(), log: list[str] | None = None) -> None:
        self.seed, self.off, self.log = seed, off, log
        self.promoted = 0
        self.refused: dict[str, int] = {}

    def run(self) -> Oracle:
        """Play it; the oracle says whether something was signed twice."""
        self.set_up()
        try:
            self.play(self.ticks)
        finally:
            self.end()
        return self.world.oracle

    def play(self, ticks: int) -> None:
        """Let that much time pass, unless something was signed twice or nothing is left to happen."""
        world, chance = self.world, self.chance
        for _ in range(ticks):
            for event in self.plan.get(self.tick, ()):
                event()
            self.tick += 1
            world.tick()
            if world.oracle.broken:
                return
            for process in self.processes:
                if process.is_alive and process.ready_s <= world.now_s:
                    self._switch(process)
            if chance.random() < SHIPPING:
                self._ship()
            if chance.random() < self.resuming:
                self.resume()
            if self.last_event < self.tick and self._settled():
                return

    def end(self) -> None:
        """Let go of the processes."""
        for process in self.processes:
            self.kill(process)

    # --- the beginning

    def set_up(self) -> None:
        self.chance = chance = random.Random(self.seed)
        chain = Chain(moves=chance.random() < 0.6, tip=FIRST_TIP)
        self.hosts = {name: self._host(name) for name in NAMES}
        self.world = World(chance, chain, self.hosts, Oracle(), log=self.log)
        self.reaching = reaching = random.Random(f"hands of {self.seed}")  # of its own: see the register's schedules
        self.copies = Copies(REGIONS, reaching)
        loses = reaching.choice(LOSING)
        self.stores = {region: Store(region, loses=loses, chance=reaching) for region in REGIONS}
        self.patience = _MOVING if chain.moves else _HALTED
        self.lags = (chance.choice((0, 0, 0, 1, 2, 3)), chance.choice((0, 0, 1, 2)))
        self.danger = chance.choice((0.0, 0.003, 0.02, 0.08))
        self.killing = chance.choice((0.0, 0.2, 0.6))
        self.resuming = chance.choice((0.03, 0.08))
        self.runs: dict[RunId, Run] = {}
        self.processes: list[Process] = []
        self.ticks = 85 if chain.moves else 60
        self.plan: dict[int, list[Callable[[], None]]] = {}
        self.tick = 0
        begin = chance.randrange(3, 8)
        self._at(begin, self.disaster)
        self._at(begin + chance.randrange(0, 3), lambda: self.order("b"))
        if chance.random() < 0.7:  # sooner or later somebody gets at the hosts
            self._at(begin + chance.randrange(1, 25), lambda: _appear(self))
        if chance.random() < 0.6:
            later = chance.randrange(0, self.ticks // 2)
            target = chance.choice(("c", "c", "b", "a"))
            self._at(begin + later, lambda: self.order(target))
        for _ in range(chance.randrange(1, 7)):
            fault = chance.choice(FAULTS)
            self._at(chance.randrange(1, self.ticks), lambda fault=fault: fault(self))
        for _ in range(reaching.choice(HANDS)):
            self._at(reaching.randrange(1, self.ticks), self.reach_in)
        self.last_event = max(self.plan) + 5

    def _host(self, name: str) -> Host:
        """`a` signs; the others are full nodes whose state came from an old backup, or is that of a fresh node."""
        chance = self.chance
        if name == "a":
            state = SignState(Height(FIRST_TIP), 0, 3, b"", b"\1")
        else:
            state = SignState(Height(chance.choice((0, 60, FIRST_TIP - 1))), 0, 0)
        host = Host(name, Folder(OPEN, state), has_key=name == "a", wants_running=True)
        host.lag = chance.choice((0, 0, 0, 2, 25))
        if name == "a":
            host.lag = 0
        return host

    def _settled(self) -> bool:
        """Nothing is planned, and the last promotion ended well a while ago."""
        done = all(run.records and run.records[-1][0] == "watched" for run in self.runs.values())
        return done and not any(process.is_alive for process in self.processes)

    def _at(self, tick: int, event: Callable[[], None]) -> None:
        self.plan.setdefault(tick, []).append(event)

    # --- what happens

    def disaster(self) -> None:
        """What made people promote."""
        host, chance = self.hosts["a"], self.chance
        kind = chance.randrange(7)
        self.world.say(f"disaster {kind}")
        if kind in (0, 1):  # cut off from the chain, and with 1 from everybody
            host.is_connected = False
            host.is_reachable = kind == 0
        elif kind == 2 and host.signer is not None:  # frozen
            host.signer.paused_until_s = self.world.now_s + TICK_S * chance.randrange(5, 60)
        elif kind == 3:  # crashed
            host.end()
            host.wants_running = False
        elif kind == 4:  # crashed and its disk gone
            host.end()
            host.folder = None
        elif kind == 5:  # unreachable, and signs on
            host.is_reachable = False

    def order(self, target: str) -> None:
        """Somebody begins a run that moves the key to this host."""
        run_id = RunId(f"inc-20270101-000000-{len(self.runs):04d}")
        self.runs[run_id] = run = Run(run_id, target)
        self.world.say(f"{run_id[-4:]} is to move the key to {target}")
        host = self.hosts[target]
        if host.folder is None:  # it was rebuilt first, as a full node without the key, from an old backup
            host.end()
            host.folder, host.has_key = Folder(OPEN, SignState(Height(50), 0, 0)), False
        self._begin(run)

    def _begin(self, run: Run) -> None:
        run.attempts += 1
        process = Process(self.world, run, run.attempts, self.danger, self.killing)
        process.skew_s = self.chance.choice((0, 0, 0, 120, -120))
        run.processes.append(process)
        self.processes.append(process)
        process.body = greenlet(lambda: self._promote(process))
        process.ready_s = self.world.now_s

    def resume(self) -> None:
        """A run whose process ended, or seems to hang, is taken up by another process."""
        for run in self.runs.values():
            last = run.processes[-1]
            done = bool(run.records) and run.records[-1][0] == "watched"
            if not done and len(run.processes) < 6 and (not last.is_alive or last.stopped_since_s is not None):
                self._begin(run)
                return

    def _switch(self, process: Process) -> None:
        assert process.body is not None
        process.body.switch()

    def kill(self, process: Process) -> None:
        if process.is_alive and process.body:
            process.body.throw(Killed)
        process.is_alive = False

    def _promote(self, process: Process) -> None:
        run = process.run
        order = Order(CHAIN_ID, node_of("a"), node_of(run.standby), run.run_id, process.attempt)
        try:
            promote(self._means(process), order, list(run.records))  # type: ignore[arg-type]
            self.promoted += 1
        except VedrError as error:
            self.refused[type(error).__name__] = self.refused.get(type(error).__name__, 0) + 1
            self.world.say(f"{run.run_id[-4:]}.{process.attempt} {type(error).__name__}: {error.message}")
        except Killed:
            self.world.say(f"{run.run_id[-4:]}.{process.attempt} killed")
        process.is_alive = False

    def _means(self, process: Process) -> Means:
        journal = SimulatedJournal(process, self.stores, self.runs)
        target, fleet, off = process.run.standby, SimulatedFleet(process), self.off
        other_fence = rules.fence_class(off)

        def hosts(ticket: Ticket) -> Hosts:
            others = [name for name in NAMES if name != target]
            if "all-hosts" in off:
                others = others[:1]
            return Hosts(
                tuple(other_fence(fleet, node_of(n), SimulatedDisk(process, self.hosts[n]), ticket) for n in others),  # type: ignore[arg-type]
                rules.fencing.ProcessAndDisk(
                    fleet,  # type: ignore[arg-type]
                    node_of(target),
                    SimulatedDisk(process, self.hosts[target]),
                    ticket,
                ),
            )

        def place_key() -> KeySeen:
            process.point()
            self.hosts[target].has_key = True
            process.point()
            return _KEY

        def record(stage: str, evidence: object) -> None:
            process.run.record(process, stage, evidence)  # type: ignore[arg-type]
            self._maybe_reopen(stage)

        return Means(
            leases=Leases(journal),  # type: ignore[arg-type]
            hosts=hosts,
            observers=[Observer(process, f"full-{number}", lag) for number, lag in enumerate(self.lags)],  # type: ignore[misc]
            copies=self._copies,
            earlier=lambda: [one for run in self.runs.values() for one in run.records],  # type: ignore[misc]
            statements=_nobody,
            place_key=place_key,
            record=record,
            patience=self.patience,
            clock=process.clock,
            sleep=process.sleep,
            monotonic=process.monotonic,
        )

    def _copies(self) -> list[SignState]:
        return self.copies.look(self._silent())

    def _ship(self) -> None:
        """The shippers see the files some time after they were written."""
        silent = self._silent()
        for host in self.hosts.values():
            self.copies.ship(host, silent, self.world.now_s)

    def _silent(self) -> frozenset[str]:
        return frozenset(region for region, store in self.stores.items() if store.is_down)

    def reach_in(self) -> None:
        """A hand changes shipped copies, or a process's clock."""
        alive = [process for process in self.processes if process.is_alive]
        if alive and self.reaching.random() < 0.3:
            self.reaching.choice(alive).skew_s += self.reaching.choice(JUMPS_S)
        else:
            self.world.say(self.copies.reach_in())

    def _maybe_reopen(self, stage: str) -> None:
        """A colleague gives `a` its disk back by hand, while somebody is promoting and before the last look.

        Only while no other host was let sign: later its state is old, and no rule helps against the hand.
        """
        host = self.hosts["a"]
        if stage not in ("fenced", "observed", "quieted", "halted", "floored", "key_ready"):
            return
        armed = any(one.has_key and one.can_start for name, one in self.hosts.items() if name != "a")
        if armed or self.world.oracle.hosts - {"a"}:
            return
        if self.chance.random() < 0.01 and host.folder and host.folder.name != OPEN:
            self.world.say("a colleague opens a")
            host.folder.name = OPEN
            host.wants_running = True
            host.start()


def _nobody(_risk: str) -> Sequence[Statement]:
    return ()


# --- faults


def _any_host(schedule: FileSchedule) -> Host:
    return schedule.hosts[schedule.chance.choice(("a", "a", "b", "b", "c"))]


def _crash_signer(schedule: FileSchedule) -> None:
    _any_host(schedule).end()


def _freeze_signer(schedule: FileSchedule) -> None:
    host = _any_host(schedule)
    if host.signer is not None:
        host.signer.paused_until_s = schedule.world.now_s + TICK_S * schedule.chance.randrange(2, 60)


def _cut(schedule: FileSchedule) -> None:
    host = _any_host(schedule)
    host.is_connected = not host.is_connected


def _hide(schedule: FileSchedule) -> None:
    host = _any_host(schedule)
    host.is_reachable = not host.is_reachable


def _appear(schedule: FileSchedule) -> None:
    for host in schedule.hosts.values():
        host.is_reachable = True


def _lose_disk(schedule: FileSchedule) -> None:
    host = _any_host(schedule)
    host.end()
    host.folder = None


def _reboot(schedule: FileSchedule) -> None:
    """The machine comes up and starts all that it has, whatever was meant before."""
    host = _any_host(schedule)
    host.end()
    host.wants_running = True


def _region_out(schedule: FileSchedule) -> None:
    store = schedule.stores[schedule.chance.choice(REGIONS)]
    store.is_down = not store.is_down


def _jump_clock(schedule: FileSchedule) -> None:
    for process in schedule.processes:
        process.skew_s += schedule.chance.choice((-600, 60, 600))


def _kill_a_process(schedule: FileSchedule) -> None:
    alive = [process for process in schedule.processes if process.is_alive and process.body]
    if alive:
        schedule.kill(schedule.chance.choice(alive))


def _stop_a_process(schedule: FileSchedule) -> None:
    alive = [process for process in schedule.processes if process.is_alive and process.body]
    if alive:
        process = schedule.chance.choice(alive)
        process.ready_s = schedule.world.now_s + TICK_S * schedule.chance.randrange(8, 50)


def _halt_or_move(schedule: FileSchedule) -> None:
    schedule.world.chain.moves = not schedule.world.chain.moves


def _lag(schedule: FileSchedule) -> None:
    _any_host(schedule).lag = schedule.chance.choice((0, 1, 5, 25))


FAULTS: Final = (
    _crash_signer,
    _freeze_signer,
    _freeze_signer,
    _cut,
    _hide,
    _appear,
    _appear,
    _lose_disk,
    _reboot,
    _reboot,
    _region_out,
    _jump_clock,
    _kill_a_process,
    _kill_a_process,
    _stop_a_process,
    _stop_a_process,
    _halt_or_move,
    _lag,
)
