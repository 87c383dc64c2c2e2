"""Shipped sign states: real files, replaced as FilePV replaces them, and regions that fail."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import Validator
from vedr.chain.register_claim import Read
from vedr.chain.shipping import Shipment, Shipped, decode, encode, key_of
from vedr.chain.shipping_watch import Shipper, look_at_copies, metrics_text, now_us, ship
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, UnavailableError
from vedr.inventory import Height

REGIONS = ("us-east", "eu-west", "ap-south")
VALIDATOR = Validator("chain-1", "AB" * 20)
KEY = key_of(VALIDATOR)


def signed(height: int, message: bytes = b"vote", *, step: int = 3) -> SignState:
    return SignState(Height(height), 0, step, hashlib.sha512(message).digest(), message)


def write_as_file_pv(path: Path, state: SignState) -> None:
    """CometBFT's tempfile.WriteFileAtomic: beside it, then rename."""
    temporary = path.with_name(f"write-file-atomic-{time.monotonic_ns():020}")
    temporary.write_bytes(state.to_json())
    temporary.replace(path)


@pytest.fixture
def regions() -> dict[str, MemoryRegisters]:
    return {region: MemoryRegisters(region) for region in REGIONS}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "priv_validator_state.json"


@pytest.fixture
def shipper(path: Path, regions: dict[str, MemoryRegisters]) -> Iterator[Shipper]:
    made = Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0")
    yield made
    made.close()


def shown(regions: dict[str, MemoryRegisters]) -> dict[str, SignState | None]:
    found = {region: one.read(KEY) for region, one in regions.items()}
    return {region: decode(VALIDATOR, one.data, where=region).state if one else None for region, one in found.items()}


def eventually(is_so: Callable[[], bool], *, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- the format


@settings(derandomize=True, max_examples=50)
@given(
    st.builds(
        SignState,
        st.integers(0, 2**63 - 1).map(Height),
        st.integers(0, 2**31 - 1),
        st.integers(0, 3),
        st.binary(max_size=64),
        st.binary(max_size=200),
    ),
    st.integers(0, 2**62),
)
def test_what_is_written_is_read_back(state: SignState, changed_us: int) -> None:
    shipped = Shipped("val-us-0", changed_us, state)
    assert decode(VALIDATOR, encode(VALIDATOR, shipped), where="x") == shipped


@pytest.mark.parametrize(
    "change",
    [
        {"format": "vedr-shipped-sign-state/2"},
        {"chain": "chain-2"},
        {"address": "CD" * 20},
        {"height": "7"},
        {"height": -1},
        {"height": True},
        {"round": 2**31},
        {"step": 4},
        {"source": None},
        {"signature": "?"},
        {"signbytes": "AB"},
        {"signbytes": "xy"},
        {"more": 1},
    ],
)
def test_what_is_out_of_range_or_of_another_key_is_damage(change: dict[str, object]) -> None:
    document = {**json.loads(encode(VALIDATOR, Shipped("val-us-0", 1, signed(7)))), **change}
    with pytest.raises(CorruptError):
        decode(VALIDATOR, json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), where="x")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 4000, b"x" * 20_000])
def test_what_is_no_copy_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode(VALIDATOR, data, where="x")


# --- shipping


def test_each_change_of_the_file_reaches_every_region(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    for height in (5, 6, 9):
        write_as_file_pv(path, signed(height))
        shipper.look()
        assert shipper.flush(deadline_s=5)
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(9)))
    assert shipper.alarms() == ()


def test_a_file_that_goes_back_is_shouted_about_and_not_shipped(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    for height in (9, 5):
        write_as_file_pv(path, signed(height))
        shipper.look()
        assert shipper.flush(deadline_s=5)
    assert shipper.alarms() == ("the file went back from 9/0/3 to 5/0/3, which is not shipped: stop the validator",)
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(9)))
    write_as_file_pv(path, signed(10))
    shipper.look()
    assert shipper.alarms() == ()


def test_two_messages_at_one_height_are_shouted_about(shipper: Shipper, path: Path) -> None:
    for message in (b"vote", b"other vote"):
        write_as_file_pv(path, signed(9, message))
        shipper.look()
    assert "signed twice" in shipper.alarms()[0]


