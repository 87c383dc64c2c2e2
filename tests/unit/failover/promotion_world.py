"""A validator on real disks, its standby, and a chain in memory, for tests of the promotion."""

# ruff: noqa: ARG002 - fakes take what the ports take
import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain.attestation import Statement
from vedr.chain.block import BlockId, Commit, CommitSig, Flag, Validator, ValidatorSet
from vedr.chain.rpc import Block, ChainRpc, ConsensusState, Evidence, SeenVote, Status
from vedr.chain.sign_state import SignState, read_sign_state
from vedr.errors import (
    ConflictError,
    UnavailableError,
)
from vedr.failover.fencing import ProcessAndDisk
from vedr.failover.promotion import Hosts, Means, Patience, promote
from vedr.failover.promotion_key import KeySeen
from vedr.failover.promotion_stages import (
    Order,
    Watched,
)
from vedr.failover.signer_disk import LocalSignerDisk, Ticket
from vedr.inventory import Height, Node
from vedr.ledger import RunId
from vedr.ports import Fleet, UnitStatus
from vedr.runbook.lease import Lease

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
CHAIN_ID = "lab-1"
KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
OURS = Validator(PUBLIC, 10)
SET = ValidatorSet((OURS, Validator(b"\2" * 32, 10)))
TIP = 40
STATE = SignState(Height(TIP), 0, 3, b"sig", b"msg")
RUN = RunId("inc-20270101-000000-aaaa")
ORDER = ["locked", "fenced", "observed", "quieted", "floored", "key_ready", "arming", "armed", "watched"]
Faults = Callable[[str], None]


@dataclass
class Network:
    """A chain that two nodes show; it goes on while somebody sleeps."""

    tip: int = TIP
    moves: bool = True
    signed: dict[int, tuple[int, Flag]] = field(default_factory=dict)
    votes: list[SeenVote] = field(default_factory=list)
    evidence: dict[int, Evidence] = field(default_factory=dict)
    members: ValidatorSet = SET
    now_s: float = 0.0
    on_block: Callable[[int], None] = lambda _height: None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.moves:
            self.tip += 1
            self.on_block(self.tip)

    def vote(self, height: int, round_: int, step: int) -> None:
        self.votes.append(SeenVote(OURS.address, Height(height), round_, step, for_nil=False))


@dataclass(frozen=True)
class Signed:
    commit: Commit


@dataclass
class Rpc:
    network: Network
    name: str
    lag: int = 0
    is_down: bool = False

    def status(self) -> Status:
        if self.is_down:
            raise UnavailableError(f"{self.name}: connection refused")
        tip = Height(self.network.tip - self.lag)
        return Status(self.name, CHAIN_ID, "", "", tip, b"", b"", 0, Height(1), False, b"", 0)

    def commit(self, height: int | None = None) -> Signed:
        self.status()
        assert height is not None
        default = (0, Flag.COMMIT if height <= TIP else Flag.ABSENT)
        round_, flag = self.network.signed.get(height, default)
        ours = CommitSig(flag, b"" if flag is Flag.ABSENT else OURS.address, 0, b"")
        other = CommitSig(Flag.COMMIT, SET.validators[1].address, 0, b"")
        return Signed(Commit(Height(height), round_, BlockId(b"", 0, b""), (ours, other)))

    def validators(self, height: int) -> ValidatorSet:
        return self.network.members

    def consensus_state(self) -> ConsensusState:
        self.status()
        return ConsensusState(Height(self.network.tip + 1), 0, 1, SET, tuple(self.network.votes))

    def block(self, height: int) -> Block:
        found = self.network.evidence.get(height)
        return Block(b"", cast("Any", None), (found,) if found else ())


@dataclass
class Host:
    """A node's home on a real disk, and its supervisor."""

    name: str
    home: Path
    running: bool = True
    is_silent: bool = False
    node: Node = field(init=False)

    def __post_init__(self) -> None:
        self.node = Node(
            name=self.name,
            region="us-east",
            zone="us-east-1a",
            role="validator",
            rpc="http://h:1",
            p2p="h:2",
            home=self.home,
            unit=self.name,
            power=10,
            address=OURS.address.hex().upper(),
        )
        (self.home / "data").mkdir(parents=True)
        (self.home / "config").mkdir()
        (self.home / "config" / "config.toml").write_text("[consensus]\ndouble_sign_check_height = 0\n")

    def put(self, state: SignState | None) -> None:
        file = self.home / "data" / "priv_validator_state.json"
        file.unlink(missing_ok=True) if state is None else file.write_bytes(state.to_json())

    @property
    def state(self) -> SignState:
        return read_sign_state(next(self.home.glob("data*")) / "priv_validator_state.json")

    def home_of(self, _: Node) -> Path:
        return self.home


