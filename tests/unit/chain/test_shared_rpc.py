"""A node asked for several checks at once: what they share, and what each of them gets anew."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vedr.adapters.shared_rpc import FRESH_S, SharedNodes, SharedRpc, SharingSite
from vedr.errors import UnavailableError
from vedr.inventory import Height, load_site

REAL = json.loads((Path(__file__).parent / "kvstore_chain.json").read_text())
LAST = Height(int(max(REAL["commit"], key=int)))
EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"


class Node:
    """A real server that counts what it is asked; it answers once it is let through."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_down = False
        self.arrived, self.let_through = threading.Event(), threading.Event()
        self.let_through.set()
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.strip("/").partition("?")[0]
                node.asked.append(name)
                node.arrived.set()
                assert node.let_through.wait(20)
                result = REAL["commit"][str(LAST)] if name == "commit" else REAL[name]
                body = b"<html>" if node.is_down else json.dumps({"result": result}).encode()
                self.send_response(502 if node.is_down else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.let_through.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shared(node: Node, clock: Clock) -> Iterator[SharedRpc]:
    with SharedRpc(node.url, name="node", deadline_s=20, monotonic=clock) as rpc:
        yield rpc


def test_whoever_asks_while_another_waits_gets_the_same_answer(node: Node, shared: SharedRpc, clock: Clock) -> None:
    node.let_through.clear()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(shared.status) for _ in range(5)]
        assert node.arrived.wait(20)
        clock.now_s += 10 * FRESH_S  # however long it takes
        node.let_through.set()
        assert len({answer.result(20).latest_height for answer in answers}) == 1
    assert node.asked == ["status"]


def test_a_status_is_asked_anew_when_it_is_no_longer_fresh(node: Node, shared: SharedRpc, clock: Clock) -> None:
    shared.status()
    clock.now_s += FRESH_S
    shared.status()
    assert node.asked == ["status"]
    clock.now_s += 0.01
    shared.status()
    assert node.asked == ["status", "status"]


def test_a_node_that_is_gone_costs_its_deadline_once_and_is_found_again_when_it_is_back(
    node: Node, shared: SharedRpc, clock: Clock
) -> None:
    node.is_down = True
    for _ in range(3):
        with pytest.raises(UnavailableError, match="node /status: HTTP 502"):
            shared.status()
    assert node.asked == ["status"]
    node.is_down = False
    clock.now_s += FRESH_S + 0.01
    assert shared.status().latest_height > 0


def test_a_commit_is_asked_once_for_a_height_and_always_for_the_newest(node: Node, shared: SharedRpc) -> None:
    assert shared.commit(LAST) == shared.commit(LAST)
    assert len(node.asked) == 1
    shared.commit()
    shared.commit()
    assert len(node.asked) == 3


def test_a_commit_that_a_node_did_not_give_is_asked_for_again(node: Node, shared: SharedRpc) -> None:
    node.is_down = True
    with pytest.raises(UnavailableError):
        shared.commit(LAST)
    node.is_down = False
    assert shared.commit(LAST).header.height == LAST


def test_two_openings_of_a_site_ask_over_one_client_until_the_run_is_over() -> None:
    site = load_site(str(EXAMPLE))
    node = site.nodes[0]
    with SharedNodes() as nodes:
        with SharingSite(site, nodes) as first:
            client = first.rpc(node)
        with SharingSite(site, nodes) as second:
            assert second.rpc(node) is client
            assert second.rpc(node, deadline_s=9) is not client
    with SharedNodes() as nodes, SharingSite(site, nodes) as later:
        assert later.rpc(node) is not client
