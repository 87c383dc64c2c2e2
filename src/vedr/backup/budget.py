"""A bound on bytes in memory between fast producers and slow consumers.

Guarantees: never more than the limit is out, save one item that alone is larger.  Leaves out: fairness.
"""

import threading


class ByteBudget:
    """Bounds the bytes that wait in memory: producers stand still while it is used up."""

    __slots__ = ("_changed", "_free", "_limit")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._free = limit_bytes
        self._changed = threading.Condition()

    def take(self, amount_bytes: int) -> int:
        """Wait until that much is free (more than all of it counts as all of it); returns what to give back."""
        amount = min(amount_bytes, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        return amount

    def give(self, amount_bytes: int) -> None:
        with self._changed:
            self._free += amount_bytes
            self._changed.notify_all()
