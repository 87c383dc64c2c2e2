"""Every way to fence: what it proves, and that silence or doubt proves nothing."""

# ruff: noqa: ARG002 - fakes take what the ports take
import datetime as dt
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast, get_args

import pytest

from vedr.chain import fence as fences
from vedr.chain.attestation import MAX_AGE, Statement, TwoPeople, two_people
from vedr.chain.fence import Closed, Fence, FenceMethod, FenceProof, Halted, final_state_of, prove
from vedr.chain.sign_state import SignState
from vedr.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from vedr.failover.fencing import (
    HsmKeyDisabled,
    InstanceState,
    InstanceStopped,
    NetworkDenied,
    ProcessAndDisk,
)
from vedr.failover.signer_disk import NO_TICKET, LocalSignerDisk, Place, Ticket
from vedr.inventory import Height, Node
from vedr.ports import Fleet, UnitStatus

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
ADDRESS = "AB" * 20
STATE = SignState(Height(40), 1, 3, b"sig", b"msg")
TICKET = Ticket(3, 1)


def node(home: Path = Path("/nowhere"), name: str = "val-us-0", **changes: object) -> Node:
    return Node(
        name=name,
        region="us-east",
        zone="us-east-1a",
        role="validator",
        rpc="http://h:1",
        p2p="h:2",
        home=home,
        unit=name,
        power=10,
        address=ADDRESS,
    ).model_copy(update=changes)


@dataclass
class Supervisor:
    """A host's units, as a fence asks for them."""

    state: str = "running"
    desired: str = "running"
    is_stuck: bool = False
    is_silent: bool = False
    calls: list[str] = field(default_factory=list)

    def status(self, unit: str, zone: str) -> UnitStatus:
        if self.is_silent:
            raise UnavailableError("no route to host")
        pid = 7 if self.state in ("running", "paused") else None
        return UnitStatus(unit, self.state, pid, NOW, None, self.desired)  # type: ignore[arg-type]

    def start(self, unit: str, zone: str) -> UnitStatus:
        self.state = self.desired = "running"
        self.calls.append("start")
        return self.status(unit, zone)

    def stop(self, unit: str, zone: str) -> UnitStatus:
        self.status(unit, zone)
        self.calls.append("stop")
        if self.is_stuck:
            raise DeadlineError("still there after its grace")
        self.state = self.desired = "stopped"
        return self.status(unit, zone)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        self.calls.append("kill")
        self.is_stuck, self.state = False, "failed"
        return self.status(unit, zone)


class Local:
    """Files of hosts whose disks are here."""

    def home(self, node: Node) -> Path:
        return node.home


@dataclass
class Host:
    """A host with a disk in a folder."""

    node: Node
    fleet: Supervisor = field(default_factory=Supervisor)

    @property
    def home(self) -> Path:
        return self.node.home

    @property
    def disk(self) -> LocalSignerDisk:
        return LocalSignerDisk(Local(), self.node)

    def fence(self, ticket: Ticket = TICKET) -> ProcessAndDisk:
        return ProcessAndDisk(cast("Fleet", self.fleet), self.node, self.disk, ticket)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "priv_validator_state.json").write_bytes(STATE.to_json())
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("[consensus]\ndouble_sign_check_height = 0\nx = 1\n")
    return Host(node(tmp_path))


# --- process and disk


def test_a_fenced_host_has_no_process_and_no_folder_to_start_from_and_tells_its_last_state(host: Host) -> None:
    fence = host.fence()
    fence.close()
    closed = fence.prove()

    assert not (host.home / "data").exists()
    assert (host.home / "data.fenced-00000003-0001").is_dir()
    assert closed.final == STATE
    assert closed.facts["disk"] == "disk fenced under ticket 3.1"
    assert fence.host == "val-us-0"
    fence.close()  # again is quiet
    assert fence.prove() == closed


def test_a_stuck_or_paused_process_is_killed(host: Host) -> None:
    host.fleet.is_stuck = True
    host.fence().close()
    assert host.fleet.calls[:3] == ["stop", "kill", "stop"]
    assert host.fence().prove().final == STATE


def test_a_host_that_does_not_answer_is_not_fenced(host: Host) -> None:
    host.fleet.is_silent = True
    with pytest.raises(UnavailableError):
        host.fence().close()
    assert host.disk.place() == Place("open", NO_TICKET)
    host.disk.take_away(TICKET)
    with pytest.raises(UnavailableError):
        host.fence().prove()


def test_an_open_disk_is_no_fence_though_the_unit_is_stopped(host: Host) -> None:
    host.fleet.stop("val-us-0", "us-east-1a")
    with pytest.raises(RefusedError, match="signer disk is open"):
        host.fence().prove()


def test_a_running_unit_is_no_fence_though_the_disk_is_away(host: Host) -> None:
    host.fence().close()
    host.fleet.start("val-us-0", "us-east-1a")
    with pytest.raises(RefusedError, match="unit val-us-0 is running"):
        host.fence().prove()


