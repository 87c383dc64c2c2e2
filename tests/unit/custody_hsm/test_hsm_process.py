"""A token in a process of its own: side by side, with deadlines, and through every kind of end."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.adapters import pkcs11_token_process, pkcs11_token_wire, pkcs11_token_worker
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.pkcs11_token_wire import ClosedChannelError, receive, send
from vedr.custody.hsm import matching
from vedr.custody.hsm_keys import PublicKey
from vedr.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError

MakeKey = Callable[[int], tuple[bytes, PublicKey]]
SHORT_S = 0.3


@pytest.fixture
def process(soft_hsm: Any, make_key: MakeKey) -> Iterator[TokenProcess]:
    """A writable one with the key `val-0`."""
    with TokenProcess(soft_hsm.make("us-east"), soft_hsm.pin, writable=True, call_deadline_s=5.0) as opened:
        opened.import_ed25519(make_key(1)[0], label="val-0", key_id=b"\x01")
        yield opened


def test_tokens_with_configurations_of_their_own_are_used_side_by_side(soft_hsm: Any, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    regions = ("us-east", "eu-west", "ap-south")
    with contextlib.ExitStack() as closing:
        tokens = {
            region: closing.enter_context(TokenProcess(soft_hsm.make(region), soft_hsm.pin, writable=True))
            for region in regions
        }
        for token in tokens.values():
            token.import_ed25519(seed, label="val-0", key_id=b"\x01")
        assert [token.facts().label for token in tokens.values()] == list(regions)
        assert len({token.facts().serial for token in tokens.values()}) == len(regions)
        for token in tokens.values():
            private = matching(token.objects(), "private", label="val-0", key_id=b"\x01")
            public.verify(token.sign(private, b"x"), b"x", what="key")


def test_a_key_is_generated_through_the_process(soft_hsm: Any) -> None:
    with TokenProcess(soft_hsm.make("us-east"), soft_hsm.pin, writable=True) as token:
        public = token.generate("p-256", label="node", key_id=b"\x02")
        assert matching(token.objects(), "public", label="node", key_id=b"\x02").public == public


def test_errors_of_the_token_come_through_whole(process: TokenProcess, soft_hsm: Any, tmp_path: Path) -> None:
    hsm = soft_hsm.make("eu-west")
    with pytest.raises(RefusedError, match="PIN is wrong") as caught:
        TokenProcess(hsm, lambda: b"0000")
    assert "Do not try again" in caught.value.remedy
    with pytest.raises(NotFoundError, match="no such token"):
        TokenProcess(hsm.model_copy(update={"token_label": "other"}), soft_hsm.pin)
    with pytest.raises(NotFoundError, match="is missing"):
        TokenProcess(hsm.model_copy(update={"module": tmp_path / "lib.so"}), soft_hsm.pin)
    with pytest.raises(UnavailableError, match="configuration"):
        TokenProcess(hsm.model_copy(update={"config": tmp_path / "none.conf"}), soft_hsm.pin)
    assert process.facts().label == "us-east"


def test_a_pin_that_cannot_be_fetched_starts_no_process(soft_hsm: Any) -> None:
    def fails() -> bytes:
        raise NotFoundError("no secret", remedy="")

    before = _children()
    with pytest.raises(NotFoundError, match="no secret"):
        TokenProcess(soft_hsm.make("us-east"), fails)
    assert _children() == before


def test_without_the_library_it_is_said_what_to_install(soft_hsm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InvalidInputError, match="not installed"):
        TokenProcess(soft_hsm.make("us-east"), soft_hsm.pin)


def test_a_token_that_hangs_is_given_up_at_its_deadline(soft_hsm: Any) -> None:
    with TokenProcess(soft_hsm.make("us-east"), soft_hsm.pin, call_deadline_s=SHORT_S) as token:
        os.kill(token._process.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.3 s"):
            token.facts()
        assert time.monotonic() - started < 10 * SHORT_S
        assert token._process.returncode == -signal.SIGKILL
        with pytest.raises(UnavailableError, match="process has ended"):
            token.facts()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_module_that_crashes_is_unavailable_and_says_how(process: TokenProcess, how: signal.Signals) -> None:
    os.kill(process._process.pid, how)
    with pytest.raises(UnavailableError, match=f"process ended \\({how.name}\\)"):
        process.objects()


def test_a_token_that_was_removed_is_unavailable_and_never_merely_empty(process: TokenProcess, tmp_path: Path) -> None:
    private = matching(process.objects(), "private", label="val-0", key_id=None)
    tokens = tmp_path / "hsm" / "us-east" / "tokens"
    shutil.rmtree(next(tokens.iterdir()))
    for ask in (process.facts, process.objects, lambda: process.sign(private, b"x")):
        with pytest.raises(UnavailableError):
            ask()


def test_closing_ends_the_process_and_may_be_repeated(process: TokenProcess) -> None:
    process.close()
    assert process._process.returncode == 0
    process.close()
    with pytest.raises(UnavailableError, match="process has ended"):
        process.objects()


def test_a_process_that_does_not_end_by_itself_is_killed(soft_hsm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs11_token_process, "_CLOSE_GRACE_S", SHORT_S)
    token = TokenProcess(soft_hsm.make("us-east"), soft_hsm.pin)
    os.kill(token._process.pid, signal.SIGSTOP)
    token.close()
    assert token._process.returncode == -signal.SIGKILL


def test_one_that_hung_up_and_lives_on_is_killed(process: TokenProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs11_token_process, "_EXIT_GRACE_S", SHORT_S)
    os.kill(process._process.pid, signal.SIGSTOP)
    process._channel.shutdown(socket.SHUT_RDWR)
    with pytest.raises(UnavailableError, match="SIGKILL"):
        process.objects()


def test_the_pin_is_in_neither_arguments_nor_environment(process: TokenProcess, soft_hsm: Any) -> None:
    proc = Path("/proc") / str(process._process.pid)
    for name in ("cmdline", "environ"):
        assert soft_hsm.pin() not in (proc / name).read_bytes()
    limits = (proc / "limits").read_text().splitlines()
    assert next(line for line in limits if line.startswith("Max core")).split()[4:6] == ["0", "0"]


def test_threads_take_turns(process: TokenProcess, make_key: MakeKey) -> None:
    _, public = make_key(1)
    private = matching(process.objects(), "private", label="val-0", key_id=None)
    failures: list[Exception] = []

    def work(number: int) -> None:
        message = bytes([number]) * 50
        try:
            for _ in range(10):
                public.verify(process.sign(private, message), message, what="key")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("answer", [{}, {"ok": None}, {"ok": {}}, {"ok": [1]}, {"ok": [{"label": 1}]}], ids=str)
def test_an_answer_that_is_not_understood_is_unavailable(
    process: TokenProcess, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(pkcs11_token_process, "receive", lambda *_, **__: answer)
    for ask in (process.facts, process.objects):
        with pytest.raises(UnavailableError, match="not understood"):
            ask()


def test_an_error_of_a_class_that_is_not_ours_is_unavailable() -> None:
    for name in ("SystemExit", "Final", "NoSuchError", "annotations"):
        with pytest.raises(UnavailableError):
            pkcs11_token_wire.raise_failure({"error": name, "message": "m", "remedy": "r"})


# --- the other side of the socket, in this process


@contextlib.contextmanager
def serving(work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=work, args=(theirs,))
    thread.start()
    try:
        with ours:
            yield ours
    finally:
        thread.join(10)
        theirs.close()
    assert not thread.is_alive()


def ask(channel: socket.socket, **request: object) -> dict[str, Any]:
    send(channel, request)
    return receive(channel, deadline_s=20.0)


def test_the_worker_serves_every_request_and_ends_with_its_parent(bench: Any, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    place = {"module": str(bench.hsms["us-east"].module), "label": "us-east", "writable": True}
    with serving(pkcs11_token_worker.serve) as channel:
        assert ask(channel, do="open", pin=bench.pin, **place) == {"ok": None}
        assert ask(channel, do="facts")["ok"]["label"] == "us-east"
        assert ask(channel, do="import", seed=seed, label="val-0", id=b"\x01") == {"ok": public.spki.hex()}
        assert ask(channel, do="generate", kind="ed25519", label="val-1", id=b"\x02")["ok"]
        key = next(key for key in ask(channel, do="objects")["ok"] if key["label"] == "val-0")
        signature = bytes.fromhex(ask(channel, do="sign", key=key, message=b"x")["ok"])
        public.verify(signature, b"x", what="key")
        assert ask(channel, do="dance")["error"] == "ConflictError"
        failed = ask(channel, do="sign", key={}, message="not hexadecimal: geheim")
        assert failed["error"] == "UnavailableError"
        assert "geheim" not in str(failed)
    with bench.open("us-east") as token:
        bench.empty(token)


def test_the_worker_says_why_it_could_not_open(bench: Any) -> None:
    place = {"module": str(bench.hsms["us-east"].module), "label": "us-east", "writable": False}
    with serving(pkcs11_token_worker.serve) as channel:
        assert ask(channel, do="open", pin=b"0000", **place)["error"] == "RefusedError"
    with serving(pkcs11_token_worker.serve) as channel:
        assert ask(channel, nothing="useful")["error"] == "UnavailableError"


def test_a_worker_whose_parent_is_gone_at_once_ends() -> None:
    with serving(pkcs11_token_worker.serve):
        pass


def test_the_worker_keeps_its_memory_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(pkcs11_token_worker.resource, "setrlimit", lambda *what: done.append(what))
    monkeypatch.setattr(
        pkcs11_token_worker.ctypes, "CDLL", lambda _: type("C", (), {"prctl": lambda _, *what: done.append(what)})()
    )
    with serving(lambda theirs: pkcs11_token_worker.main(os.dup(theirs.fileno()))):
        pass
    assert done == [(pkcs11_token_worker.resource.RLIMIT_CORE, (0, 0)), (4, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05[]",
        b"\0\0\0\x02[]",
        b"\0\0\0\x01{",
        b"\0\0\0\x02\xff\xff",
        (200_000).to_bytes(4, "big") + b"[" * 200_000,
    ],
    ids=range(8),
)
def test_what_is_no_message_closes_the_channel(data: bytes) -> None:
    def write(theirs: socket.socket) -> None:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)

    with serving(write) as channel, pytest.raises(ClosedChannelError):
        receive(channel, deadline_s=20.0)


def test_a_message_that_comes_drop_by_drop_has_one_deadline() -> None:
    def drip(theirs: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(40):
                theirs.sendall(b"\0")
                time.sleep(0.05)

    with serving(drip) as channel, pytest.raises(TimeoutError):
        pkcs11_token_wire._exactly(channel, 1_000, time.monotonic() + SHORT_S)


def _children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}
