"""A register over three regions: founded once, advanced in a majority, taken over where the last holder stood."""

import threading
from dataclasses import replace

import pytest
from held_registers import REGIONS, VALIDATOR, all_agree, at, position_of

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import NEVER_SIGNED, Content, Epoch, Position, StaleEpochError, decode, encode
from vedr.chain.register_claim import Claim, Read
from vedr.chain.register_holding import Holding, SignStateRegister
from vedr.chain.register_survey import Survey
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

CONTENT = Content(Epoch(3), "us-east-1/7#x", position_of((12, 1, 2), b"vote"))


def test_fewer_than_three_regions_are_refused(regions: dict[str, MemoryRegisters]) -> None:
    regions.pop("us-east")
    with pytest.raises(InvalidInputError, match="loss of none"):
        SignStateRegister(regions, VALIDATOR)


def test_a_register_is_founded_once_and_in_every_region(regions: dict[str, MemoryRegisters]) -> None:
    made = SignStateRegister(regions, VALIDATOR)
    with pytest.raises((NotFoundError, CorruptError)):  # two empty ones decide, and the third may have lost nothing
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
    active: Holding, regions: dict[str, MemoryRegisters]
) -> None:
    regions["us-east"].faults.down = True
    for height in range(1, 20):
        active.advance(at(height))
        for region in ("eu-west", "ap-south"):
            found = regions[region].read(VALIDATOR.key)
            assert found is not None
            assert decode(VALIDATOR, found.data, where=region).position == at(height)


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
        assert all_agree(register)
        for one in regions.values():
            one.faults.maps["swap"] = "." * one.faults.seen["swap"] + letter
        active.advance(at(5), deadline_s=5)
        active.advance(at(6), deadline_s=5)
        assert all_agree(register)
        assert sum(one.deliver() for one in regions.values()) == 0
        assert {content.position for content in register.look().contents.values()} == {at(6)}


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
        assert all_agree(register)
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


@pytest.mark.parametrize(("epoch", "holder"), [(0, "a"), (2**63, "a"), (1, ""), (1, "a b"), (1, "x" * 129)])
def test_a_claim_needs_an_epoch_and_a_name(register: SignStateRegister, epoch: int, holder: str) -> None:
    with pytest.raises(InvalidInputError):
        register.take_over(epoch, holder)


def test_a_take_over_brings_the_sign_bytes_of_one_region_to_all(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    with register.take_over(1, "a") as first:
        first.advance(CONTENT.position)
        assert all_agree(register)
    bare = Content(Epoch(1), "a", replace(CONTENT.position, sign_bytes=b""))
    for region in REGIONS[1:]:  # written by a version of before
        regions[region].overwrite(VALIDATOR.key, encode(VALIDATOR, bare))
    with register.take_over(2, "b", at_least=CONTENT.position) as second:
        assert second.position.sign_bytes == b"vote"
        second.advance(CONTENT.position)  # a take-over may have to be shown once more
        assert second.has(CONTENT.position)
        assert not second.has(position_of((12, 1, 2), b"another vote"))
        assert all_agree(register)
    shown = [register.look().contents[region].position.sign_bytes for region in REGIONS]
    assert shown == [b"vote"] * 3


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
