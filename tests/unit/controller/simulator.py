"""Three real controllers over registers in memory, in a world that fails on demand.

What is simulated is the world: which services answer whom, the regions' stores, clocks, Prefect, processes that die or
stand still in the middle of a round.  What runs is the program.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.quorum import Domain, Member, PowerMap
from vedr.errors import UnavailableError
from vedr.failover.controller import Chain, Places
from vedr.failover.controller_lease import Tenure
from vedr.failover.controller_ledger import Incident
from vedr.failover.controller_loop import Controller, Cycle, Notice, Ways
from vedr.failover.controller_reports import Exchange
from vedr.failover.controller_starting import Request, Result
from vedr.failover.health import Answer, Service, Vantage
from vedr.ledger import RunId
from vedr.policies.controller import ControllerPolicy
from vedr.ports import ObjectKey, Registers, Tagged
from vedr.signature import Json, Signer

REGIONS = ("us-east", "eu-west", "ap-south")
ZONES = {"us-east-1a": "us-east", "us-east-1b": "us-east", "eu-west-1a": "eu-west", "ap-south-1a": "ap-south"}
SERVICES = tuple(
    Service(f"{kind}-{zone}", cast("object", kind), zone, region)  # type: ignore[arg-type]
    for zone, region in ZONES.items()
    for kind in ("node", "gateway")
)
BEGINNING = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)
STARTS = ControllerPolicy(zone="start", region="start")
KEY = Signer(Ed25519PrivateKey.generate())


class CrashError(BaseException):
    """`kill -9`: no handler of the program sees it."""


@dataclass
class Truth:
    """What is so, whoever looks."""

    now: dt.datetime = BEGINNING
    gone: set[str] = field(default_factory=set)  # zones
    height: int = 100
    halted: bool = False
    incidents: list[Incident] = field(default_factory=list)
    records: dict[tuple[str, str], int] = field(default_factory=dict)
    prefect: str = "up"  # up, down (refuses), mute (takes it, its answer is lost), deaf (takes nothing, says nothing)
    prefect_runs: dict[str, Request] = field(default_factory=dict)
    plain_runs: list[Request] = field(default_factory=list)
    ledger_away: bool = False

    @property
    def runs(self) -> list[Request]:
        """Every run of a runbook that began."""
        return [*self.prefect_runs.values(), *self.plain_runs]

    def runs_of(self, name: str) -> list[Request]:
        return [request for request in self.runs if name in request.order.values()]


class Link:
    """One controller's way to one region's registers."""

    def __init__(self, registers: Registers, host: "Host") -> None:
        self._registers, self._host = registers, host

    @property
    def region(self) -> str:
        return self._registers.region

    def read(self, key: ObjectKey) -> Tagged | None:
        self._host.step(f"read {key}")
        self._check()
        return self._registers.read(key)

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        self._host.step(f"swap {key}")
        self._check()
        return self._registers.swap(key, data, expected=expected)

    def _check(self) -> None:
        if self.region in self._host.cut:
            raise UnavailableError(f"{self.region} does not answer")


@dataclass
class Host:
    """Where one region's controller runs.

    `cut`: regions that it can't reach, neither services nor stores.  `skew_s`: of its clock.
    """

    world: "World"
    region: str
    cut: set[str] = field(default_factory=set)
    skew_s: float = 0.0
    controller: Controller | None = None
    lives: int = 0
    told: list[Notice] = field(default_factory=list)
    last: Cycle | None = None
    looks: dict[Domain, list[bool]] = field(default_factory=dict)
    steps: int = 0
    is_busy: bool = False
    at_step: dict[int, Callable[[], None]] = field(default_factory=dict)

    def clock(self) -> dt.datetime:
        return self.world.truth.now + dt.timedelta(seconds=self.skew_s)

    def monotonic(self) -> float:
        return (self.world.truth.now - BEGINNING).total_seconds()

    def step(self, _what: str) -> None:
        """A point at which it can die, or stand still while the world goes on."""
        self.steps += 1
        if act := self.at_step.pop(self.steps, None):
            act()

    # --- the controller's ports

    def look(self) -> Sequence[Answer]:
        truth = self.world.truth
        answers = []
        for service in SERVICES:
            is_gone = service.zone in truth.gone or service.region in self.cut
            height = truth.height if service.kind == "node" and not is_gone else None
            answers.append(Answer(service, answers=not is_gone, said="" if not is_gone else "gone", height=height))
        return answers

    def incidents(self) -> tuple[Incident, ...]:
        self.step("incidents")
        self._reach_majority()
        return tuple(self.world.truth.incidents)

    def once(self, outage_id: str, kind: str, document: Mapping[str, Json]) -> int:
        self.step("once")
        self._reach_majority()
        return self.world.truth.records.setdefault((outage_id, kind), int(str(document["epoch"])))

    def _reach_majority(self) -> None:
        if self.world.truth.ledger_away or len(self.cut) > 1:
            raise UnavailableError("no majority of the ledger's regions")

    def ask_chain(self) -> Chain:
        truth = self.world.truth
        members = tuple(
            Member(bytes([number]) * 20, 10, f"validator-{zone}", zone, region)
            for number, (zone, region) in enumerate(ZONES.items(), start=1)
        )
        alive = frozenset(m.address for m in members if truth.halted or m.zone not in truth.gone)
        return Chain(PowerMap(members), alive, truth.height, moves=not truth.halted)

    def announce(self, notice: Notice) -> None:
        self.told.append(notice)

    # --- a life

    def boot(self, policy: ControllerPolicy) -> Controller:
        self.lives += 1
        name = f"{self.region}/host/{self.lives}"
        registers = {region: cast("Registers", Link(self.world.registers[region], self)) for region in REGIONS}
        keys = (KEY.public_hex,)
        self.controller = Controller(
            policy=policy,
            places=Places(REGIONS, ZONES),
            vantage=Vantage(policy, SERVICES),
            prober=self,
            exchange=Exchange("sim", self.region, name, registers, signer=KEY, trusted=keys, clock=self.clock),
            tenure=Tenure("sim", registers, KEY, keys, holder=name, lease_s=policy.lease_s, monotonic=self.monotonic),
            ledger=self,
            ask_chain=self.ask_chain,
            ways=Ways(Prefect(self), Plain(self)),
            clock=self.clock,
            announcers=(self,),
        )
        return self.controller

    def round(self, policy: ControllerPolicy) -> Cycle | None:
        """One round, of a new process where the last one died; None when it dies."""
        controller = self.controller or self.boot(policy)
        try:
            self.last = controller.cycle()
        except CrashError:
            self.controller = None
            return None
        return self.last

    def kinds(self) -> Counter[str]:
        return Counter(notice.kind for notice in self.told)


@dataclass
class Prefect:
    host: Host

    def answers(self) -> bool:
        self.host.step("health")
        return self.host.world.truth.prefect in ("up", "mute", "deaf")

    def start(self, request: Request) -> Result:
        self.host.step("before create_flow_run")
        truth = self.host.world.truth
        self.host.world.starts.append((self.host, request))
        if truth.prefect == "down":
            return Result("not-sent", why="refused")
        if truth.prefect == "deaf":
            return Result("unclear", why="timeout")
        self.host.world.check_majority(request)
        truth.prefect_runs.setdefault(request.key, request)
        self.host.step("after create_flow_run")
        return Result("unclear", why="timeout") if truth.prefect == "mute" else Result("started", "flow run 1")


@dataclass
class Plain:
    host: Host

    def answers(self) -> bool:
        return True

    def start(self, request: Request) -> Result:
        self.host.step("before vedr run")
        self.host.world.check_majority(request)
        self.host.world.starts.append((self.host, request))
        self.host.world.truth.plain_runs.append(request)
        self.host.step("after vedr run")
        return Result("started", "process 1")


class World:
    """The three of them."""

    def __init__(self, policy: ControllerPolicy = STARTS, skews: Iterable[float] = (0.0, 0.0, 0.0)) -> None:
        self.policy = policy
        self.truth = Truth()
        self.registers = {region: MemoryRegisters(region) for region in REGIONS}
        self.hosts = {region: Host(self, region, skew_s=skew) for region, skew in zip(REGIONS, skews, strict=True)}
        self.starts: list[tuple[Host, Request]] = []
        self.broken: list[str] = []
        self.went_down: Counter[str] = Counter()
        self._saw: dict[str, list[tuple[dt.datetime, frozenset[str]]]] = {region: [] for region in REGIONS}

    # --- what happens

    def round(self, *regions: str) -> None:
        """One interval: these controllers (default: all) do a round, one after the other."""
        for region in regions or REGIONS:
            self.run(region)
            self.pass_time(self.policy.interval_s / len(regions or REGIONS))

    def rounds(self, count: int, *regions: str) -> None:
        for _ in range(count):
            self.round(*regions)

    def run(self, region: str) -> Cycle | None:
        host = self.hosts[region]
        if host.is_busy:
            return None  # it stands still in the middle of a round
        gone = frozenset(zone for zone, of in ZONES.items() if zone in self.truth.gone or of in host.cut)
        self._saw[region].append((self.truth.now, gone))
        host.is_busy = True
        try:
            return host.round(self.policy)
        finally:
            host.is_busy = False

    def pass_time(self, seconds: float) -> None:
        self.truth.now += dt.timedelta(seconds=seconds)
        if not self.truth.halted:
            self.truth.height += int(seconds / 5) or 1

    def fail(self, *zones: str) -> None:
        self.truth.gone.update(zones)

    def heal(self, *zones: str) -> None:
        self.truth.gone.difference_update(zones or ZONES)

    def cut_off(self, region: str) -> None:
        """It reaches only itself, and nobody reaches it."""
        for other in REGIONS:
            if other != region:
                self.hosts[region].cut.add(other)
                self.hosts[other].cut.add(region)

    def mend(self) -> None:
        for host in self.hosts.values():
            host.cut.clear()

    def open_incident(self, domain: Domain) -> None:
        run_id = RunId(f"inc-20261102-1200{len(self.truth.incidents):02d}-aaaa")
        self.truth.incidents.append(Incident(run_id, domain, self.truth.now, is_open=True))

    def crash(self, region: str, *, at_step: int) -> None:
        """Its process dies at that step from now."""
        host = self.hosts[region]

        def die() -> None:
            raise CrashError

        host.at_step[host.steps + at_step] = die

    def freeze(self, region: str, *, at_step: int, meanwhile: Callable[[], None]) -> None:
        """Its process stands still at that step from now, while `meanwhile` happens."""
        host = self.hosts[region]
        host.at_step[host.steps + at_step] = meanwhile

    # --- what is asked

    def check_majority(self, request: Request) -> None:
        """When a runbook is started: how many regions' controllers saw that place gone in a row, lately?"""
        name = request.order.get("zone") or request.order["region"]
        zones = {zone for zone, region in ZONES.items() if name in (zone, region)}
        seen_by = []
        for region, looks in self._saw.items():
            newest = looks[-self.policy.failures :]
            age_s = (self.truth.now - newest[-1][0]).total_seconds() if newest else float("inf")
            bound_s = self.policy.fresh_s + self.policy.lease_s + 4 * self.policy.max_clock_skew_s
            if len(newest) == self.policy.failures and all(zones <= gone for _, gone in newest) and age_s <= bound_s:
                seen_by.append(region)
        if len(seen_by) < 2:
            self.broken.append(f"{name} was failed over while only {seen_by} saw it gone at {self.truth.now:%H:%M:%S}")

    def holder(self) -> str:
        """The region whose controller believes that it holds the lease; "" for none."""
        held = [r for r, host in self.hosts.items() if host.last and host.last.standing.is_held and host.controller]
        return held[-1] if held else ""

    def told(self) -> Counter[str]:
        return sum((host.kinds() for host in self.hosts.values()), Counter[str]())

    def book(self) -> dict[str, object]:
        """The newest book, for a failed test's eyes."""
        data = [r._contents.get(ObjectKey("controller/sim/book.json")) for r in self.registers.values()]
        return {str(number): json.loads(one)["signed"] for number, one in enumerate(data) if one}
