"""A vote that was recorded is signed as it was and sent until the network has it; nothing else ever is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from signer_world import CHAIN_ID, NIL, OTHER_BLOCK, World, precommit, prevote, proposal

from vedr.chain.sign_state import read_sign_state
from vedr.errors import ConflictError, UnavailableError
from vedr.signer import finishing
from vedr.signer.canonical import sign_bytes
from vedr.signer.finishing import Finishing
from vedr.signer.messages import Proposal, Vote
from vedr.signer.publishing import Outcome, Try
from vedr.signer.rules import Mark, NotSignedError, Reason

GONE = UnavailableError("no majority of regions answered")


def mark_of(message: Vote | Proposal) -> Mark:
    return Mark.of(message.hrs, sign_bytes(message, CHAIN_ID))


def bound(folder: Path, message: Vote | Proposal) -> World:
    """A signer that took the registers over at this message, which it knows no signature of."""
    world = World(folder / "priv_validator_state.json", last=mark_of(message))
    world.register.marks.append(mark_of(message).position)
    return world


@dataclass
class Network:
    """Gives these outcomes in turn, the last one for ever."""

    outcomes: list[Outcome] = field(default_factory=lambda: [Outcome.PUBLISHED])
    sent: list[Vote] = field(default_factory=list)
    by_all: list[bool] = field(default_factory=list)

    def publish(self, vote: Vote, by_all: bool, _is_over: Callable[[], bool]) -> Try:
        self.sent.append(vote)
        self.by_all.append(by_all)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        return Try(outcome, "val0", () if outcome.is_settled else ("val0: is away",))


@contextmanager
def watched(world: World, network: Network) -> Iterator[Finishing]:
    watch = Finishing(world.signer, network.publish, metrics=world.metrics, log=world.log)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop(wait_s=5)
        assert not any(thread.name == "finishing" for thread in threading.enumerate())


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_S", "FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(finishing, name, 0.005)


@pytest.mark.parametrize("vote", [prevote(block=NIL), prevote(), precommit(block=NIL), precommit()])
def test_a_recorded_vote_is_signed_as_it_was_stored_and_sent(tmp_path: Path, vote: Vote) -> None:
    world, network = bound(tmp_path, vote), Network()
    with watched(world, network):
        until(lambda: network.sent)
        until(lambda: world.signer.finish() is None)
    (sent,) = network.sent
    recorded = sign_bytes(vote, CHAIN_ID)
    assert sign_bytes(sent, CHAIN_ID) == recorded
    Ed25519PublicKey.from_public_bytes(world.key.public_key).verify(sent.signature, recorded)
    state = read_sign_state(world.state_file)
    assert (state.hrs, state.sign_bytes, state.signature) == (vote.hrs, recorded, sent.signature)
    assert world.count('vedr_signer_recorded_votes_total{outcome="published"}') == 1
    (signed,) = (facts for event, facts in world.logged if event == "signed")
    assert (signed["recorded"], signed["digest"]) == (True, mark_of(vote).digest.hex())
    assert sent.signature.hex() not in str(world.logged)


def test_it_is_sent_until_the_network_has_it_and_each_try_is_told(tmp_path: Path) -> None:
    world = bound(tmp_path, prevote())
    network = Network([Outcome.NOT_PUBLISHED, Outcome.NOT_PUBLISHED, Outcome.KNOWN])
    with watched(world, network):
        until(lambda: len(network.sent) == 3)
        until(lambda: world.signer.finish() is None)
    assert world.key.asked == 1, "the signature is stored, and not made again"
    told = [(event, facts["outcome"]) for event, facts in world.logged if event != "signed"]
    assert told == [("not_published", outcome) for outcome in ("not_published", "not_published", "known")]
    assert world.count('vedr_signer_recorded_votes_total{outcome="not_published"}') == 2
    assert world.logged[1][1]["problems"] == ["val0: is away"]


def test_the_own_node_is_asked_alone_for_a_while_and_then_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "OWN_NODE_S", 0.05)
    network = Network([Outcome.NOT_PUBLISHED])
    with watched(bound(tmp_path, prevote()), network):
        until(lambda: True in network.by_all)
    assert network.by_all[0] is False


def test_a_request_that_no_majority_confirmed_is_finished_when_the_regions_answer_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, network, looks = World(tmp_path / "state.json"), Network(), list[Vote | None]()
    finish = world.signer.finish
    monkeypatch.setattr(world.signer, "finish", lambda: looks.append(finish()) or looks[-1])
    world.register.lost = GONE
    with watched(world, network):
        assert world.refusal(prevote())
        looks.clear()
        until(lambda: len(looks) > 3)
        assert network.sent == []
        world.register.lost = None
        until(lambda: network.sent)
    assert sign_bytes(network.sent[0], CHAIN_ID) == sign_bytes(prevote(), CHAIN_ID)


def test_what_was_answered_is_not_sent(tmp_path: Path) -> None:
    world = World(tmp_path / "state.json")
    world.signature(prevote())
    assert world.signer.finish() is None
    world.register.failure = GONE
    assert world.refusal(precommit())
    assert world.signer.finish() is None, "not while no majority has it"


def test_a_restart_sends_the_stored_signature_without_the_key(tmp_path: Path) -> None:
    world = World(tmp_path / "state.json")
    signature = world.signature(prevote())
    vote = world.restart(Mark.of_file(read_sign_state(world.state_file))).finish()
    assert vote is not None
    assert (vote.signature, world.key.asked) == (signature, 1)


def test_something_later_that_was_signed_ends_it_and_the_recorded_vote_is_never_signed_after_it(tmp_path: Path) -> None:
    world = bound(tmp_path, prevote())
    world.signature(precommit(block=NIL))
    assert world.signer.finish() is None
    assert [facts["hrs"] for event, facts in world.logged if event == "signed"] == ["5/0/3"]


def test_another_message_there_is_refused_before_and_after(tmp_path: Path) -> None:
    world = bound(tmp_path, prevote(block=NIL))
    assert "conflicting data" in world.refusal(prevote())
    vote = world.signer.finish()
    assert vote is not None
    assert "conflicting data" in world.refusal(prevote(block=OTHER_BLOCK))
    assert world.signature(prevote(block=NIL, time_ns=1)) == vote.signature
    world.signer.heard(prevote(4))
    assert world.signer.finish() is None, "it was answered meanwhile"


def test_a_digest_alone_a_proposal_and_the_bytes_of_something_else_are_never_finished(tmp_path: Path) -> None:
    vote = prevote()
    chains = Mark.of(vote.hrs, sign_bytes(vote, "other-1"))
    elsewhere = Mark.of((6, 0, 2), sign_bytes(vote, CHAIN_ID))
    for last in (Mark(*vote.hrs, mark_of(vote).digest), mark_of(proposal()), chains, elsewhere, Mark(5, 0, 2)):
        world = World(tmp_path / "state.json", last=last)
        world.register.marks.append(last.position)
        assert world.signer.finish() is None
        assert world.key.asked == 0


def test_one_that_was_superseded_finishes_nothing(tmp_path: Path) -> None:
    world, network = bound(tmp_path, prevote()), Network()

    def superseded(_position: object) -> None:
        raise ConflictError("epoch 8 exists")

    world.register.advance = superseded  # type: ignore[method-assign]
    with watched(world, network):
        until(world.signer.superseded.is_set)
    assert (network.sent, world.key.asked) == ([], 0)
    assert world.signer.finish() is None


def test_a_key_that_does_not_answer_is_told_and_tried_again(tmp_path: Path) -> None:
    world, network = bound(tmp_path, prevote()), Network()
    world.key.failure = UnavailableError("the token does not answer")
    with pytest.raises(NotSignedError) as caught:
        world.signer.finish()
    assert caught.value.reason is Reason.KEY_UNAVAILABLE
    with watched(world, network):
        until(lambda: world.count('vedr_signer_recorded_votes_total{outcome="not_signed"}'))
        world.key.failure = None
        until(lambda: network.sent)
    assert next(facts for event, facts in world.logged if event == "not_published")["reason"] == "key_unavailable"


def test_signing_goes_on_while_the_network_is_waited_for(tmp_path: Path) -> None:
    world, entered, leave = bound(tmp_path, prevote()), threading.Event(), threading.Event()

    def slowly(*_: object) -> Try:
        entered.set()
        assert leave.wait(10)
        return Try(Outcome.NOT_PUBLISHED)

    watch = Finishing(world.signer, slowly, metrics=world.metrics, log=world.log)
    watch.start()
    assert entered.wait(10)
    assert world.signature(precommit())
    threading.Timer(0.05, leave.set).start()
    watch.stop(wait_s=5)
    assert not [event for event, _ in world.logged if event == "not_published"], "a try that was ended is none"
