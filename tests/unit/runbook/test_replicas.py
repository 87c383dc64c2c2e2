import threading
import time
from collections.abc import Iterator

import pytest

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import ConflictError, UnavailableError
from vedr.ports import DOCUMENT_BYTES, ObjectKey, StoredObject
from vedr.runbook.replicas import Replicas, Slot

SLOT = Slot("ledger/run/00000000")


class Hanging(MemoryStore):
    """A region behind a cut cable: calls neither return nor fail until it is mended."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.mended = threading.Event()
        self.asked = 0

    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        self.asked += 1
        self.mended.wait()
        return super().create(key, data)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self.asked += 1
        self.mended.wait()
        return super().list(prefix)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging("ap-south")
    yield made
    made.mended.set()


@pytest.fixture
def three(hanging: Hanging) -> Iterator[Replicas]:
    stores = {"us-east": MemoryStore("us-east"), "eu-west": MemoryStore("eu-west"), "ap-south": hanging}
    made = Replicas(stores, patience_s=0.3, rest_s=60, deadline_s=2)
    yield made
    hanging.mended.set()
    made.close()


def test_a_hanging_region_delays_no_write(three: Replicas, hanging: Hanging) -> None:
    started_s = time.monotonic()
    for number in range(50):
        assert three.propose(Slot(f"ledger/run/{number:08d}"), b"x", lambda _: True) == b"x"
    assert time.monotonic() - started_s < 5
    hanging.mended.set()


def test_a_hanging_region_delays_reading_once_and_is_then_left_alone(three: Replicas, hanging: Hanging) -> None:
    def names() -> dict[str, int]:
        return three.gather(lambda store: len(list(store.list(""))), what="list")

    assert set(names()) == {"us-east", "eu-west"}
    assert three.resting() == ("ap-south",)
    asked = hanging.asked
    started_s = time.monotonic()
    for _ in range(20):
        names()
    assert hanging.asked == asked
    assert time.monotonic() - started_s < 5


def test_a_region_at_rest_is_asked_when_no_majority_is_left_without_it() -> None:
    stores = {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}
    replicas = Replicas(stores, rest_s=60)
    stores["ap-south"].faults.down = True
    replicas.gather(lambda store: list(store.list("")), what="list")
    assert replicas.resting() == ("ap-south",)
    stores["ap-south"].faults.down = False
    stores["us-east"].faults.down = True
    with pytest.raises(UnavailableError):
        replicas.gather(lambda store: list(store.list("")), what="list")  # two are left to ask, and one is dead
    assert replicas.propose(SLOT, b"x", lambda _: True) == b"x"
    replicas.close()


def test_a_majority_that_hangs_is_given_up_after_the_deadline() -> None:
    stores = {"us-east": MemoryStore("us-east"), "eu-west": Hanging("eu-west"), "ap-south": Hanging("ap-south")}
    replicas = Replicas(stores, patience_s=0.1, deadline_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(UnavailableError, match="1 of 3 regions answered, 2 are needed"):
        replicas.propose(SLOT, b"x", lambda _: True)
    assert 0.4 < time.monotonic() - started_s < 10
    for store in stores.values():
        if isinstance(store, Hanging):
            store.mended.set()
    replicas.close()


def test_one_regions_alternate_does_not_overturn_what_the_others_hold() -> None:
    """Whoever writes to one bucket puts a value beside its slot that was proposed there and lost: signed, and false."""
    stores = {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}
    replicas = Replicas(stores, rest_s=0)
    stores["ap-south"].create(SLOT.key, b"lost")
    assert replicas.propose(SLOT, b"won", lambda _: True) == b"won"
    stores["ap-south"].create(SLOT.alternate(b"lost"), b"lost")
    assert replicas.settle(SLOT, lambda _: True) == b"won"
    stores["us-east"].faults.down = True
    with pytest.raises(ConflictError, match="Wait until us-east answers"):
        replicas.settle(SLOT, lambda _: True)
    replicas.repair(SLOT, b"won")  # two different alternates: that region counts for nothing any more
    with pytest.raises(ConflictError):
        replicas.settle(SLOT, lambda _: True)
    replicas.close()


def test_a_region_that_was_given_the_decided_value_counts_for_it() -> None:
    stores = {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}
    replicas = Replicas(stores, rest_s=0)
    stores["ap-south"].create(SLOT.key, b"lost")
    replicas.propose(SLOT, b"won", lambda _: True)
    assert replicas.repair(SLOT, b"won") == ("ap-south",)
    stores["us-east"].faults.down = True
    assert replicas.settle(SLOT, lambda _: True) == b"won"
    replicas.close()


def test_a_region_that_recovers_is_asked_again() -> None:
    now = [0.0]
    stores = {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}
    replicas = Replicas(stores, rest_s=15, monotonic=lambda: now[0])
    stores["ap-south"].faults.down = True
    replicas.gather(lambda store: list(store.list("")), what="list")
    stores["ap-south"].faults.down = False
    assert len(replicas.gather(lambda store: list(store.list("")), what="list")) == 2
    now[0] = 16
    assert len(replicas.gather(lambda store: list(store.list("")), what="list")) == 3
    assert replicas.resting() == ()
    replicas.close()


def test_who_still_works_when_the_stores_are_closed_gets_an_error_of_ours() -> None:
    """As the thread that heals a run does: calls that wait are dropped, new ones are refused."""
    stores = {region: Hanging(region) for region in ("us-east", "eu-west", "ap-south")}
    replicas = Replicas(stores, patience_s=5, deadline_s=5)
    found: list[Exception] = []

    def work() -> None:
        try:
            replicas.propose(SLOT, b"x", lambda _: True)
        except UnavailableError as error:
            found.append(error)

    workers = [threading.Thread(target=work) for _ in range(8)]  # more than a region has threads: some only wait
    for worker in workers:
        worker.start()
    while not all(store.asked >= 6 for store in stores.values()):
        threading.Event().wait(0.001)
    replicas.close()
    for store in stores.values():
        store.mended.set()
    for worker in workers:
        worker.join()
    work()
    assert str(found[-1]) == "the regions' stores were closed  Next: Open the site again."
    assert len(found) == 3  # the two that waited for a thread, and the one that came too late


def test_a_copy_of_monstrous_size_is_damage_of_its_region_only() -> None:
    stores = {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}
    stores["eu-west"].create(SLOT.key, bytes(DOCUMENT_BYTES + 1))
    replicas = Replicas(stores)
    assert replicas.propose(SLOT, b"entry", lambda data: data == b"entry") == b"entry"
    assert replicas.settle(SLOT, lambda data: data == b"entry") == b"entry"
    assert replicas.copies(SLOT).main["eu-west"] == b""
    replicas.close()
