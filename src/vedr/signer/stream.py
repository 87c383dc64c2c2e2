"""Bytes to and from a validator's node, and messages with their length before them.

Guarantees: a message is read whole or not at all, never more bytes than it has, and never more than its limit.
Leaves out: sockets (`vedr.adapters.privval_socket`) and encryption (`secret_connection`).

Source: cometbft v0.38 libs/protoio.
"""

from typing import Final, Protocol

from vedr.chain.encoding import delimited
from vedr.signer.protobuf import UINT64_MAX, wrong

_MAX_LENGTH_BYTES: Final = 10  # of a 64-bit number


class Stream(Protocol):
    """A connection to a node.  Both methods raise UnavailableError when it is over or too slow: dial again."""

    def send(self, data: bytes) -> None:
        """All of it."""

    def receive(self, size_bytes: int) -> bytes:
        """Exactly so many bytes."""


def send_message(stream: Stream, message: bytes) -> None:
    stream.send(delimited(message))


def receive_message(stream: Stream, *, limit_bytes: int) -> bytes:
    """The next message.

    Raises:
        CorruptError: it says that it is longer than the limit; nothing of it was read.
        UnavailableError: the connection is over.
    """
    size = _receive_length(stream)
    if size > limit_bytes:
        raise wrong(f"a message of {size} bytes was announced, at most {limit_bytes} are allowed")
    return stream.receive(size)


def _receive_length(stream: Stream) -> int:
    size = 0
    for count in range(_MAX_LENGTH_BYTES):
        (byte,) = stream.receive(1)
        size |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            if size > UINT64_MAX:
                break
            return size
    raise wrong("a message's length has more than 64 bits")
