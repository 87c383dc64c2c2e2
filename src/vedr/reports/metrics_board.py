"""What the collectors brought, and whether it may still be shown.  Threads may share it.

Guarantees: reading never waits for a collector.  A collector's metrics are shown from the end of a collection that
succeeded until the next one fails, takes longer than its deadline, or does not come; then they are absent, and
`vedr_collect_success` is 0.  Old values are never shown as fresh.
Leaves out: collecting (vedr.adapters.exporter).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vedr.readiness.ports import Ports
from vedr.reports.metrics import (
    COLLECT_AGE,
    COLLECT_FAILURES,
    COLLECT_MAX_AGE,
    COLLECT_SUCCESS,
    COLLECT_TOOK,
    Sample,
    render,
)

Collect = Callable[[Ports], Iterable[Sample]]


@dataclass(frozen=True, slots=True)
class Collector:
    """One subject's metrics: collected every `interval_s`, and of no worth when that takes longer than `deadline_s`."""

    name: str
    interval_s: float
    deadline_s: float
    collect: Collect

    @property
    def max_age_s(self) -> float:
        """Of a collection since it began: it, the pause, and the next one."""
        return self.interval_s + 2 * self.deadline_s


@dataclass(frozen=True, slots=True)
class _Brought:
    samples: tuple[Sample, ...]
    began_s: float
    took_s: float


@dataclass(slots=True)
class _Standing:
    """`began_s`: when the collection that is under way began."""

    brought: _Brought | None = None
    began_s: float | None = None
    failed: bool = False
    failures: int = 0


class Board:
    """The newest of every collector."""

    def __init__(self, collectors: Iterable[Collector], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._collectors: Final = {collector.name: collector for collector in collectors}
        self._monotonic = monotonic
        self._turn = threading.Lock()
        self._standings = {name: _Standing() for name in self._collectors}

    def begins(self, name: str) -> None:
        """A collection is under way."""
        with self._turn:
            self._standings[name].began_s = self._monotonic()

    def succeeds(self, name: str, samples: Iterable[Sample]) -> bool:
        """It ended with these; False when that was past its deadline, so that they count for nothing."""
        brought = tuple(samples)
        with self._turn:
            standing = self._standings[name]
            now_s = self._monotonic()
            began_s = now_s if standing.began_s is None else standing.began_s
            standing.began_s = None
            if now_s - began_s > self._collectors[name].deadline_s:
                self._count_failure(standing)
                return False
            standing.brought, standing.failed = _Brought(brought, began_s, now_s - began_s), False
            return True

    def fails(self, name: str) -> None:
        """It ended with an error."""
        with self._turn:
            self._standings[name].began_s = None
            self._count_failure(self._standings[name])

    def text(self) -> str:
        """All metrics, as they stand now."""
        with self._turn:
            return render(self._samples())

    def failing(self) -> tuple[str, ...]:
        """Collectors whose metrics are absent."""
        with self._turn:
            now_s = self._monotonic()
            return tuple(name for name in self._collectors if not self._is_fresh(name, now_s))

    def _count_failure(self, standing: _Standing) -> None:
        standing.failed, standing.failures = True, standing.failures + 1

    def _samples(self) -> Iterator[Sample]:
        now_s = self._monotonic()
        for name, collector in self._collectors.items():
            standing = self._standings[name]
            fresh = self._is_fresh(name, now_s)
            yield COLLECT_SUCCESS(fresh, name)
            yield COLLECT_FAILURES(standing.failures, name)
            yield COLLECT_MAX_AGE(collector.max_age_s, name)
            if standing.brought is not None:
                yield COLLECT_AGE(round(now_s - standing.brought.began_s, 3), name)
                yield COLLECT_TOOK(round(standing.brought.took_s, 3), name)
                if fresh:
                    yield from standing.brought.samples

    def _is_fresh(self, name: str, now_s: float) -> bool:
        standing, collector = self._standings[name], self._collectors[name]
        if standing.brought is None or standing.failed:
            return False
        hangs = standing.began_s is not None and now_s - standing.began_s > collector.deadline_s
        return not hangs and now_s - standing.brought.began_s <= collector.max_age_s
