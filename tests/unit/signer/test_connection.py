"""Merlin, SecretConnection, sockets and the link: against published vectors, each other, and hostile ends."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from signer_world import CHAIN_ID, World, prevote, vectors

from vedr.adapters.privval_socket import SocketStream, TcpAddress, UnixAddress, dial, parse_address
from vedr.chain.encoding import bytes_field, delimited, message_field
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.signer.link import LONGEST_PAUSE_S, Link, pause_s
from vedr.signer.messages import MAX_MESSAGE_BYTES, ping_response, read_request
from vedr.signer.secret_connection import SecretConnection, _nonce, agree, derive_keys, node_id
from vedr.signer.stream import Stream, receive_message, send_message
from vedr.signer.transcript import Transcript, keccak_f1600

NODE = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
OURS = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
NODE_ID = node_id(NODE.public_key().public_bytes_raw())
PING = message_field(7, b"")


def pair() -> tuple[SocketStream, SocketStream]:
    left, right = socket.socketpair()
    return SocketStream(left, timeout_s=5), SocketStream(right, timeout_s=5)


@contextlib.contextmanager
def ends() -> Iterator[tuple[SocketStream, SocketStream]]:
    left, right = pair()
    try:
        yield left, right
    finally:
        left._socket.close()
        right._socket.close()


def test_keccak_is_the_one_of_fips_202() -> None:
    """SHA3-256 of nothing: pad 0x06 … 0x80 at a rate of 136 bytes."""
    state = bytearray(200)
    state[0], state[135] = 0x06, 0x80
    assert keccak_f1600(bytes(state))[:32].hex() == "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"


def test_transcripts_give_merlins_published_challenges() -> None:
    simple = Transcript(b"test protocol")
    simple.append(b"some label", b"some data")
    assert simple.challenge(b"challenge", 32).hex() == (
        "d5a21972d0d5fe320c0d263fac7fffb8145aa640af6e9bca177c03c7efcf0615"
    )
    long = Transcript(b"test protocol")
    long.append(b"step1", b"some data")
    challenge = b""
    for _ in range(32):
        challenge = long.challenge(b"challenge", 32)
        long.append(b"bigdata", bytes([99]) * 1024)
        long.append(b"challengedata", challenge)
    assert challenge.hex() == "a8c933f54fae76e3f9bea93648c1308e7dfa2152dd51674ff3ca438351cf003c"


def test_a_draw_longer_than_the_sponge_goes_on() -> None:
    transcript = Transcript(b"test protocol")
    assert len(transcript.challenge(b"challenge", 400)) == 400


def test_frame_keys_are_cometbfts_golden_ones() -> None:
    for row in vectors("secret-connection.json")["keys"]:
        receive, send = derive_keys(bytes.fromhex(row["shared"]), we_are_lower=row["we_are_lower"])
        assert (receive.hex(), send.hex()) == (row["receive_key"], row["send_key"])


def both(left: Callable[[], object], right: Callable[[], object]) -> tuple[object, object]:
    """Each end in a thread; an error is what it gives."""
    results: dict[int, object] = {}

    def run(number: int, end: Callable[[], object]) -> None:
        try:
            results[number] = end()
        except VedrError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate((left, right))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0], results[1]


def handshaken(left: Stream, right: Stream) -> tuple[SecretConnection, SecretConnection]:
    first, second = both(
        lambda: SecretConnection.handshake(left, OURS, expected_node_id=NODE_ID),
        lambda: SecretConnection.handshake(right, NODE),
    )
    assert isinstance(first, SecretConnection), first
    assert isinstance(second, SecretConnection), second
    return first, second


def test_two_ends_know_each_other_and_carry_messages_of_any_length() -> None:
    with ends() as (left, right):
        ours, theirs = handshaken(left, right)
        assert ours.peer_key == NODE.public_key().public_bytes_raw()
        assert theirs.peer_key == OURS.public_key().public_bytes_raw()
        for size in (0, 1, 1021, 1022, 1024, 1025, 5000, MAX_MESSAGE_BYTES):
            message = bytes(range(256)) * 40
            send_message(ours, message[:size])
            assert receive_message(theirs, limit_bytes=MAX_MESSAGE_BYTES) == message[:size]
            send_message(theirs, message[:size])
            assert receive_message(ours, limit_bytes=MAX_MESSAGE_BYTES) == message[:size]


def test_a_node_that_is_not_the_expected_one_is_refused() -> None:
    with ends() as (left, right):
        ours, _ = both(
            lambda: SecretConnection.handshake(left, OURS, expected_node_id="0" * 40),
            lambda: SecretConnection.handshake(right, NODE),
        )
    assert isinstance(ours, VerificationFailedError)
    assert NODE_ID in ours.message


def test_a_proof_under_another_key_is_refused() -> None:
    def impostor(stream: Stream) -> None:
        ephemeral = X25519PrivateKey.generate()
        send_message(stream, bytes_field(1, ephemeral.public_key().public_bytes_raw()))
        offered = receive_message(stream, limit_bytes=100)[2:]
        connection = SecretConnection(stream, agree(ephemeral, offered))
        named = message_field(1, bytes_field(1, NODE.public_key().public_bytes_raw()))
        send_message(connection, named + bytes_field(2, OURS.sign(b"anything")))

    with ends() as (left, right):
        ours, _ = both(lambda: SecretConnection.handshake(left, OURS), lambda: impostor(right))
    assert isinstance(ours, VerificationFailedError)
    assert "proof" in ours.message


def test_a_key_of_low_order_is_refused() -> None:
    with pytest.raises(VerificationFailedError, match="low order"):
        agree(X25519PrivateKey.generate(), bytes(32))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (delimited(bytes_field(1, bytes(31))), "31 bytes, not 32"),
        (delimited(b""), "0 bytes, not 32"),
        (b"\xff" * 10, "more than 64 bits"),
        (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f", "more than 64 bits"),
        (b"\x80\x20", "at most 256"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50), "request|ephemeral|bytes"),
    ],
)
def test_a_stranger_who_speaks_otherwise_is_not_understood(sent: bytes, said: str) -> None:
    with ends() as (left, right):
        right.send(sent)
        with pytest.raises(CorruptError, match=said):
            SecretConnection.handshake(left, OURS)


@pytest.mark.parametrize("byte", [0, 3, 4, 50, 1027, 1043])
def test_a_changed_frame_is_noticed(byte: int) -> None:
    with ends() as (left, right):
        ours, theirs = handshaken(left, right)
        sealed = bytearray(theirs._sealing.encrypt(_nonce(theirs._sent), bytes(1028), None))
        sealed[byte] ^= 1
        right.send(bytes(sealed))
        with pytest.raises(CorruptError, match="changed, or is not of this connection"):
            ours.receive(1)


def test_a_frame_left_out_or_sent_twice_is_noticed() -> None:
    for counters in ((2,), (1, 1)):  # 0 was the handshake's
        with ends() as (left, right):
            ours, theirs = handshaken(left, right)
            for counter in counters:
                right.send(theirs._sealing.encrypt(_nonce(counter), b"\x01".ljust(1028, b"\0"), None))
            with pytest.raises(CorruptError, match="not of this connection"):
                ours.receive(len(counters))


def test_a_frame_that_claims_more_than_it_holds_is_refused() -> None:
    with ends() as (left, right):
        ours, theirs = handshaken(left, right)
        sealed = theirs._sealing.encrypt(_nonce(theirs._sent), b"\x01\x04" + bytes(1026), None)
        right.send(sealed)
        with pytest.raises(CorruptError, match="1025 bytes, at most 1024"):
            ours.receive(1)


def test_addresses_are_those_of_cometbfts_config() -> None:
    assert parse_address("unix:///run/pv.sock") == UnixAddress("/run/pv.sock")
    assert parse_address("tcp://node.example:26659") == TcpAddress("node.example", 26659)
    assert parse_address(f"tcp://{NODE_ID}@[::1]:1") == TcpAddress("::1", 1, NODE_ID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix://",
        "unix:///" + "a" * 107,
        "unix:///a\0b",
        "tcp://host",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://abc@host:1",
        "host:1",
        "tcp://:1",
        "tcp://a/b:1",
        "http://host:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no address"):
        parse_address(text)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for address in (UnixAddress(str(tmp_path / "none")), TcpAddress("127.0.0.1", unused.getsockname()[1])):
            with pytest.raises(UnavailableError), dial(address, OURS):
                pass


def test_a_host_of_no_possible_name_is_an_error_of_ours() -> None:
    with pytest.raises(InvalidInputError, match="has no address"), dial(TcpAddress("val..example", 26656), OURS):
        pass


def test_a_silent_node_is_given_up() -> None:
    with ends() as (left, _):
        left.timeout_s = 0.05
        with pytest.raises(UnavailableError, match="timed out"):
            left.receive(1)


def test_a_connection_is_over_when_its_time_is_however_busy_the_node() -> None:
    left, right = socket.socketpair()
    with left, right:
        stream = SocketStream(left, timeout_s=5, lifetime_s=0.1)
        right.sendall(b"ab")
        assert stream.receive(1) == b"a"
        threading.Event().wait(0.11)
        right.sendall(b"cd")
        with pytest.raises(UnavailableError, match="took too long"):
            stream.receive(3)
        with pytest.raises(UnavailableError, match="took too long"):
            stream.send(b"a")


def test_a_node_that_does_not_read_is_given_up() -> None:
    with ends() as (left, _):
        left.timeout_s = 0.05
        with pytest.raises(UnavailableError):
            left.send(bytes(10_000_000))


class Node:
    """Listens as a validator's node does, on a Unix socket or TCP."""

    def __init__(self, folder: Path, *, tcp: bool) -> None:
        self._listener = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self._tcp = tcp
        if tcp:
            self._listener.bind(("127.0.0.1", 0))
            self.address = f"tcp://{NODE_ID}@127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self.address = f"unix://{folder}/pv.sock"
            self._listener.bind(f"{folder}/pv.sock")
        self._listener.listen()
        self._listener.settimeout(10)

    @contextlib.contextmanager
    def accept(self) -> Iterator[Stream]:
        connected, _ = self._listener.accept()
        with connected:
            plain = SocketStream(connected, timeout_s=5)
            yield SecretConnection.handshake(plain, NODE) if self._tcp else plain

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=["unix", "tcp"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path, tcp=request.param == "tcp")
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state.json")


