"""The envelope in memory: what goes in comes out, and what is refused says so."""

import hashlib
import json
import struct
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from argon2.exceptions import HashingError

from vedr.custody import envelope_slots
from vedr.custody.envelope import inspect, open_sealed, rewrap, rewrap_stream, seal, seal_stream
from vedr.custody.envelope_format import (
    MAX_CHUNKS,
    MAX_HEADER_BYTES,
    Cost,
    EnvelopeError,
    PassphraseSlot,
    RecoverySlot,
    Refusal,
)
from vedr.custody.envelope_slots import (
    PassphraseOpener,
    PassphraseSeal,
    RecoveryOpener,
    RecoverySeal,
    WrongSecretError,
    recovery_public_key,
)
from vedr.errors import ConflictError, InvalidInputError, NoSpaceError

VECTORS = Path(__file__).parents[2] / "vectors"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PRIVATE = bytes(range(1, 33))
RECOVERY = RecoverySeal(recovery_public_key(PRIVATE))
PASSPHRASE = b"a passphrase of the tests"
META = {"kind": "test", "list": [1, "two", None, True], "nested": {"ä": "ö"}}


def sealed(payload: bytes = b"payload", **changes: Any) -> bytes:
    arguments: dict[str, Any] = {"slots": [RECOVERY], "meta": META, "created": WHEN, "chunk_bytes": 1024}
    return seal(payload, **(arguments | changes))


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The same envelope with another header in canonical form, its old MAC and its chunks."""
    (length,) = struct.unpack(">I", data[8:12])
    header = json.loads(data[12 : 12 + length])
    change(header)
    return with_text(data, json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def with_text(data: bytes, text: bytes) -> bytes:
    (length,) = struct.unpack(">I", data[8:12])
    return data[:8] + struct.pack(">I", len(text)) + text + data[12 + length :]


def refusal(data: bytes) -> Refusal:
    with pytest.raises(EnvelopeError) as caught:
        open_sealed(data, RecoveryOpener(PRIVATE))
    assert caught.value.message == f"envelope: {caught.value.refusal.value}"
    return caught.value.refusal


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 5000])
def test_what_was_sealed_is_what_is_opened(size: int) -> None:
    payload = hashlib.shake_256(b"payload").digest(size)
    opened = open_sealed(sealed(payload), RecoveryOpener(PRIVATE))
    assert opened.payload == payload
    assert (opened.header.core.size, opened.header.core.created, opened.header.core.meta) == (size, WHEN, META)


def test_each_secret_opens_and_the_header_names_them() -> None:
    data = sealed(slots=[PassphraseSeal(PASSPHRASE, "aws-secret:vedr/epoch-7"), RECOVERY])
    assert open_sealed(data, PassphraseOpener(PASSPHRASE)).payload == b"payload"
    assert open_sealed(data, PassphraseOpener(PASSPHRASE, "aws-secret:vedr/epoch-7")).payload == b"payload"
    assert open_sealed(data, RecoveryOpener(PRIVATE)).payload == b"payload"
    first, second = inspect(data).slots
    assert isinstance(first, PassphraseSlot)
    assert isinstance(second, RecoverySlot)
    assert first.reference == "aws-secret:vedr/epoch-7"
    assert second.public_key == RECOVERY.public_key


def test_another_secret_opens_nothing_and_is_not_shown() -> None:
    data = sealed(slots=[PassphraseSeal(PASSPHRASE, "aws-secret:one"), RECOVERY])
    other = bytes(32)
    for opener in (
        PassphraseOpener(b"needle needle needle"),
        PassphraseOpener(PASSPHRASE, "aws-secret:other"),
        RecoveryOpener(other),
    ):
        with pytest.raises(WrongSecretError) as caught:
            open_sealed(data, opener)
        shown = "".join(traceback.format_exception(caught.value)) + repr(opener)
        assert "needle needle" not in shown
        assert caught.value.__cause__ is None


def test_two_slots_of_one_kind_are_each_tried() -> None:
    private = bytes(range(2, 34))
    data = sealed(slots=[RECOVERY, RecoverySeal(recovery_public_key(private)), RECOVERY])
    assert open_sealed(data, RecoveryOpener(private)).payload == b"payload"
    data = with_header(data, lambda header: header["slots"][0].update(sealed="00" * 80))
    assert refusal(data) is Refusal.ALTERED_HEADER  # the third opens, and the MAC tells of the first


def test_an_edited_slot_opens_no_more() -> None:
    data = with_header(sealed(), lambda header: header["slots"][0].update(sealed="00" * 80))
    with pytest.raises(WrongSecretError):
        open_sealed(data, RecoveryOpener(PRIVATE))


def test_edited_metadata_open_no_more() -> None:
    data = with_header(sealed(), lambda header: header["core"]["meta"].update(kind="tests"))
    with pytest.raises(WrongSecretError):
        open_sealed(data, RecoveryOpener(PRIVATE))


def test_nothing_secret_is_in_a_repr() -> None:
    data = sealed(b"needle-payload")
    opened = open_sealed(data, RecoveryOpener(PRIVATE))
    shown = repr([opened, RecoveryOpener(PRIVATE), PassphraseSeal(PASSPHRASE), inspect(data)])
    assert "needle-payload" not in shown
    assert "tests" not in shown
    assert repr(PRIVATE)[2:-1] not in shown


@pytest.mark.parametrize("edit", ["drop", "swap", "add", "edit"])
def test_slots_removed_moved_added_or_edited_are_refused(edit: str) -> None:
    private = bytes(range(2, 34))
    data = sealed(slots=[RECOVERY, RecoverySeal(recovery_public_key(private))])

    def change(header: dict[str, Any]) -> None:
        slots = header["slots"]
        if edit == "drop":
            slots.pop()
        elif edit == "swap":
            slots.reverse()
        elif edit == "add":
            slots.append({**slots[1], "id": "00" * 8})
        else:
            slots[1]["public_key"] = "00" * 32

    assert refusal(with_header(data, change)) is Refusal.ALTERED_HEADER


def test_chunks_changed_swapped_removed_or_repeated_are_refused() -> None:
    payload = bytes(3 * 1024)
    data = sealed(payload)
    start, chunk = len(data) - 3 * 1040, 1040
    one, two, three = (data[start + n * chunk : start + (n + 1) * chunk] for n in range(3))
    head = data[:start]
    assert refusal(head + two + one + three) is Refusal.ALTERED_CHUNK
    assert refusal(head + one + one + three) is Refusal.ALTERED_CHUNK
    assert refusal(head + one + three) is Refusal.TRUNCATED
    assert refusal(head + one + two + three[:-1] + bytes([three[-1] ^ 1])) is Refusal.ALTERED_CHUNK
    assert refusal(data + b"\0") is Refusal.TRAILING


def test_a_chunk_of_another_envelope_is_refused() -> None:
    one, other = sealed(b"x" * 100), sealed(b"x" * 100)
    assert refusal(one[:-116] + other[-116:]) is Refusal.ALTERED_CHUNK


def test_what_is_no_envelope_says_why() -> None:
    data = sealed()
    assert refusal(b"") is Refusal.EMPTY
    assert refusal(b"ved") is Refusal.TRUNCATED
    assert refusal(b"PK\x03\x04") is Refusal.BAD_MAGIC
    assert refusal(b"vedrenv\x02" + data[8:]) is Refusal.OTHER_VERSION
    assert refusal(data[:11]) is Refusal.TRUNCATED
    assert refusal(data[:100]) is Refusal.TRUNCATED
    assert refusal(data[:8] + struct.pack(">I", MAX_HEADER_BYTES + 1) + data[12:]) is Refusal.OVERSIZED_HEADER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", Refusal.NOT_JSON),
        (b"{", Refusal.NOT_JSON),
        (b"\xff", Refusal.NOT_JSON),
        (b"1.5", Refusal.NOT_JSON),
        (b"NaN", Refusal.NOT_JSON),
        (b'"\\ud800"', Refusal.NOT_JSON),
        (b"[" * 60000, Refusal.NOT_JSON),
        (b"9" * 5000, Refusal.NOT_JSON),
        (b'{"core":1,"core":1}', Refusal.DUPLICATE),
        (b'{"slots":1,"core":1}', Refusal.NOT_CANONICAL),
        (b'{"core": 1}', Refusal.NOT_CANONICAL),
        (b"-0", Refusal.NOT_CANONICAL),
        (b"[]", Refusal.UNKNOWN_FIELD),
        (b'{"core":{},"slots":[],"x":1}', Refusal.UNKNOWN_FIELD),
        (b'{"core":{},"slots":[]}', Refusal.UNKNOWN_FIELD),
    ],
)
def test_a_header_that_is_not_the_canonical_json_of_version_1_is_refused(text: bytes, expected: Refusal) -> None:
    assert refusal(with_text(sealed(), text)) is expected


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("core.cipher", "aes-128-gcm", Refusal.OTHER_CIPHER),
        ("core.meta", [], Refusal.BAD_FIELD),
        ("core.id", "A" * 32, Refusal.BAD_FIELD),
        ("core.id", "00", Refusal.BAD_FIELD),
        ("core.id", "zz" * 16, Refusal.BAD_FIELD),
        ("core.id", 7, Refusal.BAD_FIELD),
        ("core.created", "2026-13-01T00:00:00Z", Refusal.BAD_FIELD),
        ("core.created", "2026-1-1T00:00:00Z", Refusal.BAD_FIELD),
        ("core.created", 0, Refusal.BAD_FIELD),
        ("core.chunk_bytes", 1023, Refusal.BAD_CHUNKS),
        ("core.chunk_bytes", 4 * 1024 * 1024 + 1, Refusal.BAD_CHUNKS),
        ("core.chunk_bytes", True, Refusal.BAD_CHUNKS),
        ("core.size", -1, Refusal.BAD_CHUNKS),
        ("core.size", MAX_CHUNKS * 1024 + 1, Refusal.BAD_CHUNKS),
        ("core.size", "7", Refusal.BAD_CHUNKS),
        ("core.extra", 1, Refusal.UNKNOWN_FIELD),
        ("slots", [], Refusal.BAD_SLOTS),
        ("slots", {}, Refusal.BAD_SLOTS),
        ("slots", [7], Refusal.UNKNOWN_FIELD),
        ("slots", [{"kind": "other"}], Refusal.UNKNOWN_FIELD),
        ("slots", [{"kind": []}], Refusal.UNKNOWN_FIELD),
        ("slots.0.extra", 1, Refusal.UNKNOWN_FIELD),
        ("slots.0.t", 2, Refusal.BAD_COST),
        ("slots.0.t", 11, Refusal.BAD_COST),
        ("slots.0.m_kib", 64 * 1024 - 1, Refusal.BAD_COST),
        ("slots.0.m_kib", 2 * 1024 * 1024 + 1, Refusal.BAD_COST),
        ("slots.0.p", 0, Refusal.BAD_COST),
        ("slots.0.p", 17, Refusal.BAD_COST),
        ("slots.0.reference", "", Refusal.BAD_FIELD),
        ("slots.0.reference", "x" * 513, Refusal.BAD_FIELD),
        ("slots.0.reference", "a\nb", Refusal.BAD_FIELD),
        ("slots.0.reference", 1, Refusal.BAD_FIELD),
        ("slots.0.salt", "00" * 15, Refusal.BAD_FIELD),
        ("slots.0.sealed", "00" * 47, Refusal.BAD_FIELD),
        ("slots.1.public_key", "00" * 31, Refusal.BAD_FIELD),
        ("slots.1.sealed", None, Refusal.BAD_FIELD),
    ],
)
def test_every_number_and_field_is_checked_before_a_key_is_derived(
    place: str, value: object, expected: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sealed_with_both()
    *way, last = place.split(".")

    def change(header: dict[str, Any]) -> None:
        target: Any = header
        for name in way:
            target = target[int(name)] if name.isdigit() else target[name]
        target[last] = value

    def derived(**_: object) -> bytes:
        pytest.fail("a key was derived")

    monkeypatch.setattr(envelope_slots, "hash_secret_raw", derived)
    forged = with_header(data, change)
    with pytest.raises(EnvelopeError) as caught:
        open_sealed(forged, PassphraseOpener(PASSPHRASE))
    assert caught.value.refusal is expected


def sealed_with_both() -> bytes:
    return bytes.fromhex(json.loads((VECTORS / "envelope-v1.json").read_text())["both"])


def test_too_many_slots_or_two_of_one_id_are_refused() -> None:
    data = sealed()
    many = with_header(data, lambda header: header.update(slots=header["slots"] * 9))
    twice = with_header(data, lambda header: header.update(slots=header["slots"] * 2))
    assert refusal(many) is refusal(twice) is Refusal.BAD_SLOTS


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": []},
        {"slots": [RECOVERY] * 9},
        {"slots": [RecoverySeal(b"short")]},
        {"slots": [RecoverySeal(bytes(32))]},
        {"slots": [PassphraseSeal(b"short")]},
        {"slots": [PassphraseSeal(b"x" * 1025)]},
        {"slots": [PassphraseSeal(PASSPHRASE, cost=Cost(2, 65536, 4))]},
        {"slots": [PassphraseSeal(PASSPHRASE, f"aws-secret:{PASSPHRASE.decode()}")]},
        {"slots": [PassphraseSeal(PASSPHRASE, "line\nbreak")]},
        {"meta": {"number": 1.5}},
        {"meta": {"list": [{"number": 1.0}]}},
        {"meta": {"bytes": b"x"}},
        {"meta": {1: "x"}},
        {"meta": {"long": "x" * MAX_HEADER_BYTES}},
        {"meta": {"surrogate": "\ud800"}},
        {"created": datetime(2026, 1, 1)},  # noqa: DTZ001 (that is what is refused)
        {"chunk_bytes": 1},
        {"chunk_bytes": 2**30},
    ],
    ids=str,
)
def test_nothing_is_sealed_that_a_reader_would_refuse(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        sealed(**changes)
    assert PASSPHRASE.decode() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_time_of_sealing_is_kept_in_utc_and_seconds() -> None:
    local = WHEN.astimezone(timezone(timedelta(hours=2))).replace(microsecond=99)
    assert inspect(sealed(created=local)).core.created == WHEN


def test_a_recovery_key_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        open_sealed(sealed(), RecoveryOpener(b"short"))


def test_a_machine_without_the_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(**_: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(envelope_slots, "hash_secret_raw", no_memory)
    with pytest.raises(NoSpaceError, match="64 MiB"):
        open_sealed(sealed_with_both(), PassphraseOpener(PASSPHRASE))


def test_a_stream_that_is_shorter_or_longer_than_it_said_is_not_sealed() -> None:
    for size in (3, 9):
        with pytest.raises(ConflictError):
            seal_stream(
                BytesIO(b"payload"),
                BytesIO(),
                size=size,
                slots=[RECOVERY],
                meta={},
                created=WHEN,
                entropy=bytes,
                chunk_bytes=1024,
            )


def test_rewrapping_changes_who_opens_and_nothing_else() -> None:
    data = sealed(bytes(3000), slots=[PassphraseSeal(PASSPHRASE, "aws-secret:one"), RECOVERY])
    recovery = inspect(data).slots[1]
    new = PassphraseSeal(b"the next epoch's passphrase", "aws-secret:two")
    again = rewrap(data, RecoveryOpener(PRIVATE), keep=[recovery.slot_id], add=[new])
    assert again[-3000 - 3 * 16 :] == data[-3000 - 3 * 16 :]
    assert inspect(again).core == inspect(data).core
    assert inspect(again).slots[0] == recovery
    assert open_sealed(again, PassphraseOpener(new.passphrase)).payload == bytes(3000)
    assert open_sealed(again, RecoveryOpener(PRIVATE)).payload == bytes(3000)
    with pytest.raises(WrongSecretError):
        open_sealed(again, PassphraseOpener(PASSPHRASE))


def test_rewrapping_needs_a_secret_a_whole_header_and_slots_that_are_there() -> None:
    data = sealed(slots=[RECOVERY, RecoverySeal(recovery_public_key(bytes(range(2, 34))))])
    with pytest.raises(WrongSecretError):
        rewrap(data, RecoveryOpener(bytes(32)), add=[RECOVERY])
    with pytest.raises(InvalidInputError, match="not in the envelope"):
        rewrap(data, RecoveryOpener(PRIVATE), keep=["00" * 8])
    with pytest.raises(InvalidInputError, match="no slot"):
        rewrap(data, RecoveryOpener(PRIVATE))
    swapped = with_header(data, lambda header: header["slots"].reverse())
    with pytest.raises(EnvelopeError):
        rewrap(swapped, RecoveryOpener(PRIVATE), add=[RECOVERY])


def test_a_source_that_shrinks_while_it_is_rewrapped_is_refused() -> None:
    data = sealed(bytes(3000))
    with pytest.raises(EnvelopeError) as caught:
        rewrap_stream(
            BytesIO(data[:-1]),
            BytesIO(),
            RecoveryOpener(PRIVATE),
            whole_bytes=len(data),
            add=[RECOVERY],
            keep=(),
            entropy=lambda size: bytes(range(size)),
        )
    assert caught.value.refusal is Refusal.TRUNCATED


def test_sealing_is_a_function_of_its_inputs_and_gives_the_published_bytes() -> None:
    vector = json.loads((VECTORS / "envelope-v1.json").read_text())
    drawn = iter(range(1, 100))

    def entropy(size: int) -> bytes:
        return hashlib.shake_256(f"vedr envelope vector {next(drawn)}".encode()).digest(size)

    data = seal(
        bytes(range(256)) * 5,
        slots=[PassphraseSeal(vector["passphrase"].encode(), vector["reference"])],
        meta=vector["meta"],
        created=datetime.fromisoformat(vector["created"]),
        entropy=entropy,
        chunk_bytes=vector["chunk_bytes"],
    )
    assert data.hex() == vector["passphrase_only"]
    for opener in (
        PassphraseOpener(vector["passphrase"].encode()),
        RecoveryOpener(bytes.fromhex(vector["recovery_private_key"])),
    ):
        assert open_sealed(bytes.fromhex(vector["both"]), opener).payload == bytes(range(256)) * 5
