"""Memory for large content that is used again, since the first touch of fresh pages is slow.

Guarantees: what is kept for later is bounded, and what a workspace lends is; a room is lent to one borrower at a time.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, Self

from vedr.backup.budget import ByteBudget
from vedr.backup.sealing import fresh_room

WORKING_BYTES: Final = 144 * 1024 * 1024  # with an interpreter of 90 MiB and what is kept: under 300 MB
KEPT_BYTES: Final = 2 * WORKING_BYTES // 3  # counted whole, though little more than half of a room may be touched

_SMALLEST_BITS = 16  # of a room's size: below, a fresh one costs nothing


class Rooms:
    """Rooms by sizes, each a power of two: one is touched only as far as it is used."""

    __slots__ = ("_kept", "_kept_bytes", "_limit_bytes", "_lock")

    def __init__(self, limit_bytes: int) -> None:
        """Keep no more than this between uses."""
        self._limit_bytes = limit_bytes
        self._kept: defaultdict[int, list[memoryview]] = defaultdict(list)
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def lend(self, length_bytes: int) -> memoryview:
        """At least that long.  What stands in it is of no meaning."""
        size = 1 << max(_SMALLEST_BITS, (length_bytes - 1).bit_length())
        with self._lock:
            if self._kept[size]:
                self._kept_bytes -= size
                return self._kept[size].pop()
        return fresh_room(size)

    def give_back(self, room: memoryview) -> None:
        """All of it, once nobody reads it any more."""
        with self._lock:
            if self._kept_bytes + len(room) <= self._limit_bytes:
                self._kept[len(room)].append(room)
                self._kept_bytes += len(room)


class Loan:
    """The rooms that one piece of work asks for; leaving gives all of them back."""

    __slots__ = ("_lent", "_rooms")

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lent: list[memoryview] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def __call__(self, length_bytes: int) -> memoryview:
        """Of exactly that length, beginning where a room does."""
        room = self._rooms.lend(length_bytes)
        self._lent.append(room)
        return room[:length_bytes]

    def lent(self, view: memoryview) -> bool:
        """Whether that view stands in one of these rooms."""
        return any(view.obj is room.obj for room in self._lent)

    def give_back(self) -> None:
        while self._lent:
            self._rooms.give_back(self._lent.pop())


class Workspace:
    """Memory for the objects that are under way, however large they are and however many threads there are."""

    __slots__ = ("_budget", "_rooms")

    def __init__(self) -> None:
        self._budget = ByteBudget(WORKING_BYTES)
        self._rooms = Rooms(KEPT_BYTES)

    @contextlib.contextmanager
    def loan(self, expected_bytes: int) -> Iterator[Loan]:
        """Rooms for work that needs about that much in all; waits until there is as much."""
        taken = self._budget.take(expected_bytes)
        try:
            with Loan(self._rooms) as loan:
                yield loan
        finally:
            self._budget.give(taken)
