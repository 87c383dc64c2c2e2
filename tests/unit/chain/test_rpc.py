import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from chainmaker import address
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters import rpc as adapter
from vedr.adapters.rpc import HttpChainRpc
from vedr.chain import rpc
from vedr.chain.block import SignedHeader
from vedr.chain.wire import RawJson, Value, parse_json, to_datetime, to_rfc3339
from vedr.errors import CorruptError, NotFoundError, UnavailableError, VedrError
from vedr.inventory import Height

REAL = json.loads((Path(__file__).parent / "kvstore_chain.json").read_text())
LAST = max(int(height) for height in REAL["commit"])


def real(name: str) -> Value:
    return Value(copy.deepcopy(REAL[name]), name)


def changed(name: str, value: RawJson, *path: str | int) -> Value:
    document = copy.deepcopy(REAL[name])
    holder = document
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    return Value(document, name)


def test_real_answers_are_read() -> None:
    status = rpc.parse_status(real("status"))
    assert (status.version, status.catching_up, status.earliest_height) == ("0.38.25", False, 1)
    assert len(rpc.parse_net_info(real("net_info")).peers) == 3
    assert rpc.parse_abci_info(real("abci_info")).height == status.latest_height
    block = rpc.parse_block(real("block"))
    assert block.hash == block.header.hash()
    assert block.evidence == ()


def test_a_fresh_application_has_neither_height_nor_hash() -> None:
    assert rpc.parse_abci_info(Value({"response": {}}, "abci_info")) == rpc.AbciInfo(Height(0), b"", "", 0)


def test_real_votes_are_read_with_their_whole_address() -> None:
    state = rpc.parse_consensus_state(real("consensus_state"))
    committed = [vote for vote in state.votes if vote.height == state.height - 1]
    assert committed
    assert all(vote.step == 3 and not vote.for_nil and len(vote.address) == 20 for vote in committed)
    assert state.votes_of(committed[0].address)[-1] == committed[0]


NONE = ["nil-Vote"] * 4


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (("votes",), None),
        (("votes",), []),
        (("votes", 0, "prevotes"), None),
        (("votes", 0, "precommits"), NONE[1:]),
        (("last_commit", "votes"), None),
        (("last_commit", "votes"), [*NONE, "nil-Vote"]),
    ],
)
def test_votes_that_a_node_does_not_tell_are_an_error_not_none(place: tuple[str | int, ...], told: object) -> None:
    with pytest.raises(CorruptError):
        rpc.parse_consensus_state(changed("consensus_state", told, "round_state", *place))


def test_prevotes_votes_for_nil_and_proposals_are_seen() -> None:
    document = copy.deepcopy(REAL["consensus_state"])
    state = document["round_state"]
    first = state["validators"]["validators"][0]["address"]
    state["votes"] = [
        {"round": 0, "prevotes": [_vote(first, 9, 0, "PREVOTE", "0" * 12), *NONE[1:]], "precommits": NONE},
        {"round": 1, "prevotes": NONE, "precommits": [_vote(first, 9, 1, "PRECOMMIT", "AB" * 6), *NONE[1:]]},
    ]
    state["last_commit"] = None
    state["proposal"] = {"height": "9", "round": 1}
    votes = rpc.parse_consensus_state(Value(document, "dump")).votes
    proposer = state["validators"]["proposer"]["address"]

    assert [(v.height, v.round, v.step, v.for_nil, v.block_start) for v in votes] == [
        (9, 0, 2, True, b""),
        (9, 1, 3, False, b"\xab" * 6),
        (9, 1, 1, False, b""),
    ]
    assert votes[2].address.hex().upper() == proposer


def _vote(who: str, height: int, round_: int, kind: str, block: str) -> str:
    return f"Vote{{0:{who[:12]} {height}/{round_:02d}/SIGNED_MSG_TYPE_{kind}(X) {block} {'0' * 12} {'0' * 12} @ t}}"


@pytest.mark.parametrize(
    "vote",
    [
        "Vote{}",
        _vote("00" * 20, 9, 0, "PREVOTE", "0" * 12),
        _vote("00" * 20, 9, 0, "PREVOTE", "0" * 12).replace("Vote{0", "Vote{9"),
    ],
)
def test_a_vote_that_cannot_be_placed_is_an_error_not_overlooked(vote: str) -> None:
    with pytest.raises(CorruptError):
        rpc.parse_consensus_state(changed("consensus_state", vote, "round_state", "votes", 0, "prevotes", 0))


def test_evidence_names_whom_it_accuses() -> None:
    accused = address(1).hex().upper()
    evidence = [
        {
            "type": "tendermint/DuplicateVoteEvidence",
            "value": {"vote_a": {"height": "7", "validator_address": accused}},
        },
        {
            "type": "tendermint/LightClientAttackEvidence",
            "value": {"common_height": "5", "byzantine_validators": [{"address": accused}]},
        },
    ]
    parsed = rpc.parse_block(changed("block", evidence, "block", "evidence", "evidence")).evidence  # type: ignore[arg-type]
    assert [(e.kind[:9], e.height, e.addresses) for e in parsed] == [
        ("Duplicate", 7, (address(1),)),
        ("LightClie", 5, (address(1),)),
    ]
    with pytest.raises(CorruptError):
        rpc.parse_block(changed("block", [{"type": "tendermint/Other"}], "block", "evidence", "evidence"))