@pytest.mark.parametrize(("there", "alarm"), [(signed(9), "above the file's 5/0/3"), (signed(5, b"x"), "signed twice")])
def test_regions_that_know_better_than_the_file_are_shouted_about_and_kept(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters], there: SignState, alarm: str
) -> None:
    for one in regions.values():
        tag = one.read(KEY)
        one.swap(KEY, encode(VALIDATOR, Shipped("val-eu-0", 1, there)), expected=tag.tag if tag else None)
    write_as_file_pv(path, signed(5))
    shipper.look()
    eventually(lambda: len(shipper.alarms()) == 3)
    assert all(alarm in one and "val-eu-0" in one for one in shipper.alarms())
    assert shown(regions) == dict.fromkeys(REGIONS, there)


@pytest.mark.parametrize("content", [None, b"", b'{"height": "7", "rou', b"x" * 100_000])
def test_a_torn_or_absent_file_is_waited_out_and_shouted_about_when_it_stays_so(
    path: Path, regions: dict[str, MemoryRegisters], content: bytes | None
) -> None:
    now = [10_000_000]
    shipper = Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0", clock_us=lambda: now[0])
    if content is not None:
        path.write_bytes(content)
    shipper.look()
    assert shipper.alarms() == ()
    now[0] += 1_500_000
    shipper.look()
    assert "nothing is shipped" in shipper.alarms()[0]
    write_as_file_pv(path, signed(7))
    shipper.look()
    assert shipper.flush(deadline_s=5)
    assert shipper.alarms() == ()
    shipper.close()


def test_a_store_that_was_away_gets_the_newest_state_only(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    for region in ("us-east", "eu-west"):
        regions[region].faults.down = True
    for height in range(1, 60):
        write_as_file_pv(path, signed(height))
        shipper.look()
    assert not shipper.flush(deadline_s=0.1)
    assert 'vedr_sign_state_region_up{validator="val-us-0",region="us-east"} 0' in metrics_text([shipper])
    regions["us-east"].faults.down = False
    assert shipper.flush(deadline_s=5)
    regions["eu-west"].faults.down = False
    assert shown(regions)["us-east"] == signed(59)
    assert regions["us-east"].faults.seen["swap"] <= 3


def test_a_majority_that_stays_away_is_shouted_about(path: Path, regions: dict[str, MemoryRegisters]) -> None:
    for region in ("us-east", "eu-west"):
        regions[region].faults.down = True
    write_as_file_pv(path, signed(7))
    now = [path.stat().st_mtime_ns // 1000]
    shipper = Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0", clock_us=lambda: now[0])
    shipper.look()
    assert not shipper.flush(deadline_s=0.2)
    assert shipper.alarms() == ()
    now[0] += 6_000_000
    assert shipper.alarms() == ("the newest state is in no majority of the regions: eu-west, us-east did not take it",)
    for region in ("us-east", "eu-west"):
        regions[region].faults.down = False
    assert shipper.flush(deadline_s=5)
    assert shipper.alarms() == ()
    shipper.close()


def test_of_a_key_that_moves_the_host_where_it_signs_ships_and_the_other_is_silent(
    tmp_path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    """A region that was away answers with what the new host signed: at the old one that is no alarm."""
    signs_at = ["home"]
    paths = {host: tmp_path / f"{host}.json" for host in ("home", "standby")}

    def at(host: str) -> Shipper:
        return Shipper(VALIDATOR, paths[host], regions, name="val", source=host, signs_here=lambda: host == signs_at[0])

    home, standby = at("home"), at("standby")
    write_as_file_pv(paths["home"], signed(7))
    write_as_file_pv(paths["standby"], signed(0, b"its own key's"))
    regions["us-east"].faults.down = True
    for shipper in (home, standby):
        shipper.look()
        assert shipper.flush(deadline_s=5)
    assert standby.metrics() == ['vedr_sign_state_signs_here{validator="val"} 0']
    paths["home"].unlink()  # fenced
    signs_at[0] = "standby"
    write_as_file_pv(paths["standby"], signed(9))
    for shipper in (home, standby):
        shipper.look()
        assert shipper.flush(deadline_s=5)
    regions["us-east"].faults.down = False
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(9)))
    found = regions["eu-west"].read(KEY)
    assert found is not None
    assert decode(VALIDATOR, found.data, where="eu-west").source == "standby"
    eventually(lambda: not home._shipment.problems())
    assert home.alarms() == standby.alarms() == ()

    paths["standby"].unlink()
    signs_at[0] = "home"
    write_as_file_pv(paths["home"], signed(12))  # above the floor that it was given
    for shipper in (home, standby):
        shipper.look()
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(12)))
    assert home.alarms() == standby.alarms() == ()
    for shipper in (home, standby):
        shipper.close()


