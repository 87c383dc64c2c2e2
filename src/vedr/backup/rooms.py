"""Memory for large content that is used again, since the first touch of fresh pages is slow.

Guarantees: what is kept for later is bounded; a room is lent to one borrower at a time.
Leaves out: bounding what is lent (budget.py does).
"""

import threading
from collections import defaultdict

from vedr.backup.sealing import fresh_room

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