def test_a_fence_of_another_ticket_is_not_ours(host: Host) -> None:
    host.fence(Ticket(3, 1)).close()
    with pytest.raises(RefusedError, match=r"fenced by ticket 3\.1, not by ours, 3\.2"):
        host.fence(Ticket(3, 2)).prove()
    with pytest.raises(RefusedError, match=r"fenced under ticket 3\.1, ours is 2\.9"):
        host.fence(Ticket(2, 9)).prove()
    with pytest.raises(ConflictError, match=r"carries ticket 3\.1, ours is 2\.9"):
        host.fence(Ticket(2, 9)).close()


def test_a_lost_disk_is_a_fence_without_a_last_state(host: Host) -> None:
    (host.home / "data").rename(host.home / "elsewhere")
    host.fence().close()
    assert host.fence().prove() == Closed(
        {"unit": f"unit val-us-0 stopped since {NOW.isoformat()}", "disk": "disk missing under ticket 0.0"}, None
    )


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_lost_or_torn_state_is_a_fence_without_a_last_state(host: Host, content: bytes | None) -> None:
    file = host.home / "data" / "priv_validator_state.json"
    file.unlink() if content is None else file.write_bytes(content)
    host.fence().close()
    assert host.fence().prove().final is None


# --- the others


@dataclass
class Cloud:
    instance_state: InstanceState = "running"
    grouped: bool = True

    def stop(self, instance: str) -> None:
        self.instance_state, self.grouped = "stopping", False

    def state(self, instance: str) -> InstanceState:
        return self.instance_state

    def restarts_itself(self, instance: str) -> bool:
        return self.grouped


def test_an_instance_is_fenced_when_the_cloud_says_stopped_and_nothing_starts_it_again() -> None:
    cloud = Cloud()
    fence = InstanceStopped(cloud, "val-us-0", "i-1")
    with pytest.raises(RefusedError, match="running"):
        fence.prove()
    fence.close()
    with pytest.raises(RefusedError, match="stopping"):
        fence.prove()
    cloud.instance_state = "stopped"
    assert fence.prove() == Closed({"instance": "instance i-1 stopped"})
    cloud.grouped = True
    with pytest.raises(RefusedError, match="or would be started again"):
        fence.prove()


@dataclass
class Token:
    enabled: bool = True
    is_silent: bool = False

    def disable(self, label: str) -> None:
        self.enabled = False

    def signs(self, label: str) -> bool:
        if self.is_silent:
            raise UnavailableError("token does not answer")
        return self.enabled


def test_a_key_is_fenced_when_its_token_refuses_it_and_not_when_the_token_is_silent() -> None:
    token = Token()
    fence = HsmKeyDisabled(token, "val-us-0", "validator")
    with pytest.raises(RefusedError, match="signs with validator"):
        fence.prove()
    fence.close()
    assert fence.prove().facts == {"key": "key validator refused by its token"}
    token.is_silent = True
    with pytest.raises(UnavailableError):
        fence.prove()


@dataclass
class Firewall:
    since: dt.datetime | None = None

    def deny(self, host: str) -> None:
        self.since = self.since or NOW

    def denied_since(self, host: str) -> dt.datetime | None:
        return self.since


def test_a_denied_network_is_a_fence_only_with_the_word_of_two_different_people() -> None:
    firewall, statements = Firewall(), list[Statement]()
    fence = NetworkDenied(firewall, "val-us-0", str, lambda _: statements, lambda: NOW + dt.timedelta(minutes=5))
    seen = NOW + dt.timedelta(minutes=1)
    statements += [Statement(person, fence.sentence, seen) for person in ("Ada Lovelace", "ada  LOVELACE")]
    with pytest.raises(RefusedError, match="network is not denied"):
        fence.prove()
    fence.close()
    with pytest.raises(RefusedError, match="1 of 2 people"):
        fence.prove()
    statements.append(Statement("Grace Hopper", fence.sentence, NOW - dt.timedelta(seconds=1)))
    with pytest.raises(RefusedError, match="1 of 2 people"):  # before the network was denied
        fence.prove()
    statements.append(Statement("Grace Hopper", "I heard it is stopped.", seen))
    with pytest.raises(RefusedError, match="1 of 2 people"):
        fence.prove()
    statements.append(Statement("Grace Hopper", fence.sentence, seen))
    assert "Grace Hopper" in fence.prove().facts["people"]


def test_nobody_is_asked_to_look_at_a_host_that_is_still_heard_of() -> None:
    def unasked(_: str) -> list[Statement]:
        pytest.fail("people were asked")

    fence = NetworkDenied(Firewall(NOW), "val-us-0", lambda: "fullnode-0 still has it as a peer", unasked, lambda: NOW)
    with pytest.raises(RefusedError, match=r"denied since .*, and yet fullnode-0 still has it as a peer"):
        fence.prove()


def test_an_address_and_the_name_in_it_are_one_person() -> None:
    said = [Statement(person, "so", NOW) for person in ("zoe", "zoe@virtengine.com", "Zoe @virtengine.com")]
    with pytest.raises(RefusedError, match="1 of 2"):
        two_people(said, "so", after=NOW, now=NOW)