def test_a_host_that_cannot_tell_whether_the_key_is_there_says_so(
    path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    def cannot_tell() -> bool:
        raise UnavailableError("the disk does not answer")

    write_as_file_pv(path, signed(7))
    now = [path.stat().st_mtime_ns // 1000]
    shipper = Shipper(
        VALIDATOR, path, regions, name="val", source="val", signs_here=cannot_tell, clock_us=lambda: now[0]
    )
    shipper.look()
    now[0] += 2_000_000
    shipper.look()
    assert shipper.alarms() == ("the disk does not answer: nothing is shipped",)
    shipper.close()


def test_a_lost_answer_or_a_late_message_never_lowers_a_region(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    for one in regions.values():
        one.faults.maps = {"swap": ".dl.e.d"}
    for height in range(1, 8):
        write_as_file_pv(path, signed(height))
        shipper.look()
        assert shipper.flush(deadline_s=5)
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(7)))
    assert sum(one.deliver() for one in regions.values()) == 0
    assert shown(regions) == dict.fromkeys(REGIONS, signed(7))


def test_another_writer_in_between_is_noticed_and_not_lowered(regions: dict[str, MemoryRegisters]) -> None:
    shipment = Shipment(VALIDATOR, REGIONS, now_us=now_us)
    shipment.offer(Shipped("a", 1, signed(5)))
    one = regions["us-east"]
    assert isinstance(shipment.next_call("us-east"), Read)
    assert shipment.next_call("us-east") is None
    shipment.on_read("us-east", one.read(KEY))
    assert shipment.next_call("us-east") is not None
    one.swap(KEY, encode(VALIDATOR, Shipped("b", 1, signed(8))), expected=None)
    shipment.on_refused("us-east")
    assert isinstance(shipment.next_call("us-east"), Read)
    shipment.on_read("us-east", one.read(KEY))
    assert shipment.next_call("us-east") is None


def test_a_damaged_copy_is_replaced(shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]) -> None:
    regions["eu-west"].overwrite(KEY, b"garbage")
    write_as_file_pv(path, signed(7))
    shipper.look()
    eventually(lambda: regions["eu-west"].read(KEY) is not None and b"garbage" not in regions["eu-west"]._contents[KEY])
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(7)))


def test_after_a_restart_nothing_is_written_that_is_there(path: Path, regions: dict[str, MemoryRegisters]) -> None:
    write_as_file_pv(path, signed(7))
    for _ in range(2):
        shipper = Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0")
        shipper.look()
        assert shipper.flush(deadline_s=5)
        eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(7)))
        shipper.close()
    assert sum(one.faults.seen["swap"] for one in regions.values()) == 3
    assert 'ship_lag_seconds_count{validator="val-us-0"} 0' in metrics_text([shipper])


# --- the process


def run_in_thread(shippers: list[Shipper]) -> tuple[threading.Event, list[str], list[bool], threading.Thread]:
    stopping, said, ended = threading.Event(), list[str](), list[bool]()
    thread = threading.Thread(target=lambda: ended.append(ship(shippers, stopping, said.append)))
    thread.start()
    return stopping, said, ended, thread


