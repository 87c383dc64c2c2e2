"""What the domain needs from the world.  Adapters fulfil these; contract suites in tests/contract hold them to it.

Every method raises only errors of `vedr.errors`.  UnavailableError (transient) may be retried as it is; all others may
not.  Nothing here is asynchronous: callers use threads, adapters release the GIL where bytes move.
Leaves out: which adapter a site gets (vedr.adapters.site), and what each error means to a run (vedr.runbook).
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NewType, Protocol

from vedr.inventory import Node

ObjectKey = NewType("ObjectKey", str)
"""Slash-separated, ASCII, no leading slash."""

DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""More than any stored document has, but for the manifests of very many files: whoever reads those says so."""

Clock = Callable[[], dt.datetime]
"""Gives the time, aware, UTC."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object: what listing, heading and putting tell."""

    key: ObjectKey
    size_bytes: int
    version: str | None
    modified: dt.datetime


class ObjectStore(Protocol):
    """A region's bucket.

    Atomicity: an object is visible whole or not at all.  Read-after-write consistent.
    """

    @property
    def region(self) -> str:
        """The site's name of the region."""

    def create(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        """Put if absent (conditional).  Safe to repeat.  A view's memory is the caller's again on return.

        Raises:
            ConflictError: the key exists (whatever its content); nothing was written.
            UnavailableError: not known whether it was written: repeat, and read it on ConflictError.
        """

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        """The whole object, of that version or the newest.

        Raises:
            NotFoundError: there is none.
            CorruptError: it is larger than whoever asks can expect; nothing of it was read.
        """

    def view(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int) -> memoryview:
        """What `get` gives, in memory that bytes need not be copied out of: for large ones."""

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        """Its metadata.  NotFoundError when there is none."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects under the prefix, by key, newest versions only; memory stays flat however many there are."""

    def delete(self, key: ObjectKey) -> None:
        """Remove it; quiet when it isn't there.  RefusedError when an object lock holds it."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A register's content, and the tag that names just this write of it."""

    data: bytes
    tag: str


class Registers(Protocol):
    """Small objects of one region's store, each replaced only by a writer who knows its present content.

    Atomicity: compare and swap on one key; linearizable, so that of several swaps from one tag one succeeds.
    """

    @property
    def region(self) -> str:
        """The site's name of the region."""

    def read(self, key: ObjectKey) -> Tagged | None:
        """The newest content; None when nothing was ever written."""

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        """Replace the content tagged `expected` (None: there is none yet); the new content's tag.

        Raises:
            ConflictError: something else is there by now; nothing was written.
            UnavailableError: not known whether it was written: read it before anything else.
        """


class SigningKey(Protocol):
    """An Ed25519 key pair whose private half this process can use and not read, or need not."""

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes (RFC 8032, pure).  UnavailableError when the key's holder does not answer."""


UnitState = Literal["running", "paused", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """A service unit as its supervisor sees it."""

    name: str
    state: UnitState
    pid: int | None
    since: dt.datetime
    exit_code: int | None
    desired: Literal["running", "stopped"]


@dataclass(frozen=True, slots=True)
class Pause:
    """How a pause ended; when `expired`, the node ran on before it was resumed: what was copied is not consistent."""

    paused_s: float
    expired: bool


class Fleet(Protocol):
    """Control of service units on their hosts.  UnavailableError when the host can't be reached, which proves nothing.

    Every method is idempotent: stopping what is stopped is quiet.
    """

    def status(self, unit: str, zone: str) -> UnitStatus:
        """NotFoundError when the host does not know the unit."""

    def start(self, unit: str, zone: str) -> UnitStatus:
        """Start it and return when the process exists (not when it serves)."""

    def stop(self, unit: str, zone: str) -> UnitStatus:
        """End it cleanly; DeadlineError when it is still there after its grace: it was not killed."""

    def kill(self, unit: str, zone: str) -> UnitStatus:
        """End it at once (SIGKILL)."""

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        """Freeze every thread; return when all stand still.  The host resumes it after `limit_s`, come what may."""

    def resume(self, unit: str, zone: str) -> Pause:
        """Let it run on."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """A workload that has as many equal instances as it is told to."""

    workload: str
    wanted: int
    ready: int


class Scaling(Protocol):
    """Workloads of a region whose instances are equal: full nodes, gateways, provider daemons.  Never a signer."""

    def replicas(self, workload: str, region: str) -> Replicas:
        """NotFoundError when the region has no such workload."""

    def scale(self, workload: str, region: str, replicas: int) -> Replicas:
        """Ask for that many; what there was before.  ConflictError when somebody else scales it meanwhile."""

    def wait_ready(self, workload: str, region: str, *, limit_s: float) -> Replicas:
        """Until as many are ready as are wanted; DeadlineError tells what the others wait for."""


class ZoneHosts(Protocol):
    """The machines of a zone that workloads are placed on."""

    def cordon(self, zone: str) -> tuple[str, ...]:
        """Place nothing new on them; their names.  Idempotent."""

    def uncordon(self, zone: str) -> tuple[str, ...]:
        """Let them be used again; their names.  Idempotent."""


@dataclass(frozen=True, slots=True)
class PlacedUnit:
    """A unit and the zone that it stands in."""

    unit: str
    zone: str


FaultKind = Literal["disk lost", "database damaged"]


class FaultInjector(Protocol):
    """Breaks a site that is there to be broken, and brings back what it broke.  Only drills use it.

    Every method is idempotent.  RefusedError where the site does not allow faults.
    """

    def running(self, zone: str) -> tuple[PlacedUnit, ...]:
        """All that runs there, also what the site file does not name, such as stores and workers."""

    def kill(self, units: Sequence[PlacedUnit]) -> None:
        """End them at once, as when the power fails, and keep them down."""

    def start(self, units: Sequence[PlacedUnit]) -> None:
        """Bring them back in the order in which they need each other; returns when the processes exist."""

    def damage(self, node: Node, what: FaultKind) -> str:
        """Do that to the data of a node that was killed; what was done, to the byte."""


class Files(Protocol):
    """Reaches a node's home directory.  In the lab, and on a node's own host, that is a local path."""

    def home(self, node: Node) -> Path:
        """A local path of the node's home; UnavailableError when this process doesn't run where the node's disk is."""
