"""Registers in memory, with faults on demand.  The twin that passes the real one's contract suite.

Guarantees: linearizable; a tag is the content's hash, as S3's is, so that a writer who repeats a content is found out.
Faults are deterministic: a map says what happens to which call of which kind.
"""

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from vedr.errors import ConflictError, UnavailableError
from vedr.ports import ObjectKey, Tagged

Call = Literal["read", "swap"]
CALLS: Final[tuple[Call, ...]] = ("read", "swap")


@dataclass(slots=True)
class RegisterFaults:
    """What happens to the calls to come.

    A map is a string, one letter a call of that kind: `.` works, `e` fails before it did anything, `l` works and its
    answer is lost, `d` seems lost and is delivered later, when `MemoryRegisters.deliver` is called (a swap; its tag is
    compared then).  Calls beyond the map work, unless the region is `down`.
    """

    maps: dict[Call, str] = field(default_factory=dict)
    down: bool = False
    seen: Counter[Call] = field(default_factory=Counter)

    def next(self, call: Call) -> str:
        number = self.seen[call]
        self.seen[call] += 1
        faults = self.maps.get(call, "")
        return faults[number] if number < len(faults) else "e" if self.down else "."


class MemoryRegisters:
    """`vedr.ports.Registers` in this process."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._mutex = threading.Lock()
        self._contents: dict[ObjectKey, bytes] = {}
        self._late: list[tuple[ObjectKey, bytes, str | None]] = []
        self.faults = RegisterFaults()

    @property
    def region(self) -> str:
        return self._region

    def read(self, key: ObjectKey) -> Tagged | None:
        with self._mutex:
            if self.faults.next("read") != ".":
                raise self._silent("read")
            data = self._contents.get(key)
            return None if data is None else Tagged(data, _tag(data))

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        with self._mutex:
            letter = self.faults.next("swap")
            if letter == "d":
                self._late.append((key, data, expected))
            if letter in "ed":
                raise self._silent("swap")
            tag = self._swap(key, data, expected)
            if letter == "l":
                raise self._silent("swap")
            return tag

    def deliver(self) -> int:
        """Let the delayed swaps arrive, in order; how many of them took effect."""
        with self._mutex:
            late, self._late = self._late, []
            return sum(self._arrives(*swap) for swap in late)

    def wipe(self, key: ObjectKey) -> None:
        """What no honest server does: forget."""
        with self._mutex:
            self._contents.pop(key, None)

    def overwrite(self, key: ObjectKey, data: bytes) -> None:
        """What no honest writer does: put something without looking."""
        with self._mutex:
            self._contents[key] = data

    def _swap(self, key: ObjectKey, data: bytes, expected: str | None) -> str:
        present = self._contents.get(key)
        if (None if present is None else _tag(present)) != expected:
            raise ConflictError(f"{key} in {self._region} is not what it was when it was read", remedy="Read it again.")
        self._contents[key] = bytes(data)
        return _tag(data)

    def _arrives(self, key: ObjectKey, data: bytes, expected: str | None) -> bool:
        try:
            self._swap(key, data, expected)
        except ConflictError:
            return False
        return True

    def _silent(self, call: Call) -> UnavailableError:
        return UnavailableError(f"{self._region} does not answer ({call})", remedy="Read it before anything else.")


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