@contextlib.contextmanager
def linked(world: World, node: Node) -> Iterator[Link]:
    address = parse_address(node.address)
    link = Link("val0", lambda: dial(address, OURS), world.signer, metrics=world.metrics, log=world.log)
    thread = threading.Thread(target=link.run)
    thread.start()
    try:
        yield link
    finally:
        link.stop()
        node.close()
        thread.join(10)
        assert not thread.is_alive()


def exchange(stream: Stream, request: bytes) -> bytes:
    send_message(stream, request)
    return receive_message(stream, limit_bytes=MAX_MESSAGE_BYTES)


def request(vote_height: int) -> bytes:
    return message_field(3, message_field(1, prevote(vote_height).encode()) + bytes_field(2, CHAIN_ID.encode()))


def test_a_node_is_answered_over_one_connection_for_long(world: World, node: Node) -> None:
    with linked(world, node), node.accept() as stream:
        for height in range(1, 20):
            assert exchange(stream, PING) == ping_response()
            assert exchange(stream, request(height))[0] == 0x22
        assert world.count("vedr_signer_connected") == 1
    assert world.count("vedr_signer_connected") == 0
    assert world.count('vedr_signer_signatures_total{kind="prevote"}') == 19


def test_a_connection_that_breaks_is_dialled_again_for_ever(world: World, node: Node) -> None:
    with linked(world, node):
        for _ in range(5):
            with node.accept() as stream:
                assert exchange(stream, PING) == ping_response()


