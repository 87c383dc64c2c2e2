"""Reads protobuf's wire format, strictly: what CometBFT writes and nothing looser.

Guarantees: every byte is accounted for; a field comes at most once; numbers are in their type's range; anything else
is a CorruptError, whatever the bytes.  Unknown fields are skipped, as proto3 asks.
Leaves out: writing (`vedr.chain.encoding`), groups, packed and repeated fields, which the messages read here lack.

Source: protobuf.dev/programming-guides/encoding.
"""

from dataclasses import dataclass
from typing import Final

from vedr.chain.encoding import NS_PER_S
from vedr.errors import CorruptError

INT32_MAX: Final = (1 << 31) - 1
INT64_MAX: Final = (1 << 63) - 1
UINT32_MAX: Final = (1 << 32) - 1
UINT64_MAX: Final = (1 << 64) - 1
GO_ZERO_TIME_NS: Final = -62_135_596_800 * NS_PER_S  # year 1: what Go has where a non-nullable time is absent
MIN_SECONDS: Final = -62_135_596_800  # google.protobuf.Timestamp: years 1 to 9999
MAX_SECONDS: Final = 253_402_300_799

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
_MAX_FIELD: Final = (1 << 29) - 1
_REMEDY: Final = "The node's version is not one that this program was written for (CometBFT 0.38), or a stranger talks."


def wrong(what: str) -> CorruptError:
    """The error for bytes that are not such a message."""
    return CorruptError(what, remedy=_REMEDY)


def read_uvarint(data: bytes, at: int, *, what: str) -> tuple[int, int]:
    """The number at an offset, and the offset after it."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if at + count >= len(data):
            raise wrong(f"{what}: ends within a number")
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            if value > UINT64_MAX:
                break
            return value, at + count + 1
    raise wrong(f"{what}: a number of more than 64 bits")


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields by number; `what` is only for errors.  Absent fields read as proto3's defaults."""

    fields: dict[int, tuple[int, int | bytes]]
    what: str

    @classmethod
    def parse(cls, data: bytes, *, what: str) -> "Message":
        fields: dict[int, tuple[int, int | bytes]] = {}
        at = 0
        while at < len(data):
            tag, at = read_uvarint(data, at, what=what)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number <= _MAX_FIELD:
                raise wrong(f"{what}: field number {number}")
            if number in fields:
                raise wrong(f"{what}: field {number} comes twice")
            value, at = _read_value(data, at, wire, what=f"{what}.{number}")
            fields[number] = (wire, value)
        return cls(fields, what)

    def has(self, number: int) -> bool:
        return number in self.fields

    def unsigned(self, number: int, *, high: int) -> int:
        """An unsigned or enum field."""
        value = self._varint(number)
        if value > high:
            raise wrong(f"{self.what}.{number}: {value}, above {high}")
        return value

    def signed(self, number: int, *, low: int = 0, high: int = INT64_MAX) -> int:
        """An int32 or int64 field: two's complement in 64 bits."""
        value = self._varint(number)
        signed = value - (UINT64_MAX + 1) if value > INT64_MAX else value
        if not low <= signed <= high:
            raise wrong(f"{self.what}.{number}: {signed}, not from {low} to {high}")
        return signed

    def sfixed64(self, number: int, *, low: int = 0, high: int = INT64_MAX) -> int:
        """An sfixed64 field."""
        wire, value = self.fields.get(number, (_FIXED64, bytes(8)))
        if wire != _FIXED64 or not isinstance(value, bytes):
            raise wrong(f"{self.what}.{number}: not eight bytes")
        found = int.from_bytes(value, "little", signed=True)
        if not low <= found <= high:
            raise wrong(f"{self.what}.{number}: {found}, not from {low} to {high}")
        return found

    def octets(self, number: int, *lengths: int) -> bytes:
        """A bytes field, of one of the lengths when any are named."""
        wire, value = self.fields.get(number, (_BYTES, b""))
        if wire != _BYTES or not isinstance(value, bytes):
            raise wrong(f"{self.what}.{number}: not bytes")
        if lengths and len(value) not in lengths:
            raise wrong(f"{self.what}.{number}: {len(value)} bytes, not {' or '.join(map(str, lengths))}")
        return value

    def text(self, number: int) -> str:
        """A string field."""
        try:
            return self.octets(number).decode()
        except UnicodeDecodeError:
            raise wrong(f"{self.what}.{number}: not UTF-8") from None

    def message(self, number: int) -> "Message":
        """An embedded message; absent ones read as empty."""
        return Message.parse(self.octets(number), what=f"{self.what}.{number}")

    def time_ns(self, number: int) -> int:
        """A google.protobuf.Timestamp, as nanoseconds since 1970; Go's zero time when absent."""
        if not self.has(number):
            return GO_ZERO_TIME_NS
        stamp = self.message(number)
        seconds = stamp.signed(1, low=MIN_SECONDS, high=MAX_SECONDS)
        return seconds * NS_PER_S + stamp.signed(2, high=NS_PER_S - 1)

    def _varint(self, number: int) -> int:
        wire, value = self.fields.get(number, (_VARINT, 0))
        if wire != _VARINT or not isinstance(value, int):
            raise wrong(f"{self.what}.{number}: not a number")
        return value


def _read_value(data: bytes, at: int, wire: int, *, what: str) -> tuple[int | bytes, int]:
    if wire == _VARINT:
        return read_uvarint(data, at, what=what)
    if wire == _BYTES:
        size, at = read_uvarint(data, at, what=what)
    elif wire in _SIZES:
        size = _SIZES[wire]
    else:
        raise wrong(f"{what}: wire type {wire}")
    if size > len(data) - at:
        raise wrong(f"{what}: {size} bytes announced, {len(data) - at} left")
    return data[at : at + size], at + size
