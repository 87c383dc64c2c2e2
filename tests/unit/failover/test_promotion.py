"""The promotion on real disks and a chain in memory: its order, its refusals, what an interruption leaves."""

# ruff: noqa: ARG002 - fakes take what the ports take
import base64
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain import floor as floors
from vedr.chain.attestation import Statement
from vedr.chain.block import BlockId, Commit, CommitSig, Flag, Validator, ValidatorSet
from vedr.chain.fence import Closed
from vedr.chain.rpc import Block, ChainRpc, ConsensusState, Evidence, SeenVote, Status
from vedr.chain.sign_state import SignState, read_sign_state
from vedr.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.failover import promotion
from vedr.failover.fencing import ProcessAndDisk
from vedr.failover.promotion import CHECK_HEIGHT, Hosts, Means, Patience, promote
from vedr.failover.promotion_key import KeySeen, check_key, read_key_file
from vedr.failover.promotion_stages import (
    Armed,
    Fenced,
    Floored,
    HaltedEvidence,
    KeyReady,
    Locked,
    Observed,
    Order,
    Quieted,
    Watched,
)
from vedr.failover.signer_disk import LocalSignerDisk, Ticket, set_double_sign_check
from vedr.failover.watch import SecondSignerError, Watching, watch_blocks
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
        return Block(b"", cast("Any", None), 0, (found,) if found else ())


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


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


ORDER = ["locked", "fenced", "observed", "quieted", "floored", "key_ready", "armed", "watched"]


# --- all goes well


def test_the_key_moves_in_the_order_of_the_protocol(world: World) -> None:
    watched = world.promote()

    assert world.stages == ORDER
    assert watched.signed == 3
    a, b = world.hosts["a"], world.hosts["b"]
    assert (a.running, b.running) == (False, True)
    assert not (a.home / "data").exists()
    floor = watched.armed.floor
    assert floor.hrs == (TIP + 22, 0, 0)
    assert b.state.hrs > floor.hrs
    assert f"double_sign_check_height = {CHECK_HEIGHT}\n" in (b.home / "config" / "config.toml").read_text()
    assert all(evidence["epoch"] == 1 for _, evidence in world.ledger)
    assert world.calls.index("key") > max(i for i, call in enumerate(world.calls) if call == "stop b")


def test_a_copy_of_the_state_raises_the_floor(world: World) -> None:
    world.copies = [SignState(Height(TIP + 30), 2, 1)]
    world.patience = Patience(quiet_s=60.0, still_s=5.0, watch_s=0.3)
    with pytest.raises(DeadlineError, match="signed 0 of 10"):
        world.promote()
    assert world.hosts["b"].state.hrs == (TIP + 31, 0, 0)


def test_a_halted_chain_goes_on_from_the_old_signers_last_state(world: World) -> None:
    world.network.moves = False
    world.network.vote(TIP + 1, 0, 2)
    world.hosts["a"].put(SignState(Height(TIP + 1), 0, 3, b"s", b"m"))

    def start(what: str) -> None:
        if what == "armed":
            world.network.moves = True

    world.fault = start
    world.promote()

    assert world.stages == [stage if stage != "quieted" else "halted" for stage in ORDER]
    evidence = dict(world.ledger)
    assert evidence["armed"]["floor"] == f"{TIP + 1}/0/3"
    assert evidence["armed"]["double_sign_check_height"] == 0


# --- no step without the one before


def test_no_stage_can_be_made_up() -> None:
    for stage, count in (
        (Locked, 2),
        (Fenced, 2),
        (Observed, 3),
        (Quieted, 2),
        (HaltedEvidence, 2),
        (Floored, 2),
        (KeyReady, 3),
        (Armed, 6),
        (Watched, 5),
    ):
        with pytest.raises(RefusedError, match="only made by doing it"):
            cast("Any", stage)(*[None] * count)


def test_nothing_happens_after_a_stage_that_could_not_be_recorded(world: World) -> None:
    for lost in ORDER[:-1]:
        world.ledger.clear()

        def fail(what: str, lost: str = lost) -> None:
            if what == f"before {lost}":
                raise UnavailableError("the ledger does not answer")

        world.fault = fail
        with pytest.raises(UnavailableError):
            world.promote(attempt=ORDER.index(lost) + 1)
        assert world.stages == ORDER[: ORDER.index(lost)]


