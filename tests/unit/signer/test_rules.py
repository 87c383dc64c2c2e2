"""The rules of height, round and step: CometBFT's own table, and what is ours beside it."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from signer_world import CHAIN_ID, NIL, NOON_NS, OTHER_BLOCK, precommit, prevote, proposal

from vedr.chain.sign_state import SignState
from vedr.errors import RefusedError
from vedr.inventory import Height
from vedr.signer.canonical import sign_bytes
from vedr.signer.messages import Proposal, Vote
from vedr.signer.rules import Mark, NotSignedError, Reason, Repeat, Sign, Verdict, highest, judge

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def signed(message: Vote | Proposal) -> Mark:
    data = sign_bytes(message, CHAIN_ID)
    return Mark.of(message.hrs, data, KEY.sign(data))


def ask(last: Mark, message: Vote | Proposal) -> Verdict:
    return judge(last, message, sign_bytes(message, CHAIN_ID))


@pytest.mark.parametrize(
    ("last", "asked"),
    [
        (precommit(5, 0), prevote(6, 0)),
        (precommit(5, 0), proposal(5, 1)),
        (precommit(5, 0), prevote(5, 1)),
        (prevote(5, 0), precommit(5, 0)),
        (proposal(5, 0), prevote(5, 0)),
        (proposal(5, 0), precommit(5, 0)),
    ],
)
def test_what_is_higher_may_be_signed(last: Vote | Proposal, asked: Vote | Proposal) -> None:
    verdict = ask(signed(last), asked)
    assert verdict == Sign(Mark.of(asked.hrs, sign_bytes(asked, CHAIN_ID)), NOON_NS)


@pytest.mark.parametrize(
    ("last", "asked", "reason"),
    [
        (proposal(6, 0), precommit(5, 9), Reason.HEIGHT_REGRESSION),
        (proposal(5, 1), precommit(5, 0), Reason.ROUND_REGRESSION),
        (precommit(5, 1), prevote(5, 1), Reason.STEP_REGRESSION),
        (prevote(5, 1), proposal(5, 1), Reason.STEP_REGRESSION),
    ],
)
def test_what_is_lower_is_refused(last: Vote | Proposal, asked: Vote | Proposal, reason: Reason) -> None:
    with pytest.raises(NotSignedError, match="regression") as caught:
        ask(signed(last), asked)
    assert caught.value.reason is reason


@pytest.mark.parametrize("message", [proposal(), prevote(), precommit(), prevote(block=NIL)])
def test_the_same_again_gets_the_same_signature(message: Vote | Proposal) -> None:
    assert ask(signed(message), message) == Repeat(signed(message), NOON_NS)


@pytest.mark.parametrize("message", [proposal(), prevote(), precommit(), prevote(block=NIL)])
def test_another_timestamp_gets_the_first_ones_timestamp_and_signature(message: Vote | Proposal) -> None:
    assert ask(signed(message), replace(message, time_ns=NOON_NS + 5)) == Repeat(signed(message), NOON_NS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (prevote(), prevote(block=OTHER_BLOCK)),
        (prevote(), prevote(block=NIL)),
        (precommit(block=NIL), precommit()),
        (proposal(), proposal(block=OTHER_BLOCK)),
        (proposal(), replace(proposal(), pol_round=0)),
        (prevote(), prevote(block=OTHER_BLOCK, time_ns=NOON_NS + 1)),
    ],
)
def test_another_content_at_the_same_place_is_refused(first: Vote | Proposal, second: Vote | Proposal) -> None:
    bytes_only = replace(signed(first), signature=b"")
    digest_only = replace(bytes_only, sign_bytes=b"")
    for last in (signed(first), bytes_only, digest_only):
        with pytest.raises(NotSignedError, match="conflicting data") as caught:
            ask(last, second)
        assert caught.value.reason is Reason.CONFLICTING_DATA


def test_what_was_announced_and_not_signed_may_be_signed_for_the_same_content_alone() -> None:
    announced = Mark.of(prevote().hrs, sign_bytes(prevote(), CHAIN_ID))
    later = prevote(time_ns=NOON_NS + 1)
    assert ask(announced, prevote()) == Sign(announced, NOON_NS)
    assert ask(announced, later) == Sign(announced, NOON_NS), "the bytes that were announced, not the later ones"
    digest_only = replace(announced, sign_bytes=b"")
    assert ask(digest_only, prevote()) == Sign(announced, NOON_NS)
    with pytest.raises(NotSignedError, match="conflicting data"):
        ask(digest_only, later)


def test_nothing_is_signed_at_a_mere_floor() -> None:
    with pytest.raises(NotSignedError, match="floor") as caught:
        ask(Mark(5, 0, 2), prevote(5, 0))
    assert caught.value.reason is Reason.BELOW_FLOOR
    assert ask(Mark(5, 0, 2), precommit(5, 0))


def test_an_extension_is_only_taken_with_a_precommit_for_a_block() -> None:
    assert ask(Mark(0, 0, 0), precommit(extension=b"x"))
    for message in (replace(prevote(), extension=b"x"), precommit(block=NIL, extension=b"x")):
        with pytest.raises(NotSignedError, match="extension") as caught:
            ask(Mark(0, 0, 0), message)
        assert caught.value.reason is Reason.UNEXPECTED_EXTENSION


def test_an_extension_does_not_change_what_is_signed() -> None:
    assert ask(signed(precommit(extension=b"a")), precommit(extension=b"b")) == Repeat(signed(precommit()), NOON_NS)


def test_the_highest_mark_wins_and_at_a_tie_the_one_that_knows_most() -> None:
    known = signed(prevote())
    digest = replace(known, sign_bytes=b"", signature=b"")
    floor = Mark(*known.hrs)
    assert highest([floor, digest, known, Mark(4, 9, 3)]) == known
    assert highest([floor, digest]) == digest
    assert highest([known, signed(precommit())]) == signed(precommit())


def test_two_contents_at_one_place_stop_everything() -> None:
    with pytest.raises(RefusedError, match="may have signed twice"):
        highest([signed(prevote()), signed(prevote(block=NIL))])


def test_a_mark_and_a_sign_state_file_say_the_same() -> None:
    mark = signed(prevote())
    assert Mark.of_file(mark.to_file()) == mark
    assert Mark.of_file(SignState(Height(5), 0, 2)) == Mark(5, 0, 2)
    assert str(mark) == "5/0/2"


messages = st.builds(
    lambda maker, height, round_, block, time_ns: maker(height, round_, block, time_ns),
    st.sampled_from([prevote, precommit, proposal]),
    st.integers(1, 3),
    st.integers(0, 1),
    st.sampled_from([OTHER_BLOCK, NIL]),
    st.integers(0, 2),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(messages, max_size=30), st.booleans())
def test_no_history_gets_two_signatures_for_one_place(asked: list[Vote | Proposal], forgets: bool) -> None:
    last, given_out = Mark(0, 0, 0), {}
    for message in asked:
        try:
            verdict = ask(last, message)
        except NotSignedError:
            continue
        signature = KEY.sign(verdict.mark.sign_bytes) if isinstance(verdict, Sign) else verdict.mark.signature
        assert given_out.setdefault(verdict.mark.hrs, signature) == signature
        assert verdict.mark.hrs >= last.hrs
        last = replace(verdict.mark, signature=signature)
        if forgets:  # as one who takes over: only the register's digest is left
            last = replace(last, sign_bytes=b"", signature=b"")
