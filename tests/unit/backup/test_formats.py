"""Stored formats: read by an independent program, and never trusted when damaged."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.backup import layout
from vedr.backup.documents import is_inside
from vedr.backup.layout import ObjectName, Source
from vedr.backup.manifest import VerifiedManifest, open_manifest
from vedr.backup.sealing import HEADER, Codec
from vedr.errors import CorruptError, InvalidInputError, VedrError

KEY = bytes(range(32))
READER = Path(__file__).with_name("second_reader.py")


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_second_reader_restores_the_same_bytes(make_world: Any, tmp_path: Path, key: bytes | None) -> None:
    world = make_world(key=key)
    world.fill(table_bytes=600_000)
    created = world.back_up()
    store = world.stores["eu-west"]
    for entry in store.list(""):
        target = tmp_path / "bucket" / entry.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.get(entry.key))
    arguments = [tmp_path / "bucket", layout.manifest_key(world.source, created.id), "eu-west"]
    arguments += [world.repository.signer.public_hex, tmp_path / "out", *([KEY.hex()] if key else [])]
    subprocess.run([sys.executable, READER, *map(str, arguments)], check=True)
    assert world.content(tmp_path / "out") == world.content()


@pytest.mark.parametrize("codec", [Codec(), Codec(KEY)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("content", [b"", b"x", b"same " * 1000, random.Random(1).randbytes(700_000)])
def test_what_was_sealed_opens_to_the_same_in_whatever_room(codec: Codec, content: bytes) -> None:
    name = codec.name(hashlib.sha256(content).digest())
    sealed = codec.seal(name, content, dirty_room)
    assert codec.open_object(name, sealed) == content
    assert codec.open_object(name, bytes(codec.seal(name, content)), dirty_room) == content


def dirty_room(length: int) -> memoryview:
    return memoryview(bytearray(b"old " * 250_000))[:length]


def test_no_nonce_is_used_twice_even_for_equal_content() -> None:
    codec = Codec(KEY)
    name = codec.name(hashlib.sha256(b"same").digest())
    assert len({bytes(codec.seal(name, b"same")[HEADER.size : HEADER.size + 12]) for _ in range(100)}) == 100


def damaged_copies(sealed: bytes | memoryview) -> Iterator[bytes]:
    """Every bit flipped, every cut."""
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)
    for end in range(len(sealed)):
        yield sealed[:end]


def test_any_flipped_bit_of_an_encrypted_object_is_found() -> None:
    content, codec = b"chain state " * 40, Codec(KEY)
    name = codec.name(hashlib.sha256(content).digest())
    for damaged in damaged_copies(codec.seal(name, content)):
        with pytest.raises(CorruptError):
            codec.open_object(name, damaged)


def test_a_flipped_bit_never_changes_what_a_plain_object_gives() -> None:
    content, codec, refused = b"chain state " * 40, Codec(), 0
    name = codec.name(hashlib.sha256(content).digest())
    copies = list(damaged_copies(codec.seal(name, content)))
    for damaged in copies:
        try:
            assert codec.open_object(name, damaged) == content  # a bit of the frame that zstd ignores
        except CorruptError:
            refused += 1
    assert refused > 0.95 * len(copies)


def test_a_header_can_not_claim_memory_that_is_not_there() -> None:
    name = ObjectName("00" * 32)
    for length in (64 * 1024 * 1024 + 1, 2**32 - 1):
        with pytest.raises(CorruptError, match="claims"):
            Codec().open_object(name, HEADER.pack(b"vedr", 1, 1, 0, length) + b"x")


def test_an_object_under_another_name_or_key_is_refused() -> None:
    codec, other = Codec(KEY), Codec(bytes(32))
    name = codec.name(hashlib.sha256(b"a").digest())
    sealed = codec.seal(name, b"a")
    with pytest.raises(CorruptError):
        codec.open_object(ObjectName("11" * 32), sealed)
    with pytest.raises(CorruptError):
        other.open_object(name, sealed)
    with pytest.raises(CorruptError, match="against the site's setting"):
        Codec().open_object(name, sealed)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="16 bytes"):
        Codec(bytes(16))


def test_any_damage_to_a_manifest_is_one_of_our_errors(world: Any) -> None:
    created = world.back_up()
    stored, chance = created.verified.stored, random.Random(3)
    for _ in range(300):
        damaged = bytearray(stored)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with pytest.raises(VedrError):
            open_manifest(
                bytes(damaged), world.repository.trusted, source_prefix=world.source.prefix, snapshot=created.id
            )


def edits() -> list[tuple[str, Any]]:
    """Signed by us, and still wrong."""

    def files(edit: Any) -> Any:
        def apply(document: dict[str, Any]) -> None:
            edit(document["files"][0])

        return apply

    return [
        ("path upwards", files(lambda row: row.__setitem__(0, "../evil"))),
        ("absolute path", files(lambda row: row.__setitem__(0, "/etc/passwd"))),
        ("path with nul", files(lambda row: row.__setitem__(0, "a\0b"))),
        ("negative size", files(lambda row: row.__setitem__(2, -1))),
        ("other size", files(lambda row: row.__setitem__(2, row[2] + 1))),
        ("outside its objects", files(lambda row: row.__setitem__(6, [99, 0, row[2]]))),
        ("beyond its object", files(lambda row: row.__setitem__(6, [0, 10**9, row[2]]))),
        ("half an extent", files(lambda row: row.__setitem__(6, [0, 0]))),
        ("extents of text", files(lambda row: row.__setitem__(6, "abc"))),
        ("a missing column", files(lambda row: row.pop())),
        ("two of one path", lambda document: document["files"].append(document["files"][0])),
        ("other format", lambda document: document.__setitem__("format", "vedr-manifest/2")),
        ("other kind", lambda document: document.__setitem__("kind", "keys")),
        ("no epoch", lambda document: document.pop("epoch")),
        ("epoch of text", lambda document: document.__setitem__("epoch", "1")),
        ("epoch true", lambda document: document.__setitem__("epoch", True)),
        ("other time", lambda document: document.__setitem__("created_at", "2020-01-01T00:00:00Z")),
        ("no time", lambda document: document.__setitem__("created_at", "yesterday")),
        ("other height", lambda document: document["chain"].__setitem__("height", 7)),
        ("chain of text", lambda document: document.__setitem__("chain", "x")),
        ("other total", lambda document: document.__setitem__("total_bytes", 1)),
        ("name of an object", lambda document: document["objects"][0].__setitem__(0, "zz")),
        ("objects of text", lambda document: document.__setitem__("objects", "x")),
        ("object of text", lambda document: document.__setitem__("objects", ["x"])),
        ("id is none", lambda document: document.__setitem__("id", "x")),
    ]


@pytest.mark.parametrize("edit", [pytest.param(edit, id=name) for name, edit in edits()])
def test_a_signed_manifest_that_makes_no_sense_is_corrupt(world: Any, edit: Any) -> None:
    created = world.back_up()
    document = json.loads(created.verified.stored)["signed"]
    edit(document)
    forged = world.repository.signer.seal_document(document)
    with pytest.raises(CorruptError):
        open_manifest(forged, world.repository.trusted, source_prefix=world.source.prefix, snapshot=created.id)


def test_a_verified_manifest_can_not_be_made_by_hand(world: Any) -> None:
    created = world.back_up()
    with pytest.raises(TypeError):
        VerifiedManifest(object(), created.verified.manifest, b"")


@pytest.mark.parametrize("text", ["", "20261122T221453Z", "20269922T221453Z-a-1", "x-a-1", "20261122T221453Z-A-1"])
def test_what_is_no_snapshot_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        layout.parse_id(text)


def test_keys_parse_back(world: Any) -> None:
    source = Source("us-east", "state", "full-0")
    name = ObjectName(os.urandom(32).hex())
    epoch = layout.epoch_at(world.clock.now, 10)
    assert layout.parse_object_key(layout.object_key(source, epoch, name)) == (epoch, name)
    assert layout.parse_object_key(layout.ObjectKey("us-east/state/e/x")) is None
    assert layout.document_id(layout.ObjectKey("us-east/state/m/README")) is None


@pytest.mark.parametrize("path", ["x" * 256, "a/" + "ö" * 128, "/".join(["x" * 200] * 16)])
def test_a_path_that_no_file_system_takes_is_not_inside_a_snapshot(path: str) -> None:
    """Signed by another version, or nonsense: a restore would end in an error of the system."""
    assert not is_inside(path)
    assert is_inside(path[:100])
