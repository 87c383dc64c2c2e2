"""What a token's process and its parent say to each other, over one socket.

A message is its length, 4 bytes big-endian, and JSON; bytes are in hexadecimal.  A request names what to `do`; an
answer has `ok`, or `error` with the name of one of our classes, a message and a remedy.

Guarantees: an answer that is not understood, cut short or too long is an UnavailableError; never a guess.
Leaves out: PKCS#11, which the parent need not even have installed.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from vedr import errors
from vedr.custody.hsm import Attributes, KeyObject, TokenFacts
from vedr.custody.hsm_keys import PublicKey, from_spki
from vedr.errors import UnavailableError, VedrError

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024  # a token with some 20,000 keys
_LENGTH: Final = struct.Struct(">I")
_OPEN_ANEW: Final = "Open the token again; if that fails, look at the device and the module's own log."

Message: TypeAlias = dict[str, Any]


class ClosedChannelError(Exception):
    """The other side is gone, or sent what is no message."""


def send(channel: socket.socket, message: Mapping[str, object]) -> None:
    data = json.dumps(message, default=bytes.hex).encode()
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket, *, deadline_s: float | None = None) -> Message:
    """The next message.

    Raises:
        ClosedChannelError: there is none, or it is not understood.
        TimeoutError: it is not there whole by then.
    """
    until = None if deadline_s is None else time.monotonic() + deadline_s
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, until))
    if length > MAX_MESSAGE_BYTES:
        raise ClosedChannelError
    try:
        message = json.loads(_exactly(channel, length, until))
    except (ValueError, RecursionError):
        raise ClosedChannelError from None
    if not isinstance(message, dict):
        raise ClosedChannelError
    return message


def _exactly(channel: socket.socket, size: int, until: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if until is not None:
            channel.settimeout(max(until - time.monotonic(), 1e-3))
        piece = channel.recv(size - len(data))
        if not piece:
            raise ClosedChannelError
        data += piece
    return bytes(data)


def failure(error: Exception) -> Message:
    """The answer for a request that failed; of an error that is not ours, the name of its class only."""
    if not isinstance(error, VedrError):
        error = UnavailableError(f"the token's process failed: {type(error).__name__}", remedy=_OPEN_ANEW)
    return {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}


def raise_failure(answer: Message) -> None:
    """Raise the error that an answer carries, if it does."""
    if "error" not in answer:
        return
    kind = getattr(errors, str(answer["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, VedrError)):
        kind = UnavailableError
    raise kind(str(answer.get("message")), remedy=str(answer.get("remedy")))


def facts_message(facts: TokenFacts) -> Message:
    return asdict(facts)


def facts_of(message: Message) -> TokenFacts:
    return TokenFacts(**{**message, "mechanisms": tuple(message["mechanisms"])})


def key_message(key: KeyObject) -> Message:
    return asdict(key)


def keys_of(listed: object) -> tuple[KeyObject, ...]:
    if not isinstance(listed, list):
        raise TypeError
    return tuple(key_of(each) for each in listed)


def key_of(message: Message) -> KeyObject:
    return KeyObject(
        object_class=message["object_class"],
        label=message["label"],
        key_id=bytes.fromhex(message["key_id"]),
        key_type=message["key_type"],
        ec_params=bytes.fromhex(message["ec_params"]),
        attributes=Attributes(**message["attributes"]),
        public=None if message["public"] is None else public_of(message["public"]),
        handle=message["handle"],
    )


def public_of(message: Message) -> PublicKey:
    return from_spki(bytes.fromhex(message["spki"]), what="the token's answer")
