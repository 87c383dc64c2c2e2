"""What every Registers must do; run against the real server and the twin in memory."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from held_registers import all_agree, position_of

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.s3_registers import MAX_READ_BYTES, S3Registers
from vedr.adapters.s3_store import Credentials
from vedr.chain.register import NEVER_SIGNED, StaleEpochError, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import ConflictError, RefusedError, UnavailableError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey, Registers, Tagged

pytestmark = pytest.mark.server

KEY = ObjectKey("sign-state/chain-1/AB.json")


def on_server(server: Any, region: str = "us-east") -> S3Registers:
    """Over a fresh bucket with versioning, as the site's are."""
    return S3Registers(region, server.store(region).config, server.credentials)


@pytest.fixture(params=["memory", "s3"])
def registers(request: pytest.FixtureRequest) -> Registers:
    if request.param == "memory":
        return MemoryRegisters("us-east")
    return on_server(request.getfixturevalue("s3_server"))


def test_nothing_is_read_where_nothing_was_written(registers: Registers) -> None:
    assert (registers.region, registers.read(KEY)) == ("us-east", None)


def test_what_was_swapped_is_read_with_its_tag(registers: Registers) -> None:
    first = registers.swap(KEY, b"1", expected=None)
    assert registers.read(KEY) == Tagged(b"1", first)
    second = registers.swap(KEY, b"22", expected=first)
    assert registers.read(KEY) == Tagged(b"22", second)


@pytest.mark.parametrize("expected", [None, "first"])
def test_a_writer_who_does_not_know_the_present_content_is_refused(registers: Registers, expected: str | None) -> None:
    first = registers.swap(KEY, b"1", expected=None)
    second = registers.swap(KEY, b"2", expected=first)
    with pytest.raises(ConflictError):
        registers.swap(KEY, b"3", expected=first if expected else None)
    assert registers.read(KEY) == Tagged(b"2", second)


def test_what_is_not_there_cannot_be_replaced(registers: Registers) -> None:
    tag = registers.swap(KEY, b"1", expected=None)
    with pytest.raises(ConflictError):
        registers.swap(ObjectKey("sign-state/chain-1/CD.json"), b"2", expected=tag)


@pytest.mark.parametrize("writers", [8])
def test_of_concurrent_swaps_from_one_tag_exactly_one_wins(registers: Registers, writers: int) -> None:
    tag: str | None = None
    with concurrent.futures.ThreadPoolExecutor(writers) as pool:
        for number in range(20):
            gate = threading.Barrier(writers)

            def attempt(me: int, *, expected: str | None, gate: threading.Barrier, number: int) -> str | None:
                gate.wait()
                with contextlib.suppress(ConflictError):
                    return registers.swap(KEY, f"round {number} writer {me}".encode(), expected=expected)
                return None

            futures = [pool.submit(attempt, me, expected=tag, gate=gate, number=number) for me in range(writers)]
            tags = [future.result() for future in futures]
            winners = [me for me, won in enumerate(tags) if won is not None]
            assert len(winners) == 1
            tag = tags[winners[0]]
            assert registers.read(KEY) == Tagged(f"round {number} writer {winners[0]}".encode(), str(tag))


INCREMENTS = 25


def count_up(registers: Registers, name: str, times: int) -> None:
    """Add one to a counter that others add to as well; every step by read and swap."""
    for number in range(times):
        while True:
            seen = registers.read(KEY)
            count = json.loads(seen.data)["count"] if seen else 0
            data = json.dumps({"count": count + 1, "by": f"{name}/{number}"}).encode()
            with contextlib.suppress(ConflictError):
                registers.swap(KEY, data, expected=seen.tag if seen else None)
                break


def test_no_update_is_lost_between_threads(registers: Registers) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(count_up, registers, str(me), INCREMENTS) for me in range(4)]:
            future.result()
    seen = registers.read(KEY)
    assert seen is not None
    assert json.loads(seen.data)["count"] == 4 * INCREMENTS


PROCESS = """
    import concurrent.futures, importlib.util, json, os, sys
    from vedr.adapters.s3_registers import S3Registers
    from vedr.adapters.s3_store import Credentials
    from vedr.inventory import StoreConfig
    path, name, config = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("counting", path)
    counting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counting)
    credentials = Credentials(os.environ["ACCESS"], os.environ["SECRET"])
    registers = S3Registers("us-east", StoreConfig.model_validate_json(config), credentials)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        work = [pool.submit(counting.count_up, registers, f"{name}{me}", counting.INCREMENTS) for me in range(3)]
        for future in work:
            future.result()
"""


def test_no_update_is_lost_between_processes(s3_server: Any) -> None:
    registers = on_server(s3_server)
    environment = {
        "ACCESS": s3_server.credentials.access_key,
        "SECRET": s3_server.credentials.secret_key,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), __file__, name, registers._config.model_dump_json()],
            env=environment,
        )
        for name in ("one", "two")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    seen = registers.read(KEY)
    assert seen is not None
    assert json.loads(seen.data)["count"] == 2 * 3 * INCREMENTS


def test_content_and_tag_are_always_of_one_write(s3_server: Any) -> None:
    registers = on_server(s3_server)
    enough = threading.Event()

    def write() -> None:
        tag: str | None = None
        for number in itertools.count():
            tag = registers.swap(KEY, f"content {number}".encode() * 3, expected=tag)
            if enough.is_set():
                break

    pairs: set[Tagged] = set()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            while len(pairs) < 50 and not writing.done():  # so many of them, however slow either side is
                if found := registers.read(KEY):
                    pairs.add(found)
        finally:
            enough.set()
        writing.result()
    assert len(pairs) == 50
    assert all(found.tag.strip('"') == hashlib.md5(found.data).hexdigest() for found in pairs)  # noqa: S324 (S3's ETag)


