"""What every ObjectStore must do; run against the real server and the fake in memory."""

import concurrent.futures
import datetime as dt
import resource
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.s3_control import open_control
from vedr.adapters.s3_store import S3Store
from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.ports import DOCUMENT_BYTES, ObjectKey, ObjectStore

pytestmark = pytest.mark.server


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryStore("us-east")
    else:
        yield request.getfixturevalue("s3_server").store("us-east")


def key(text: str) -> ObjectKey:
    return ObjectKey(text)


def test_what_is_created_is_read_back_whole(store: ObjectStore) -> None:
    for size in (0, 1, 5_000_000):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        made = store.create(key(f"a/{size}"), data)
        assert made.size_bytes == len(data)
        assert store.get(key(f"a/{size}")) == data
        assert store.get(key(f"a/{size}"), version=made.version) == data
        assert store.view(key(f"a/{size}"), limit_bytes=size) == data
        assert store.view(key(f"a/{size}"), version=made.version, limit_bytes=size) == data


def test_a_key_is_created_once_and_keeps_its_first_content(store: ObjectStore) -> None:
    store.create(key("a/b"), b"first")
    with pytest.raises(ConflictError):
        store.create(key("a/b"), b"second")
    assert store.get(key("a/b")) == b"first"


@pytest.mark.parametrize("writers", [16])
def test_of_concurrent_creates_exactly_one_wins(store: ObjectStore, writers: int) -> None:
    for number in range(12):
        barrier = threading.Barrier(writers)

        def attempt(me: int, where: ObjectKey, gate: threading.Barrier) -> int | None:
            gate.wait()
            try:
                store.create(where, f"writer {me}".encode() * 50)
            except ConflictError:
                return None
            return me

        target = key(f"race/{number}")
        with concurrent.futures.ThreadPoolExecutor(writers) as pool:
            futures = [pool.submit(attempt, me, target, barrier) for me in range(writers)]
            winners = [winner for future in futures if (winner := future.result()) is not None]
        assert len(winners) == 1
        assert store.get(target) == f"writer {winners[0]}".encode() * 50


def test_what_is_absent_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        store.get(key("no/thing"))
    with pytest.raises(NotFoundError):
        store.view(key("no/thing"), limit_bytes=1)
    with pytest.raises(NotFoundError):
        store.head(key("no/thing"))


def test_an_object_larger_than_asked_for_is_refused_unread(store: ObjectStore) -> None:
    store.create(key("a/b"), bytes(1001))
    with pytest.raises(CorruptError, match=r"a/b in us-east.* has 1001 bytes, it can have 1000 at most"):
        store.get(key("a/b"), limit_bytes=1000)
    with pytest.raises(CorruptError, match="1001 bytes"):
        store.view(key("a/b"), limit_bytes=1000)
    assert len(store.get(key("a/b"), limit_bytes=1001)) == 1001


def test_an_object_larger_than_any_document_costs_no_memory(s3_server: Any) -> None:
    store = s3_server.store("us-east")
    store.create(key("a/b"), bytes(4 * DOCUMENT_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(8):
        with pytest.raises(CorruptError, match=f"{DOCUMENT_BYTES} at most"):
            store.get(key("a/b"))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2 * DOCUMENT_BYTES


def test_an_unknown_version_is_not_found(store: ObjectStore) -> None:
    made = store.create(key("a/b"), b"x")
    assert made.version is not None
    other = made.version[:-1] + ("0" if made.version[-1] != "0" else "1")
    with pytest.raises(NotFoundError):
        store.get(key("a/b"), version=other)


def test_head_tells_size_version_and_time(store: ObjectStore) -> None:
    made = store.create(key("a/b"), b"12345")
    head = store.head(key("a/b"))
    assert (head.size_bytes, head.version) == (5, made.version)
    assert abs(head.modified - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_listing_gives_exactly_the_prefix_by_key(store: ObjectStore) -> None:
    names = [f"p/q/{number:04}" for number in range(1234)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.create(key(name), b"x"), [*names, "p/qq", "p/r/1"]))
    assert [entry.key for entry in store.list("p/q/")] == names
    assert [entry.key for entry in store.list("p/q/00")] == names[:100]
    assert [entry.key for entry in store.list("none/")] == []


def test_what_is_deleted_is_gone_and_deleting_again_is_quiet(store: ObjectStore) -> None:
    store.create(key("a/b"), b"x")
    store.create(key("a/bc"), b"y")
    store.delete(key("a/b"))
    store.delete(key("a/b"))
    with pytest.raises(NotFoundError):
        store.get(key("a/b"))
    assert [entry.key for entry in store.list("a/")] == ["a/bc"]
    assert store.create(key("a/b"), b"again").size_bytes == 5


class _Meddler(socketserver.StreamRequestHandler):
    """Passes one request on with bits of its body's last byte flipped, and the answer back."""

    upstream = ("127.0.0.1", 0)
    flipped = 0

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n")) + b"\r\n"
        length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-len"))
        body = bytearray(self.rfile.read(length))
        body[-1] ^= self.flipped
        with socket.create_connection(self.upstream) as server:
            server.sendall(head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + body)
            while part := server.recv(65536):
                self.wfile.write(part)


def test_a_body_that_changed_on_the_way_is_refused_and_leaves_nothing(s3_server: Any) -> None:
    store = s3_server.store("us-east")
    meddler = type("Meddler", (_Meddler,), {"upstream": ("127.0.0.1", urlsplit(s3_server.endpoint).port)})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), meddler) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
        through = S3Store("us-east", store.config.model_copy(update={"endpoint": endpoint}), s3_server.credentials)
        through.create(key("a/whole"), b"chain state " * 1000)
        meddler.flipped = 1
        with pytest.raises(VedrError, match="it answers 400 "):
            through.create(key("a/changed"), b"chain state " * 1000)
        proxy.shutdown()
    assert [entry.key for entry in store.list("a/")] == ["a/whole"]