def test_an_order_names_a_validator_and_counts_attempts(world: World) -> None:
    full = world.hosts["a"].node.model_copy(update={"role": "full"})
    for validator, attempt in ((full, 1), (world.hosts["a"].node, 0)):
        with pytest.raises(InvalidInputError):
            Order(CHAIN_ID, validator, world.hosts["b"].node, RUN, attempt)


# --- lease


@pytest.mark.parametrize("stage", ORDER[:-1])
def test_a_run_that_lost_its_lease_goes_no_step_further(world: World, stage: str) -> None:
    def pass_on(what: str) -> None:
        if what == stage:
            world.epoch = 2

    world.fault = pass_on
    with pytest.raises(ConflictError, match="passed on"):
        world.promote()
    assert world.stages[-1] == stage


def test_the_lease_is_checked_after_the_floor_was_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = LocalSignerDisk.prepare

    def prepare_and_lose(self: LocalSignerDisk, *args: Any, **more: Any) -> SignState:
        world.epoch = 2
        return prepare(self, *args, **more)

    monkeypatch.setattr(LocalSignerDisk, "prepare", prepare_and_lose)
    with pytest.raises(ConflictError, match="passed on"):
        world.promote()
    assert not world.hosts["b"].running
    assert not (world.hosts["b"].home / "data").exists()


# --- fence


def test_a_host_that_does_not_answer_stops_the_promotion_before_the_standby_is_touched(world: World) -> None:
    world.hosts["a"].is_silent = True
    with pytest.raises(UnavailableError, match="a does not answer"):
        world.promote()
    assert world.hosts["b"].running


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("starts", RefusedError, "unit a is running"),
        ("opens", RefusedError, "signer disk is open"),
        ("signs", RefusedError, "its sign-state was 40/0/3 when it was fenced and is 41/0/1 now"),
        ("hides", UnavailableError, "does not answer"),
    ],
)
def test_a_fence_that_opens_before_arming_is_seen(world: World, what: str, error: type[Exception], match: str) -> None:
    host = world.hosts["a"]

    def change(stage: str) -> None:
        if stage != "key_ready":
            return
        fenced = next(host.home.glob("data.fenced*"))
        match what:
            case "starts":
                host.running = True
            case "opens":
                fenced.rename(host.home / "data")
            case "signs":
                (fenced / "priv_validator_state.json").write_bytes(SignState(Height(41), 0, 1).to_json())
            case _:
                host.is_silent = True

    world.fault = change
    with pytest.raises(error, match=match):
        world.promote()
    assert not world.hosts["b"].running


# --- observe, quiet


