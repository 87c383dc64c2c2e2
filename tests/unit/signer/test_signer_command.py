"""`vedr signer` put together in this process: a key file, registers in memory, a node's socket, metrics over HTTP."""

import contextlib
import datetime as dt
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from signer_made_site import KEY, REGIONS, node
from signer_world import CHAIN_ID, MemoryKey, prevote

from vedr.adapters import privval_signer
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.privval_signer import Settings, check_key, register_buckets, register_of, run, subject_of
from vedr.adapters.privval_socket import SocketStream
from vedr.adapters.site import OpenSite
from vedr.chain.appointment import appoint
from vedr.chain.encoding import bytes_field, message_field
from vedr.chain.register import NEVER_SIGNED, Content, name_of_places
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.runbook.order import new_run_id
from vedr.signer.messages import MAX_MESSAGE_BYTES
from vedr.signer.protobuf import Message
from vedr.signer.stream import receive_message, send_message
from vedr.signer.tenure import Terms

NODE_WAITS_S = 5.0  # for an answer (privval, in CometBFT 0.38)
THEIRS = Terms("eu-west-1a", take_over=False, planned=False, watch_s=0)


def changed(settings: Settings, **changes: Any) -> Settings:
    return Settings(**({name: getattr(settings, name) for name in Settings.__slots__} | changes))


