"""Slots under fire: regions go down, answers get lost, writers die between puts, and several want the same slot."""

import hashlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import ConflictError, NotFoundError, UnavailableError, VedrError
from vedr.runbook.replicas import Copies, Decided, Replicas, Slot, Undecided, decide

REGIONS = ("us-east", "eu-west", "ap-south")
SLOT = Slot("ledger/run/00000001")
A, B, C, BAD = b"A", b"B", b"C", b"bad"


def fine(data: bytes) -> bool:
    return data != BAD


def copies(*main: bytes | str | None, beside: bytes | None = None) -> Copies:
    """One letter a region; "-" is a region that did not answer."""
    held = {region: data for region, data in zip(REGIONS, main, strict=True) if not isinstance(data, str)}
    return Copies(held, {"us-east": (beside,)} if beside else {})


def least(*values: bytes) -> list[bytes]:
    return sorted(values, key=lambda data: hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (copies(A, A, None), Decided(A)),
        (copies(A, A, B), Decided(A)),
        (copies(B, A, "-", beside=A), Decided(A)),
        (copies(C, B, A), Decided(least(A, B, C)[0])),
        (copies(BAD, A, A), Decided(A)),
        (copies(BAD, B, A), Decided(least(A, B)[0])),
        (copies(None, None, None), Undecided((), split=False)),
        (copies(A, None, None), Undecided((A,), split=False)),
        (copies(A, None, "-"), Undecided((A,), split=False)),
        (copies(A, B, "-"), Undecided(tuple(least(A, B)), split=True)),
        (copies(BAD, A, "-"), Undecided((A,), split=True)),
    ],
)
def test_a_slot_is_decided_by_what_can_be_known(held: Copies, said: Decided | Undecided) -> None:
    assert decide(held, 3, fine) == said


def test_an_empty_slot_has_no_value(replicas: Replicas) -> None:
    with pytest.raises(NotFoundError):
        replicas.settle(SLOT, fine)


def test_a_foreign_error_of_a_store_is_not_swallowed() -> None:
    class Broken(MemoryStore):
        def create(self, *_: object) -> object:  # type: ignore[override]
            raise ZeroDivisionError

    broken = Replicas({"us-east": Broken("us-east")})
    with pytest.raises(ZeroDivisionError):
        broken.propose(SLOT, A, fine)
    broken.close()


class Slots(RuleBasedStateMachine):
    """Writers propose, die and repeat; whatever anybody was told is decided stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = {region: MemoryStore(region) for region in REGIONS}
        self.told: dict[int, bytes] = {}

    def _replicas(self) -> Replicas:
        return Replicas(self.stores, patience_s=5, rest_s=0.0, deadline_s=5)

    @rule(down=st.sets(st.sampled_from(REGIONS), max_size=2))
    def regions_fail(self, down: set[str]) -> None:
        for region, store in self.stores.items():
            store.faults.down = region in down

    @rule(region=st.sampled_from(REGIONS), faults=st.text("el.", max_size=4))
    def answers_get_lost(self, region: str, faults: str) -> None:
        store = self.stores[region]
        store.faults.maps["create"] = "." * store.faults.seen["create"] + faults

    @rule(slot=st.integers(0, 2), value=st.binary(min_size=1, max_size=1), reached=st.sets(st.sampled_from(REGIONS)))
    def a_writer_dies_between_puts(self, slot: int, value: bytes, reached: set[str]) -> None:
        for region in reached:
            try:
                self.stores[region].create(_slot(slot).key, value)
            except (ConflictError, UnavailableError):
                continue

    @rule(slot=st.integers(0, 2), value=st.binary(min_size=1, max_size=1))
    def somebody_proposes(self, slot: int, value: bytes) -> None:
        self._tell(slot, lambda replicas: replicas.propose(_slot(slot), value, lambda _: True))

    @rule(slot=st.integers(0, 2))
    def somebody_settles(self, slot: int) -> None:
        self._tell(slot, lambda replicas: replicas.settle(_slot(slot), lambda _: True))

    @rule(slot=st.integers(0, 2))
    def a_region_is_healed(self, slot: int) -> None:
        if slot in self.told:
            replicas = self._replicas()
            replicas.repair(_slot(slot), self.told[slot])
            replicas.close()

    def _tell(self, slot: int, ask: object) -> None:
        replicas = self._replicas()
        try:
            decided = ask(replicas)  # type: ignore[operator]
        except VedrError:
            return
        finally:
            for pool in replicas._pools.values():
                pool.shutdown(wait=True)
        assert self.told.setdefault(slot, decided) == decided

    @invariant()
    def what_was_decided_stays(self) -> None:
        for slot, value in self.told.items():
            held = {region: _versions(store, _slot(slot).key) for region, store in self.stores.items()}
            main = {region: versions[-1] if versions else None for region, versions in held.items()}
            assert all(len(versions) <= 1 for versions in held.values())
            beside = {
                region: tuple(
                    store.get(found.key) for found in store.list(f"{_slot(slot).stem}.") if found.key != _slot(slot).key
                )
                for region, store in self.stores.items()
                if not store.faults.down
            }
            assert decide(Copies(main, beside), len(REGIONS), lambda _: True) == Decided(value)


def _slot(number: int) -> Slot:
    return Slot(f"ledger/run/{number:08d}")


def _versions(store: MemoryStore, key: object) -> list[bytes]:
    return [version.data for version in store._versions.get(key, [])]  # type: ignore[call-overload]


TestSlots = Slots.TestCase
TestSlots.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