def test_a_signature_between_quiet_and_arming_is_seen(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "quieted":
            world.network.signed[world.network.tip] = (0, Flag.NIL)
            world.network.tip += 1

    world.fault = sign
    with pytest.raises(RefusedError, match="signed height 62 after it was fenced"):
        world.promote()


def test_a_vote_after_the_fence_is_seen_before_a_block_holds_it(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "quieted":
            world.network.vote(world.network.tip + 1, 0, 1)

    world.fault = sign
    with pytest.raises(RefusedError, match="signed 63/0/1 after it was fenced"):
        world.promote()


def test_a_node_that_fell_behind_cannot_tell_quiet_again(world: World) -> None:
    def fall_behind(stage: str) -> None:
        if stage == "quieted":
            for rpc in world.rpcs:
                rpc.lag = 5

    world.fault = fall_behind
    with pytest.raises(RefusedError, match="quiet was seen to 61"):
        world.promote()


def test_a_slow_chain_is_neither_quiet_nor_halted(world: World) -> None:
    world.patience = Patience(quiet_s=1.0, still_s=5.0, watch_s=5.0)
    with pytest.raises(DeadlineError, match="it is slow, not halted"):
        world.promote()


def test_a_halted_chain_in_which_the_validator_votes_on_has_another_signer(world: World) -> None:
    world.network.moves = False
    slept = list[float]()

    def sleep(seconds: float) -> None:
        world.network.now_s += seconds
        slept.append(seconds)
        if seconds == world.patience.still_s:
            world.network.vote(TIP + 1, 1, 2)

    world.network.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match=r"voted .* after it was fenced"):
        world.promote()


@pytest.mark.parametrize(
    ("change", "match"), [("block", "is at 41 now"), ("vote", "signed 41/0/2 after it was fenced")]
)
def test_what_happens_on_a_halted_chain_before_arming_is_seen(world: World, change: str, match: str) -> None:
    world.network.moves = False

    def happen(stage: str) -> None:
        if stage == "key_ready" and change == "block":
            world.network.tip += 1
        elif stage == "key_ready":
            world.network.vote(TIP + 1, 0, 2)

    world.fault = happen
    with pytest.raises(RefusedError, match=match):
        world.promote()


# --- floor


def halted_without_state(world: World) -> None:
    world.network.moves = False
    world.hosts["a"].put(None)


def test_a_halted_chain_without_the_last_state_is_refused(world: World) -> None:
    halted_without_state(world)
    with pytest.raises(RefusedError, match=r"final state is not proven; the highest known is 40/0/3"):
        world.promote()
    assert "key_ready" not in world.stages


def test_a_copy_above_the_disks_state_shows_that_it_is_not_the_last(world: World) -> None:
    world.network.moves = False
    world.copies = [SignState(Height(TIP + 1), 0, 1)]
    with pytest.raises(RefusedError, match=r"the highest known is 41/0/1"):
        world.promote()


def test_two_people_can_take_the_risk_that_is_written_out_to_them(world: World) -> None:
    halted_without_state(world)
    world.network.vote(TIP + 1, 2, 2)
    with pytest.raises(RefusedError):
        world.promote()
    assert "slashed and the validator is removed for ever" in world.risk
    assert "with the floor 41/2/2" in world.risk

    world.statements = [Statement("Ada", world.risk, NOW)]
    with pytest.raises(RefusedError, match="1 of 2 people"):
        world.promote(attempt=2)

    world.statements.append(Statement("Grace", world.risk, NOW))
    world.patience = Patience(quiet_s=2.0, still_s=1.0, watch_s=0.1)
    with pytest.raises(DeadlineError):
        world.promote(attempt=3)
    assert world.hosts["b"].state.hrs == (41, 2, 2)
    assert "accepted by Ada and Grace" in dict(world.ledger)["floored"]["reason"]


def test_a_risk_that_grew_needs_a_new_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    halted_without_state(world)
    told = list[str]()
    risk_of = floors.risk_of

    def another_risk(*args: Any) -> str:
        told.append(risk_of(*args))
        return told[0] if len(told) == 1 else told[0] + "!"

    monkeypatch.setattr(floors, "risk_of", another_risk)
    world.say = lambda risk: [Statement("Ada", risk, NOW), Statement("Grace", risk, NOW)]  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="accepted is not this one"):
        world.promote()


def test_with_nothing_known_at_all_the_risk_says_so(world: World) -> None:
    halted_without_state(world)
    world.hosts["b"].put(None)
    world.network.signed = dict.fromkeys(range(1, TIP + 1), (0, Flag.ABSENT))
    with pytest.raises(RefusedError, match="0/0/0"):
        world.promote()


def test_a_floor_that_does_not_stay_on_the_disk_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalSignerDisk, "prepare", lambda *_args, **_more: SignState(Height(1), 0, 0))
    with pytest.raises(RefusedError, match="its sign-state says 1/0/0, the floor is 62/0/0"):
        world.promote()


# --- key


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (KeySeen("file", b"\3" * 32, "here", 0o600), "has address"),
        (KeySeen("hsm", PUBLIC[:31], "token"), "has address"),
        (KeySeen("file", PUBLIC, "here", 0o644), "has mode 0644, not 0600"),
        (KeySeen("file", PUBLIC, "here"), "has mode unknown"),
    ],
)
def test_another_key_or_one_that_others_can_read_is_refused(world: World, key: KeySeen, match: str) -> None:
    world.key = key
    with pytest.raises(RefusedError, match=match):
        world.promote()
    assert not world.hosts["b"].running


def test_a_key_in_a_token_has_no_mode(world: World) -> None:
    check_key(KeySeen("hsm", PUBLIC, "token"), world.hosts["a"].node)


def key_file(**changes: Any) -> bytes:
    document = {
        "address": OURS.address.hex().upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(PUBLIC).decode()},
        "priv_key": {
            "type": "tendermint/PrivKeyEd25519",
            "value": base64.b64encode(KEY.private_bytes_raw() + PUBLIC).decode(),
        },
    }
    return json.dumps({**document, **changes}).encode()


