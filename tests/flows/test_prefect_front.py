"""The front of Prefect as the lab configures it: a real nginx, before a real server and before one that misbehaves."""

import datetime as dt
import http.server
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from loopback_ports import free_port
from prefect_server import PORT, Server, asked, until
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from vedr.lab import prefect_front

pytestmark = pytest.mark.server

ORDERS = 60
READY_S = 20.0
BODY = b"x" * (4 << 20)
LOST = 0
"""Instead of a status: the connection is closed without an answer."""


@dataclass(frozen=True)
class Front:
    """nginx before a server on this machine."""

    address: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}/api"

    def repeated(self, at_least: int = 0) -> list[str]:
        """The log's lines; nginx writes a request's after its answer was sent, so wait for so many."""
        log, ends = self.folder / prefect_front.REPEATED_LOG, time.monotonic() + 10
        while len(lines := log.read_text(encoding="utf-8").splitlines()) < at_least:
            assert time.monotonic() < ends, lines
            time.sleep(0.01)
        return lines


FrontMaker = Callable[[int], Front]


@pytest.fixture
def start_front(tmp_path: Path) -> Iterator[FrontMaker]:
    """Before the server at a port."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(server_port: int) -> Front:
        address = f"127.0.0.1:{free_port()}"
        (tmp_path / "scratch").mkdir()
        config = prefect_front.nginx_config(
            tmp_path, listen=address, server=f"127.0.0.1:{server_port}", as_root=os.geteuid() == 0
        )
        (tmp_path / "nginx.conf").write_text(config, encoding="utf-8")
        argv = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
        processes.append(subprocess.Popen(argv))
        until(lambda: listens(address), READY_S, "nginx listens")
        return Front(address, tmp_path)

    yield start
    for process in processes:
        process.terminate()
        process.wait()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


# --- a real server


@pytest.fixture
def deployment(server: Server) -> Iterator[str]:
    """The id of one that no worker takes runs of."""
    server.start()
    flow = asked("POST", "/flows/", {"name": "behind-the-front"})
    made = asked("POST", "/deployments/", {"name": "front", "flow_id": flow["id"], "entrypoint": "none.py:none"})
    yield str(made["id"])
    asked("DELETE", f"/deployments/{made['id']}")
    asked("DELETE", f"/flows/{flow['id']}")


@contextmanager
def commits(database: Path, mean_gap_s: float) -> Iterator[None]:
    """Somebody else's, at random moments, as long as this is open."""
    done = threading.Event()

    def write() -> None:
        chance = random.Random(7)
        with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
            connection.execute("create table others (number)")
            while not done.wait(chance.expovariate(1 / mean_gap_s)):
                connection.execute("insert into others values (1)")
            connection.execute("drop table others")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def test_every_order_is_taken_exactly_once_while_others_commit(
    server: Server, start_front: FrontMaker, deployment: str
) -> None:
    front = start_front(PORT)
    wanted = [f"order-{number}" for number in range(ORDERS)]

    def took_s(client: httpx.Client, name: str) -> float:
        began = time.monotonic()
        answer = client.post(f"/deployments/{deployment}/create_flow_run", json={"name": name})
        assert answer.status_code == HTTPStatus.CREATED, f"{answer.text}; repeated: {front.repeated()}"
        return time.monotonic() - began

    with httpx.Client(base_url=front.url, timeout=120, trust_env=False) as client:
        alone_s = statistics.median(took_s(client, name) for name in wanted[:5])
        with commits(Path(server.env["PREFECT_HOME"]) / "prefect.db", mean_gap_s=2 * alone_s):
            for name in wanted[5:]:
                took_s(client, name)
    made = asked("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["behind-the-front"]}}})
    assert sorted(run["name"] for run in made) == sorted(wanted)
    refused = [line for line in front.repeated(at_least=1) if "503, 201" in line]
    assert refused, "SQLite refused nothing, so nothing was shown"


@contextmanager
def events(front: Front, way: str) -> Iterator[Connection]:
    with connect(f"ws://{front.address}/api/{way}", subprotocols=["prefect"], proxy=None) as connection:  # type: ignore[list-item]
        connection.send(json.dumps({"type": "auth", "token": None}))
        assert json.loads(connection.recv(timeout=READY_S)) == {"type": "auth_success"}
        yield connection


def test_events_and_logs_pass_over_websockets(server: Server, start_front: FrontMaker) -> None:
    server.start()
    front = start_front(PORT)
    name = f"front.{uuid.uuid4()}"
    event = {
        "id": str(uuid.uuid4()),
        "occurred": dt.datetime.now(dt.UTC).isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": name},
    }
    with events(front, "events/out") as out, events(front, "events/in") as into, events(front, "logs/out"):
        out.send(json.dumps({"type": "filter", "filter": {"event": {"name": [name]}}}))

        def comes_back() -> bool:
            into.send(json.dumps(event))  # again: the first may be there before somebody listens
            try:
                return bool(json.loads(out.recv(timeout=0.5))["event"]["event"] == name)
            except TimeoutError:
                return False

        until(comes_back, READY_S, "the event comes back")


# --- a server that misbehaves


@dataclass
class Misbehaving:
    """Gives the answers that it was told to, then the last of them for ever; keeps what it was asked."""

    port: int
    answers: list[int] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def misbehaving() -> Iterator[Misbehaving]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            size = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            told.asked.append((self.command, size))
            status = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
            if status != LOST:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        told = Misbehaving(service.server_address[1])
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield told
        service.shutdown()
        thread.join()


def test_what_was_refused_is_repeated_with_its_whole_body(misbehaving: Misbehaving, start_front: FrontMaker) -> None:
    misbehaving.answers = [503, 503, 503, 201]
    front = start_front(misbehaving.port)
    assert httpx.post(front.url, content=BODY, timeout=30).status_code == HTTPStatus.CREATED
    assert misbehaving.asked == [("POST", len(BODY))] * 4
    [line] = front.repeated(at_least=1)
    assert " POST /api 503, 503, 503, 201 " in line


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_what_may_have_been_carried_out_is_never_repeated(
    misbehaving: Misbehaving, start_front: FrontMaker, method: str
) -> None:
    misbehaving.answers = [LOST, 503, 201]
    front = start_front(misbehaving.port)
    assert httpx.request(method, front.url, timeout=30).status_code == HTTPStatus.BAD_GATEWAY
    assert misbehaving.asked == [(method, 0)]
    assert httpx.request(method, f"{front.url}/after", timeout=30).status_code == HTTPStatus.CREATED
    [line] = front.repeated(at_least=1)
    assert " /api/after 503, 201 " in line


@pytest.mark.parametrize("status", [404, 409, 422, 500, 502, 504])
def test_every_other_answer_is_the_servers_own(misbehaving: Misbehaving, start_front: FrontMaker, status: int) -> None:
    misbehaving.answers = [status, 201]
    front = start_front(misbehaving.port)
    assert httpx.post(front.url, timeout=30).status_code == status
    assert len(misbehaving.asked) == 1


def test_a_server_that_refuses_every_time_is_asked_so_often_and_heard(
    misbehaving: Misbehaving, start_front: FrontMaker
) -> None:
    misbehaving.answers = [503]
    front = start_front(misbehaving.port)
    assert httpx.post(front.url, timeout=30).status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert len(misbehaving.asked) == prefect_front.TRIES
    misbehaving.answers = [201]  # and none of its places counts as failed
    assert httpx.post(front.url, timeout=30).status_code == HTTPStatus.CREATED


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_while_the_server_is_down_the_front_says_so_at_once(start_front: FrontMaker, method: str) -> None:
    front = start_front(free_port())
    for _ in range(3):
        answer = httpx.request(method, f"{front.url}/health", timeout=5)
        assert answer.status_code == HTTPStatus.BAD_GATEWAY
        assert "Prefect's server does not answer" in answer.text
