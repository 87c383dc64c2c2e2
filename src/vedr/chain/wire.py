"""Reads CometBFT's JSON into typed values: the one place where untyped data is touched.

Guarantees: every value that comes out has the type, range and length asked for; anything else raises CorruptError with
the path of the value.  Unknown members are ignored, since servers add some with every release.
Leaves out: what the values mean.

CometBFT writes int64 as strings, int32 as numbers, hashes and addresses in hexadecimal, keys and signatures in base64,
times as RFC 3339 with up to nine decimals.
"""

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from vedr.chain.encoding import NS_PER_S
from vedr.errors import CorruptError

RawJson: TypeAlias = "bool | int | float | str | list[RawJson] | dict[str, RawJson] | None"

INT64_MAX: Final = (1 << 63) - 1
INT32_MAX: Final = (1 << 31) - 1
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECONDS_A_DAY: Final = 86_400
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})")


def parse_json(data: bytes, *, what: str) -> "Value":
    """The document's root; CorruptError when it is not JSON."""
    try:
        return Value(json.loads(data), what)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what}: not JSON", remedy=_REMEDY) from error


_REMEDY: Final = "Ask another node; if all answer so, their version is not the one this program was written for (0.38)."


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value and where it stands; `path` is only for messages."""

    raw: RawJson
    path: str

    def wrong(self, expected: str) -> CorruptError:
        """The error for this value; what it holds is shown cut short."""
        return CorruptError(f"{self.path}: expected {expected}, got {str(self.raw)[:80]!r}", remedy=_REMEDY)

    def __getitem__(self, name: str) -> "Value":
        if not isinstance(self.raw, dict):
            raise self.wrong("an object")
        return Value(self.raw.get(name), f"{self.path}.{name}")

    def members(self) -> frozenset[str]:
        """The object's member names."""
        if not isinstance(self.raw, dict):
            raise self.wrong("an object")
        return frozenset(self.raw)

    def items(self) -> Iterator["Value"]:
        """The list's elements; null counts as empty, as Go writes it."""
        if self.raw is not None and not isinstance(self.raw, list):
            raise self.wrong("a list")
        return (Value(element, f"{self.path}[{index}]") for index, element in enumerate(self.raw or ()))

    def present(self) -> bool:
        return self.raw is not None

    def text(self) -> str:
        if not isinstance(self.raw, str):
            raise self.wrong("a string")
        return self.raw

    def flag(self) -> bool:
        if not isinstance(self.raw, bool):
            raise self.wrong("true or false")
        return self.raw

    def int64(self, *, low: int = 0, high: int = INT64_MAX) -> int:
        """A whole number in a string."""
        if not isinstance(self.raw, str) or not _INTEGER.fullmatch(self.raw):
            raise self.wrong("a whole number in a string")
        return self._within(int(self.raw), low, high)

    def int32(self, *, low: int = 0, high: int = INT32_MAX) -> int:
        """A whole number."""
        if not isinstance(self.raw, int) or isinstance(self.raw, bool):
            raise self.wrong("a whole number")
        return self._within(self.raw, low, high)

    def _within(self, number: int, low: int, high: int) -> int:
        if not low <= number <= high:
            raise self.wrong(f"a number from {low} to {high}")
        return number

    def hexadecimal(self, *lengths: int) -> bytes:
        """Bytes in hexadecimal, of one of the lengths when any are named."""
        try:
            value = binascii.unhexlify(self.text())
        except ValueError:
            raise self.wrong("hexadecimal") from None
        return self._of_length(value, lengths)

    def base64(self, *lengths: int) -> bytes:
        """Bytes in base64, null as empty; of one of the lengths when any are named."""
        try:
            value = b"" if self.raw is None else base64.b64decode(self.text(), validate=True)
        except ValueError:
            raise self.wrong("base64") from None
        return self._of_length(value, lengths)

    def _of_length(self, value: bytes, lengths: tuple[int, ...]) -> bytes:
        if lengths and len(value) not in lengths:
            raise self.wrong(f"{' or '.join(map(str, lengths))} bytes")
        return value

    def time_ns(self) -> int:
        """Nanoseconds since 1970, exact."""
        match = _TIME.fullmatch(self.text())
        if match is None:
            raise self.wrong("an RFC 3339 time in UTC")
        try:
            moment = dt.datetime.fromisoformat(match.group(1)).replace(tzinfo=dt.UTC)
        except ValueError:
            raise self.wrong("an RFC 3339 time in UTC") from None
        since = moment - _EPOCH
        return (since.days * _SECONDS_A_DAY + since.seconds) * NS_PER_S + int((match.group(2) or "0").ljust(9, "0"))


def to_datetime(time_ns: int) -> dt.datetime:
    """The same moment to the microsecond, UTC."""
    return _EPOCH + dt.timedelta(microseconds=time_ns // 1000)


def to_rfc3339(time_ns: int) -> str:
    """The moment in full precision, as `Value.time_ns` reads it."""
    seconds, nanos = divmod(time_ns, NS_PER_S)
    moment = (_EPOCH + dt.timedelta(seconds=seconds)).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='seconds')}.{nanos:09d}Z"