def test_validator_pages_must_be_of_the_height_and_add_up() -> None:
    page = copy.deepcopy(REAL["validators"][str(LAST)])
    for name, value in (("block_height", "7"), ("total", "99")):
        with pytest.raises(CorruptError):
            rpc.parse_validators([Value({**page, name: value}, "page")], Height(LAST))


def test_a_commit_without_signatures_and_keys_of_other_kinds_are_refused() -> None:
    signed = copy.deepcopy(REAL["commit"][str(LAST)]["signed_header"])
    signed["commit"]["signatures"] = None
    with pytest.raises(CorruptError, match="signatures"):
        SignedHeader.parse(Value(signed, "signed"))
    page = copy.deepcopy(REAL["validators"][str(LAST)])
    page["validators"][0]["pub_key"]["type"] = "tendermint/PubKeySecp256k1"
    with pytest.raises(CorruptError, match="PubKeyEd25519"):
        rpc.parse_validators([Value(page, "page")], Height(LAST))


def test_headers_must_descend_without_a_gap() -> None:
    metas = REAL["blockchain"]["block_metas"]
    with pytest.raises(CorruptError):
        rpc.parse_headers(Value({"block_metas": metas[:3] + metas[4:]}, "b"), Height(LAST - 9), Height(LAST))


def test_genesis_chunks_must_be_whole_and_in_order() -> None:
    one = Value({"chunk": "0", "total": "2", "data": "e30="}, "chunk")
    two = Value({"chunk": "1", "total": "2", "data": "e30="}, "chunk")
    assert rpc.join_genesis([one, two]) == b"{}{}"
    for chunks in ([two, one], [one]):
        with pytest.raises(CorruptError):
            rpc.join_genesis(chunks)


NAMES = ["status", "net_info", "abci_info", "consensus_state", "block"]
PARSERS: dict[str, Callable[[Value], object]] = {
    "status": rpc.parse_status,
    "net_info": rpc.parse_net_info,
    "abci_info": rpc.parse_abci_info,
    "consensus_state": rpc.parse_consensus_state,
    "block": rpc.parse_block,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(NAMES), data=st.data(), instead=JSON)
def test_whatever_stands_in_an_answer_only_our_errors_come_out(
    name: str, data: st.DataObject, instead: RawJson
) -> None:
    document = copy.deepcopy(REAL[name])
    holder = document
    while True:
        members = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        part = data.draw(st.sampled_from(members))
        inner = holder[part]
        if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
            holder[part] = instead
            break
        holder = inner
    try:
        PARSERS[name](Value(document, name))
    except CorruptError:
        return


@pytest.mark.parametrize("text", ["2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00+01:00"])
def test_times_that_are_not_rfc_3339_in_utc_are_refused(text: str) -> None:
    with pytest.raises(CorruptError):
        Value(text, "time").time_ns()


@settings(deadline=None, max_examples=60)
@given(st.integers(-62_135_596_800 * 10**9, 4_000_000_000 * 10**9))
def test_times_survive_being_written_to_the_nanosecond(time_ns: int) -> None:
    assert Value(to_rfc3339(time_ns), "time").time_ns() == time_ns
    assert abs(to_datetime(time_ns).timestamp() * 1e9 - time_ns) < 2e6


def test_values_of_the_wrong_kind_say_where() -> None:
    for ask in (
        lambda v: v["x"],
        lambda v: v.members(),
        lambda v: v.items(),
        lambda v: v.flag(),
        lambda v: v.base64(),
        lambda v: v.hexadecimal(),
    ):
        with pytest.raises(CorruptError, match=r"answer\.height"):
            ask(Value(5, "answer.height"))
    with pytest.raises(CorruptError, match="20 bytes"):
        Value("AB", "v").hexadecimal(20)
    for text in ("zz", "abc"):
        with pytest.raises(CorruptError, match="hexadecimal"):
            Value(text, "v").hexadecimal()


def test_what_is_not_json_is_corrupt() -> None:
    for data in (b"<html>", b"\xff", b"[" * 100_000):
        with pytest.raises(CorruptError):
            parse_json(data, what="answer")


# --- over HTTP


