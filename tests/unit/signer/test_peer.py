"""The p2p protocol: CometBFT's own bytes, and nodes that are strangers, refuse, or end the connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from signer_world import NIL, NOON_NS, prevote, vectors

from vedr.adapters.privval_socket import SocketStream
from vedr.chain.block import BlockId
from vedr.chain.encoding import delimited, message_field
from vedr.errors import CorruptError, UnavailableError, VedrError, VerificationFailedError
from vedr.signer.messages import MessageType, Vote
from vedr.signer.peer import MAX_PACKET_BYTES, NodeInfo, Peer, vote_packet
from vedr.signer.stream import receive_message, send_message

GOLDEN = vectors("peer-messages.json")
OURS = NodeInfo("0f" * 20, "virtengine-lab-1")
NODE = NodeInfo("ab" * 20, "virtengine-lab-1", "validator-eu-west-0", "0.38.26")


@contextmanager
def both_ends() -> Iterator[tuple[SocketStream, SocketStream]]:
    one, other = socket.socketpair()
    with one, other:
        yield SocketStream(one, timeout_s=5), SocketStream(other, timeout_s=5)
        with suppress(OSError):  # a thread that reads it keeps a socket that is only closed
            one.shutdown(socket.SHUT_RDWR)


def met(node: NodeInfo | bytes) -> Peer:
    """Ours, having met a node that says this."""
    with both_ends() as (ours, theirs):
        send_message(theirs, node if isinstance(node, bytes) else node.encode())
        return Peer.meet(ours, OURS, expected_node_id=NODE.node_id)


def test_node_info_is_what_comet_writes_and_an_address_that_no_address_book_takes() -> None:
    assert delimited(OURS.encode()).hex() == GOLDEN["node_info"]["data"]
    assert NodeInfo.read(OURS.encode()) == OURS
    assert GOLDEN["node_info"]["address_is_valid"] is False


@pytest.mark.parametrize("row", GOLDEN["votes"], ids=lambda row: f"{row['type']}-{row['hash'][:2]}")
def test_a_vote_goes_in_the_packet_that_comet_writes(row: dict[str, str]) -> None:
    block = BlockId(bytes.fromhex(row["hash"]), int(row["total"]), bytes.fromhex(row["parts"]))
    vote = Vote(
        MessageType(int(row["type"])), 280, 1, block, NOON_NS + 9, b"\xab" * 20, int(row["index"]), b"\xcd" * 64
    )
    assert delimited(vote_packet(vote)).hex() == row["packet"]


def test_a_ping_is_answered_and_other_packets_are_passed_over_while_the_vote_goes_out() -> None:
    with both_ends() as (ours, theirs):
        send_message(theirs, NODE.encode())
        peer = Peer.meet(ours, OURS, expected_node_id=NODE.node_id)
        assert (peer.node, NodeInfo.read(receive_message(theirs, limit_bytes=1024))) == (NODE, OURS)
        send_message(theirs, message_field(3, b"\x08\x20"))
        theirs.send(bytes.fromhex(GOLDEN["ping"]))
        assert delimited(receive_message(theirs, limit_bytes=1024)).hex() == GOLDEN["pong"]
        peer.send(prevote(block=NIL))
        assert receive_message(theirs, limit_bytes=1024) == vote_packet(prevote(block=NIL))


@pytest.mark.parametrize(
    ("node", "shown"),
    [
        (NodeInfo("ab" * 20, "other-1"), "network 'other-1'"),
        (NodeInfo("cd" * 20, NODE.network), "node id 'cdcd"),
        (NodeInfo("ab" * 20, NODE.network, channels=b"\x40"), "no channel for votes"),
        (NodeInfo("ab" * 20, NODE.network, block_protocol=12), "block protocol 12"),
    ],
)
def test_a_node_of_another_chain_key_or_version_gets_no_vote(node: NodeInfo, shown: str) -> None:
    with pytest.raises(VerificationFailedError, match=shown):
        met(node)


@pytest.mark.parametrize("said", [b"\xff\xff\xff", b"\x0a\x02\x10", NODE.encode() * 2])
def test_what_is_no_node_info_is_damage(said: bytes) -> None:
    with pytest.raises(CorruptError):
        met(said)


def test_every_cut_and_flipped_bit_of_a_node_info_is_an_error_of_ours_or_another_node() -> None:
    whole = NODE.encode()
    flipped = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    ]
    for data in (*flipped, *(whole[:at] for at in range(len(whole)))):
        try:
            assert NodeInfo.read(data) != NODE or NodeInfo.read(data).encode() == whole
        except VedrError as error:
            assert isinstance(error, CorruptError)  # noqa: PT017 (either outcome is right)


def ended(say: bytes | None) -> VedrError:
    """What `check` raises once the node has said this, or has gone."""
    with both_ends() as (ours, theirs):
        send_message(theirs, NODE.encode())
        peer = Peer.meet(ours, OURS, expected_node_id=NODE.node_id)
        if say is None:
            theirs._socket.shutdown(socket.SHUT_RDWR)
        else:
            theirs.send(say)
        for thread in threading.enumerate():
            if thread.name == "peer":
                thread.join(5)
        with pytest.raises(VedrError) as caught:
            peer.send(prevote())
        return caught.value


def test_a_node_that_hangs_up_says_so_as_one_does_that_has_enough_peers() -> None:
    found = ended(None)
    assert isinstance(found, UnavailableError)
    assert "enough peers" in found.remedy


def test_a_node_that_talks_nonsense_is_left() -> None:
    assert isinstance(ended(delimited(b"\xff\xff\xff")), CorruptError)
    assert isinstance(ended(b"\xff\xff\xff\xff\x0f"), CorruptError), f"more than {MAX_PACKET_BYTES} bytes"
