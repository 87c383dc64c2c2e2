"""A signer that waits: nothing is taken over before its node asks, and then by the message that it asks for."""

from pathlib import Path

import pytest
from signer_world import CHAIN_ID, MemoryKey, World, precommit, prevote

from vedr.chain.register import Content, Epoch, Position
from vedr.errors import ConflictError, CorruptError, UnavailableError, VedrError
from vedr.inventory import Height
from vedr.signer.messages import (
    PingRequest,
    PublicKeyRequest,
    Signable,
    SignRequest,
    Vote,
    ping_response,
    public_key_response,
)
from vedr.signer.protobuf import Message
from vedr.signer.rules import NotSignedError, Reason
from vedr.signer.service import Answers, Signer
from vedr.signer.standby import Standby, check_is_near

GONE = UnavailableError("no majority of regions answered")


class Waiting:
    """A standby; `failures` are what its next claims raise."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "state.json")
        self.failures: list[VedrError] = []
        self.claimed_for: list[Signable] = []
        answers = Answers(CHAIN_ID, MemoryKey().public_key, self.world.metrics, self.world.log)
        self.standby = Standby(answers, self._claim)

    def _claim(self, message: Signable) -> Signer:
        self.claimed_for.append(message)
        if self.failures:
            raise self.failures.pop(0)
        return self.world.signer

    def ask(self, message: Vote, chain_id: str = CHAIN_ID) -> Message:
        answer = Message.parse(self.standby.answer(SignRequest(chain_id, message)), what="answer")
        (number,) = answer.fields
        return answer.message(number)

    def refusal(self, message: Vote, chain_id: str = CHAIN_ID) -> str:
        return self.ask(message, chain_id).message(2).text(2)

    def refusals(self, reason: Reason) -> float:
        return self.world.count(f'vedr_signer_refusals_total{{reason="{reason}"}}')


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(tmp_path)


def test_a_node_that_starts_is_served_and_nothing_is_taken_over(waiting: Waiting) -> None:
    assert waiting.standby.answer(PingRequest()) == ping_response()
    assert waiting.standby.answer(PublicKeyRequest(CHAIN_ID)) == public_key_response(MemoryKey().public_key)
    assert b"this signer is for chain" in waiting.standby.answer(PublicKeyRequest("other"))
    assert "for chain vedr-test" in waiting.refusal(prevote(), "other")
    assert not waiting.claimed_for
    assert waiting.refusals(Reason.OTHER_CHAIN) == 2


def test_the_first_request_to_sign_takes_over_and_is_signed_and_the_next_just_signed(waiting: Waiting) -> None:
    assert not waiting.ask(prevote()).has(2)
    assert not waiting.ask(precommit()).has(2)
    assert waiting.claimed_for == [prevote()]
    assert waiting.standby.answer(PingRequest()) == ping_response()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(GONE, Reason.REGISTERS_UNAVAILABLE), (NotSignedError(Reason.NOT_HELD, "lags behind"), Reason.NOT_HELD)],
)
def test_what_may_pass_is_an_error_for_this_request_and_the_next_one_tries_again(
    waiting: Waiting, failure: VedrError, reason: Reason
) -> None:
    waiting.failures = [failure]
    assert waiting.refusal(prevote()) == failure.message
    assert waiting.refusals(reason) == 1
    assert (waiting.standby.superseded.is_set(), waiting.standby.failure) == (False, None)
    assert not waiting.ask(prevote()).has(2)


@pytest.mark.parametrize("failure", [ConflictError("the key is held by another"), CorruptError("the file is damaged")])
def test_what_will_not_pass_ends_it_for_good(waiting: Waiting, failure: VedrError) -> None:
    waiting.failures = [failure]
    assert waiting.refusal(prevote()) == failure.message
    assert waiting.standby.superseded.is_set()
    assert waiting.standby.failure is failure
    assert waiting.refusal(prevote(6)) == failure.message
    assert len(waiting.claimed_for) == 1, "it does not try again"


def test_once_begun_it_ends_as_its_signer_does(waiting: Waiting) -> None:
    waiting.ask(prevote())
    assert not waiting.standby.superseded.is_set()
    waiting.world.register.failure = ConflictError("epoch 8 exists")
    assert "taken over" in waiting.refusal(precommit())
    assert waiting.standby.superseded.is_set()
    assert waiting.standby.failure is None


def test_a_node_that_lags_behind_the_key_gets_nothing_taken_over() -> None:
    shown = Content(Epoch(3), "us-east-1a/1#a", Position(Height(10), 0, 3))
    for height in (1, 8):
        with pytest.raises(NotSignedError, match="lags behind"):
            check_is_near(prevote(height), shown)
    for height in (9, 10, 11):
        check_is_near(prevote(height), shown)
