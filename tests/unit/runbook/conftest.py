"""A site's ledger over three fake regions, which tests break at will."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.errors import ConflictError, NotFoundError, UnavailableError
from vedr.ports import ObjectKey, StoredObject
from vedr.runbook.journal import Journal
from vedr.runbook.replicas import Replicas
from vedr.signature import Signer

REGIONS = ("us-east", "eu-west", "ap-south")


@dataclass
class FakeStore:
    """A bucket in memory.  `down`: nothing works; `lost_answers`: that many writes happen but answer with an error."""

    region: str
    objects: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    lost_answers: int = 0
    calls: int = 0

    def _reach(self) -> None:
        self.calls += 1
        if self.down:
            raise UnavailableError(f"{self.region} does not answer")

    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        self._reach()
        if self.objects.setdefault(key, data) is not data:
            raise ConflictError(f"{key} exists")
        if self.lost_answers:
            self.lost_answers -= 1
            raise UnavailableError("the connection broke after the request was sent")
        return self._stored(key)

    def get(self, key: ObjectKey, *, version: str | None = None) -> bytes:
        self._reach()
        if key not in self.objects:
            raise NotFoundError(f"no {key}")
        return self.objects[key]

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        self.get(key)
        return self._stored(key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self._reach()
        return iter([self._stored(ObjectKey(key)) for key in sorted(self.objects) if key.startswith(prefix)])

    def delete(self, key: ObjectKey) -> None:
        self._reach()
        self.objects.pop(key, None)

    def _stored(self, key: ObjectKey) -> StoredObject:
        return StoredObject(key, len(self.objects[key]), None, dt.datetime.now(dt.UTC))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@dataclass
class World:
    """Three regions, a clock and the journals over them."""

    stores: dict[str, FakeStore]
    clock: Clock
    signer: Signer
    journals: list[Journal] = field(default_factory=list)

    def journal(self) -> Journal:
        """As another process has it: nothing shared but the stores."""
        journal = Journal(self.stores, site="lab", signer=self.signer, trusted=[self.signer.public_hex], clock=self.clock)
        self.journals.append(journal)
        return journal

    def everywhere(self, key: str) -> list[bytes | None]:
        return [store.objects.get(key) for store in self.stores.values()]


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture
def world(signer: Signer) -> Iterator[World]:
    made = World({region: FakeStore(region) for region in REGIONS}, Clock(), signer)
    yield made
    for journal in made.journals:
        journal.close()


@pytest.fixture
def replicas(world: World) -> Iterator[Replicas]:
    made = Replicas(world.stores, patience_s=0.3, rest_s=0.2, deadline_s=1.0)
    yield made
    made.close()
