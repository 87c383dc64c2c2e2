import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import (
    MAX_BYTES,
    MAX_SIGN_BYTES,
    NEVER_SIGNED,
    NOT_KNOWN,
    Content,
    Epoch,
    Position,
    StaleEpochError,
    Validator,
    decode,
    encode,
    join,
)
from vedr.chain.register_claim import Claim, Read
from vedr.chain.register_holding import Holding, SignStateRegister, position_of
from vedr.chain.register_survey import Seen, Survey
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
)
from vedr.inventory import Height
from vedr.signature import summed_json

REGIONS = ("us-east", "eu-west", "ap-south")
VALIDATOR = Validator("chain-1", "AB" * 20)
CONTENT = Content(Epoch(3), "us-east-1/7#x", position_of((12, 1, 2), b"vote"))

positions = st.builds(
    Position,
    st.integers(0, 2**63 - 1).map(Height),
    st.integers(0, 2**31 - 1),
    st.integers(0, 3),
    st.sampled_from([NOT_KNOWN, "a" * 64, "b" * 64]),
)
contents = st.one_of(
    st.builds(Content, st.just(Epoch(0)), st.just(""), positions),
    st.builds(Content, st.integers(1, 2**63 - 1).map(Epoch), st.from_regex(r"^[a-z][a-z0-9#@/-]{0,20}\Z"), positions),
)


# --- values


@settings(derandomize=True, max_examples=50)
@given(contents)
def test_what_is_written_is_read_back(content: Content) -> None:
    assert decode(VALIDATOR, encode(VALIDATOR, content), where="x") == content


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_read_as_nothing_or_as_something_else_but_never_crashes(bit: int) -> None:
    data = encode(VALIDATOR, CONTENT)
    for index in range(len(data)):
        flipped = data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]
        try:
            assert decode(VALIDATOR, flipped, where="x") != CONTENT
        except CorruptError:
            continue


@pytest.mark.parametrize(
    "change",
    [
        {"format": "vedr-sign-state-register/2"},
        {"chain": "chain-2"},
        {"address": "CD" * 20},
        {"epoch": 0},
        {"epoch": -1},
        {"epoch": 2**63},
        {"epoch": True},
        {"holder": ""},
        {"holder": "with space"},
        {"holder": None},
        {"height": "12"},
        {"height": -1},
        {"round": 2**31},
        {"step": 4},
        {"digest": "A" * 64},
        {"digest": "ab"},
        {"more": 1},
    ],
)
def test_what_is_out_of_range_or_of_another_key_is_damage(change: dict[str, object]) -> None:
    document = {**json.loads(encode(VALIDATOR, CONTENT)), **change}
    with pytest.raises(CorruptError):
        decode(VALIDATOR, json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), where="x")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"[" * 2000, b" " * 3000, b"\xff"])
def test_what_is_no_register_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode(VALIDATOR, data, where="x")
    with pytest.raises(CorruptError, match="not the sign-state register"):
        decode(VALIDATOR, encode(VALIDATOR, CONTENT) + b"\n", where="x")


def test_only_a_chain_and_an_address_have_a_register() -> None:
    for chain, address in (("", "AB" * 20), ("../x", "AB" * 20), ("chain-1", "ab" * 20), ("chain-1", "AB")):
        with pytest.raises(InvalidInputError):
            Validator(chain, address)


def test_sign_bytes_are_written_with_their_position_and_read_back() -> None:
    content = replace(CONTENT, position=position_of((12, 1, 2), b"\x08" * MAX_SIGN_BYTES))
    data = encode(VALIDATOR, content)
    assert decode(VALIDATOR, data, where="x").position.sign_bytes == b"\x08" * MAX_SIGN_BYTES
    longest = replace(content, holder="h" * 128, epoch=Epoch(2**63 - 1))
    assert len(encode(replace(VALIDATOR, chain_id="c" * 50), longest)) < MAX_BYTES // 2 + 100