class World:
    """One validator's hosts `a` (signs) and `b` (stands by), the network, the lease, the ledger."""

    def __init__(self, folder: Path) -> None:
        self.network = Network()
        self.hosts = {name: Host(name, folder / name) for name in ("a", "b")}
        self.hosts["a"].put(STATE)
        self.hosts["b"].put(SignState(Height(0), 0, 0))
        self.rpcs = [Rpc(self.network, "full-0"), Rpc(self.network, "full-1")]
        self.ledger: list[tuple[Any, Mapping[str, Any]]] = []
        self.copies: list[SignState] = []
        self.statements: list[Statement] = []
        self.risk = ""
        self.key = KeySeen("file", PUBLIC, "b/config/priv_validator_key.json", 0o600)
        self.epoch, self.calls = 1, list[str]()
        self.fault: Faults = lambda _what: None
        self.patience = Patience(quiet_s=60.0, still_s=5.0, watch_s=20.0, watch_blocks=3)

    # the ports

    def _call(self, what: str) -> None:
        self.calls.append(what)
        self.fault(what)

    def acquire(self, subject: str, run_id: RunId) -> Lease:
        self._call("acquire")
        return Lease(subject, self.epoch, run_id)

    def check(self, lease: Lease) -> None:
        self._call("check")
        if lease.epoch != self.epoch:
            raise ConflictError("passed on")

    def status(self, unit: str, zone: str) -> UnitStatus:
        host = self.hosts[unit]
        if host.is_silent:
            raise UnavailableError(f"{unit} does not answer")
        state = "running" if host.running else "stopped"
        return UnitStatus(unit, state, 7 if host.running else None, NOW, None, state)  # type: ignore[arg-type]

    def start(self, unit: str, zone: str) -> UnitStatus:
        self._call(f"start {unit}")
        self.hosts[unit].running = True
        self.network.on_block = self._sign
        return self.status(unit, zone)

    def stop(self, unit: str, zone: str) -> UnitStatus:
        self.status(unit, zone)
        self._call(f"stop {unit}")
        self.hosts[unit].running = False
        return self.status(unit, zone)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        return self.stop(unit, zone)

    def _sign(self, height: int) -> None:
        """`b` signs the block that is being made."""
        host = self.hosts["b"]
        if host.running and SignState(Height(height), 0, 3).hrs > host.state.hrs:
            host.put(SignState(Height(height), 0, 3))
            self.network.signed[height] = (0, Flag.COMMIT)

    def fence_of(self, name: str, ticket: Ticket) -> ProcessAndDisk:
        files = cast("Any", type("Files", (), {"home": staticmethod(self.hosts[name].home_of)}))
        disk = LocalSignerDisk(files, self.hosts[name].node)
        return ProcessAndDisk(cast("Fleet", self), self.hosts[name].node, disk, ticket)

    def record(self, stage: Any, evidence: Mapping[str, Any]) -> None:
        json.dumps(evidence)
        self.fault(f"before {stage}")
        self.ledger.append((stage, evidence))
        self.fault(stage)

    def put_key(self) -> KeySeen:
        self._call("key")
        return self.key

    def say(self, risk: str) -> list[Statement]:
        self.risk = risk
        return self.statements

    @property
    def means(self) -> Means:
        return Means(
            leases=self,
            hosts=lambda ticket: Hosts((self.fence_of("a", ticket),), self.fence_of("b", ticket)),
            observers=cast("list[ChainRpc]", self.rpcs),
            copies=lambda: self.copies,
            earlier=lambda: self.ledger,
            statements=self.say,
            place_key=self.put_key,
            record=self.record,
            patience=self.patience,
            clock=lambda: NOW,
            sleep=self.network.sleep,
            monotonic=lambda: self.network.now_s,
        )

    def order(self, attempt: int = 1) -> Order:
        return Order(CHAIN_ID, self.hosts["a"].node, self.hosts["b"].node, RUN, attempt)

    def promote(self, attempt: int = 1) -> Watched:
        return promote(self.means, self.order(attempt), list(self.ledger))

    @property
    def stages(self) -> list[str]:
        return [stage for stage, _ in self.ledger]
