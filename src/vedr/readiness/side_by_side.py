"""Calls made at once and waited for with a limit: what hangs costs its own deadline and nobody else's.

Guarantees: returns when all calls have answered, or when the deadline has passed, whatever they do.  A call that is
still under way then is left behind in its thread, which does not keep the process alive.
Leaves out: stopping a call: each has time limits of its own (adapters).
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from vedr.errors import DeadlineError

T = TypeVar("T")
K = TypeVar("K")
MAX_THREADS: Final = 64


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A call's value, or its error; `get` gives the one or raises the other."""

    value: T | None
    error: BaseException | None
    took_s: float

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if T has it


def side_by_side(
    calls: Mapping[K, Callable[[], T]], *, deadline_s: float, threads: int = MAX_THREADS
) -> dict[K, Answer[T]]:
    """Every call's answer, in the calls' order; DeadlineError for those that gave none in time."""
    began = time.monotonic()
    todo: queue.SimpleQueue[tuple[K, Callable[[], T]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[K, Answer[T]]] = queue.SimpleQueue()
    for key, call in calls.items():
        todo.put((key, call))
    for number in range(min(threads, len(calls))):
        if todo.empty():  # calls that answer at once need no thread each
            break
        threading.Thread(target=_work, args=(todo, done), name=f"side-{number}", daemon=True).start()
    answers: dict[K, Answer[T]] = {}
    while len(answers) < len(calls):
        try:
            key, answer = done.get(timeout=max(0.0, began + deadline_s - time.monotonic()))
        except queue.Empty:
            break
        answers[key] = answer
    return {key: answers.get(key) or _late(deadline_s) for key in calls}


def _work(todo: "queue.SimpleQueue[tuple[K, Callable[[], T]]]", done: "queue.SimpleQueue[tuple[K, Answer[T]]]") -> None:
    while True:
        try:
            key, call = todo.get_nowait()
        except queue.Empty:
            return
        began = time.monotonic()
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            done.put((key, Answer(None, error, time.monotonic() - began)))
        else:
            done.put((key, Answer(value, None, time.monotonic() - began)))


def _late(deadline_s: float) -> Answer[T]:
    error = DeadlineError(f"no answer in {deadline_s:g} s", remedy="See whether it hangs; then check again.")
    return Answer(None, error, deadline_s)
