"""Write-once slots over the regions' stores: what the ledger and the leases stand on.

A slot is one key, created with a conditional put in every region.  Its value is *decided* once a majority of regions
hold the same bytes, or, when every region holds something and no value has a majority, by rule (most copies, then the
least digest). Both are final: nothing is overwritten.

1. Propose: create the key in all regions at once; a majority of creations decides for us.
2. A region that already holds other bytes is a vote for those; when a majority can no longer be ours, we lost.
3. A region that holds a value which lost gets the decided one under `<slot>.<first 8 digits of its digest>`, and from
   then on counts as holding that.  An alternate is one region's word, and no proof: whoever can write to its bucket can
   put a value there that lost, signature and all.

Guarantees: at most one value per slot; a decided value never changes; a dead or cut region costs nothing once a
majority answered; its circuit breaker keeps later calls from queueing behind it.
Leaves out: what the bytes mean (`acceptable` tells), and filling a region that missed a value (`repair`, called later).
"""

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, TypeVar

from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, UnavailableError
from vedr.ledger import digest_of
from vedr.ports import ObjectKey, ObjectStore

PATIENCE_S: Final = 2.5  # a region that answers later than this is taken for gone; design: 2-3 s, once
REST_S: Final = 15.0  # how long a region that failed is left alone
DEADLINE_S: Final = 20.0  # the longest that a majority is waited for
_THREADS_PER_REGION: Final = 6

T = TypeVar("T")
Acceptable = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Slot:
    """A write-once place: `ledger/<run>/00000007` with the suffix `.json`."""

    stem: str

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(f"{self.stem}.json")

    def alternate(self, data: bytes) -> ObjectKey:
        return ObjectKey(f"{self.stem}.{digest_of(data)[:8]}.json")


@dataclass(frozen=True, slots=True)
class Copies:
    """What the regions that answered hold of one slot: the main object (None: nothing) and any alternates."""

    main: Mapping[str, bytes | None]
    alternates: Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Decided:
    data: bytes


@dataclass(frozen=True, slots=True)
class Undecided:
    """`candidates` could still win, most votes first; `split` when only a region that did not answer can tell."""

    candidates: tuple[bytes, ...]
    split: bool


def decide(copies: Copies, regions: int, acceptable: Acceptable) -> Decided | Undecided:
    """What a slot's copies say, by the rules above; copies that are not acceptable only occupy their region."""
    majority = regions // 2 + 1
    held = (_held(copies, region, acceptable) for region in {*copies.main, *copies.alternates})
    votes = Counter(data for data in held if data is not None)
    ranked = sorted(votes, key=lambda data: (-votes[data], digest_of(data)))
    if ranked and votes[ranked[0]] >= majority:
        return Decided(ranked[0])
    empty = sum(data is None for data in copies.main.values())
    silent = regions - len(copies.main)
    if ranked and not empty and not silent:
        return Decided(ranked[0])
    reachable = bool(ranked) and votes[ranked[0]] + empty >= majority
    return Undecided(tuple(ranked), split=bool(ranked) and not reachable)


def _held(copies: Copies, region: str, acceptable: Acceptable) -> bytes | None:
    """What a region counts for: the alternate that it was given, else its main object; None when that is nothing.

    Nobody honest gives a region two different alternates: such a region counts for nothing.
    """
    given = {data for data in copies.alternates.get(region, ()) if acceptable(data)}
    if given:
        return given.pop() if len(given) == 1 else None
    main = copies.main.get(region)
    return main if main is not None and acceptable(main) else None