class Run:
    """`run` in a thread; what it raised, and what it logged."""

    def __init__(self, opened: OpenSite, settings: Settings) -> None:
        self.logged: list[tuple[str, Mapping[str, Any]]] = []
        self.error: VedrError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(opened, settings))
        self._thread.start()

    def _run(self, opened: OpenSite, settings: Settings) -> None:
        try:
            run(opened, settings, log=lambda event, facts: self.logged.append((event, facts)), stopping=self._stopping)
        except VedrError as error:
            self.error = error

    def until(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < deadline, (self.logged, self.error)
            time.sleep(0.01)

    def holds(self) -> None:
        self.until(lambda: self.error or "holds" in [event for event, _ in self.logged])
        assert self.error is None, self.error

    def stop(self) -> VedrError | None:
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.error


@contextlib.contextmanager
def running(opened: OpenSite, settings: Settings) -> Iterator[Run]:
    made = Run(opened, settings)
    try:
        yield made
    finally:
        made.stop()


def found(opened: OpenSite) -> None:
    register_of(opened, node()).found(NEVER_SIGNED)


def test_it_holds_the_register_and_ends_when_told(opened: OpenSite, settings: Settings) -> None:
    found(opened)
    with running(opened, settings) as one:
        one.holds()
        assert one.stop() is None
    assert newest_of(opened).places == name_of_places(register_buckets(opened.site))
    assert one.logged[0][1] == {"epoch": 1, "hrs": "0/0/0", "validator": "val0"}


def appoint_now(opened: OpenSite, name: str) -> None:
    now = dt.datetime.now(dt.UTC)
    appoint(opened.registers, subject_of(opened, node()), name, run_id=new_run_id("run", now), at=now)


def newest_of(opened: OpenSite) -> Content:
    newest = register_of(opened, node()).look().newest
    assert newest is not None
    return newest


class NodeOf:
    """The validator's node: it listens for its signer and asks it for prevotes."""

    def __init__(self, settings: Settings) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(settings.connect[0].removeprefix("unix://"))
        self._listener.listen()
        self._listener.settimeout(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def refusals(self, *heights: int) -> list[str]:
        """Of one connection; empty where it was signed."""
        connected, _ = self._listener.accept()
        with connected:
            stream = SocketStream(connected, timeout_s=20)
            return [self._refusal(stream, height) for height in heights]

    def _refusal(self, stream: SocketStream, height: int) -> str:
        vote = message_field(1, prevote(height).encode()) + bytes_field(2, CHAIN_ID.encode())
        send_message(stream, message_field(3, vote))
        answer = Message.parse(receive_message(stream, limit_bytes=MAX_MESSAGE_BYTES), what="answer").message(4)
        return answer.message(2).text(2) if answer.has(2) else ""


def standby_of(settings: Settings, folder: Path, **changes: Any) -> Settings:
    """The other host's fixed unit."""
    return changed(
        settings,
        **{
            "connect": (f"unix://{folder}/standby.sock",),
            "state_file": folder / "standby" / "priv_validator_state.json",
            "terms": THEIRS,
            "when_appointed": True,
            **changes,
        },
    )


def test_an_appointed_signer_waits_until_its_node_asks_and_then_takes_over_from_a_living_one(
    opened: OpenSite, settings: Settings, tmp_path: Path
) -> None:
    found(opened)
    home, standby = changed(settings, when_appointed=True), standby_of(settings, tmp_path)
    with NodeOf(home) as old_node, NodeOf(standby) as new_node, running(opened, home) as old:
        old.holds()
        assert old_node.refusals(5) == [""]
        appoint_now(opened, "eu-west-1a")
        with running(opened, standby) as new:
            new.until(lambda: "waiting" in dict(new.logged))
            assert newest_of(opened).is_held_by("us-east-1a")
            lagging, signed = new_node.refusals(3, 6)
            assert ("lags behind" in lagging, signed) == (True, "")
            assert newest_of(opened).is_held_by("eu-west-1a")
            assert "taken over" in old_node.refusals(7)[0]
            old.until(lambda: old.error)
            with pytest.raises(ConflictError, match=r"held by eu-west-1a .* not by us-east-1a"):
                run(opened, home, log=lambda *_: None, stopping=threading.Event())
        with running(opened, standby) as again:
            again.holds()
            assert "waiting" not in dict(again.logged), "it held the key, so there is nobody to wait for"
    assert isinstance(old.error, ConflictError)
    assert newest_of(opened).epoch == 3


def test_with_nobody_appointed_the_key_is_left_to_its_holder(
    opened: OpenSite, settings: Settings, tmp_path: Path
) -> None:
    found(opened)
    with running(opened, changed(settings, when_appointed=True)) as one:
        one.holds()
        with pytest.raises(ConflictError, match="held by us-east-1a/"):
            run(opened, standby_of(settings, tmp_path), log=lambda *_: None, stopping=threading.Event())


def test_a_waiting_signer_whose_appointment_has_passed_to_another_ends_and_takes_nothing(
    opened: OpenSite, settings: Settings, tmp_path: Path
) -> None:
    found(opened)
    with running(opened, settings) as old:
        old.holds()
        appoint_now(opened, "eu-west-1a")
        standby = standby_of(settings, tmp_path)
        with NodeOf(standby) as node_of_standby, running(opened, standby) as waiting:
            waiting.until(lambda: "waiting" in dict(waiting.logged))
            appoint_now(opened, "us-east-1a")
            assert "not by eu-west-1a" in node_of_standby.refusals(6)[0]
            waiting.until(lambda: waiting.error)
        assert isinstance(waiting.error, ConflictError)
        assert newest_of(opened).is_held_by("us-east-1a")


def test_a_waiting_signer_without_a_majority_says_so_and_takes_over_once_it_has_one_in_the_time_a_node_waits(
    opened: OpenSite, settings: Settings, tmp_path: Path
) -> None:
    found(opened)
    terms = Terms("eu-west-1a", take_over=True, planned=True, watch_s=0)
    standby = standby_of(settings, tmp_path, when_appointed=False, when_asked=True, terms=terms)
    stores = [cast("MemoryRegisters", opened.registers[region]) for region in REGIONS[:2]]
    with running(opened, settings) as old, NodeOf(standby) as node_of_standby:
        old.holds()
        with running(opened, standby) as waiting:
            waiting.until(lambda: "waiting" in dict(waiting.logged))
            for store in stores:
                store.faults.down = True
            assert "no majority" in node_of_standby.refusals(5)[0]
            stores[0].faults.down = False
            began = time.monotonic()
            assert node_of_standby.refusals(5) == [""]
            assert time.monotonic() - began < NODE_WAITS_S, "with a region lost"
            assert waiting.stop() is None


def test_two_processes_of_one_host_do_not_share_a_sign_state(opened: OpenSite, settings: Settings) -> None:
    found(opened)
    with running(opened, settings) as one:
        one.holds()
        with pytest.raises(ConflictError, match="another signer process"):
            run(opened, settings, log=lambda *_: None, stopping=threading.Event())
    with running(opened, settings) as again:
        again.holds()


def test_a_signer_that_was_passed_says_so_and_what_not_to_do(
    opened: OpenSite, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(opened)
    made: list[Any] = []

    class Watched(privval_signer.Signer):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            made.append(self)

    monkeypatch.setattr(privval_signer, "Signer", Watched)
    with running(opened, settings) as old:
        old.holds()
        standby = changed(
            settings,
            state_file=tmp_path / "standby" / "priv_validator_state.json",
            terms=Terms("eu-west-1a", take_over=True, planned=True, watch_s=0),
        )
        with running(opened, standby) as new:
            new.holds()
            made[0].superseded.set()  # as its next request would find out
            old.until(lambda: old.error)
    assert isinstance(old.error, ConflictError)
    assert "epoch 1 signs no more" in old.error.message
    assert "--planned" in old.error.remedy


def test_a_fault_of_this_program_ends_it_and_does_not_leave_it_deaf(
    opened: OpenSite, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(privval_signer.Link):
        def run(self) -> None:
            """Return, as a thread does that raised."""

    found(opened)
    monkeypatch.setattr(privval_signer, "Link", Faulty)
    with pytest.raises(UnavailableError, match="fault of this program"):
        run(opened, settings, log=lambda *_: None, stopping=threading.Event())


def test_without_a_register_nothing_begins(opened: OpenSite, settings: Settings) -> None:
    with running(opened, settings) as one:
        one.until(lambda: one.error)
    assert isinstance(one.error, NotFoundError)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"key": "file:relative"}, InvalidInputError, "not known"),
        ({"key": "vault:x"}, InvalidInputError, "kind 'vault'"),
        ({"key": "token:validator"}, NotFoundError, "us-east has no HSM"),
        ({"connect": ("nowhere",)}, InvalidInputError, "no address"),
        ({"connection_key": "env:NO_SUCH_KEY"}, NotFoundError, "NO_SUCH_KEY"),
        ({"metrics": "nowhere"}, InvalidInputError, "cannot be served"),
        ({"state_file": Path("/proc/none/state.json")}, InvalidInputError, "/proc/none"),
        ({"validator": node(address="AB" * 20)}, VerificationFailedError, "val0 is ABAB"),
    ],
)
def test_what_is_wrong_is_said_before_the_register_is_touched(
    opened: OpenSite, settings: Settings, changes: dict[str, Any], error: type[VedrError], said: str
) -> None:
    found(opened)
    with pytest.raises(error, match=said):
        run(opened, changed(settings, **changes), log=lambda *_: None, stopping=threading.Event())
    newest = register_of(opened, node()).look().newest
    assert newest is not None
    assert newest.epoch == 0


