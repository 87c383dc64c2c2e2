"""Content into every region at once, as fast as the machine reads and compresses it.

Guarantees: one region's trouble never stops the others, and is met once: after its first failure it is left alone.
Memory stays flat: content waits in a bounded budget.  What a region is said to hold was either written by this run
(whose bytes the server checked by SHA-256) or read back from it and opened under its name.
Leaves out: what to upload (snapshot.py), and telling anybody (commit).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, Self

from vedr.backup.budget import ByteBudget
from vedr.backup.layout import Epoch, ObjectName, Source, epoch_prefix, object_key, parse_object_key
from vedr.backup.manifest import PlacedObject
from vedr.backup.repository import Repository
from vedr.backup.rooms import Loan, Rooms
from vedr.backup.sealing import MAX_STORED_BYTES, Codec
from vedr.errors import ConflictError, CorruptError, VedrError
from vedr.ports import ObjectStore

CPU_WORKERS: Final = max(2, min(8, os.cpu_count() or 2)) + 2  # two may wait for the disk while all cores are busy
UPLOADS_PER_REGION: Final = 4
IN_FLIGHT_BYTES: Final = 56 * 1024 * 1024  # sealed parts that wait for, or are on, the network


@dataclass(slots=True)
class Landing:
    """What one region's bucket is known to hold of the epoch, and what this run did there."""

    store: ObjectStore
    listed: dict[bytes, int]
    """Name to stored size, of everything that stood there when the run began: hints, not proof."""
    placed: dict[ObjectName, PlacedObject]
    """Proven: by an earlier signed placement that the listing does not contradict, or by this run."""
    error: VedrError | None = None
    new_objects: int = 0
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fail(self, error: VedrError) -> None:
        with self.lock:
            self.error = self.error or error

    def holds(self, name: ObjectName) -> bool:
        return name in self.placed


def survey(repository: Repository, source: Source, epoch: Epoch) -> dict[str, Landing]:
    """List the epoch in every region; a region that does not answer starts out failed."""

    def listing(store: ObjectStore) -> dict[bytes, int]:
        return dict(_listed(store, source, epoch))

    return {
        region: Landing(repository.stores[region], {}, {}, error=answer)
        if isinstance(answer, VedrError)
        else Landing(repository.stores[region], answer, {})
        for region, answer in repository.in_every_region(listing).items()
    }


def _listed(store: ObjectStore, source: Source, epoch: Epoch) -> Iterator[tuple[bytes, int]]:
    for entry in store.list(epoch_prefix(source, epoch)):
        parsed = parse_object_key(entry.key)
        if parsed is not None:
            yield bytes.fromhex(parsed[1]), entry.size_bytes


def trust_earlier(landing: Landing, earlier: Mapping[ObjectName, PlacedObject]) -> None:
    """Take over what an earlier placement proved and the listing still shows, at the same size."""
    for name, placed in earlier.items():
        if landing.listed.get(bytes.fromhex(name)) == placed.stored_bytes:
            landing.placed[name] = placed


class Uploader:
    """Sends sealed content to the regions that lack it.  A context manager: leaving waits for everything."""

    def __init__(self, codec: Codec, source: Source, epoch: Epoch, landings: Mapping[str, Landing]) -> None:
        self._codec = codec
        self._source, self._epoch = source, epoch
        self._landings = landings
        self._budget = ByteBudget(IN_FLIGHT_BYTES)
        self._rooms = Rooms(IN_FLIGHT_BYTES)
        self._pools = {
            region: ThreadPoolExecutor(UPLOADS_PER_REGION, f"put-{region}")
            for region, landing in landings.items()
            if landing.error is None
        }
        self._claims: dict[ObjectName, None] = {}
        self._claims_lock = threading.Lock()
        self._crash: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=kind is not None)
        if self._crash is not None and kind is None:
            raise self._crash

    def lacking(self, name: ObjectName) -> list[str]:
        """The regions that this object must still be brought to."""
        return [r for r, landing in self._landings.items() if landing.error is None and not landing.holds(name)]

    @property
    def reachable(self) -> bool:
        return any(landing.error is None for landing in self._landings.values())

    def add(self, name: ObjectName, content: bytes | memoryview) -> None:
        """Seal it and send it where it lacks; returns before it has arrived.  Content seen before costs nothing."""
        with self._claims_lock:
            if name in self._claims:
                return
            self._claims[name] = None
        regions = self.lacking(name)
        if not regions:
            return
        loan = Loan(self._rooms)
        taken = self._budget.take(len(content))  # before it is sealed: workers that wait hold nothing sealed

        def done() -> None:
            loan.give_back()
            self._budget.give(taken)

        try:
            sealed = self._codec.seal(name, content, loan)
        except BaseException:
            done()
            raise
        left = _Countdown(len(regions), done)
        for region in regions:
            self._pools[region].submit(self._send, self._landings[region], name, sealed, left)

    def _send(self, landing: Landing, name: ObjectName, sealed: memoryview, left: "_Countdown") -> None:
        try:
            if landing.error is None:
                placed = self._place(landing, name, sealed)
                with landing.lock:
                    landing.placed[name] = placed
        except VedrError as error:
            landing.fail(error)
        except BaseException as error:  # noqa: BLE001 (raised again where the uploader is left)
            self._crash = error
        finally:
            left.down()

    def _place(self, landing: Landing, name: ObjectName, sealed: memoryview) -> PlacedObject:
        key = object_key(self._source, self._epoch, name)
        if bytes.fromhex(name) not in landing.listed:
            try:
                created = landing.store.create(key, sealed)
            except ConflictError:
                pass  # a run beside this one, or an answer that was lost
            else:
                with landing.lock:
                    landing.new_objects += 1
                    landing.sent_bytes += len(sealed)
                return PlacedObject(created.version, len(sealed))
        return inspect_object(landing.store, self._codec, self._source, self._epoch, name)


def inspect_object(store: ObjectStore, codec: Codec, source: Source, epoch: Epoch, name: ObjectName) -> PlacedObject:
    """Read back what stands under a name and prove it, whoever wrote it.

    Raises:
        CorruptError: other bytes stand there.
    """
    key = object_key(source, epoch, name)
    head = store.head(key)
    try:
        stored = store.view(key, version=head.version, limit_bytes=MAX_STORED_BYTES)
        codec.open_object(name, stored)
    except CorruptError as error:
        raise CorruptError(
            f"{key} in {store.region} exists with other content", remedy="Mend that region's copy of the snapshot."
        ) from error
    return PlacedObject(head.version, len(stored))


class _Countdown:
    """Calls `done` when the last of a number of tasks has ended."""

    __slots__ = ("_done", "_left", "_lock")

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._left, self._done = count, done
        self._lock = threading.Lock()

    def down(self) -> None:
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._done()


def spread(tasks: Iterable[Callable[[], None]]) -> None:
    """Run them on the CPU workers, drawing lazily; the first failure ends the rest and is raised."""
    iterator = iter(tasks)
    lock = threading.Lock()
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    task = next(iterator, None)
                if task is None:
                    return
                task()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(CPU_WORKERS, "seal") as pool:
        futures: list[Future[None]] = [pool.submit(work) for _ in range(CPU_WORKERS)]
        wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        future.result()
