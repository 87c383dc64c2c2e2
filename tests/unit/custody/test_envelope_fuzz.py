"""Two readers; every single-bit flip, every cut, headers by grammar: refused by both, with their own errors only."""

import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.custody import break_glass, envelope_slots
from vedr.custody.envelope import open_sealed, seal
from vedr.custody.envelope_format import EnvelopeError, parse_header
from vedr.custody.envelope_slots import (
    PassphraseOpener,
    PassphraseSeal,
    RecoveryOpener,
    RecoverySeal,
    WrongSecretError,
    recovery_public_key,
)

PRIVATE = bytes(range(1, 33))
SMALL = seal(
    b"payload",
    slots=[RecoverySeal(recovery_public_key(PRIVATE))],
    meta={"kind": "fuzz"},
    created=datetime(2026, 1, 2, tzinfo=UTC),
    chunk_bytes=1024,
)
HEADER: dict[str, Any] = json.loads(SMALL[12 : 12 + struct.unpack(">I", SMALL[8:12])[0]])
HEADER["slots"].append(
    {
        "id": "0123456789abcdef",
        "kind": "passphrase",
        "m_kib": 65536,
        "nonce": "00" * 12,
        "p": 4,
        "reference": "aws-secret:x",
        "salt": "00" * 16,
        "sealed": "00" * 48,
        "t": 3,
    }
)


def program_refuses(data: bytes) -> bool:
    try:
        open_sealed(data, RecoveryOpener(PRIVATE))
    except (EnvelopeError, WrongSecretError):
        return True
    return False


def break_glass_refuses(data: bytes) -> bool:
    try:
        break_glass.decrypt(BytesIO(data), len(data), PRIVATE, "recovery", BytesIO())
    except break_glass.Refused:
        return True
    return False


READERS = pytest.mark.parametrize("refuses", [program_refuses, break_glass_refuses])


@READERS
def test_the_envelope_itself_is_accepted(refuses: Callable[[bytes], bool]) -> None:
    assert not refuses(SMALL)


@READERS
def test_every_single_bit_flip_is_refused(refuses: Callable[[bytes], bool]) -> None:
    for index in range(len(SMALL)):
        for bit in range(8):
            flipped = bytearray(SMALL)
            flipped[index] ^= 1 << bit
            assert refuses(bytes(flipped)), (index, bit)


@READERS
def test_every_cut_and_every_trailing_byte_is_refused(refuses: Callable[[bytes], bool]) -> None:
    for length in range(len(SMALL)):
        assert refuses(SMALL[:length]), length
    for extra in range(256):
        assert refuses(SMALL + bytes([extra])), extra


def stand_in_kdf(*positional: object, **named: object) -> bytes:
    """As fast as it is weak; the real one would take an hour for all flips, and its limits are checked before it."""
    return sha256(repr((positional, sorted(named.items(), key=str))).encode()).digest()


def test_every_single_bit_flip_of_an_envelope_under_a_passphrase_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope_slots, "hash_secret_raw", stand_in_kdf)
    opener = PassphraseOpener(b"a passphrase of the tests")
    when = datetime(2026, 1, 2, tzinfo=UTC)
    data = seal(b"payload", slots=[PassphraseSeal(opener.passphrase, "aws-secret:x")], meta={}, created=when)
    assert open_sealed(data, opener).payload == b"payload"
    for index in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[index] ^= 1 << bit
            with pytest.raises((EnvelopeError, WrongSecretError)):
                open_sealed(bytes(flipped), opener)


@READERS
@settings(derandomize=True, max_examples=200, deadline=None)
@given(noise=st.binary(max_size=200), cut=st.integers(0, 60))
def test_noise_is_refused(refuses: Callable[[bytes], bool], noise: bytes, cut: int) -> None:
    assert refuses(noise)
    assert refuses(SMALL[:cut] + noise)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**43),
    st.sampled_from([1023, 1024, 4194304, 4194305, 65535, 65536, 2097152, 2097153, 2**40, 2**42, 3, 10, 11, 16, 17]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["00" * size for size in (8, 12, 16, 32, 48, 80)]),
    st.sampled_from(
        ["aes-256-gcm", "recovery", "passphrase", "2026-02-30T00:00:00Z", "0999-01-01T00:00:00Z", "\udc00"]
    ),
    st.builds(list),
    st.builds(dict),
)


@st.composite
def mutated_headers(draw: st.DrawFn) -> str:
    """One to three edits somewhere in the tree, then usually the canonical text, sometimes another."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = header
        while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not draw(st.integers(0, 3)):
                break
            place = place[key]
        if isinstance(place, dict):
            name = draw(st.sampled_from([*sorted(place), "extra", "meta"]))
            if draw(st.integers(0, 4)):
                place[name] = draw(SCALARS)
            else:
                place.pop(name, None)
        elif isinstance(place, list):
            place.insert(draw(st.integers(0, len(place))), draw(SCALARS | st.sampled_from(HEADER["slots"])))
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (",", ":"), (", ", ": ")]))
    ascii_only = draw(st.booleans())
    return json.dumps(header, sort_keys=draw(st.integers(0, 5)) > 0, separators=separators, ensure_ascii=ascii_only)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(text=mutated_headers())
def test_two_readers_accept_the_same_headers(text: str) -> None:
    data = text.encode(errors="surrogatepass")
    assert accepts(lambda: parse_header(data), EnvelopeError) == accepts(
        lambda: break_glass.parse(data), break_glass.Refused
    )


def accepts(parse: Callable[[], object], refusal: type[Exception]) -> bool:
    try:
        parse()
    except refusal:
        return False
    return True


@settings(derandomize=True, max_examples=100, deadline=None)
@given(text=mutated_headers())
def test_a_mutated_header_over_the_same_chunks_is_refused_by_both(text: str) -> None:
    document = text.encode(errors="surrogatepass")
    data = SMALL[:8] + struct.pack(">I", len(document)) + document + SMALL[12 + struct.unpack(">I", SMALL[8:12])[0] :]
    assert program_refuses(data)
    assert break_glass_refuses(data)


def test_a_passphrase_on_an_envelope_without_such_slots_is_refused_without_deriving_a_key() -> None:
    with pytest.raises(WrongSecretError):
        open_sealed(SMALL, PassphraseOpener(b"any passphrase"))
    with pytest.raises(break_glass.Refused, match="no slot opens"):
        break_glass.decrypt(BytesIO(SMALL), len(SMALL), b"any passphrase", "passphrase", BytesIO())