class Server:
    """A real HTTP server that answers with what the test puts in `answers`."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, str]], tuple[int, bytes]]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                code, body = outer.answers[parts.path.strip("/")](query)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                with suppress(ConnectionError):  # the client hung up, as some tests want
                    super().handle()

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def result(self, name: str, value: RawJson) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": -1, "result": value}).encode()
        self.answers[name] = lambda _: (200, body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def node(server: Server) -> Iterator[HttpChainRpc]:
    with HttpChainRpc(server.url + "/", name="node", deadline_s=20) as client:
        yield client


def test_validators_are_paged_through_to_the_last(server: Server, node: HttpChainRpc) -> None:
    page = REAL["validators"][str(LAST)]
    everyone = page["validators"]

    def answer(query: dict[str, str]) -> tuple[int, bytes]:
        at = int(query["page"]) - 1
        part = {**page, "validators": everyone[at : at + 1], "count": "1", "total": str(len(everyone))}
        return 200, json.dumps({"result": part}).encode()

    server.answers["validators"] = answer
    assert len(node.validators(Height(LAST)).validators) == len(everyone)


def test_an_answer_for_another_height_is_refused(server: Server, node: HttpChainRpc) -> None:
    server.result("commit", REAL["commit"][str(LAST)])
    server.result("header", {"header": REAL["commit"][str(LAST)]["signed_header"]["header"]})
    assert node.commit(Height(LAST)).header == node.header(Height(LAST)) == node.commit().header
    for ask in (node.commit, node.header):
        with pytest.raises(CorruptError, match="height"):
            ask(Height(LAST - 1))


def test_the_other_calls_reach_their_endpoints(server: Server, node: HttpChainRpc) -> None:
    for name in ("status", "net_info", "abci_info", "block", "blockchain"):
        server.result(name, REAL[name])
    server.result("dump_consensus_state", REAL["consensus_state"])
    assert node.status().latest_height == node.abci_info().height
    assert node.net_info().listening
    assert node.consensus_state().height > 0
    assert node.block(Height(LAST)).header.height == LAST
    assert len(node.headers(Height(LAST - 9), Height(LAST))) == 10


def test_a_genesis_of_many_chunks_is_joined(server: Server, node: HttpChainRpc) -> None:
    parts = ["eyJh", "IjoxfQ=="]
    server.answers["genesis_chunked"] = lambda query: (
        200,
        json.dumps({"result": {"chunk": query["chunk"], "total": "2", "data": parts[int(query["chunk"])]}}).encode(),
    )
    assert node.genesis() == b'{"a":1}'


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (
            500,
            b'{"error": {"data": "height 9 must be less than or equal to the current blockchain height 3"}}',
            NotFoundError,
        ),
        (
            500,
            b'{"error": {"message": "Internal error", "data": "height 1 is not available, lowest height is 5"}}',
            NotFoundError,
        ),
        (500, b'{"error": {"message": "overloaded"}}', UnavailableError),
        (502, b"<html>bad gateway</html>", UnavailableError),
        (200, b"<html>login</html>", CorruptError),
        (200, b"{}", CorruptError),
        (200, b'{"result": {}}', CorruptError),
    ],
)
def test_every_failing_answer_becomes_the_right_error(
    server: Server, node: HttpChainRpc, code: int, body: bytes, kind: type[VedrError]
) -> None:
    server.answers["status"] = lambda _: (code, body)
    with pytest.raises(kind) as caught:
        node.status()
    assert type(caught.value) is kind
    assert "node /status" in caught.value.message


def test_an_answer_without_end_is_cut_off(server: Server, node: HttpChainRpc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_ANSWER_BYTES", 1000)
    server.answers["status"] = lambda _: (200, b" " * 5000)
    with pytest.raises(CorruptError, match="more than 1000 bytes"):
        node.status()


def test_a_slow_answer_ends_at_the_deadline(server: Server) -> None:
    release = threading.Event()

    def slow(_: dict[str, str]) -> tuple[int, bytes]:
        release.wait(10)
        return 200, b"{}"

    server.answers["status"] = slow
    with HttpChainRpc(server.url, deadline_s=0.2) as node, pytest.raises(UnavailableError, match="Timeout"):
        node.status()
    release.set()


def test_a_trickling_answer_ends_at_the_deadline_too(
    server: Server, node: HttpChainRpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["status"] = lambda _: (200, b"{" + b" " * 600_000)
    moments = iter([0.0])
    monkeypatch.setattr(adapter.time, "monotonic", lambda: next(moments, 50.0))
    with pytest.raises(UnavailableError, match="not whole after 20 s"):
        node._fetch("status", {})


def test_an_answer_that_comes_byte_by_byte_ends_at_the_deadline_as_well() -> None:
    """No read of it ever lasts long."""
    is_over = threading.Event()

    def drip(listening: socket.socket) -> None:
        with listening.accept()[0] as connected, suppress(OSError):
            connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not is_over.wait(0.01):
                connected.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        slow = HttpChainRpc(f"http://127.0.0.1:{listening.getsockname()[1]}", deadline_s=0.3)
        began = time.monotonic()
        with slow, pytest.raises(UnavailableError, match=r"not whole after 0\.3 s"):
            slow.status()
        assert time.monotonic() - began < 10
        is_over.set()
        thread.join(5)


def test_nobody_there_is_unavailable() -> None:
    with HttpChainRpc("http://127.0.0.1:9", name="gone") as gone, pytest.raises(UnavailableError, match="gone /status"):
        gone.status()
    assert gone.name == "gone"