class Replicas:
    """The regions' stores, spoken to in parallel.  Thread-safe; close it when done."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        *,
        patience_s: float = PATIENCE_S,
        rest_s: float = REST_S,
        deadline_s: float = DEADLINE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = dict(stores)
        self._patience_s = patience_s
        self._rest_s = rest_s
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._resting_until: dict[str, float] = {}
        self._in_flight: dict[str, dict[object, float]] = {name: {} for name in self._stores}
        self._pools = {name: ThreadPoolExecutor(_THREADS_PER_REGION, f"ledger-{name}") for name in self._stores}

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(self._stores)

    @property
    def majority(self) -> int:
        return len(self._stores) // 2 + 1

    def close(self) -> None:
        """Let go of the threads; what a slow region has not taken by now is caught up by `repair`."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def resting(self) -> tuple[str, ...]:
        """Regions that failed a moment ago, or hang right now, and are left alone."""
        with self._lock:
            now = self._monotonic()
            failed = {name for name, until in self._resting_until.items() if until > now}
            hanging = {
                name
                for name, calls in self._in_flight.items()
                if min(calls.values(), default=now) < now - self._patience_s
            }
            return tuple(sorted(failed | hanging))

    # --- slots

    def propose(self, slot: Slot, data: bytes, acceptable: Acceptable) -> bytes:
        """Try to make `data` the slot's value; the value that was decided, which may be somebody else's.

        Returns at a majority; slower regions go on in the background.  Safe to repeat with the same bytes.

        Raises:
            UnavailableError: no majority answered; whether it will be decided is not known: repeat with the same bytes.
            ConflictError: two values stand against each other and the region that could tell did not answer.
        """
        main: dict[str, bytes | None] = {}
        for region, held in self._each(lambda store: _create(store, slot.key, data)):
            main[region] = held
            if sum(copy == data for copy in main.values()) >= self.majority:
                return data
        if any(copy != data for copy in main.values()):
            return self.settle(slot, acceptable)
        raise self._too_few(f"write {slot.stem}", main)

    def settle(self, slot: Slot, acceptable: Acceptable) -> bytes:
        """The slot's value; an unfinished one is completed.

        Raises:
            NotFoundError: no region that answered has a candidate.
            CorruptError: the same, and a majority holds bytes that are not acceptable: the slot can't be used.
            UnavailableError: too few regions answered.
            ConflictError: undecidable until another region answers.
        """
        for _ in range(len(self._stores) + 1):  # each round that does not decide fills at least one empty region
            copies = self.copies(slot)
            match decide(copies, len(self._stores), acceptable):
                case Decided(data):
                    return data
                case Undecided(candidates=()):
                    spoilt = sorted(region for region, held in copies.main.items() if held is not None)
                    if len(spoilt) >= self.majority:
                        raise CorruptError(
                            f"{slot.stem}: {', '.join(spoilt)} hold bytes that do not belong there",
                            remedy="Treat these regions' stores as tampered with: keep their versions, tell security.",
                        )
                    raise NotFoundError(f"{slot.stem} has no value", remedy="Write it first.")
                case Undecided(candidates=(best, *_), split=False):
                    empty = [region for region, held in copies.main.items() if held is None]
                    dict(self._each(functools.partial(_create, key=slot.key, data=best), only=empty))
                case _:
                    break
        raise ConflictError(
            f"{slot.stem}: the regions that answer hold different values and no majority can be seen",
            remedy=f"Wait until {', '.join(sorted(set(self._stores) - set(copies.main))) or 'it is settled'} answers.",
        )

    def copies(self, slot: Slot) -> Copies:
        """What every region that answers holds of this slot; UnavailableError when fewer than a majority answer."""
        answers = dict(self._each(lambda store: _read_slot(store, slot)))
        if len(answers) < self.majority:
            raise self._too_few(f"read {slot.stem}", answers)
        return Copies(
            {region: main for region, (main, _) in answers.items()},
            {region: others for region, (_, others) in answers.items() if others},
        )

    def repair(self, slot: Slot, data: bytes) -> tuple[str, ...]:
        """Give the decided `data` to every region that lacks it; the regions that were given it."""

        def give(store: ObjectStore) -> bool:
            before = _get(store, slot.key)
            if before == data:
                return False
            if before is None and _create(store, slot.key, data) == data:
                return True
            given = _get(store, slot.alternate(data)) is None
            _create(store, slot.alternate(data), data)
            return given

        return tuple(region for region, given in self._each(give) if given)

    # --- many objects

    def gather(self, work: Callable[[ObjectStore], T], *, what: str, minimum: int | None = None) -> dict[str, T]:
        """What `work` gives in each region that answers; UnavailableError below `minimum` (default: a majority)."""
        answers = dict(self._each(work))
        if len(answers) < (self.majority if minimum is None else minimum):
            raise self._too_few(what, answers)
        return answers

    def _too_few(self, what: str, answered: Mapping[str, object]) -> UnavailableError:
        missing = sorted(set(self._stores) - set(answered))
        return UnavailableError(
            f"cannot {what}: {len(answered)} of {len(self._stores)} regions answered, {self.majority} are needed"
            f" (no answer from {', '.join(missing)})",
            remedy="Restore the connection to one of these regions' stores, then repeat with the same run id.",
        )

    def _each(self, work: Callable[[ObjectStore], T], only: Sequence[str] | None = None) -> Iterator[tuple[str, T]]:
        """Run it in every region at once and give answers as they come; silent regions are left out.

        Once a majority answered, the rest have until `patience_s` from the beginning; a region at rest is asked only
        when too few others are left.  An error that is not UnavailableError is raised.
        """
        chosen = [name for name in (self._stores if only is None else only) if name not in self.resting()]
        if only is None and len(chosen) < self.majority:
            chosen = list(self._stores)
        started = self._monotonic()
        try:
            waiting = {self._pools[name].submit(self._call, name, work): name for name in chosen}
        except RuntimeError as error:  # a thread that was left behind, as the one that heals a run, meets this
            raise UnavailableError("the regions' stores were closed", remedy="Open the site again.") from error
        answered = 0
        while waiting:
            limit_s = self._patience_s if only is not None or answered >= self.majority else self._deadline_s
            left_s = limit_s - (self._monotonic() - started)
            done, _ = wait(waiting, timeout=max(0.0, left_s), return_when=FIRST_COMPLETED)
            if not done:
                self._rest(waiting.values())
                return
            for future in done:
                name = waiting.pop(future)
                if not future.cancelled() and not isinstance(future.exception(), UnavailableError):
                    answered += 1
                    yield name, future.result()

    def _call(self, name: str, work: Callable[[ObjectStore], T]) -> T:
        call = object()
        with self._lock:
            self._in_flight[name][call] = self._monotonic()
        try:
            result = work(self._stores[name])
        except UnavailableError:
            self._rest([name])
            raise
        except RefusedError as error:  # wrong credentials, no bucket: that region tells nothing, and the others may
            self._rest([name])
            raise UnavailableError(error.message, remedy=error.remedy) from error
        finally:
            with self._lock:
                del self._in_flight[name][call]
        with self._lock:
            self._resting_until.pop(name, None)
        return result

    def _rest(self, names: Iterable[str]) -> None:
        with self._lock:
            self._resting_until.update(dict.fromkeys(names, self._monotonic() + self._rest_s))


def _create(store: ObjectStore, key: ObjectKey, data: bytes) -> bytes:
    """What the region holds under the key afterwards: ours, or what was there."""
    try:
        try:
            store.create(key, data)
        except UnavailableError:  # once more: its answer may have been lost
            store.create(key, data)
    except ConflictError:
        return read_copy(store, key)
    return data


def read_copy(store: ObjectStore, key: ObjectKey) -> bytes:
    """What stands there; nothing in the place of what is too large to be the ledger's: damage, of this region only."""
    try:
        return store.get(key)
    except CorruptError:
        return b""


def _get(store: ObjectStore, key: ObjectKey) -> bytes | None:
    try:
        return read_copy(store, key)
    except NotFoundError:
        return None


def _read_slot(store: ObjectStore, slot: Slot) -> tuple[bytes | None, tuple[bytes, ...]]:
    keys = [found.key for found in store.list(f"{slot.stem}.")]
    others = tuple(read_copy(store, key) for key in keys if key != slot.key)
    return _get(store, slot.key), others
