"""The controllers' lease over registers: one holder, whatever is lost, late or forged."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.s3_registers import S3Registers
from vedr.chain.quorum import Domain
from vedr.errors import CorruptError, UnavailableError, VerificationFailedError
from vedr.failover.controller_book import (
    Copy,
    Outage,
    Page,
    check_holder,
    decode,
    encode,
    key_of,
    newest,
    parse_time,
)
from vedr.failover.controller_lease import ABSENT, AtOnce, StaleTenureError, Tenure, look, opener
from vedr.ports import Registers
from vedr.signature import Signer

REGIONS = ("us-east", "eu-west", "ap-south")
KEY = Signer(Ed25519PrivateKey.generate())
LEASE_S = 90.0
ZONE = Domain("zone", "us-east-1a")


@dataclass
class Time:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Stores:
    regions: dict[str, MemoryRegisters]
    time: Time

    def tenure(self, holder: str) -> Tenure:
        return Tenure("lab", self.regions, KEY, [KEY.public_hex], holder=holder, lease_s=LEASE_S, monotonic=self.time)

    def down(self, *regions: str) -> None:
        for name, registers in self.regions.items():
            registers.faults.down = name in regions


@pytest.fixture
def stores() -> Stores:
    return Stores({region: MemoryRegisters(region) for region in REGIONS}, Time())


def outage(state: str = "open") -> Outage:
    when = parse_time("2026-11-02T12:00:00+00:00", "a test")
    return Outage("out-zone-us-east-1a-20261102T120000Z", ZONE, when, when, state, when, 1)  # type: ignore[arg-type]


def test_the_first_takes_it_and_the_others_see_who_has_it(stores: Stores) -> None:
    assert stores.tenure("a").keep().is_held
    seen = stores.tenure("b").keep()
    assert (seen.is_held, seen.holder, seen.epoch) == (False, "a", 1)


def test_a_lease_that_is_renewed_is_never_taken_and_one_that_is_not_is(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    for _ in range(10):
        assert a.keep().is_held
        assert not b.keep().is_held
        stores.time.now_s += 30
    stores.time.now_s += 61
    taken = b.keep()
    assert (taken.is_held, taken.epoch) == (True, 2)
    seen = a.keep()
    assert (seen.is_held, seen.holder) == (False, "b")


def test_a_stale_holder_is_refused_and_what_it_wrote_before_is_kept(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    a.write({ZONE: outage("starting")})
    b.keep()
    stores.time.now_s += LEASE_S
    assert b.keep().page.outages == {ZONE: outage("starting")}
    with pytest.raises(StaleTenureError, match="has passed to b"):
        a.write({ZONE: outage("started")})
    assert b.keep().page.outages == {ZONE: outage("starting")}
    with pytest.raises(StaleTenureError):
        a.write({})


def test_a_lease_that_is_given_back_is_taken_at_once(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    b.keep()
    assert a.release()
    assert b.keep().is_held
    assert b.release()
    assert b.release()


def test_without_a_majority_nobody_claims_and_nobody_writes(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    b.keep()
    stores.down("us-east", "eu-west")
    stores.time.now_s += 10 * LEASE_S
    assert "does not answer" in b.keep().problem
    with pytest.raises(UnavailableError, match="1 of 3 regions"):
        a.write({ZONE: outage()})
    assert not a.keep().is_held
    assert not a.release()


def test_what_no_majority_took_is_not_written_again(stores: Stores) -> None:
    a = stores.tenure("a")
    a.keep()
    stores.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        a.write({ZONE: outage("starting")})
    stores.down()
    assert a.keep().page.outages == {}


def test_what_a_minority_took_of_a_holder_that_died_is_gone_on_with(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    b.keep()
    stores.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        a.write({ZONE: outage("starting")})
    stores.down("us-east")
    stores.time.now_s += LEASE_S
    b.keep()
    stores.time.now_s += LEASE_S
    assert b.keep().page.outages == {ZONE: outage("starting")}


def test_a_claim_that_one_region_alone_saw_takes_nothing_from_the_holder(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    b.keep()
    stores.time.now_s += LEASE_S
    for name in ("us-east", "eu-west"):
        faults = stores.regions[name].faults
        faults.maps["swap"] = "." * faults.seen["swap"] + "e"
    assert not b.keep().is_held
    assert a.keep().is_held
    assert look("lab", stores.regions, opener("lab", [KEY.public_hex])).leader == (1, "a")


def test_an_answer_that_was_lost_and_one_that_comes_late_change_nothing(stores: Stores) -> None:
    a = stores.tenure("a")
    a.keep()
    for name, letter in zip(REGIONS, "ld.", strict=True):
        faults = stores.regions[name].faults
        faults.maps["swap"] = "." * faults.seen["swap"] + letter
    with pytest.raises(UnavailableError):
        a.write({ZONE: outage("starting")})
    a.write({ZONE: outage("started")})
    assert [registers.deliver() for registers in stores.regions.values()] == [0, 0, 0]
    assert a.keep().page.outages == {ZONE: outage("started")}


def test_the_first_book_needs_every_region_and_a_lost_one_is_filled_again(stores: Stores) -> None:
    stores.down("ap-south")
    a = stores.tenure("a")
    assert not a.keep().is_held
    stores.down()
    assert a.keep().is_held
    stores.regions["us-east"].wipe(key_of("lab"))
    seen = look("lab", stores.regions, opener("lab", [KEY.public_hex]))
    assert seen.problems == {"us-east": ABSENT}
    assert a.keep().is_held
    assert look("lab", stores.regions, opener("lab", [KEY.public_hex])).problems == {}


def test_a_region_that_lost_its_book_does_not_count_for_a_claim(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    a.write({ZONE: outage("starting")})
    b.keep()
    for region in ("us-east", "eu-west"):
        stores.regions[region].wipe(key_of("lab"))
    stores.time.now_s += LEASE_S
    assert not b.keep().is_held


def test_a_book_that_nobody_trusted_signed_counts_for_nothing(stores: Stores) -> None:
    forger = Signer(Ed25519PrivateKey.generate())
    a = stores.tenure("a")
    a.keep()
    for region in ("us-east", "eu-west"):
        stores.regions[region].overwrite(key_of("lab"), encode("lab", Copy(99, "mallory", Page(99, 1)), forger))
    assert "no trusted key signed it" in a.keep().problem
    stores.regions["us-east"].overwrite(key_of("lab"), b"{}")
    assert not a.keep().is_held


def test_a_process_that_stood_still_looks_before_it_takes_what_seems_free(stores: Stores) -> None:
    a, b = stores.tenure("a"), stores.tenure("b")
    a.keep()
    b.keep()
    for _ in range(10):
        stores.time.now_s += 30
        a.keep()
    assert not b.keep().is_held


def test_of_many_that_claim_at_once_one_holds_it(stores: Stores) -> None:
    tenures = [stores.tenure(name) for name in "abcde"]
    for _ in range(5):
        standings = [tenure.keep() for tenure in tenures]
        assert sum(standing.is_held for standing in standings) == 1
        stores.time.now_s += 200
        tenures = tenures[1:] + tenures[:1]


# --- the form


def test_a_book_comes_back_as_it_was_written() -> None:
    copy = Copy(7, "us-east/h/1#a", Page(6, 3, {ZONE: replace(outage("started"), way="prefect", note="n")}))
    data = encode("lab", copy, KEY)
    assert decode("lab", data, [KEY.public_hex]) == copy
    with pytest.raises(CorruptError, match="not a book of site prod"):
        decode("prod", data, [KEY.public_hex])


@pytest.mark.parametrize("change", [{"epoch": 8}, {"beat": -1}, {"holder": "a b"}, {"outages": [{}]}, {"format": "x"}])
def test_what_is_not_a_book_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "format": "vedr-controller-book/1",
        "site": "lab",
        "promised": 7,
        "holder": "a",
        "epoch": 6,
        "beat": 1,
        "released": False,
        "outages": [],
    }
    assert decode("lab", KEY.seal_document(good), [KEY.public_hex]).promised == 7
    with pytest.raises(VerificationFailedError):
        decode("lab", KEY.seal_document({**good, **change}), [KEY.public_hex])


@pytest.mark.parametrize("text", ["yesterday", "2026-11-02T12:00:00"])
def test_a_time_without_its_zone_is_refused(text: str) -> None:
    with pytest.raises(CorruptError):
        parse_time(text, "a test")


def test_the_newest_page_is_of_the_newest_epoch_then_beat() -> None:
    assert newest([Page(1, 9), Page(2, 1), Page(2, 2)]) == Page(2, 2)
    assert newest([]) == Page()


@pytest.mark.parametrize("holder", ["", "two words", "x" * 200])
def test_a_holder_needs_a_name_that_a_book_can_hold(holder: str) -> None:
    with pytest.raises(VerificationFailedError):
        check_holder(holder)


@pytest.mark.server
def test_over_a_real_store_the_rules_are_the_same(s3_server: Any, start_server: Callable[[], Any]) -> None:
    gone = start_server()
    servers = dict(zip(REGIONS, (s3_server, s3_server, gone), strict=True))
    registers: dict[str, Registers] = {
        region: S3Registers(region, server.store(region).config, server.credentials)
        for region, server in servers.items()
    }
    time, spread = Time(), AtOnce(3)
    a, b = (
        Tenure("lab", registers, KEY, [KEY.public_hex], holder=name, lease_s=LEASE_S, monotonic=time, spread=spread)
        for name in "ab"
    )
    try:
        assert a.keep().is_held
        a.write({ZONE: outage("starting")})
        gone.stop()
        assert not b.keep().is_held
        assert a.keep().is_held
        time.now_s += LEASE_S
        b.keep()
        time.now_s += LEASE_S
        assert b.keep().page.outages == {ZONE: outage("starting")}
        with pytest.raises(StaleTenureError):
            a.write({})
    finally:
        spread.close()
        gone.stop()
