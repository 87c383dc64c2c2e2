"""Which node takes a vote, and each reason why one does not; real nodes are in tests/chain/test_recorded_votes.py."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from socket import SHUT_RDWR, create_server, socket

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signer_world import BLOCK, CHAIN_ID, NIL, OTHER_BLOCK, precommit, prevote

from vedr.adapters.privval_socket import SocketStream, TcpAddress, dial
from vedr.chain.block import BlockId, Validator, ValidatorSet
from vedr.chain.encoding import delimited
from vedr.chain.rpc import ConsensusState, SeenVote, Status
from vedr.errors import UnavailableError
from vedr.inventory import Height
from vedr.signer.messages import Vote
from vedr.signer.peer import NodeInfo
from vedr.signer.protobuf import Message
from vedr.signer.publishing import LONGEST_VISIT_S, Entrance, Outcome, Publisher, Try
from vedr.signer.secret_connection import SecretConnection, node_id
from vedr.signer.stream import Stream, receive_message, send_message

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
US = Validator(KEY, 10)
OTHER = Validator(bytes(31) + b"\1", 30)
NODE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NODE_ID = node_id(NODE_KEY.public_key().public_bytes_raw())


@dataclass
class NodeOfOne:
    """A node's RPC, and its p2p port, which takes one peer and shows the vote that it brings."""

    network: str = CHAIN_ID
    hangs_up: bool = False
    chain_id: str = CHAIN_ID
    height: int = 5
    step: int = 4
    is_catching_up: bool = False
    extensions_from: int = 0
    validators: tuple[Validator, ...] = (OTHER, US)
    votes: list[SeenVote] = field(default_factory=list)
    taken: list[Vote] = field(default_factory=list)
    is_gone: bool = False
    valid_block: bytes = precommit().block_id.hash

    def status(self) -> Status:
        if self.is_gone:
            raise UnavailableError("connection refused")
        return Status(
            NODE_ID,
            self.chain_id,
            "n",
            "0.38.26",
            Height(self.height - 1),
            b"",
            b"",
            0,
            Height(1),
            self.is_catching_up,
            b"",
            0,
        )

    def consensus_state(self) -> ConsensusState:
        return ConsensusState(
            Height(self.height), 0, self.step, ValidatorSet(self.validators), tuple(self.votes), self.valid_block
        )

    def vote_extensions_from(self) -> Height:
        return Height(self.extensions_from)

    def serve(self, listening: socket) -> None:
        try:
            connected, _ = listening.accept()
        except OSError:
            return  # nobody came
        with connected:
            stream = SecretConnection.handshake(SocketStream(connected, timeout_s=5), NODE_KEY)
            if self.hangs_up:
                return
            peer = NodeInfo.read(receive_message(stream, limit_bytes=10_240))
            assert peer.node_id == node_id(stream.peer_key)
            send_message(stream, NodeInfo(NODE_ID, self.network).encode())
            try:
                packet = Message.parse(receive_message(stream, limit_bytes=2048), what="packet").message(3)
            except UnavailableError:
                return
            assert (packet.unsigned(1, high=255), packet.unsigned(2, high=1)) == (0x22, 1)
            vote = Vote.read(Message.parse(packet.octets(3), what="message").message(6).message(1))
            self.taken.append(vote)
            self.votes.append(seen(vote))
            receive_message_or_end(stream)


def receive_message_or_end(stream: SecretConnection) -> None:
    with pytest.raises(UnavailableError):
        receive_message(stream, limit_bytes=2048)


def seen(vote: Vote) -> SeenVote:
    start = vote.block_id.hash[:6]
    return SeenVote(US.address, Height(vote.height), vote.round, vote.hrs[2], for_nil=vote.is_nil, block_start=start)


@contextmanager
def reached(node: NodeOfOne, name: str = "val0", *, visit_s: float = LONGEST_VISIT_S) -> Iterator[Entrance]:
    with create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=node.serve, args=(listening,), daemon=True)
        thread.start()
        port = listening.getsockname()[1]

        @contextmanager
        def ask() -> Iterator[NodeOfOne]:
            yield node

        def dial_peer(expected: str, key: Ed25519PrivateKey) -> AbstractContextManager[Stream]:
            return dial(TcpAddress("127.0.0.1", port, expected), key, lifetime_s=visit_s)

        yield Entrance(name, ask, dial_peer)
        listening.shutdown(SHUT_RDWR)
        thread.join(5)


def publish(vote: Vote, node: NodeOfOne, *, is_over: Callable[[], bool] = lambda: False) -> Try:
    with reached(node) as entrance:
        return Publisher(CHAIN_ID, KEY, [entrance]).publish(vote.signed(b"\1" * 64, vote.time_ns), is_over=is_over)


def test_a_precommit_for_a_block_that_the_node_did_not_see_prevoted_is_never_sent() -> None:
    """Whoever writes to one bucket may put any position there; it must not become a vote that commits."""
    for seen_valid in (b"", b"\7" * 32):
        node = NodeOfOne(valid_block=seen_valid)
        done = publish(precommit(), node)
        assert (done.outcome, node.taken) == (Outcome.NOT_PUBLISHED, [])
        assert "did not see 2/3 prevote" in done.problems[0]
    assert publish(prevote(), NodeOfOne(valid_block=b"")).outcome is Outcome.PUBLISHED
    assert publish(precommit(block=NIL), NodeOfOne(valid_block=b"")).outcome is Outcome.PUBLISHED


