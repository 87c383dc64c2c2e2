"""The record of the shares: who, which, since when; strict, and never a share."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.shares import split
from vedr.custody.shares_record import RecordError, RecordRefusal, is_signed, new_record, open_record, seal_record
from vedr.errors import CorruptError, InvalidInputError, VerificationFailedError
from vedr.signature import Signer

PRIVATE = bytes(range(1, 33))
PUBLIC = recovery_public_key(PRIVATE)
SHARES = split(PRIVATE)
NAMES = ["Ann", "Bob", "Cid", "Dörte", "Eve"]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORD = new_record(SHARES, NAMES, public_key=PUBLIC, now=NOW, replaces=bytes(32))
DATA = seal_record(RECORD)


def test_a_record_reads_back_and_holds_no_word_of_a_share() -> None:
    assert open_record(DATA) == RECORD
    text = DATA.decode()
    assert not any(f"{one} {two}" in text for share in SHARES for one, two in itertools.pairwise(share.words))
    assert PRIVATE.hex() not in text


def test_a_signed_record_is_believed_only_under_a_trusted_key() -> None:
    signer, other = Signer(Ed25519PrivateKey.generate()), Signer(Ed25519PrivateKey.generate())
    signed = seal_record(RECORD, signer)
    assert open_record(signed, trusted=[signer.public_hex]) == open_record(signed) == RECORD
    with pytest.raises(VerificationFailedError):
        open_record(signed, trusted=[other.public_hex])
    with pytest.raises(CorruptError):
        open_record(DATA, trusted=[signer.public_hex])
    assert (is_signed(signed), is_signed(DATA)) == (True, False)


def test_it_tells_whose_share_it_is_and_refuses_one_of_another_set() -> None:
    assert [RECORD.holder(share).name for share in SHARES] == NAMES
    with pytest.raises(VerificationFailedError, match="not one of this record"):
        RECORD.holder(split(PRIVATE)[0])


def test_it_tells_its_age_and_the_longest_silence() -> None:
    later = NOW + timedelta(days=100)
    seen = RECORD.confirmed(RECORD.custodians[0], later)
    assert RECORD.age(later) == timedelta(days=100)
    assert seen.custodians[0].confirmed == later
    assert seen.unconfirmed_for(later) == timedelta(days=100)  # the other four
    for custodian in RECORD.custodians:
        seen = seen.confirmed(next(one for one in seen.custodians if one.name == custodian.name), later)
    assert seen.unconfirmed_for(later) == timedelta(0)


@pytest.mark.parametrize(
    "names", [NAMES[:4], [*NAMES[:4], "Ann"], [*NAMES[:4], ""], [*NAMES[:4], " x"], [*NAMES[:4], "a\nb"]]
)
def test_custodians_have_different_printable_names(names: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        new_record(SHARES, names, public_key=PUBLIC, now=NOW)


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(DATA)
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", RecordRefusal.NOT_JSON),
        (b"\xff", RecordRefusal.NOT_JSON),
        (b"1.0", RecordRefusal.NOT_JSON),
        (b"[" * 60_000, RecordRefusal.NOT_JSON),
        (b" " * 65_537, RecordRefusal.TOO_LONG),
        (b" {}", RecordRefusal.NOT_CANONICAL),
        (b'{"a":1,"a":1}', RecordRefusal.NOT_CANONICAL),
        (b"[]", RecordRefusal.OTHER_TYPE),
        (b"{}", RecordRefusal.OTHER_TYPE),
        (b'{"signatures":[],"signed":[]}', RecordRefusal.OTHER_TYPE),
        (edited(lambda record: record.update(version=2)), RecordRefusal.OTHER_TYPE),
        (edited(lambda record: record.update(version=True)), RecordRefusal.OTHER_TYPE),
        (edited(lambda record: record.update(version="1")), RecordRefusal.OTHER_TYPE),
        (edited(lambda record: record.update(extra=1)), RecordRefusal.FIELDS),
        (edited(lambda record: record.update(custodians={})), RecordRefusal.FIELDS),
        (edited(lambda record: record["custodians"].append(1)), RecordRefusal.FIELDS),
        (edited(lambda record: record["custodians"][0].update(share="x")), RecordRefusal.FIELDS),
        (edited(lambda record: record.update(public_key="00")), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(public_key="A" * 64)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(replaces=7)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(threshold=1)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(threshold=True)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(set="7")), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(set=32768)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(created="2026-02-30T00:00:00Z")), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(created="2026-2-3T00:00:00Z")), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record.update(created=0)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record["custodians"][0].update(name=7)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record["custodians"][0].update(name="x" * 65)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record["custodians"][0].update(index=16)), RecordRefusal.BAD_FIELD),
        (edited(lambda record: record["custodians"][0].update(name="Bob")), RecordRefusal.DISAGREES),
        (edited(lambda record: record["custodians"][0].update(index=1)), RecordRefusal.DISAGREES),
        (
            edited(lambda record: record["custodians"][0].update(fingerprint=SHARES[1].fingerprint)),
            RecordRefusal.DISAGREES,
        ),
        (edited(lambda record: record.update(custodians=record["custodians"][:2])), RecordRefusal.DISAGREES),
        (edited(lambda record: record.update(threshold=6)), RecordRefusal.DISAGREES),
    ],
)
def test_what_is_no_record_says_why_and_shows_nothing(data: bytes, expected: RecordRefusal) -> None:
    with pytest.raises(RecordError) as caught:
        open_record(data)
    assert caught.value.refusal is expected
    assert caught.value.message == f"share record: {expected.value}"


def test_every_bit_flip_and_cut_is_refused_or_still_a_record_and_a_signature_refuses_them_all() -> None:
    """A flip in a name or a digit gives another well-formed record: only a signature can tell."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    signed, trusted = seal_record(RECORD, signer), [signer.public_hex]
    for index in range(len(DATA)):
        flipped = bytearray(DATA)
        flipped[index] ^= 1 << (index % 8)
        accepted_or_refused(bytes(flipped))
        with pytest.raises(RecordError):
            open_record(DATA[:index])
    for index in range(len(signed)):
        flipped = bytearray(signed)
        flipped[index] ^= 1 << (index % 8)
        with pytest.raises((CorruptError, VerificationFailedError)):
            open_record(bytes(flipped), trusted=trusted)
        with pytest.raises((CorruptError, VerificationFailedError)):
            open_record(signed[:index], trusted=trusted)


def accepted_or_refused(data: bytes) -> None:
    try:
        open_record(data)
    except RecordError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40_000) | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(name=st.sampled_from(sorted(json.loads(DATA))), value=JSON, custodian=st.sampled_from([None, 0, 4]))
def test_any_value_in_any_place_is_read_or_refused_with_our_error_only(
    name: str, value: object, custodian: int | None
) -> None:
    document = json.loads(DATA)
    place = document if custodian is None else document["custodians"][custodian]
    place[name if custodian is None else sorted(place)[len(name) % len(place)]] = value
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    accepted_or_refused(text.encode(errors="surrogatepass"))