def test_a_word_gets_old_and_nobody_is_anonymous() -> None:
    said = [Statement("Ada", "so", NOW), Statement("Grace", "so", NOW)]
    assert two_people(said, "so", after=NOW, now=NOW + MAX_AGE).people == ("Ada", "Grace")
    with pytest.raises(RefusedError):
        two_people(said, "so", after=NOW, now=NOW + MAX_AGE + dt.timedelta(seconds=1))
    with pytest.raises(RefusedError):
        two_people(said, "so", after=NOW, now=NOW - dt.timedelta(minutes=1))  # said in the future
    with pytest.raises(InvalidInputError):
        two_people([Statement(" ", "so", NOW)], "so", after=NOW, now=NOW)
    with pytest.raises(InvalidInputError):
        two_people(said, " ", after=NOW, now=NOW)
    with pytest.raises(RefusedError, match="only made from their statements"):
        TwoPeople(("Ada", "Grace"), "so")


# --- all together


@dataclass
class Simple:
    host: str
    closed: Closed | Exception
    method: FenceMethod = "instance stopped"

    def close(self) -> None:
        """Nothing to do."""

    def prove(self) -> Closed:
        if isinstance(self.closed, Exception):
            raise self.closed
        return self.closed


def proof(*each: Simple) -> FenceProof:
    return prove(node(), cast("list[Fence]", list(each)), clock=lambda: NOW)


def test_one_host_that_is_not_fenced_is_enough_to_refuse() -> None:
    good = Simple("a", Closed({"x": "off"}))
    assert proof(good).evidence == "a: off"
    with pytest.raises(UnavailableError):
        proof(good, Simple("b", UnavailableError("silent")))


def test_each_host_is_named_once_and_at_least_one() -> None:
    good = Simple("a", Closed({}))
    for hosts in ((), (good, good)):
        with pytest.raises(InvalidInputError):
            proof(*hosts)
    with pytest.raises(InvalidInputError, match="no signer"):
        prove(node(role="full"), [good], clock=lambda: NOW)


def test_the_last_state_is_the_highest_of_all_hosts_and_unknown_when_one_is() -> None:
    low, high = Simple("a", Closed({}, SignState(Height(4), 0, 0))), Simple("b", Closed({}, STATE))
    assert final_state_of(proof(low, high)).state == STATE
    with pytest.raises(NotFoundError, match="last state on c is not known"):
        final_state_of(proof(low, Simple("c", Closed({}))))
    with pytest.raises(RefusedError, match="different messages"):
        final_state_of(proof(high, Simple("c", Closed({}, replace(STATE, sign_bytes=b"other")))))


def test_every_way_is_in_the_documents_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "signing-safety.md").read_text()
    ways = page.partition("## The ways to fence")[2].partition("\n\n**")[0]
    rows = {line.split("|")[1].strip() for line in ways.splitlines() if line.startswith("| ")}
    assert rows == {"Way", *get_args(FenceMethod)}


def test_a_halt_cannot_be_made_up() -> None:
    with pytest.raises(RefusedError):
        Halted(proof(Simple("a", Closed({}))), None, None, 1.0)  # type: ignore[arg-type]


def test_a_units_own_fence_stops_it() -> None:
    supervisor = Supervisor()
    unit = fences.UnitStopped(cast("Fleet", supervisor), node())
    unit.close()
    assert unit.prove().final is None


# --- the disk


def test_two_folders_on_one_host_are_nobodys_guess(host: Host) -> None:
    (host.home / "data.fenced-00000001-0001").mkdir()
    with pytest.raises(CorruptError, match=r"data, data\.fenced-00000001-0001"):
        host.disk.place()
    (host.home / "data").rename(host.home / "data.fenced-00000001-0002")
    with pytest.raises(CorruptError, match="more than one"):
        host.disk.place()


@pytest.mark.parametrize("content", [b"", b"{", b'{"epoch": 1}', b"[]"])
def test_a_ticket_that_cannot_be_read_stops_everything(host: Host, content: bytes) -> None:
    (host.home / "data" / "vedr-ticket.json").write_bytes(content)
    with pytest.raises(CorruptError, match="not a ticket"):
        host.disk.take_away(TICKET)


def test_a_folder_that_moved_meanwhile_is_not_taken_or_opened(host: Host) -> None:
    host.disk.take_away(Ticket(1, 1))
    late = host.disk
    host.disk.take_away(Ticket(1, 2))
    with pytest.raises(ConflictError, match="could not become data"):
        late.bring_back(Ticket(1, 1))
    host.disk.bring_back(Ticket(1, 2))
    assert host.disk.place() == Place("open", NO_TICKET)
    assert host.disk.state(None) == STATE
    with pytest.raises(NotFoundError):
        host.disk.state(Ticket(1, 2))


def test_a_disk_is_never_opened_over_another(host: Host) -> None:
    host.disk.take_away(Ticket(1, 1))
    (host.home / "data").mkdir()
    (host.home / "data" / "kept").touch()
    with pytest.raises(ConflictError):
        host.disk.bring_back(Ticket(1, 1))