@pytest.mark.parametrize("changes", [{"key": "file:/no/such/key.json"}, {"validator": node(address="AB" * 20)}])
def test_no_folder_is_made_for_a_key_that_is_not_the_validators(
    opened: OpenSite, settings: Settings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    state_file = tmp_path / "mistyped" / "state.json"
    with pytest.raises(VedrError):
        run(
            opened, changed(settings, state_file=state_file, **changes), log=lambda *_: None, stopping=threading.Event()
        )
    assert not state_file.parent.exists()


def test_a_key_that_signs_wrongly_is_refused_before_it_is_used() -> None:
    check_key(MemoryKey(KEY), node())
    with pytest.raises(VerificationFailedError, match="do not verify"):
        check_key(MemoryKey(KEY, answer=bytes(64)), node())


def test_the_connection_key_is_an_ed25519_pem(
    opened: OpenSite, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(opened)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    monkeypatch.setenv("CONNECTION_KEY", KEY.private_bytes(*plain).decode())
    with running(opened, changed(settings, connection_key="env:CONNECTION_KEY")) as one:
        one.holds()
    for wrong in (generate_private_key(SECP256R1()).private_bytes(*plain).decode(), "no key"):
        monkeypatch.setenv("CONNECTION_KEY", wrong)
        with pytest.raises(InvalidInputError, match="Ed25519") as caught:
            run(
                opened,
                changed(settings, connection_key="env:CONNECTION_KEY"),
                log=lambda *_: None,
                stopping=threading.Event(),
            )
        assert wrong not in str(caught.value)
