"""Where records are kept, and which one counts."""

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.backup.layout import stamp
from vedr.custody.hsm_reference import seal
from vedr.custody.hsm_references import References
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from vedr.ports import ObjectKey
from vedr.runbook.replicas import Replicas
from vedr.signature import Signer

Pair = Any
NOW = dt.datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=dt.UTC)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUSTED = (SIGNER.public_hex,)


@pytest.fixture
def stores() -> dict[str, MemoryStore]:
    return {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}


@pytest.fixture
def references(stores: dict[str, MemoryStore]) -> Iterator[References]:
    replicas = Replicas(stores, rest_s=0.0)
    yield References(replicas, site="lab", signer=SIGNER, trusted=TRUSTED)
    replicas.close()


KEY = ObjectKey(f"hsm/val-0/{stamp(NOW)}.json")


def test_a_stored_record_is_in_every_region_and_read_back(
    pair: Pair, references: References, stores: dict[str, MemoryStore]
) -> None:
    reference = pair.reference()
    stored = dataclasses.replace(reference)
    assert references.store(stored) == ("ap-south", "eu-west", "us-east")
    assert {store.get(KEY) for store in stores.values()} == {seal(reference, SIGNER)}
    assert references.newest("val-0") == reference
    assert references.store(reference) == ("ap-south", "eu-west", "us-east")


def test_the_newest_record_counts_and_older_ones_stay(
    pair: Pair, references: References, stores: dict[str, MemoryStore]
) -> None:
    references.store(pair.reference())
    later = pair.reference(at=NOW + dt.timedelta(hours=1))
    references.store(later)
    references.store(pair.reference(label="val-0", at=NOW - dt.timedelta(hours=1)))
    assert references.newest("val-0") == later
    assert references.all_newest() == (later,)
    assert len(list(stores["us-east"].list("hsm/"))) == 3


def test_a_record_is_found_without_one_region_and_not_without_two(
    pair: Pair, references: References, stores: dict[str, MemoryStore]
) -> None:
    references.store(pair.reference())
    stores["us-east"].faults.down = True
    assert references.newest("val-0").public == pair.public
    stores["eu-west"].faults.down = True
    with pytest.raises(UnavailableError):
        references.newest("val-0")


def test_a_label_without_a_record_is_not_found(references: References) -> None:
    with pytest.raises(NotFoundError, match="vedr hsm reference val-9"):
        references.newest("val-9")
    with pytest.raises(InvalidInputError):
        references.newest("../val-9")
    assert references.all_newest() == ()


def test_what_one_region_alone_made_up_does_not_hide_the_record(
    pair: Pair, references: References, stores: dict[str, MemoryStore]
) -> None:
    reference = pair.reference()
    references.store(reference)
    stores["us-east"].create(ObjectKey("hsm/val-0/20991231T000000Z.json"), b"forged")
    stores["us-east"].create(ObjectKey("hsm/val-7/20991231T000000Z.json"), b"forged")
    stores["us-east"].create(ObjectKey("hsm/notes.txt"), b"no record")
    assert references.newest("val-0") == reference
    assert references.all_newest() == (reference,)


def test_a_record_in_anothers_place_does_not_count(
    pair: Pair, references: References, stores: dict[str, MemoryStore]
) -> None:
    data = seal(pair.reference(), SIGNER)
    for store in stores.values():
        store.create(ObjectKey("hsm/val-1/20261123T020000Z.json"), data)
    with pytest.raises(CorruptError):
        references.newest("val-1")


def test_a_record_with_a_private_value_is_refused_where_it_is_read(
    sealed: bytes, references: References, stores: dict[str, MemoryStore]
) -> None:
    signed = json.loads(sealed)["signed"]
    signed["key"]["value"] = "00"
    for store in stores.values():
        store.create(KEY, SIGNER.seal_document(signed))
    with pytest.raises(RefusedError):
        references.newest("val-0")


def test_two_records_of_one_second_are_a_conflict(pair: Pair, references: References) -> None:
    references.store(pair.reference())
    with pytest.raises(ConflictError, match="in this second"):
        references.store(pair.reference())  # other challenges