def test_a_key_file_is_read_when_its_parts_belong_together(tmp_path: Path) -> None:
    file = tmp_path / "priv_validator_key.json"
    with pytest.raises(NotFoundError):
        read_key_file(file)
    file.write_bytes(key_file())
    file.chmod(0o640)
    assert read_key_file(file) == KeySeen("file", PUBLIC, str(file), 0o640)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        key_file(address="00" * 20),
        key_file(pub_key={"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(b"\4" * 32).decode()}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": base64.b64encode(b"\5" * 64).decode()}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "AAAA"}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "*"}),
        b"[" * 100_000,
    ],
)
def test_a_key_file_that_does_not_hold_together_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "priv_validator_key.json"
    file.write_bytes(content)
    with pytest.raises(CorruptError) as caught:
        read_key_file(file)
    assert caught.value.__cause__ is None
    assert caught.value.message == f"{file}: not a whole Ed25519 validator key"


# --- arm


def test_the_check_height_is_set_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with pytest.raises(NotFoundError):
        set_double_sign_check(config, 20)
    config.write_text("a = 1\n[consensus]\n  x = 2\ndouble_sign_check_height=0 # c\nz = 3\n")
    config.chmod(0o644)
    set_double_sign_check(config, 20)
    assert config.read_text() == "a = 1\n[consensus]\n  x = 2\ndouble_sign_check_height = 20\nz = 3\n"
    assert config.stat().st_mode & 0o777 == 0o644
    set_double_sign_check(config, 20)
    config.write_text("# nothing\n")
    with pytest.raises(RefusedError, match="is there 0 times"):
        set_double_sign_check(config, 20)


def test_a_process_whose_folder_was_taken_can_neither_write_nor_open(world: World) -> None:
    def take(stage: str) -> None:
        if stage == "key_ready":
            world.fence_of("b", Ticket(1, 2)).disk.take_away(Ticket(1, 2))

    world.fault = take
    with pytest.raises(ConflictError, match=r"carries ticket 1\.2, ours is 1\.1"):
        world.promote()
    assert not world.hosts["b"].running


def test_a_folder_taken_while_the_floor_is_written_stays_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = world.fence_of("b", Ticket(1, 1))
    apply_floor = floors.apply_floor
    fence.close()

    def taken(floor: Any, path: Path) -> SignState:
        fence.disk.take_away(Ticket(1, 2))
        path.parent.rename(path.parent)  # FileNotFoundError, as the write would get it
        return apply_floor(floor, path)

    monkeypatch.setattr("vedr.failover.signer_disk.apply_floor", taken)
    with pytest.raises(ConflictError, match=r"carries ticket 1\.2"):
        fence.disk.prepare(Ticket(1, 1), cast("Any", None), check_height=0)


# --- interrupted and resumed


class Killed(BaseException):
    """kill -9."""


@pytest.mark.parametrize("stage", ORDER)
@pytest.mark.parametrize("moment", ["before ", ""])
def test_a_run_killed_at_any_step_ends_well_when_resumed(world: World, stage: str, moment: str) -> None:
    def die(what: str) -> None:
        if what == moment + stage:
            raise Killed

    world.fault = die
    with pytest.raises(Killed):
        world.promote()
    world.fault = lambda _what: None
    if stage in ("armed", "watched"):
        for _ in range(3):
            world.network.sleep(1)  # the standby signs meanwhile
    before = world.hosts["b"].state.hrs

    watched = world.promote(attempt=2)

    assert watched.signed >= 3
    assert watched.armed.floor.hrs <= world.hosts["b"].state.hrs
    assert world.hosts["b"].state.hrs >= before
    assert not (world.hosts["a"].home / "data").exists()
    assert not list(world.hosts["a"].home.glob("data.fenced-*-0001"))


def armed_once(world: World) -> None:
    def die(what: str) -> None:
        if what == "armed":
            raise Killed

    world.fault = die
    with pytest.raises(Killed):
        world.promote()
    world.fault = lambda _what: None


def test_an_armed_standby_is_taken_up_without_stopping_it(world: World) -> None:
    armed_once(world)
    world.calls.clear()
    world.promote(attempt=2)
    assert "stop b" not in world.calls
    assert world.stages[-2:] == ["locked", "watched"]