def test_an_object_of_before_sign_bytes_were_kept_stays_readable() -> None:
    position = replace(CONTENT.position, sign_bytes=b"")
    data = encode(VALIDATOR, replace(CONTENT, position=position))
    assert set(json.loads(data)) == {
        *("format", "chain", "address", "epoch", "holder", "height", "round", "step", "digest", "sum")
    }
    assert decode(VALIDATOR, data, where="x").position.sign_bytes == b""


@pytest.mark.parametrize("stored", ["", "!!!!", "dm90ZQ", "dm90ZR==", "b3RoZXI=", "dm90ZQ==\n", "AAAA" * 100, 7, None])
def test_sign_bytes_that_are_not_those_of_the_digest_are_damage(stored: object) -> None:
    document = {**json.loads(encode(VALIDATOR, CONTENT)), "sign_bytes": stored}
    document.pop("sum")
    with pytest.raises(CorruptError):
        decode(VALIDATOR, summed_json(document), where="x")


def test_sign_bytes_without_their_digest_are_no_position() -> None:
    for digest, sign_bytes in ((NOT_KNOWN, b"vote"), ("a" * 64, b"vote"), (sha256(bytes(257)).hexdigest(), bytes(257))):
        with pytest.raises(InvalidInputError):
            Position(Height(12), 1, 2, digest, sign_bytes)


def test_sign_bytes_decide_nothing_and_are_kept_where_either_copy_has_them() -> None:
    known, digest_only = CONTENT.position, replace(CONTENT.position, sign_bytes=b"")
    other = position_of((12, 1, 2), b"another vote")
    assert known == digest_only
    assert known.covers(digest_only)
    assert digest_only.covers(known)
    assert join(known, digest_only).sign_bytes == join(digest_only, known).sign_bytes == b"vote"
    assert (
        join(known, other).sign_bytes == join(replace(known, digest=NOT_KNOWN, sign_bytes=b""), known).sign_bytes == b""
    )


