"""Drives a conversation with every region at once: a thread for each, so that a slow or dead one holds up no other.

Each thread makes the calls that the conversation wants of its region, one after the other, and always the newest: what
a slow region has missed meanwhile is never sent.  That is all the circuit breaker that is needed (the ledger's, in
vedr.runbook.replicas, guards a pool that many calls share).  After a call without an answer the region is left alone
for a moment, longer each time.

Guarantees: the conversation is only touched under one lock; nobody waits for a region but its own thread.
Leaves out: every decision.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from vedr.chain.register_claim import Conversation, Read, Swap
from vedr.errors import ConflictError, VedrError
from vedr.ports import ObjectKey, Registers

FIRST_REST_S: Final = 0.05
LONGEST_REST_S: Final = 1.0


class Regions:
    """The threads of one conversation; close it, or use it with `with`.

    Args:
        conversation: What to ask, and whom to tell.
        key: The object that it is about, in every region.
        registers: By region.
        only_asks: The conversation wants nothing more of a region that it once wanted nothing of, so that the region's
            thread can end; else all of them would be woken by every answer, fifty times fifty of fifty regions.
        monotonic: Gives seconds that never go back.
    """

    def __init__(
        self,
        conversation: Conversation,
        key: ObjectKey,
        registers: Mapping[str, Registers],
        *,
        only_asks: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conversation = conversation
        self._only_asks = only_asks
        self._key = key
        self._registers = dict(registers)
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._drive, args=(region,), name=f"register-{region}", daemon=True)
            for region in self._registers
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, wait_s: float = 0.0) -> None:
        """Begin no further call.  One that is under way may still take effect; wait for those up to `wait_s`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        deadline = self._monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._monotonic()))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Hold the conversation still."""
        with self._changed:
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the conversation still, and let the threads look at it again afterwards."""
        with self._changed:
            yield
            self._changed.notify_all()

    def wait_for(self, is_settled: Callable[[], bool], *, deadline_s: float) -> bool:
        """Wait until the conversation says so; False when it did not within the deadline."""
        with self._changed:
            return self._changed.wait_for(is_settled, timeout=deadline_s)

    def _drive(self, region: str) -> None:
        rest_s = FIRST_REST_S
        while (call := self._next_call(region)) is not None:
            if self._make(region, call):
                rest_s = FIRST_REST_S
                continue
            self._rest(rest_s)
            rest_s = min(2 * rest_s, LONGEST_REST_S)

    def _next_call(self, region: str) -> Read | Swap | None:
        """Wait for one; None when closed, or when there will be none."""
        with self._changed:
            while not self._is_closed:
                if (call := self._conversation.next_call(region)) is not None:
                    return call
                if self._only_asks:
                    break
                self._changed.wait()
        return None

    def _make(self, region: str, call: Read | Swap) -> bool:
        """Make the call and report it; False when there was no answer."""
        registers, conversation = self._registers[region], self._conversation
        try:
            if isinstance(call, Read):
                found = registers.read(self._key)
                with self.changing():
                    conversation.on_read(region, found)
            else:
                tag = registers.swap(self._key, call.data, expected=call.expected)
                with self.changing():
                    conversation.on_swapped(region, tag)
        except ConflictError:
            with self.changing():
                conversation.on_refused(region)
        except VedrError as error:
            with self.changing():
                conversation.on_lost(region, str(error))
            return False
        return True

    def _rest(self, rest_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, timeout=rest_s)