def test_several_validators_ship_their_last_state_before_the_process_ends(
    tmp_path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    validators = [Validator("chain-1", f"{number:040X}") for number in range(3)]
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    shippers = [
        Shipper(one, path, regions, name=path.stem, source=path.stem)
        for one, path in zip(validators, paths, strict=True)
    ]
    stopping, said, ended, thread = run_in_thread(shippers)
    for height in range(1, 30):
        for path in paths:
            write_as_file_pv(path, signed(height))
    stopping.set()
    thread.join(timeout=10)
    assert (ended, said) == ([True], [])
    for one in validators:
        copies = look_at_copies(one, regions)
        assert copies.is_majority
        assert copies.states.count(signed(29)) >= 2


def test_a_last_state_that_reached_no_majority_is_said(
    path: Path, regions: dict[str, MemoryRegisters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedr.chain.shipping_watch.FLUSH_DEADLINE_S", 0.1)
    for one in regions.values():
        one.faults.down = True
    write_as_file_pv(path, signed(7))
    stopping, _, ended, thread = run_in_thread([Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0")])
    stopping.set()
    thread.join(timeout=10)
    assert ended == [False]


def test_an_alarm_is_said_once_and_so_is_its_end(path: Path, regions: dict[str, MemoryRegisters]) -> None:
    write_as_file_pv(path, signed(9))
    stopping, said, _, thread = run_in_thread([Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0")])
    eventually(lambda: shown(regions)["us-east"] == signed(9))
    write_as_file_pv(path, signed(5))
    eventually(lambda: len(said) == 1)
    write_as_file_pv(path, signed(10))
    eventually(lambda: len(said) == 2)
    stopping.set()
    thread.join(timeout=10)
    assert said[0].startswith("ALARM: val-us-0: the file went back")
    assert said[1].startswith("over: val-us-0")


def test_an_alarm_that_stays_is_said_again_every_minute(shipper: Shipper, path: Path) -> None:
    for height in (9, 5):
        write_as_file_pv(path, signed(height))
        shipper.look()
    seconds = iter([0.0, 0.0, 0.1, 30.0, 61.0, 90.0])
    stopping, said = threading.Event(), list[str]()

    def monotonic() -> float:
        now_s = next(seconds)
        if now_s == 90.0:
            stopping.set()
        return now_s

    assert ship([shipper], stopping, said.append, monotonic=monotonic)
    assert len(said) == 2


def test_at_200_changes_a_second_the_regions_follow_within_a_tenth_of_a_second(
    path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    write_as_file_pv(path, signed(1))
    shipper = Shipper(VALIDATOR, path, regions, name="val-us-0", source="val-us-0")
    stopping, said, ended, thread = run_in_thread([shipper])
    eventually(lambda: shown(regions)["us-east"] == signed(1))
    began = time.monotonic()
    for number in range(200):
        write_as_file_pv(path, signed(2 + number))
        time.sleep(max(0.0, began + (number + 1) / 200 - time.monotonic()))
    stopping.set()
    thread.join(timeout=10)
    assert (ended, said) == ([True], [])
    assert look_at_copies(VALIDATOR, regions).states.count(signed(201)) >= 2
    counts = {
        line.split('le="')[1].split('"')[0]: int(line.rsplit(" ", 1)[1])
        for line in shipper.metrics()
        if "lag_seconds_bucket" in line
    }
    assert counts["+Inf"] > 20
    assert counts["0.1"] >= 0.9 * counts["+Inf"]


# --- what is exported, and read back


def test_the_metrics_name_height_age_and_lag(shipper: Shipper, path: Path) -> None:
    assert "shipped_height" not in metrics_text([shipper])
    for height in (5, 6):
        write_as_file_pv(path, signed(height))
        shipper.look()
        assert shipper.flush(deadline_s=5)
    eventually(lambda: metrics_text([shipper]).count("shipped_height{") == 3)
    text = metrics_text([shipper])
    assert "# TYPE vedr_sign_state_ship_lag_seconds histogram\n" in text
    assert 'vedr_sign_state_ship_lag_seconds_count{validator="val-us-0"} 1\n' in text
    assert 'vedr_sign_state_file_height{validator="val-us-0"} 6\n' in text
    assert 'vedr_sign_state_alarms{validator="val-us-0"} 0\n' in text
    assert 'vedr_sign_state_behind_seconds{validator="val-us-0"} 0.000000\n' in text
    assert text.count("vedr_sign_state_shipped_age_seconds{") == 3
    assert len([line for line in text.splitlines() if line.startswith("# TYPE")]) == 9


def test_copies_are_read_without_writing_and_what_is_missing_is_said(
    shipper: Shipper, path: Path, regions: dict[str, MemoryRegisters]
) -> None:
    empty = look_at_copies(VALIDATOR, regions)
    assert (empty.is_majority, empty.states) == (False, ())
    write_as_file_pv(path, signed(5))
    shipper.look()
    eventually(lambda: shown(regions) == dict.fromkeys(REGIONS, signed(5)))
    regions["us-east"].wipe(KEY)
    regions["ap-south"].overwrite(KEY, b"garbage")
    before = sum(one.faults.seen["swap"] for one in regions.values())
    copies = look_at_copies(VALIDATOR, regions)
    assert (copies.is_majority, copies.states, set(copies.problems)) == (False, (signed(5),), {"us-east", "ap-south"})
    assert sum(one.faults.seen["swap"] for one in regions.values()) == before
    for one in regions.values():
        one.faults.down = True
    with pytest.raises(UnavailableError, match="no region tells"):
        look_at_copies(VALIDATOR, regions, deadline_s=0.1)
