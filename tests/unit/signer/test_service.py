"""The core: nothing leaves before it is durable, and nothing at all after another took over."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from signer_world import CHAIN_ID, NIL, NOON_NS, OTHER_BLOCK, World, precommit, prevote, proposal

from vedr.chain.sign_state import SignState, read_sign_state, write_sign_state
from vedr.errors import ConflictError, RefusedError, UnavailableError
from vedr.inventory import Height
from vedr.signer.canonical import extension_sign_bytes, sign_bytes
from vedr.signer.messages import PingRequest, Proposal, PublicKeyRequest, Vote, ping_response, public_key_response
from vedr.signer.protobuf import Message
from vedr.signer.rules import Mark, Reason

GONE = UnavailableError("no majority of regions answered")
TAKEN = ConflictError("epoch 8 exists")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "priv_validator_state.json")


def verify(world: World, signature: bytes, data: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(world.key.public_key).verify(signature, data)


def refusals(world: World, reason: Reason) -> float:
    return world.count(f'vedr_signer_refusals_total{{reason="{reason}"}}')


@pytest.mark.parametrize("message", [proposal(), prevote(), precommit(), prevote(block=NIL), precommit(block=NIL)])
def test_a_new_message_is_signed_over_its_canonical_form(world: World, message: Vote | Proposal) -> None:
    verify(world, world.signature(message), sign_bytes(message, CHAIN_ID))
    assert world.count(f'vedr_signer_signatures_total{{kind="{message.kind}"}}') == 1
    assert world.count("vedr_signer_last_height") == 5
    assert world.count("vedr_signer_sign_seconds_count") == 1


def test_the_mark_is_in_the_registers_before_the_key_is_used(world: World) -> None:
    world.register.failure = GONE
    assert "no majority" in world.refusal(prevote())
    assert world.key.asked == 0
    assert refusals(world, Reason.REGISTERS_UNAVAILABLE) == 1


def test_the_signature_is_on_disk_before_it_is_answered(world: World) -> None:
    signature = world.signature(prevote())
    state = read_sign_state(world.state_file)
    assert (state.hrs, state.signature) == ((5, 0, 2), signature)
    assert state.sign_bytes == sign_bytes(prevote(), CHAIN_ID)


def test_what_cannot_be_stored_is_not_answered_and_later_signed_as_it_was(world: World) -> None:
    world.state_file.mkdir()
    assert "cannot be written" in world.refusal(prevote())
    assert "conflicting data" in world.refusal(prevote(block=OTHER_BLOCK))
    world.state_file.rmdir()
    verify(world, world.signature(prevote()), sign_bytes(prevote(), CHAIN_ID))


def test_what_is_below_this_hosts_own_file_is_never_answered(world: World) -> None:
    write_sign_state(world.state_file, SignState(Height(9), 0, 3))  # a node with the key's file, beside this signer
    assert "says 9/0/3, above 5/0/2" in world.refusal(prevote(5))
    assert refusals(world, Reason.STATE_NOT_WRITTEN) == 1
    assert "height regression" in world.refusal(prevote(8))
    assert world.key.asked == 1


def test_a_try_that_the_registers_may_hold_binds_to_its_content(world: World) -> None:
    world.register.lost = GONE
    assert world.refusal(prevote())
    world.register.lost = None
    assert "conflicting data" in world.refusal(prevote(block=OTHER_BLOCK))
    later = world.ask(prevote(time_ns=NOON_NS + 9)).message(1)
    assert later.time_ns(5) == NOON_NS, "the timestamp that the registers were told"
    verify(world, later.octets(8), sign_bytes(prevote(), CHAIN_ID))


def test_after_a_crash_between_mark_and_signature_only_the_same_content_is_signed(world: World) -> None:
    announced = Mark.of(prevote().hrs, sign_bytes(prevote(), CHAIN_ID))
    for last in (announced, replace(announced, sign_bytes=b"")):  # own disk, or registers alone
        world.restart(last)
        assert "conflicting data" in world.refusal(prevote(block=OTHER_BLOCK))
        verify(world, world.signature(prevote()), sign_bytes(prevote(), CHAIN_ID))


def test_the_same_again_gets_the_stored_signature_and_timestamp_without_the_key(world: World) -> None:
    first = world.signature(prevote())
    again = world.ask(prevote(time_ns=NOON_NS + 1)).message(1)
    assert (again.octets(8), again.time_ns(5)) == (first, NOON_NS)
    assert world.key.asked == 1


def test_a_restart_from_the_file_gives_the_stored_signature_again(world: World) -> None:
    first = world.signature(precommit())
    world.restart(Mark.of_file(read_sign_state(world.state_file)))
    assert world.signature(precommit(time_ns=NOON_NS + 1)) == first


def test_a_lower_message_is_refused_and_the_registers_are_not_asked(world: World) -> None:
    world.signature(prevote(6))
    assert "height regression" in world.refusal(prevote(5))
    assert "round regression" not in world.refusal(proposal(6))
    assert len(world.register.marks) == 1
    assert refusals(world, Reason.HEIGHT_REGRESSION) == 1
    assert refusals(world, Reason.STEP_REGRESSION) == 1


@pytest.mark.parametrize("extension", [b"", b"price=7"])
def test_a_precommit_for_a_block_gets_its_extension_signed_even_an_empty_one(world: World, extension: bytes) -> None:
    vote = precommit(extension=extension)
    body = world.ask(vote).message(1)
    verify(world, body.octets(10), extension_sign_bytes(vote, CHAIN_ID))
    assert body.octets(9) == extension


def test_another_extension_of_a_repeated_precommit_is_signed_anew(world: World) -> None:
    first = world.ask(precommit(extension=b"a")).message(1)
    second = world.ask(precommit(extension=b"b")).message(1)
    assert first.octets(8) == second.octets(8)
    verify(world, second.octets(10), extension_sign_bytes(precommit(extension=b"b"), CHAIN_ID))


@pytest.mark.parametrize("vote", [prevote(), precommit(block=NIL), prevote(block=NIL)])
def test_other_votes_get_no_extension_signature(world: World, vote: Vote) -> None:
    assert not world.ask(vote).message(1).has(10)


def test_once_a_later_epoch_exists_nothing_is_signed_any_more_not_even_again(world: World) -> None:
    world.signature(prevote(5))
    world.register.failure = TAKEN
    assert "taken over" in world.refusal(prevote(6))
    assert world.signer.superseded.is_set()
    world.register.failure = None
    assert "taken over" in world.refusal(prevote(7))
    assert "taken over" in world.refusal(prevote(5))
    assert world.key.asked == 1
    assert refusals(world, Reason.SUPERSEDED) == 3
    assert [event for event, _ in world.logged].count("superseded") == 1


def test_a_signature_given_before_is_not_given_again_by_one_who_was_superseded(world: World) -> None:
    world.signature(prevote())
    world.register.failure = TAKEN
    assert "taken over" in world.refusal(prevote())


def test_registers_that_refuse_are_no_reason_to_sign(world: World) -> None:
    world.register.failure = RefusedError("credentials refused")
    assert "credentials" in world.refusal(prevote())
    assert not world.signer.superseded.is_set()


def test_a_key_that_does_not_answer_costs_a_vote_and_no_more(world: World) -> None:
    world.key.failure = UnavailableError("the token does not answer")
    assert "token" in world.refusal(prevote())
    world.key.failure = None
    assert world.signature(prevote())
    assert refusals(world, Reason.KEY_UNAVAILABLE) == 1


def test_a_signature_that_does_not_verify_never_leaves(world: World) -> None:
    world.key.answer = bytes(64)
    assert "does not verify" in world.refusal(prevote())
    assert not world.state_file.exists()


def test_another_chain_gets_neither_key_nor_signature(world: World) -> None:
    assert "chain vedr-test" in world.refusal(prevote(), chain_id="other-1")
    answer = Message.parse(world.signer.answer(PublicKeyRequest("other-1")), what="answer").message(2)
    assert answer.has(2)
    assert not answer.message(1).fields
    assert refusals(world, Reason.OTHER_CHAIN) == 2
    assert world.register.marks == []


def test_ping_and_public_key_are_answered(world: World) -> None:
    assert world.signer.answer(PingRequest()) == ping_response()
    assert world.signer.answer(PublicKeyRequest(CHAIN_ID)) == public_key_response(world.key.public_key)


def test_two_nodes_at_once_get_one_signature(world: World) -> None:
    given: list[bytes] = []
    asked = [prevote(block=block, time_ns=NOON_NS + i) for i in range(8) for block in (NIL, OTHER_BLOCK)]

    def ask(vote: Vote) -> None:
        body = world.ask(vote)
        given.append(body.message(1).octets(8) if not body.has(2) else b"")

    threads = [threading.Thread(target=ask, args=(vote,)) for vote in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given) - {b""}) == 1
    assert given.count(b"") == 8


def test_log_lines_name_what_was_signed_and_hold_no_signature(world: World) -> None:
    signature = world.signature(prevote())
    (event, facts), *_ = world.logged
    assert (event, facts["kind"], facts["hrs"]) == ("signed", "prevote", "5/0/2")
    assert facts["digest"] == Mark.of((5, 0, 2), sign_bytes(prevote(), CHAIN_ID)).digest.hex()
    assert signature.hex() not in str(world.logged)


def test_the_registers_round_trips_are_counted_by_region(world: World) -> None:
    world.metrics.begins(7, (4, 0, 3))
    world.metrics.register("us-east", 0.004, failed=False)
    world.metrics.register("us-east", 9.0, failed=True)
    assert world.count('vedr_signer_register_seconds_bucket{region="us-east",le="0.005"}') == 1
    assert world.count('vedr_signer_register_seconds_bucket{region="us-east",le="+Inf"}') == 2
    assert world.count('vedr_signer_register_failures_total{region="us-east"}') == 1
    assert (world.count("vedr_signer_epoch"), world.count("vedr_signer_last_height")) == (7, 4)