@pytest.mark.parametrize("vote", [prevote(block=NIL), prevote(), precommit(block=NIL), precommit()])
def test_a_vote_is_addressed_by_the_nodes_validator_set_and_arrived_when_the_node_shows_it(vote: Vote) -> None:
    node = NodeOfOne()
    done = publish(vote, node)
    assert (done, len(node.taken)) == (Try(Outcome.PUBLISHED, "val0"), 1)
    assert (node.taken[0].validator_index, node.taken[0].validator_address) == (1, US.address)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (NodeOfOne(is_gone=True), "connection refused"),
        (NodeOfOne(chain_id="other-1"), "of chain other-1"),
        (NodeOfOne(network="other-1"), "network 'other-1'"),
        (NodeOfOne(hangs_up=True), "does not answer|closed the connection"),
        (NodeOfOne(is_catching_up=True), "catching up"),
        (NodeOfOne(height=4), "is behind: it decides 4"),
        (NodeOfOne(validators=(OTHER,)), "no validator's"),
    ],
    ids=["gone", "chain", "network", "refused", "block sync", "behind", "no validator"],
)
def test_a_node_that_cannot_take_it_is_told_of_and_gets_nothing(node: NodeOfOne, problem: str) -> None:
    done = publish(prevote(), node)
    assert done.outcome is Outcome.NOT_PUBLISHED
    (told,) = done.problems
    assert re.search(problem, told), told
    assert node.taken == []


def test_a_precommit_that_would_need_an_extension_is_not_sent() -> None:
    assert "extensions from 5" in publish(precommit(), NodeOfOne(extensions_from=5)).problems[0]
    assert publish(precommit(), NodeOfOne(extensions_from=6)).outcome is Outcome.PUBLISHED
    assert publish(precommit(block=NIL), NodeOfOne(extensions_from=5)).outcome is Outcome.PUBLISHED


def test_a_vote_that_the_node_has_or_whose_height_is_decided_is_not_sent() -> None:
    known, passed = NodeOfOne(votes=[seen(prevote())]), NodeOfOne(height=6)
    assert (publish(prevote(), known).outcome, publish(prevote(), passed).outcome) == (Outcome.KNOWN, Outcome.PASSED)
    assert known.taken == passed.taken == []


@pytest.mark.parametrize(("sent", "held"), [(BLOCK, NIL), (NIL, BLOCK), (BLOCK, OTHER_BLOCK)])
def test_another_vote_of_this_key_in_its_place_ends_it(sent: BlockId, held: BlockId) -> None:
    node = NodeOfOne(votes=[seen(prevote(block=held))])
    done = publish(prevote(block=sent), node)
    assert (done.outcome, node.taken) == (Outcome.CONFLICTING, [])
    assert "another prevote of this key at 5/0" in done.problems[0]


def test_a_prevote_waits_until_the_own_node_has_come_to_that_step_and_a_precommit_does_not() -> None:
    node = NodeOfOne(step=3)
    assert "round 0, step 3" in publish(prevote(), node).problems[0]
    assert publish(precommit(block=NIL), node).outcome is Outcome.PUBLISHED
    away, early = NodeOfOne(is_gone=True), NodeOfOne(step=3)
    with reached(away, "val0") as first, reached(early, "full0") as second:
        publisher = Publisher(CHAIN_ID, KEY, [first, second])
        assert publisher.publish(prevote(), by_all=False).problems == ("val0: connection refused",)
        assert publisher.publish(prevote()).node == "full0"


def test_the_next_node_is_tried_when_one_takes_nothing() -> None:
    away, there = NodeOfOne(is_gone=True), NodeOfOne()
    with reached(away, "val0") as first, reached(there, "full0") as second:
        done = Publisher(CHAIN_ID, KEY, [first, second]).publish(prevote())
    assert (done.outcome, done.node, done.problems) == (Outcome.PUBLISHED, "full0", ("val0: connection refused",))


def test_a_node_that_never_shows_the_vote_has_not_taken_it() -> None:
    clock = iter(range(1000))
    with reached(node := NodeOfOne()) as entrance:
        publisher = Publisher(CHAIN_ID, KEY, [entrance], monotonic=lambda: float(next(clock)), sleep=lambda _: None)
        node.votes = Forgetful()
        done = replace(publisher).publish(prevote())
    assert done.outcome is Outcome.NOT_PUBLISHED
    assert "does not show it after 5 s" in done.problems[0]


class Dripping(NodeOfOne):
    """Is there, always about to say more, and never done."""

    def serve(self, listening: socket) -> None:
        with suppress(OSError), listening.accept()[0] as connected, suppress(UnavailableError):
            stream = SecretConnection.handshake(SocketStream(connected, timeout_s=5), NODE_KEY)
            stream.send(delimited(bytes(10_000))[:2])  # so much it says that it will say
            while True:
                stream.send(b"\0")
                threading.Event().wait(0.01)


def test_a_node_that_is_never_done_holds_the_vote_up_for_no_longer_than_a_visit_may_take() -> None:
    with reached(Dripping(), "slow", visit_s=0.3) as slow, reached(NodeOfOne(), "full0") as other:
        began = time.monotonic()
        done = Publisher(CHAIN_ID, KEY, [slow, other]).publish(prevote())
    assert time.monotonic() - began < 5, "it would drip for a hundred seconds"
    assert (done.outcome, done.node, len(done.problems)) == (Outcome.PUBLISHED, "full0", 1)


class Forgetful(list[SeenVote]):
    """Votes that a node refuses."""

    def append(self, _vote: SeenVote) -> None:
        pass


def test_without_nodes_or_time_nothing_is_tried() -> None:
    assert Publisher(CHAIN_ID, KEY, []).publish(prevote()) == Try(Outcome.NOT_PUBLISHED, "", ("no node is known",))
    node = NodeOfOne()
    with reached(node) as entrance:
        over = Publisher(CHAIN_ID, KEY, [entrance]).publish(prevote(), is_over=lambda: True)
    assert (over.outcome, node.taken) == (Outcome.NOT_PUBLISHED, [])