def test_of_an_object_that_somebody_made_huge_only_the_beginning_is_read_and_the_others_decide(s3_server: Any) -> None:
    regions = {name: on_server(s3_server, name) for name in ("us-east", "eu-west", "ap-south")}
    register = SignStateRegister(regions, Validator("chain-1", "AB" * 20))
    register.found(NEVER_SIGNED)
    hostile, key = regions["ap-south"], register.validator.key
    before = hostile.read(key)
    assert before is not None
    hostile.swap(key, b" " * (8 * MAX_READ_BYTES), expected=before.tag)
    huge = hostile.read(key)
    assert huge is not None
    assert len(huge.data) == MAX_READ_BYTES
    with register.take_over(1, "one/1#a") as held:
        held.advance(position_of((1, 0, 1), b"message"))


# --- servers that are gone, hang, or refuse us


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def on_port(port: int) -> S3Registers:
    config = StoreConfig(endpoint=f"http://127.0.0.1:{port}", bucket="some-bucket", cloud_region="us-east-1")
    return S3Registers("us-east", config, Credentials("a", "b"))


@pytest.mark.parametrize("call", [lambda one: one.read(KEY), lambda one: one.swap(KEY, b"1", expected=None)])
def test_a_server_that_is_gone_or_hangs_costs_two_seconds_and_says_so(
    s3_server: Any, hanging_port: int, call: Callable[[Registers], object]
) -> None:
    gone = S3Registers("us-east", s3_server.unreachable("us-east").config, s3_server.credentials)
    for registers in (gone, on_port(hanging_port)):
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            call(registers)
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("access_key", [None, "nobody"])
def test_wrong_credentials_are_refused_and_not_taken_for_an_empty_register(
    s3_server: Any, access_key: str | None
) -> None:
    config = s3_server.store("us-east").config
    stranger = S3Registers("us-east", config, Credentials(access_key or s3_server.credentials.access_key, "wrong"))
    for call in (
        lambda: stranger.read(KEY),
        lambda: stranger.swap(KEY, b"1", expected=None),
        lambda: stranger.swap(KEY, b"1", expected='"0"'),
    ):
        with pytest.raises(RefusedError):
            call()


def test_a_bucket_that_does_not_exist_is_not_taken_for_an_empty_register(s3_server: Any) -> None:
    config = s3_server.store("us-east").config.model_copy(update={"bucket": "no-such-bucket"})
    registers = S3Registers("us-east", config, s3_server.credentials)
    for call in (
        lambda: registers.read(KEY),
        lambda: registers.swap(KEY, b"1", expected=None),
        lambda: registers.swap(KEY, b"1", expected='"0"'),
    ):
        with pytest.raises(RefusedError):
            call()


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], S3Registers]]:
    """A server that answers every call with one status and body, as Amazon may and the lab's server does not."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str) -> S3Registers:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "1")
                self.send_header("Last-Modified", "Mon, 02 Nov 2026 12:00:00 GMT")
                self.end_headers()
                self.wfile.write(b"1")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return on_port(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (409, "ConditionalRequestConflict", ConflictError),
        (412, "PreconditionFailed", ConflictError),
        (404, "NoSuchKey", ConflictError),
        (404, "NoSuchBucket", RefusedError),
        (403, "AccessDenied", RefusedError),
        (500, "InternalError", UnavailableError),
        (503, "SlowDown", UnavailableError),
        (200, "", UnavailableError),  # no ETag: whether it was written is not known
    ],
)
def test_each_of_amazon_s_answers_to_a_swap_means_one_thing(
    answering: Callable[[int, str], S3Registers], status: int, code: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        answering(status, code).swap(KEY, b"1", expected='"0"')


def test_a_server_that_gives_no_tag_has_no_registers(answering: Callable[[int, str], S3Registers]) -> None:
    with pytest.raises(RefusedError, match="no ETag"):
        answering(200, "").read(KEY)


# --- the sign-state register over three real servers


def test_a_register_survives_the_loss_of_a_server_and_the_standby_takes_over_where_it_stood(
    start_server: Callable[[], Any],
) -> None:
    servers = {region: start_server() for region in ("us-east", "eu-west", "ap-south")}
    try:
        registers = {region: on_server(server, region) for region, server in servers.items()}
        register = SignStateRegister(registers, Validator("chain-1", "AB" * 20))
        register.found(NEVER_SIGNED)
        with register.take_over(1, "us-east/1#a") as active:
            for height in range(1, 11):
                active.advance(position_of((height, 0, 2), b"vote %d" % height))
            servers["us-east"].stop()
            for height in range(11, 21):
                active.advance(position_of((height, 0, 2), b"vote %d" % height))
            began = time.monotonic()
            with register.take_over(2, "eu-west/1#b") as standby:
                assert time.monotonic() - began < 5
                assert standby.position == position_of((20, 0, 2), b"vote 20")
                with pytest.raises(StaleEpochError):
                    active.advance(position_of((21, 0, 2), b"vote 21"))
                standby.advance(position_of((21, 0, 2), b"other vote 21"))
                servers["us-east"].start()
                assert all_agree(register, deadline_s=10)
            assert {content.position for content in register.look().contents.values()} == {standby.position}
    finally:
        for server in servers.values():
            server.stop()
