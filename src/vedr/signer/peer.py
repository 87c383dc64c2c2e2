"""CometBFT's p2p protocol, as far as an ordinary peer needs it that brings one vote.

The steps, over a SecretConnection (cometbft v0.38 p2p/transport.go):
    1. Both send a DefaultNodeInfo with its length before it, and check the other's id, block protocol and network.
    2. From then on packets: pings, which are answered, and messages of channels (p2p/conn/connection.go).  Votes go on
       channel 0x22, as tendermint.consensus.Message.

Guarantees: a vote is sent to a node of this chain, and to the one whose id was expected, or not at all; every wait ends
with the stream, which has to end.  What the node sends besides is read and left.
Leaves out: whether the vote is wanted, and whether it arrived (`publishing`).  A node does not answer a vote.

Sources: cometbft v0.38 p2p/{node_info,transport}.go, p2p/conn/connection.go, consensus/reactor.go, and its proto files.
"""

import threading
from dataclasses import dataclass
from typing import Final, Self

from vedr.chain.encoding import bytes_field, message_field, varint_field
from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.signer.messages import Vote
from vedr.signer.protobuf import UINT64_MAX, Message
from vedr.signer.stream import Stream, receive_message, send_message

P2P_PROTOCOL: Final = 8  # version/version.go
BLOCK_PROTOCOL: Final = 11
VOTE_CHANNEL: Final = 0x22
CHANNELS: Final = bytes((0x20, 0x21, VOTE_CHANNEL, 0x23))  # consensus/reactor.go
MAX_NODE_INFO_BYTES: Final = 10_240  # p2p/node_info.go
MAX_PACKET_BYTES: Final = 1024 * 1024  # max_packet_msg_payload_size has 1,024 unless the operator says otherwise
MONIKER: Final = "vedr-signer"
# Well-formed, and of no host: address books refuse it, so that no node ever dials the signer or tells others of it.
LISTEN: Final = "tcp://0.0.0.0:0"

_PING: Final = 1
_PONG: Final = 2
_MESSAGE: Final = 3
_VOTE: Final = 6  # of tendermint.consensus.Message
_STRANGER: Final = "Check the node's p2p address and chain; nothing was sent."


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """tendermint.p2p.DefaultNodeInfo: who is there, and on which network."""

    node_id: str
    network: str
    moniker: str = MONIKER
    version: str = ""
    channels: bytes = CHANNELS
    listen: str = LISTEN
    block_protocol: int = BLOCK_PROTOCOL

    def encode(self) -> bytes:
        protocol = varint_field(1, P2P_PROTOCOL) + varint_field(2, self.block_protocol)
        return (
            message_field(1, protocol)
            + bytes_field(2, self.node_id.encode())
            + bytes_field(3, self.listen.encode())
            + bytes_field(4, self.network.encode())
            + bytes_field(5, self.version.encode())
            + bytes_field(6, self.channels)
            + bytes_field(7, self.moniker.encode())
            + message_field(8, b"")
        )

    @classmethod
    def read(cls, data: bytes) -> Self:
        message = Message.parse(data, what="node info")
        return cls(
            node_id=message.text(2),
            network=message.text(4),
            moniker=message.text(7),
            version=message.text(5),
            channels=message.octets(6),
            listen=message.text(3),
            block_protocol=message.message(1).unsigned(2, high=UINT64_MAX),
        )


def vote_packet(vote: Vote) -> bytes:
    """The packet that brings it, in one piece."""
    message = message_field(_VOTE, message_field(1, vote.encode()))
    return message_field(_MESSAGE, varint_field(1, VOTE_CHANNEL) + varint_field(2, 1) + bytes_field(3, message))


class Peer:
    """One node, to which this process is a peer, until the stream ends."""

    def __init__(self, stream: Stream, node: NodeInfo) -> None:
        self.node: Final = node
        self._stream = stream
        self._sending = threading.Lock()
        self._reading = threading.Thread(target=self._read, name="peer", daemon=True)
        self._ended: VedrError | None = None

    @classmethod
    def meet(cls, stream: Stream, ours: NodeInfo, *, expected_node_id: str) -> Self:
        """Step 1.

        Args:
            stream: A SecretConnection to the node.
            ours: Who this process is; the id is that of its connection's key.
            expected_node_id: The node's, proven by the connection.

        Raises:
            VerificationFailedError: the node is another, of another chain, or takes no votes.
            CorruptError: it does not speak this protocol.
            UnavailableError: it went away, as a node does that has enough peers.
        """
        send_message(stream, ours.encode())
        theirs = NodeInfo.read(receive_message(stream, limit_bytes=MAX_NODE_INFO_BYTES))
        wrong = [
            f"{what} {found!r}, not {expected!r}"
            for what, found, expected in (
                ("node id", theirs.node_id, expected_node_id),
                ("network", theirs.network, ours.network),
                ("block protocol", theirs.block_protocol, ours.block_protocol),
            )
            if found != expected
        ]
        if VOTE_CHANNEL not in theirs.channels:
            wrong.append("no channel for votes")
        if wrong:
            raise VerificationFailedError(f"the node shows {'; '.join(wrong)}"[:300], remedy=_STRANGER)
        peer = cls(stream, theirs)
        peer._reading.start()
        return peer

    def send(self, vote: Vote) -> None:
        """Send it; UnavailableError when the connection is over."""
        self.check()
        self._send(vote_packet(vote))

    def check(self) -> None:
        """Raises what ended the connection, if it has ended."""
        if self._ended is not None:
            raise self._ended

    def _send(self, packet: bytes) -> None:
        with self._sending:
            send_message(self._stream, packet)

    def _read(self) -> None:
        """Answer pings and pass over the rest, so that the node never waits for this end."""
        try:
            while True:
                packet = Message.parse(receive_message(self._stream, limit_bytes=MAX_PACKET_BYTES), what="packet")
                if packet.has(_PING):
                    self._send(message_field(_PONG, b""))
        except UnavailableError as error:
            self._ended = UnavailableError(
                f"the node ended the connection: {error.message}",
                remedy="It may have enough peers, or one of this host.",
            )
        except VedrError as error:
            self._ended = error
