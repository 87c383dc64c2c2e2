"""What a register holds: read back as written, damage told from it, and which position covers which."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from held_registers import VALIDATOR, at, position_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain.register import (
    MAX_BYTES,
    MAX_SIGN_BYTES,
    NOT_KNOWN,
    Content,
    Epoch,
    Position,
    Validator,
    decode,
    encode,
    join,
)
from vedr.chain.register_survey import Seen
from vedr.errors import CorruptError, InvalidInputError
from vedr.inventory import Height
from vedr.signature import summed_json

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


@settings(derandomize=True, max_examples=100)
@given(positions, positions)
def test_a_join_covers_both_and_nothing_lower_does(first: Position, second: Position) -> None:
    joined = join(first, second)
    assert joined == join(second, first)
    assert joined.covers(first)
    assert joined.covers(second)
    assert joined.hrs == max(first.hrs, second.hrs)


def test_what_is_seen_of_disagreeing_regions_covers_them_all() -> None:
    lagging, leading = Content(Epoch(2), "b", at(4)), Content(Epoch(1), "a", at(6))
    seen = Seen({"us-east": lagging, "eu-west": leading}, {"ap-south": "does not answer"})
    assert seen.newest == Content(Epoch(2), "b", at(6))
    assert Seen({}, {}).newest is None
    assert Seen({}, {}).next_epoch == 1
