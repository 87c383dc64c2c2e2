"""The two encodings that CometBFT hashes and signs: protobuf's wire format and its Merkle tree.

Guarantees: byte-for-byte what CometBFT v0.38 produces (proto3 rules: default scalars are left out; gogoproto's
`nullable=false` messages are written even when empty).  Leaves out: decoding, which a light client never needs.

Sources: cometbft/proto, cometbft/crypto/merkle/tree.go (RFC 6962 with the empty tree's hash = SHA-256 of nothing).
"""

import hashlib
from collections.abc import Sequence
from typing import Final

NS_PER_S: Final = 1_000_000_000

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_UINT64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_MORE: Final = 0x80
_LEAF_PREFIX: Final = b"\x00"
_INNER_PREFIX: Final = b"\x01"


def uvarint(value: int) -> bytes:
    """Base-128, low groups first; negative numbers as 64-bit two's complement, as protobuf's int64 does."""
    rest = value & _UINT64_MASK
    out = bytearray()
    while rest >= _MORE:
        out.append(rest & 0x7F | _MORE)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    """An int32, int64, uint or enum field; nothing when 0."""
    return uvarint(number << 3 | _VARINT) + uvarint(value) if value else b""


def sfixed64_field(number: int, value: int) -> bytes:
    """An sfixed64 field; nothing when 0."""
    return uvarint(number << 3 | _FIXED64) + value.to_bytes(8, "little", signed=True) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A bytes or string field; nothing when empty."""
    return message_field(number, value) if value else b""


def message_field(number: int, value: bytes) -> bytes:
    """An embedded message that is present, even when empty."""
    return uvarint(number << 3 | _BYTES) + uvarint(len(value)) + value


def delimited(message: bytes) -> bytes:
    """The message with its length before it."""
    return uvarint(len(message)) + message


def timestamp(time_ns: int) -> bytes:
    """google.protobuf.Timestamp; nanoseconds since 1970 in, before 1970 allowed (Go's zero time)."""
    seconds, nanos = divmod(time_ns, NS_PER_S)
    return varint_field(1, seconds) + varint_field(2, nanos)


def merkle_root(items: Sequence[bytes]) -> bytes:
    """Root of the items' hash tree: the left subtree takes the largest power of two below their number."""
    count = len(items)
    if count == 0:
        return hashlib.sha256().digest()
    if count == 1:
        return hashlib.sha256(_LEAF_PREFIX + items[0]).digest()
    split = 1 << (count - 1).bit_length() - 1
    return hashlib.sha256(_INNER_PREFIX + merkle_root(items[:split]) + merkle_root(items[split:])).digest()