def test_a_take_over_brings_the_sign_bytes_of_one_region_to_all(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    with register.take_over(1, "a") as first:
        first.advance(CONTENT.position)
        first.wait_until_everywhere(deadline_s=5)
    bare = Content(Epoch(1), "a", replace(CONTENT.position, sign_bytes=b""))
    for region in REGIONS[1:]:  # written by a version of before
        regions[region].overwrite(VALIDATOR.key, encode(VALIDATOR, bare))
    with register.take_over(2, "b", at_least=CONTENT.position) as second:
        assert second.position.sign_bytes == b"vote"
        assert second.has(CONTENT.position)
        assert not second.has(position_of((12, 1, 2), b"another vote"))
        assert second.wait_until_everywhere(deadline_s=5)
    shown = [register.look().contents[region].position.sign_bytes for region in REGIONS]
    assert shown == [b"vote"] * 3


@settings(derandomize=True, max_examples=100)
@given(positions, positions)
def test_a_join_covers_both_and_nothing_lower_does(first: Position, second: Position) -> None:
    joined = join(first, second)
    assert joined == join(second, first)
    assert joined.covers(first)
    assert joined.covers(second)
    assert joined.hrs == max(first.hrs, second.hrs)


@pytest.mark.parametrize(("epoch", "holder"), [(0, "a"), (2**63, "a"), (1, ""), (1, "a b"), (1, "x" * 129)])
def test_a_claim_needs_an_epoch_and_a_name(register: SignStateRegister, epoch: int, holder: str) -> None:
    with pytest.raises(InvalidInputError):
        register.take_over(epoch, holder)


# --- the register over three regions in memory


@pytest.fixture
def regions() -> dict[str, MemoryRegisters]:
    return {region: MemoryRegisters(region) for region in REGIONS}


@pytest.fixture
def register(regions: dict[str, MemoryRegisters]) -> SignStateRegister:
    made = SignStateRegister(regions, VALIDATOR)
    made.found(NEVER_SIGNED)
    return made


@pytest.fixture
def active(register: SignStateRegister) -> Iterator[Holding]:
    with register.take_over(1, "us-east/1#a") as holding:
        yield holding


def at(height: int, message: bytes = b"vote") -> Position:
    return position_of((height, 0, 2), message)


def test_fewer_than_three_regions_are_refused(regions: dict[str, MemoryRegisters]) -> None:
    regions.pop("us-east")
    with pytest.raises(InvalidInputError, match="loss of none"):
        SignStateRegister(regions, VALIDATOR)


def test_a_register_is_founded_once_and_in_every_region(regions: dict[str, MemoryRegisters]) -> None:
    made = SignStateRegister(regions, VALIDATOR)
    with pytest.raises(NotFoundError):
        made.take_over(1, "a")
    regions["ap-south"].faults.down = True
    with pytest.raises(UnavailableError, match="ap-south"):
        made.found(at(7), deadline_s=0.2)
    assert made.look(deadline_s=0.2).contents == {}
    regions["ap-south"].faults.down = False
    regions["eu-west"].faults.maps["swap"] = "l"
    made.found(at(7))
    made.found(at(7))
    assert set(made.look().contents) == set(REGIONS)
    with pytest.raises(ConflictError, match="founded once"):
        made.found(at(8))
    assert made.take_over(1, "a").position == at(7)


def test_a_founding_that_was_cut_short_is_finished(regions: dict[str, MemoryRegisters]) -> None:
    made = SignStateRegister(regions, VALIDATOR)
    regions["eu-west"].swap(VALIDATOR.key, encode(VALIDATOR, Content(Epoch(0), "", at(7))), expected=None)
    made.found(at(7))
    assert len(made.look().contents) == 3


def test_of_two_foundings_at_once_no_region_is_replaced(regions: dict[str, MemoryRegisters]) -> None:
    made = SignStateRegister(regions, VALIDATOR)
    failures: list[VedrError] = []

    def found(height: int) -> None:
        try:
            made.found(at(height), deadline_s=0.5)
        except VedrError as error:
            failures.append(error)

    threads = [threading.Thread(target=found, args=(height,)) for height in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures
    assert set(made.look().contents) == set(REGIONS)


def test_an_advance_is_durable_in_a_majority_when_it_returns(
    active: Holding, regions: dict[str, MemoryRegisters], register: SignStateRegister
) -> None:
    regions["us-east"].faults.down = True
    for height in range(1, 20):
        active.advance(at(height))
        shown = register.look(deadline_s=0.05).contents
        assert {region: content.position for region, content in shown.items()} == {
            "eu-west": at(height),
            "ap-south": at(height),
        }


def test_a_position_is_never_lowered_and_never_used_for_two_messages(active: Holding) -> None:
    active.advance(at(5))
    active.advance(at(5))
    for position, reason in ((at(4), "lower"), (position_of((5, 0, 1), b"vote"), "lower"), (at(5, b"x"), "another")):
        with pytest.raises(RefusedError, match=reason):
            active.advance(position)
    with pytest.raises(InvalidInputError, match="without a digest"):
        active.advance(Position(Height(6), 0, 1))
    assert active.position == at(5)


def test_without_a_majority_nothing_is_durable_and_the_position_is_used_up(
    active: Holding, regions: dict[str, MemoryRegisters]
) -> None:
    for region in ("us-east", "eu-west"):
        regions[region].faults.down = True
    with pytest.raises(UnavailableError, match=r"us-east.*eu-west"):
        active.advance(at(5), deadline_s=0.2)
    with pytest.raises(RefusedError, match="another message"):
        active.advance(at(5, b"x"))
    regions["eu-west"].faults.down = False
    active.advance(at(5), deadline_s=5)


@pytest.mark.parametrize("letter", ["e", "l", "d"])
def test_a_lost_answer_is_read_before_anything_is_written_again(
    register: SignStateRegister, regions: dict[str, MemoryRegisters], letter: str
) -> None:
    with register.take_over(1, "a") as active:
        assert active.wait_until_everywhere(deadline_s=5)
        for one in regions.values():
            one.faults.maps["swap"] = "." * one.faults.seen["swap"] + letter
        active.advance(at(5), deadline_s=5)
        active.advance(at(6), deadline_s=5)
        assert active.wait_until_everywhere(deadline_s=5)
        assert sum(one.deliver() for one in regions.values()) == 0
        assert {content.position for content in register.look().contents.values()} == {at(6)}


def test_a_region_that_comes_back_gets_the_newest_only(active: Holding, regions: dict[str, MemoryRegisters]) -> None:
    assert active.wait_until_everywhere(deadline_s=5)
    late = regions["ap-south"]
    late.faults.down = True
    before = late.faults.seen["swap"]
    for height in range(1, 50):
        active.advance(at(height))
    assert not active.wait_until_everywhere(deadline_s=0.01)
    late.faults.down = False
    assert active.wait_until_everywhere(deadline_s=5)
    assert late.faults.seen["swap"] - before <= 10
    assert all(state.is_current for state in active.regions())


def test_a_standby_goes_on_where_the_last_stood_and_the_last_stops_for_good(
    active: Holding, register: SignStateRegister
) -> None:
    active.advance(at(5))
    with register.take_over(2, "eu-west/1#b") as standby:
        assert standby.position == at(5)
        standby.advance(at(5))
        with pytest.raises(RefusedError):
            standby.advance(at(5, b"x"))
        for _ in range(2):
            with pytest.raises(StaleEpochError, match="epoch 2 of eu-west/1#b"):
                active.advance(at(6))
        assert active.is_lost
        standby.advance(at(6))
    seen = register.look()
    assert (seen.is_majority, seen.next_epoch) == (True, 3)


@pytest.mark.parametrize(("epoch", "holder"), [(1, "other"), (2, "us-east/1#a")])
def test_an_epoch_that_is_not_new_is_refused_and_changes_nothing(
    register: SignStateRegister, epoch: int, holder: str
) -> None:
    with register.take_over(2, "us-east/1#b") as active:
        active.advance(at(5))
        assert active.wait_until_everywhere(deadline_s=5)
        before = register.look()
        with pytest.raises(StaleEpochError):
            register.take_over(epoch, holder)
        assert register.look() == before
        active.advance(at(6))


def test_a_take_over_that_is_repeated_by_the_same_process_succeeds(register: SignStateRegister) -> None:
    register.take_over(1, "a").close()
    with register.take_over(1, "a", at_least=at(9)) as again:
        assert again.position == at(9)


def test_a_floor_from_elsewhere_is_covered(register: SignStateRegister, active: Holding) -> None:
    active.advance(at(5))
    with register.take_over(2, "b", at_least=Position(Height(8), 0, 0)) as standby:
        assert standby.position == Position(Height(8), 0, 0)
        with pytest.raises(RefusedError):
            standby.advance(at(7))


def test_a_standby_without_a_majority_takes_nothing_and_the_holder_goes_on(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    cut_off = {region: MemoryRegisters(region) for region in REGIONS} | {"ap-south": regions["ap-south"]}
    for region in ("us-east", "eu-west"):
        cut_off[region].faults.down = True
    with pytest.raises(UnavailableError, match="no majority"):
        SignStateRegister(cut_off, VALIDATOR).take_over(2, "b", deadline_s=0.2)
    active.advance(at(5))
    assert register.look().is_majority


def test_two_processes_by_one_name_never_both_go_on_at_one_position(
    active: Holding, register: SignStateRegister
) -> None:
    with register.take_over(1, "us-east/1#a") as twin:
        active.advance(at(5))
        with pytest.raises(StaleEpochError):
            twin.advance(at(5, b"x"))


def test_of_many_standbys_at_most_one_holds(register: SignStateRegister) -> None:
    for epoch in range(1, 6):
        held: list[Holding] = []
        gate = threading.Barrier(4)

        def attempt(me: int, epoch: int = epoch, held: list[Holding] = held, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                held.append(register.take_over(epoch, f"standby-{me}", deadline_s=0.5))
            except (StaleEpochError, UnavailableError):
                return

        threads = [threading.Thread(target=attempt, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) <= 1
        for one in held:
            one.close(wait_s=1)


def test_a_region_that_lost_its_register_is_filled_by_the_next_take_over_only(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    assert active.wait_until_everywhere(deadline_s=5)
    regions["eu-west"].wipe(VALIDATOR.key)
    active.advance(at(5))
    assert not active.wait_until_everywhere(deadline_s=0.05)
    assert "no register" in next(state.problem for state in active.regions() if state.region == "eu-west")
    with register.take_over(2, "b") as standby:
        assert standby.wait_until_everywhere(deadline_s=5)
    assert len(register.look().contents) == 3


def test_a_holder_that_was_passed_does_not_go_on_with_a_region_that_was_put_back(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    """The successor held us-east and eu-west, and ended; us-east's bucket is restored from before it began."""
    active.advance(at(4))
    assert active.wait_until_everywhere(deadline_s=5)
    backup = backup_of(regions["us-east"])
    active.advance(at(5))
    assert active.wait_until_everywhere(deadline_s=5)
    regions["ap-south"].faults.down = True
    with register.take_over(2, "eu-west/7#b") as standby:
        standby.advance(at(6, b"theirs"))
        assert not standby.wait_until_everywhere(deadline_s=0.05)
    regions["us-east"].overwrite(VALIDATOR.key, backup)
    regions["ap-south"].faults.down = False

    with pytest.raises(UnavailableError, match=r"was put back: it shows 4/0/2 .*, and has shown 5/0/2"):
        active.advance(at(6, b"ours"), deadline_s=1)
    assert not active.has(at(6, b"ours"))


def test_a_region_that_was_put_back_counts_for_nothing_and_is_written_by_the_next_take_over_only(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    backup = backup_of(regions["eu-west"])
    for height in (5, 6):
        active.advance(at(height))
        assert active.wait_until_everywhere(deadline_s=5)
    regions["eu-west"].overwrite(VALIDATOR.key, backup)
    active.advance(at(7))
    assert not active.wait_until_everywhere(deadline_s=0.05)
    seen = register.look().contents
    assert [seen[region].position.height for region in REGIONS] == [7, 0, 7], "what is released is in all the others"
    with register.take_over(2, "b") as standby:
        assert standby.position == at(7)
        assert standby.wait_until_everywhere(deadline_s=5)


def backup_of(region: MemoryRegisters) -> bytes:
    found = region.read(VALIDATOR.key)
    assert found is not None
    return found.data


def test_a_damaged_region_counts_for_nothing_and_is_replaced_by_a_take_over(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    regions["eu-west"].overwrite(VALIDATOR.key, b"garbage")
    assert set(register.look().problems) == {"eu-west"}
    with register.take_over(1, "a") as active:
        assert active.wait_until_everywhere(deadline_s=5)


@pytest.mark.parametrize("data", [None, b"garbage"])
def test_a_register_lost_in_a_majority_gives_no_position(
    register: SignStateRegister, regions: dict[str, MemoryRegisters], data: bytes | None
) -> None:
    for region in ("us-east", "eu-west"):
        if data is None:
            regions[region].wipe(VALIDATOR.key)
        else:
            regions[region].overwrite(VALIDATOR.key, data)
    began = time.monotonic()
    with pytest.raises(CorruptError, match="lost in a majority"):
        register.take_over(1, "a")
    assert time.monotonic() - began < 2
    assert not register.look().is_majority


def test_what_is_seen_of_disagreeing_regions_covers_them_all() -> None:
    lagging, leading = Content(Epoch(2), "b", at(4)), Content(Epoch(1), "a", at(6))
    seen = Seen({"us-east": lagging, "eu-west": leading}, {"ap-south": "does not answer"})
    assert seen.newest == Content(Epoch(2), "b", at(6))
    assert Seen({}, {}).newest is None
    assert Seen({}, {}).next_epoch == 1


def test_only_a_holder_advances_and_a_region_is_asked_one_thing_at_a_time() -> None:
    claim = Claim(VALIDATOR, REGIONS, epoch=1, holder="a", at_least=NEVER_SIGNED)
    with pytest.raises(RefusedError, match="holder only"):
        claim.advance(at(1))
    for conversation in (claim, Survey(VALIDATOR, REGIONS)):
        assert conversation.next_call("us-east") == Read()
        assert conversation.next_call("us-east") is None


def test_an_answer_to_a_question_that_was_not_asked_shows_nothing() -> None:
    survey = Survey(VALIDATOR, REGIONS)
    survey.on_swapped("us-east", "tag")
    assert survey.seen.contents == {}