def overwrite(store: Any, where: ObjectKey, data: bytes) -> None:
    """As an intruder with credentials would."""
    if isinstance(store, MemoryStore):
        store.overwrite(where, data)
    else:
        assert isinstance(store, S3Store)
        control = open_control(store.config, store._credentials)
        control.put_object(Bucket=store.config.bucket, Key=where, Body=data)


def test_reading_by_version_keeps_a_newer_version_out(store: ObjectStore) -> None:
    made = store.create(key("a/b"), b"ours")
    overwrite(store, key("a/b"), b"theirs")
    assert store.get(key("a/b"), version=made.version) == b"ours"
    assert store.get(key("a/b")) == b"theirs"


def test_deleting_takes_every_version(store: ObjectStore) -> None:
    made = store.create(key("a/b"), b"ours")
    overwrite(store, key("a/b"), b"theirs")
    store.delete(key("a/b"))
    with pytest.raises(NotFoundError):
        store.get(key("a/b"), version=made.version)


@pytest.fixture(params=["memory", "s3"])
def locked_store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore("us-east", locked_for=dt.timedelta(days=1))
    store: S3Store = request.getfixturevalue("s3_server").locked_store("us-east")
    return store


def test_a_server_that_waits_for_its_disk_gives_one_winner_and_has_it_after_it_was_killed(
    start_server: Callable[..., Any],
) -> None:
    server = start_server("--fsync")
    store = server.store("us-east")
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda me: _creates(store, f"writer {me}".encode()), range(8)))
        server.stop()
        server.start()
        assert [store.get(key("deep/in/folders"))] == [mine for mine in won if mine is not None]
        with pytest.raises(ConflictError):
            store.create(key("deep/in/folders"), b"later")
    finally:
        server.stop()


def _creates(store: ObjectStore, data: bytes) -> bytes | None:
    try:
        store.create(key("deep/in/folders"), data)
    except ConflictError:
        return None
    return data


def test_an_object_lock_refuses_deletion_and_keeps_the_content(locked_store: ObjectStore) -> None:
    made = locked_store.create(key("a/b"), b"kept")
    with pytest.raises(RefusedError):
        locked_store.delete(key("a/b"))
    assert locked_store.get(key("a/b"), version=made.version) == b"kept"


def test_a_server_that_is_gone_costs_seconds_and_says_so(s3_server: Any) -> None:
    store = s3_server.store("us-east")
    store.create(key("a/b"), b"x")
    dead = s3_server.unreachable("us-east")
    began = dt.datetime.now(dt.UTC)
    for call in (
        lambda: dead.create(key("a"), b"x"),
        lambda: dead.get(key("a")),
        lambda: dead.head(key("a")),
        lambda: list(dead.list("a/")),
        lambda: dead.delete(key("a")),
    ):
        with pytest.raises(UnavailableError):
            call()
    assert dt.datetime.now(dt.UTC) - began < dt.timedelta(seconds=20)


@pytest.mark.parametrize("access_key", [None, "nobody"])
def test_wrong_credentials_are_refused_not_retried(s3_server: Any, access_key: str | None) -> None:
    stranger = s3_server.stranger("us-east", access_key)
    with pytest.raises(RefusedError):
        stranger.create(key("a"), b"x")
    with pytest.raises(RefusedError):
        stranger.get(key("a"))


def test_configuring_a_bucket_is_safe_to_repeat_and_says_what_the_server_lacks(s3_server: Any) -> None:
    store = s3_server.locked_store("us-east")
    settings = store.configure(expire_days=91)
    assert (settings.versioned, settings.lock_days, settings.lifecycle) == (True, 1, False)


def test_a_lock_that_the_site_file_gains_later_holds_what_comes_then(s3_server: Any) -> None:
    plain = s3_server.store("us-east")
    store = S3Store("us-east", plain.config.model_copy(update={"object_lock_days": 1}), s3_server.credentials)
    store.configure()
    store.create(key("a"), b"x")
    with pytest.raises(RefusedError):
        store.delete(key("a"))


def test_control_calls_with_wrong_credentials_are_refused(s3_server: Any) -> None:
    with pytest.raises(RefusedError):
        s3_server.stranger("us-east").configure()


def test_control_calls_to_a_dead_server_are_unavailable(s3_server: Any) -> None:
    with pytest.raises(UnavailableError):
        s3_server.unreachable("us-east").configure()
