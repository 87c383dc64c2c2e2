"""A bucket in memory: versions, locks, and faults on demand.  The fake that passes the real one's contract suite.

Guarantees: linearizable; a fault is either refused before anything happened or lost after everything did, as networks
do it.  Faults are deterministic: a map says which call of which kind fails.
"""

import datetime as dt
import itertools
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, UnavailableError
from vedr.ports import DOCUMENT_BYTES, Clock, ObjectKey, StoredObject

Call = Literal["create", "get", "head", "list", "delete"]
CALLS: Final[tuple[Call, ...]] = ("create", "get", "head", "list", "delete")


class Crash(BaseException):
    """The caller is killed at this point; nothing may catch it but the test."""


@dataclass(slots=True)
class Faults:
    """What happens to the calls to come.

    A map is a string, one letter a call of that kind, as borg writes them: `.` works, `e` fails before it did anything,
    `l` works and its answer is lost, `K` kills the caller before, `k` after.  Calls beyond the map work.
    """

    maps: dict[Call, str] = field(default_factory=dict)
    down: bool = False
    seen: Counter[Call] = field(default_factory=Counter)

    def next(self, call: Call) -> str:
        number = self.seen[call]
        self.seen[call] += 1
        faults = self.maps.get(call, "")
        return faults[number] if number < len(faults) else "."


@dataclass(frozen=True, slots=True)
class _Version:
    data: bytes
    stored: StoredObject


class MemoryStore:
    """`vedr.ports.ObjectStore` in this process."""

    def __init__(self, region: str, *, clock: Clock | None = None, locked_for: dt.timedelta | None = None) -> None:
        self._region = region
        self._clock: Clock = clock or (lambda: dt.datetime.now(dt.UTC))
        self._locked_for = locked_for
        self._versions: defaultdict[ObjectKey, list[_Version]] = defaultdict(list)
        self._serial = 0
        self._index: list[ObjectKey] = []
        self._indexed = (0, 0)
        self._mutex = threading.RLock()
        self.faults = Faults()

    @property
    def region(self) -> str:
        return self._region

    def create(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        with self._mutex, _Fault(self, "create"):
            if self._versions.get(key):
                raise ConflictError(f"{key} exists already in {self._region}", remedy="Read it, and compare.")
            return self.overwrite(key, data)

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        with self._mutex, _Fault(self, "get"):
            data = self._find(key, version).data
        if len(data) > limit_bytes:
            raise CorruptError(
                f"{key} in {self._region} has {len(data)} bytes, it can have {limit_bytes} at most",
                remedy="Use another region's copy.",
            )
        return data

    def view(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int) -> memoryview:
        return memoryview(self.get(key, version=version, limit_bytes=limit_bytes))

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        with self._mutex, _Fault(self, "head"):
            return self._find(key, version).stored

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._mutex, _Fault(self, "list"):
            keys = self._ordered()
            following = (keys[at] for at in range(bisect_left(keys, prefix), len(keys)))
            named = itertools.takewhile(lambda key: key.startswith(prefix), following)
            found = [versions[-1].stored for key in named if (versions := self._versions[key])]
        for stored in found:
            yield StoredObject(stored.key, stored.size_bytes, None, stored.modified)

    def _ordered(self) -> Sequence[ObjectKey]:
        """All keys in their order, as a bucket's index has them; made anew when something came or went."""
        now = (self._serial, len(self._versions))
        if self._indexed != now:
            self._index, self._indexed = sorted(self._versions), now
        return self._index

    def delete(self, key: ObjectKey) -> None:
        with self._mutex, _Fault(self, "delete"):
            if self._locked_for is not None and any(
                self._clock() < version.stored.modified + self._locked_for for version in self._versions.get(key, [])
            ):
                raise RefusedError(f"{key} in {self._region} is held by an object lock", remedy="Wait until it ends.")
            self._versions.pop(key, None)

    def overwrite(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        """What no honest writer does: put a newer version on top."""
        with self._mutex:
            self._serial += 1
            stored = StoredObject(key, len(data), f"v{self._serial}", self._clock())
            self._versions[key].append(_Version(bytes(data), stored))
            return stored

    def damage(self, key: ObjectKey, data: bytes) -> None:
        """What a failing disk does: other bytes under the same version."""
        with self._mutex:
            newest = self._find(key, None)
            stored = StoredObject(key, len(data), newest.stored.version, newest.stored.modified)
            self._versions[key][-1] = _Version(bytes(data), stored)

    def _find(self, key: ObjectKey, version: str | None) -> _Version:
        for candidate in reversed(self._versions.get(key, [])):
            if version in (None, candidate.stored.version):
                return candidate
        raise NotFoundError(f"{key} is not in {self._region}", remedy="Use another region's copy.")


class _Fault:
    """Around one call: the fault before it, and the one after it."""

    __slots__ = ("_call", "_letter", "_store")

    def __init__(self, store: MemoryStore, call: Call) -> None:
        self._store, self._call, self._letter = store, call, "."

    def __enter__(self) -> None:
        self._letter = self._store.faults.next(self._call)
        if self._letter == "K":
            raise Crash
        if self._letter == "e" or self._store.faults.down:
            raise self._unavailable()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._letter == "k":
            raise Crash
        if kind is None and self._letter == "l":
            raise self._unavailable()

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"{self._store.region} does not answer ({self._call})", remedy="Try again later.")
