"""Dials a validator node's signer port: a Unix socket as it is, TCP inside a SecretConnection.

Addresses are written as in CometBFT's `priv_validator_laddr`, with the node's id where it is to be checked:
`unix:///run/node/privval.sock`, `tcp://10.0.0.7:26659`, `tcp://<node id>@10.0.0.7:26659`.

Guarantees: every wait has an end; every failure of the operating system is an UnavailableError.
Leaves out: dialling again (`vedr.signer.link`).
"""

import contextlib
import math
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.errors import InvalidInputError, UnavailableError
from vedr.signer.secret_connection import SecretConnection
from vedr.signer.stream import Stream

CONNECT_TIMEOUT_S: Final = 2.0
# The node pings every 3.3 s: three pings missed.  While it is busy with another signer it accepts nobody; the
# connection of one who takes over waits in its queue until it gives the other up, which takes 5 s.
SILENCE_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 64 * 1024
_TCP: Final = re.compile(r"tcp://(?:([0-9a-f]{40})@)?(\[[0-9a-fA-F:.]+\]|[^/@:\[\]]+):(\d{1,5})")
_UNIX_PREFIX: Final = "unix://"
_MAX_PORT: Final = 65535
_MAX_UNIX_BYTES: Final = 107  # sun_path, with its final zero


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int
    node_id: str | None = None


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """InvalidInputError when it is neither."""
    path = text.removeprefix(_UNIX_PREFIX)
    if path != text and 0 < len(path.encode()) <= _MAX_UNIX_BYTES and "\0" not in path:
        return UnixAddress(path)
    match = _TCP.fullmatch(text)
    if match is None or not 0 < int(match[3]) <= _MAX_PORT:
        raise InvalidInputError(
            f"{text!r} is no address of a node's signer port",
            remedy="Write unix:///path, tcp://host:port or tcp://<node id>@host:port.",
        )
    return TcpAddress(match[2].strip("[]"), int(match[3]), match[1])


@contextlib.contextmanager
def dial(
    address: UnixAddress | TcpAddress, key: Ed25519PrivateKey, *, lifetime_s: float = math.inf
) -> Iterator[Stream]:
    """A connection, closed with the block.

    Args:
        address: Where the node listens.
        key: Who we are to the node, over TCP; not the consensus key.
        lifetime_s: When it is over, however busy; a node that sends byte after byte holds nobody up for longer.

    Raises:
        UnavailableError: nobody answers there.
        VerificationFailedError, CorruptError: somebody does who is not that node.
    """
    with _connect(address) as connected:
        plain = SocketStream(connected, timeout_s=SILENCE_TIMEOUT_S, lifetime_s=lifetime_s)
        stream: Stream = plain
        try:
            if isinstance(address, TcpAddress):
                stream = SecretConnection.handshake(plain, key, expected_node_id=address.node_id)
            yield stream
        finally:
            with contextlib.suppress(OSError):  # a thread that reads it would keep a socket that is only closed
                connected.shutdown(socket.SHUT_RDWR)


def _connect(address: UnixAddress | TcpAddress) -> socket.socket:
    try:
        if isinstance(address, TcpAddress):
            connected = socket.create_connection((address.host, address.port), timeout=CONNECT_TIMEOUT_S)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(CONNECT_TIMEOUT_S)
            connected.connect(address.path)
        except BaseException:
            connected.close()
            raise
    except OSError as error:
        raise _gone(error) from error
    except UnicodeError as error:  # of a host's name that no resolver takes
        raise InvalidInputError(f"{address} has no address", remedy="Correct the host in the site's file.") from error
    return connected


class SocketStream:
    """vedr.signer.stream.Stream over a connected socket."""

    def __init__(self, connected: socket.socket, *, timeout_s: float, lifetime_s: float = math.inf) -> None:
        self._socket = connected
        self._rest = b""
        self._over_at = time.monotonic() + lifetime_s
        self.timeout_s = timeout_s

    def send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left_s(time.monotonic() + self.timeout_s))
            self._socket.sendall(data)
        except OSError as error:
            raise _gone(error) from error

    def receive(self, size_bytes: int) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        while len(self._rest) < size_bytes:
            self._rest += self._read(self._left_s(deadline))
        data, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        return data

    def _left_s(self, deadline: float) -> float:
        """Until the deadline or the connection's end; UnavailableError when one has passed."""
        left_s = min(deadline, self._over_at) - time.monotonic()
        if left_s <= 0:
            raise UnavailableError("the node took too long", remedy="It is dialled again.")
        return left_s

    def _read(self, timeout_s: float) -> bytes:
        try:
            self._socket.settimeout(timeout_s)
            read = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise _gone(error) from error
        if not read:
            raise UnavailableError("the node closed the connection", remedy="It is dialled again.")
        return read


def _gone(error: OSError) -> UnavailableError:
    return UnavailableError(f"the node does not answer: {error.strerror or error}", remedy="It is dialled again.")