def test_an_armed_standby_is_not_trusted_when_anything_changed(world: World) -> None:
    armed_once(world)
    recorded = dict(world.ledger)["armed"]

    def taken_up(evidence: Mapping[str, Any] = recorded, attempt: int = 2) -> Armed | None:
        return promotion.take_up(world.means, promotion.lock(world.means, world.order(attempt)), evidence)

    assert taken_up() is not None
    assert taken_up({}) is None
    assert taken_up({**recorded, "double_sign_check_height": None}).check_height == 0  # type: ignore[union-attr]
    assert taken_up({**recorded, "host": "c"}) is None
    assert taken_up({**recorded, "floor": "999/0/0"}) is None
    world.hosts["b"].running = False
    assert taken_up() is None
    world.hosts["b"].running = True
    world.fault = lambda what: setattr(world.hosts["a"], "running", True) if what == "stop a" else None
    real, world.stop = world.stop, world.status  # type: ignore[method-assign]
    world.hosts["a"].running = True
    assert taken_up() is None
    world.stop, world.hosts["a"].running = real, False  # type: ignore[method-assign]
    world.fault = lambda _what: None
    world.fence_of("b", Ticket(1, 5)).disk.take_away(Ticket(1, 5))
    assert taken_up(attempt=6) is None
    world.epoch = 2
    assert taken_up(attempt=6) is None


# --- watch


def test_evidence_on_the_chain_stops_the_standby_at_once(world: World) -> None:
    def accuse(stage: str) -> None:
        if stage == "armed":
            accused = Evidence("DuplicateVoteEvidence", Height(60), (OURS.address,))
            world.network.evidence = {world.network.tip + 1: accused}

    world.fault = accuse
    with pytest.raises(SecondSignerError, match="holds DuplicateVoteEvidence of height 60 against it"):
        world.promote()
    assert not world.hosts["b"].running
    assert not (world.hosts["b"].home / "data").exists()


def test_a_signature_that_the_standby_did_not_make_stops_it(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "armed":
            world.network.vote(world.network.tip + 5, 0, 2)

    world.fault = sign
    with pytest.raises(SecondSignerError, match="the standby signed up to 62/0/0 only"):
        world.promote()
    assert not world.hosts["b"].running
    with pytest.raises(RefusedError, match="met a second signer"):
        world.promote(attempt=2)
    assert not world.hosts["b"].running


def test_a_run_that_lost_its_lease_stops_watching(world: World) -> None:
    armed_once(world)

    def pass_on(what: str) -> None:
        if what == "check":
            world.epoch = 2

    world.fault = pass_on
    with pytest.raises(ConflictError):
        world.promote(attempt=2)


def look(network: Network, own: SignState, **rpc: Any) -> Any:
    watching = Watching("val", OURS.address, (50, 0, 0), (45, 0, 3), lambda: own)
    rpcs = cast("list[ChainRpc]", [Rpc(network, "down", is_down=True), Rpc(network, "up", **rpc)])
    return watch_blocks(
        watching,
        rpcs,
        after=Height(network.tip),
        blocks=2,
        deadline_s=3.0,
        still_ours=lambda: None,
        sleep=network.sleep,
        monotonic=lambda: network.now_s,
    )


def test_only_what_the_standby_signed_counts_and_absent_blocks_are_watched_too() -> None:
    network = Network(tip=60, signed={62: (0, Flag.COMMIT), 63: (0, Flag.NIL), 65: (1, Flag.COMMIT)})
    network.evidence = {61: Evidence("DuplicateVoteEvidence", Height(3), (bytes(20),))}
    span = look(network, SignState(Height(70), 0, 0))
    assert (span.first, span.last, span.signed) == (61, 65, 2)


def test_an_old_vote_is_excused_and_one_between_it_and_the_floor_is_not() -> None:
    network = Network(tip=60, signed={61: (0, Flag.COMMIT), 62: (0, Flag.COMMIT)})
    network.vote(45, 0, 3)
    look(network, SignState(Height(70), 0, 0))
    network.vote(47, 0, 1)
    with pytest.raises(SecondSignerError, match=r"47/0/1, which is not above the floor"):
        look(network, SignState(Height(70), 0, 0))


def test_a_watch_that_sees_nothing_does_not_end_well() -> None:
    with pytest.raises(DeadlineError, match="signed 0 of 2 blocks in 3 s; watched to block 60"):
        look(Network(tip=60, moves=False), SignState(Height(70), 0, 0))
    with pytest.raises(DeadlineError):
        look(Network(tip=60), SignState(Height(70), 0, 0), is_down=True)


def test_too_few_observers_are_no_tip(world: World) -> None:
    world.rpcs[1].is_down = True
    with pytest.raises(VerificationFailedError, match="1 nodes tell it"):
        world.promote()


def test_addresses_are_the_keys() -> None:
    assert OURS.address == hashlib.sha256(PUBLIC).digest()[:20]
    assert Closed({}).final is None
