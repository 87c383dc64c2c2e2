"""A take-over that meets a newer epoch than its look showed is judged once more, and no more often."""

from typing import Any

import pytest
from signer_world import CHAIN_ID

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import NEVER_SIGNED, Content, StaleEpochError, Validator
from vedr.chain.register_holding import Holding, SignStateRegister
from vedr.errors import RefusedError
from vedr.signer.tenure import Terms, begin

TERMS = Terms("us-east-1a", take_over=False, planned=False, watch_s=1)


class Passed(SignStateRegister):
    """A register that was taken over, as often as is said, between the look and the claim."""

    def __init__(self, times: int) -> None:
        super().__init__({r: MemoryRegisters(r) for r in ("us", "eu", "ap")}, Validator(CHAIN_ID, "AB" * 20))
        self.found(NEVER_SIGNED)
        self.times = times

    def take_over(self, epoch: int, holder: str, **more: Any) -> Holding:
        if self.times:
            self.times -= 1
            super().take_over(epoch, f"us-east-1a/{self.times}#other").close()
            raise StaleEpochError(f"epoch {epoch} has passed")
        return super().take_over(epoch, holder, **more)


def test_the_next_try_looks_again_and_asks_again_whether_this_is_the_moment() -> None:
    checked: list[Content] = []
    tenure = begin(Passed(1), TERMS, holder="us-east-1a/7#mine", own=None, check=checked.append)
    tenure.holding.close()
    assert tenure.epoch == 2
    assert [one.epoch for one in checked] == [0, 1]


def test_a_moment_that_has_passed_meanwhile_is_not_taken() -> None:
    def only_at_first(shown: Content) -> None:
        if shown.epoch:
            raise RefusedError("too late")

    with pytest.raises(RefusedError, match="too late"):
        begin(Passed(1), TERMS, holder="us-east-1a/7#mine", own=None, check=only_at_first)


def test_who_is_passed_twice_gives_up() -> None:
    with pytest.raises(StaleEpochError):
        begin(Passed(2), TERMS, holder="us-east-1a/7#mine", own=None)
