"""Hostile bytes: every parser says so with an error of ours, and nothing else ever happens."""

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from signer_world import CHAIN_ID, NIL, precommit, prevote, proposal

from vedr.adapters.privval_socket import SocketStream, parse_address
from vedr.chain.encoding import bytes_field, delimited, message_field, uvarint, varint_field
from vedr.errors import VedrError
from vedr.signer.canonical import sign_bytes, without_time
from vedr.signer.messages import MAX_MESSAGE_BYTES, SignRequest, Vote, read_request, signed_response
from vedr.signer.secret_connection import SecretConnection
from vedr.signer.stream import receive_message


def request_of(message: object, number: int) -> bytes:
    return message_field(number, message_field(1, message.encode()) + bytes_field(2, CHAIN_ID.encode()))  # type: ignore[attr-defined]


VALID = (
    message_field(7, b""),
    message_field(1, bytes_field(1, CHAIN_ID.encode())),
    request_of(prevote(), 3),
    request_of(prevote(block=NIL), 3),
    request_of(replace(precommit(), extension=b"price=7", validator_index=70_000), 3),
    request_of(proposal(), 5),
)

QUICK = settings(derandomize=True, max_examples=200, deadline=None)


class Bytes:
    """vedr.signer.stream.Stream over what is given; then the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def send(self, data: bytes) -> None:
        del data

    def receive(self, size_bytes: int) -> bytes:
        if size_bytes > len(self.data):
            raise VedrError("the end")
        taken, self.data = self.data[:size_bytes], self.data[size_bytes:]
        return taken


def is_survived(data: bytes) -> None:
    """A request that is read can be answered and read again; one that is not is refused by an error of ours."""
    try:
        request = read_request(data)
    except VedrError:
        return
    if isinstance(request, SignRequest):
        assert request.message.height >= 0
        assert sign_bytes(request.message, request.chain_id)
        assert len(signed_response(request.message)) <= len(data) + 32
        number = 3 if isinstance(request.message, Vote) else 5
        again = message_field(
            number, message_field(1, request.message.encode()) + bytes_field(2, request.chain_id.encode())
        )
        assert read_request(again) == request


@pytest.mark.parametrize("data", VALID)
def test_every_single_flipped_bit_is_survived(data: bytes) -> None:
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        is_survived(bytes(changed))


@pytest.mark.parametrize("data", VALID)
def test_every_truncation_and_every_doubling_is_survived(data: bytes) -> None:
    for end in range(len(data)):
        is_survived(data[:end])
        is_survived(data + data[:end])
        is_survived(data[end:])


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    is_survived(data)


field = st.deferred(
    lambda: st.one_of(
        st.builds(varint_field, st.integers(1, 12), st.integers(-(2**63), 2**64 - 1)),
        st.builds(bytes_field, st.integers(1, 12), st.binary(max_size=70)),
        st.builds(lambda number, parts: message_field(number, b"".join(parts)), st.integers(1, 12), fields),
        st.builds(lambda number: uvarint(number << 3 | 1) + bytes(8), st.integers(0, 12)),
        st.builds(lambda number: uvarint(number << 3 | 5) + bytes(4), st.integers(0, 12)),
    )
)
fields = st.lists(field, max_size=6)


@QUICK
@given(st.sampled_from([1, 3, 5, 7]), fields, fields)
def test_anything_of_protobufs_grammar_is_survived(number: int, message: list[bytes], around: list[bytes]) -> None:
    is_survived(message_field(number, b"".join([message_field(1, b"".join(message)), *around])))


@QUICK
@given(st.binary(max_size=40))
def test_any_stream_is_survived(data: bytes) -> None:
    for read in (
        lambda stream: receive_message(stream, limit_bytes=MAX_MESSAGE_BYTES),
        lambda stream: SecretConnection.handshake(stream, Ed25519PrivateKey.from_private_bytes(bytes(32))),
    ):
        try:
            read(Bytes(data))
        except VedrError:
            continue


@QUICK
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=1100))
def test_any_authentication_is_refused(theirs: bytes, sealed: bytes) -> None:
    stream = Bytes(delimited(bytes_field(1, theirs)) + sealed)
    with pytest.raises(VedrError):
        SecretConnection.handshake(stream, Ed25519PrivateKey.from_private_bytes(bytes(32)))


@QUICK
@given(st.binary(max_size=100), st.integers(1, 3))
def test_any_sign_bytes_are_survived(data: bytes, step: int) -> None:
    for candidate in (data, delimited(data)):
        try:
            without_time(candidate, step)
        except VedrError:
            continue


@QUICK
@given(st.text(max_size=60))
def test_any_address_is_survived(text: str) -> None:
    for candidate in (text, f"tcp://{text}", f"unix://{text}"):
        try:
            parse_address(candidate)
        except VedrError:
            continue


@pytest.mark.parametrize("ending", [lambda s: s.shutdown(socket.SHUT_WR), lambda s: s.close()])
def test_a_connection_cut_at_any_byte_is_over_and_no_more(ending: Callable[[socket.socket], None]) -> None:
    whole = delimited(VALID[2])
    for end in range(len(whole)):
        left, right = socket.socketpair()
        with left, right:
            right.sendall(whole[:end])
            ending(right)
            with pytest.raises(VedrError):
                receive_message(SocketStream(left, timeout_s=5), limit_bytes=MAX_MESSAGE_BYTES)