@pytest.mark.parametrize("rubbish", [b"\x81\x50", b"\x02\x42\x00", b"\xff" * 12, b"\x03abc"])
def test_rubbish_closes_the_connection_and_the_next_one_works(world: World, node: Node, rubbish: bytes) -> None:
    with linked(world, node):
        with node.accept() as stream:
            stream.send(rubbish)
            with pytest.raises(UnavailableError):
                stream.receive(1)
        with node.accept() as stream:
            assert exchange(stream, PING) == ping_response()
    assert "not_understood" in [event for event, _ in world.logged]


def test_a_superseded_signer_answers_so_and_dials_no_more(world: World, node: Node) -> None:
    with linked(world, node), node.accept() as stream:
        world.register.failure = ConflictError("epoch 8 exists")
        assert b"taken over" in exchange(stream, request(1))
        with pytest.raises(UnavailableError):
            stream.receive(1)


def test_a_stranger_in_the_nodes_place_is_not_trusted(world: World, tmp_path: Path) -> None:
    node = Node(tmp_path, tcp=True)
    node.address = node.address.replace(NODE_ID, "1" * 40)
    with linked(world, node):
        for _ in range(2):
            with contextlib.suppress(VedrError), node.accept() as stream:
                stream.receive(1)
    assert [event for event, _ in world.logged] == ["not_trusted"], "once, not at each attempt"


def test_pauses_grow_to_less_than_a_starting_node_waits_and_differ() -> None:
    assert pause_s(0) <= 0.05
    assert all(LONGEST_PAUSE_S / 2 <= pause_s(many) <= LONGEST_PAUSE_S for many in (5, 10, 10_000))
    assert len({pause_s(10) for _ in range(10)}) > 1


def test_the_next_message_is_not_touched_by_the_one_before() -> None:
    with ends() as (left, right):
        right.send(delimited(PING) + delimited(PING)[:1])
        assert read_request(receive_message(left, limit_bytes=MAX_MESSAGE_BYTES))
        right.send(PING)
        assert receive_message(left, limit_bytes=MAX_MESSAGE_BYTES) == PING
