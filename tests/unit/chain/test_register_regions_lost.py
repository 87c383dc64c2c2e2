"""A register of which regions are down, lost, damaged or put back: what counts, and who writes them again."""

import time

import pytest
from held_registers import REGIONS, VALIDATOR, all_agree, at

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register_holding import Holding, SignStateRegister
from vedr.errors import CorruptError, UnavailableError


def test_a_region_that_comes_back_gets_the_newest_only(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    assert all_agree(register)
    late = regions["ap-south"]
    late.faults.down = True
    before = late.faults.seen["swap"]
    for height in range(1, 50):
        active.advance(at(height))
    assert not all_agree(register, deadline_s=0.01)
    late.faults.down = False
    assert all_agree(register)
    assert late.faults.seen["swap"] - before <= 10


def test_a_region_that_lost_its_register_is_filled_by_the_next_take_over_only(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    assert all_agree(register)
    regions["eu-west"].wipe(VALIDATOR.key)
    active.advance(at(5))
    assert not all_agree(register, deadline_s=0.05)
    assert "no register" in register.look().problems["eu-west"]
    with register.take_over(2, "b"):
        assert all_agree(register)
    assert len(register.look().contents) == 3


def test_a_holder_that_was_passed_does_not_go_on_with_a_region_that_was_put_back(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    """The successor held us-east and eu-west, and ended; us-east's bucket is restored from before it began."""
    active.advance(at(4))
    assert all_agree(register)
    backup = backup_of(regions["us-east"])
    active.advance(at(5))
    assert all_agree(register)
    regions["ap-south"].faults.down = True
    with register.take_over(2, "eu-west/7#b") as standby:
        standby.advance(at(6, b"theirs"))
        assert not all_agree(register, deadline_s=0.05)
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
        assert all_agree(register)
    regions["eu-west"].overwrite(VALIDATOR.key, backup)
    active.advance(at(7))
    assert not all_agree(register, deadline_s=0.05)
    seen = register.look().contents
    assert [seen[region].position.height for region in REGIONS] == [7, 0, 7], "what is released is in all the others"
    with register.take_over(2, "b") as standby:
        assert standby.position == at(7)
        assert all_agree(register)


def backup_of(region: MemoryRegisters) -> bytes:
    found = region.read(VALIDATOR.key)
    assert found is not None
    return found.data


def test_a_damaged_region_counts_for_nothing_and_is_replaced_by_a_take_over(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    regions["eu-west"].overwrite(VALIDATOR.key, b"garbage")
    assert set(register.look().problems) == {"eu-west"}
    with register.take_over(1, "a"):
        assert all_agree(register)


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


def test_a_region_that_shows_more_than_was_taken_over_is_not_lowered_but_passed(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    """The last holder's newest advance came to one region only, which no take-over heard."""
    active.advance(at(4))
    assert all_agree(register)
    for region in ("us-east", "eu-west"):
        regions[region].faults.down = True
    with pytest.raises(UnavailableError):
        active.advance(at(8), deadline_s=0.2)
    active.close(wait_s=5)
    for region, store in regions.items():
        store.faults.down = region == "ap-south"
    with register.take_over(2, "eu-west/1#b") as standby:
        regions["ap-south"].faults.down = False
        standby.advance(at(5))
        assert not all_agree(register, deadline_s=0.2)
        assert register.look().contents["ap-south"].position == at(8)
        standby.advance(at(9))
        assert all_agree(register)


def test_a_region_that_lost_its_register_is_not_written_before_the_others_have_decided(
    register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    """Written as one of a majority, it would outvote the one that tells who passed this one."""
    regions["us-east"].wipe(VALIDATOR.key)
    refusing = regions["ap-south"].faults
    refusing.maps["swap"] = "." * refusing.seen["swap"] + "e" * 100
    with pytest.raises(UnavailableError, match="no majority of the regions took it"):
        register.take_over(1, "eu-west/1#b", deadline_s=0.3)
    assert regions["us-east"].read(VALIDATOR.key) is None


def test_a_region_that_was_put_back_to_an_older_holder_counts_for_nothing_though_its_position_is_the_same(
    active: Holding, register: SignStateRegister, regions: dict[str, MemoryRegisters]
) -> None:
    active.advance(at(4))
    assert all_agree(register)
    backup = backup_of(regions["us-east"])
    passed = register.take_over(2, "eu-west/1#b")
    assert all_agree(register)
    regions["ap-south"].faults.down = True
    with register.take_over(3, "us-east/1#c") as newest:
        assert newest.position == at(4)
        assert not all_agree(register, deadline_s=0.05)
    regions["us-east"].overwrite(VALIDATOR.key, backup)
    regions["ap-south"].faults.down = False
    with passed, pytest.raises(UnavailableError, match="was put back"):
        passed.advance(at(5, b"ours"), deadline_s=0.5)
