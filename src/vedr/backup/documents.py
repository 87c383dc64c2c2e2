"""Reading signed JSON strictly: every value has the type that the format says, or the document is corrupt.

Guarantees: only CorruptError leaves; no value is coerced.  Leaves out: signatures (vedr.signature).
"""

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final, TypeVar

from vedr.errors import CorruptError
from vedr.signature import Json

MAX_PATH_BYTES: Final = 3072  # Linux takes 4096 with the folder that it is put under
MAX_NAME_BYTES: Final = 255  # of a file or folder, on ext4 and XFS
_HEX256 = re.compile(r"^[0-9a-f]{64}$")
_Choice = TypeVar("_Choice", bound=str)


def broken(what: str, why: str) -> CorruptError:
    return CorruptError(f"{what}: {why}", remedy="Use another region's copy.")


def rfc3339(moment: dt.datetime) -> str:
    """UTC, to the second: `2026-11-22T22:14:53Z`."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reader:
    """One JSON object, or one row of a table, and what to call it in errors."""

    __slots__ = ("_value", "what")

    def __init__(self, value: "dict[str, Json] | list[Json]", what: str) -> None:
        self._value = value
        self.what = what

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._value) if isinstance(self._value, dict) else ()

    def has(self, key: str) -> bool:
        return self._at(key) is not None

    def inner(self, key: str) -> "Reader":
        value = self._at(key)
        if not isinstance(value, dict):
            raise self._wrong(key)
        return Reader(value, self.what)

    def rows(self, key: str) -> Iterator["Reader"]:
        value = self._at(key)
        if not isinstance(value, list):
            raise self._wrong(key)
        for row in value:
            if not isinstance(row, list):
                raise self._wrong(key)
            yield Reader(row, self.what)

    def row(self, columns: int) -> "Reader":
        """Itself, a row of that many columns."""
        if len(self._value) != columns:
            raise broken(self.what, f"a row has {len(self._value)} columns, not {columns}")
        return self

    def text(self, key: str | int) -> str:
        value = self._at(key)
        if not isinstance(value, str):
            raise self._wrong(key)
        return value

    def optional_text(self, key: str | int) -> str | None:
        return None if self._at(key) is None else self.text(key)

    def integer(self, key: str | int) -> int:
        value = self._at(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key)
        return value

    def count(self, key: str | int) -> int:
        value = self.integer(key)
        if value < 0:
            raise self._wrong(key)
        return value

    def counts(self, key: str | int) -> list[int]:
        value = self._at(key)
        if not isinstance(value, list):
            raise self._wrong(key)
        inner = Reader(value, self.what)
        return [inner.count(i) for i in range(len(value))]

    def texts(self, key: str | int) -> list[str]:
        value = self._at(key)
        if not isinstance(value, list):
            raise self._wrong(key)
        inner = Reader(value, self.what)
        return [inner.text(i) for i in range(len(value))]

    def flag(self, key: str) -> bool:
        value = self._at(key)
        if not isinstance(value, bool):
            raise self._wrong(key)
        return value

    def hex256(self, key: str | int) -> str:
        value = self.text(key)
        if not _HEX256.match(value):
            raise self._wrong(key)
        return value

    def choice(self, key: str, allowed: Sequence[_Choice]) -> _Choice:
        value = self.text(key)
        for choice in allowed:
            if choice == value:
                return choice
        raise broken(self.what, f"{key} is {value!r}, not one of {', '.join(allowed)}")

    def expect(self, key: str, value: Json) -> None:
        found = self._at(key)
        if found != value or type(found) is not type(value):
            raise broken(self.what, f"{key} is {found!r}, not {value!r}")

    def moment(self, key: str) -> dt.datetime:
        try:
            return dt.datetime.strptime(self.text(key), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
        except ValueError:
            raise self._wrong(key) from None

    def path(self, key: int) -> str:
        """A relative path that stays inside the folder it is joined to."""
        value = self.text(key)
        if not is_inside(value):
            raise broken(self.what, f"{value!r} is not a path inside the snapshot")
        return value

    def _at(self, key: str | int) -> Json:
        try:
            return self._value[key]  # type: ignore[index]  # either kind, either key
        except (KeyError, IndexError, TypeError):
            raise self._wrong(key) from None

    def _wrong(self, key: str | int) -> CorruptError:
        return broken(self.what, f"field {key!r} is missing or of the wrong kind")


def is_inside(path: str) -> bool:
    """Relative, normal, without `..`, NUL or control characters, and of a length that a file system takes."""
    return (
        bool(path)
        and path.isprintable()
        and str(PurePosixPath(path)) == path
        and not path.startswith("/")
        and ".." not in path.split("/")
        and path != "."
        and len(path.encode()) <= MAX_PATH_BYTES
        and all(len(part.encode()) <= MAX_NAME_BYTES for part in path.split("/"))
    )
