import dataclasses
import datetime as dt

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from vedr.errors import CorruptError, InvalidInputError, VerificationFailedError
from vedr.ledger import (
    GENESIS,
    Entry,
    Kind,
    Pin,
    RunId,
    Sealed,
    broken_pins,
    is_closed,
    open_entry,
    parse_run_id,
    pins_of,
    pins_payload,
    seal_entry,
    verify_chain,
)
from vedr.signature import Json, Signer

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = [SIGNER.public_hex]
RUN = RunId("inc-20260214-031500-aaaa")
OTHER = RunId("inc-20260214-031600-bbbb")
NOON = dt.datetime(2026, 2, 14, 12, tzinfo=dt.UTC)


def chain(*kinds: Kind, run: RunId = RUN, pins: tuple[Pin, ...] = ()) -> list[Sealed]:
    sealed: list[Sealed] = []
    epoch = 1
    for seq, kind in enumerate(kinds):
        epoch += kind == "resumed"
        payload: dict[str, Json] = {"pins": pins_payload(pins)} if kind == "opened" else {"n": seq}
        prev = sealed[-1].digest if sealed else GENESIS
        sealed.append(seal_entry(Entry("lab", run, seq, kind, NOON, epoch, payload, prev), SIGNER))
    return sealed


def reseal(sealed: Sealed, **changes: object) -> Sealed:
    return seal_entry(dataclasses.replace(sealed.entry, **changes), SIGNER)  # type: ignore[arg-type]


def opened(data: bytes, *, site: str = "lab", run: RunId = RUN, seq: int = 0) -> Sealed:
    return open_entry(data, TRUSTED, site=site, run_id=run, seq=seq)


def test_an_entry_is_read_back_as_it_was_sealed() -> None:
    [first] = chain("opened")
    assert opened(first.data) == first
    assert seal_entry(first.entry, SIGNER).data == first.data


def test_a_whole_chain_holds() -> None:
    entries = verify_chain(chain("opened", "step_started", "resumed", "step_started", "step_completed", "closed"))
    assert [entry.epoch for entry in entries] == [1, 1, 2, 2, 2, 2]
    assert is_closed(entries)
    assert not is_closed(entries[:-1])
    assert not is_closed(())


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ((0, 2), "entries between them were removed"),
        ((0, 2, 1), "were removed"),
        ((1, 2), "a run begins with entry 0"),
        ((0, 0), "entries between"),
    ],
)
def test_a_removal_or_reordering_is_refused(order: tuple[int, ...], wrong: str) -> None:
    whole = chain("opened", "note", "note")
    with pytest.raises(CorruptError, match=wrong):
        verify_chain([whole[place] for place in order])


def test_an_entry_of_another_history_is_refused() -> None:
    first, second = chain("opened", "note")
    with pytest.raises(CorruptError, match="follows an entry with digest"):
        verify_chain([first, reseal(second, prev=GENESIS)])
    with pytest.raises(CorruptError, match="has epoch 2 after epoch 1"):
        verify_chain([first, reseal(second, epoch=2)])
    with pytest.raises(CorruptError, match="opened cannot follow"):
        verify_chain([first, reseal(second, kind="opened")])
    with pytest.raises(CorruptError, match="cannot follow closed"):
        verify_chain(chain("opened", "closed", "note"))


def test_an_entry_out_of_its_place_or_site_is_refused() -> None:
    [first] = chain("opened")
    with pytest.raises(CorruptError, match="of site staging"):
        opened(first.data, site="staging")
    with pytest.raises(CorruptError):
        opened(first.data, run=OTHER)
    with pytest.raises(CorruptError):
        opened(first.data, seq=1)


def test_a_stranger_s_signature_is_refused() -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    [first] = chain("opened")
    with pytest.raises(VerificationFailedError, match="no trusted key"):
        opened(seal_entry(first.entry, stranger).data)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "vedr-ledger/2"},
        {"kind": "invented"},
        {"seq": "0"},
        {"time": "yesterday"},
        {"extra": 1},
        {"payload": []},
    ],
)
def test_a_signed_document_that_is_no_entry_is_refused(change: dict[str, Json]) -> None:
    good: dict[str, Json] = {
        "format": "vedr-ledger/1",
        "site": "lab",
        "run": RUN,
        "seq": 0,
        "kind": "opened",
        "time": "2026-02-14T12:00:00.000000Z",
        "epoch": 1,
        "payload": {},
        "prev": GENESIS,
    }
    opened(SIGNER.seal_document(good))
    with pytest.raises(CorruptError):
        opened(SIGNER.seal_document({**good, **change}))


@given(place=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_one_byte_edit_is_refused(place: int, flip: int) -> None:
    data = bytearray(chain("opened")[0].data)
    data[place % len(data)] ^= flip
    with pytest.raises(VerificationFailedError):
        opened(bytes(data))


@pytest.mark.parametrize("payload", [{"x": 1.5}, {"x": [{"y": 0.1}]}, {"x": {1: 2}}, {"x": object()}])
def test_what_has_no_single_encoding_is_not_sealed(payload: dict[str, Json]) -> None:
    [first] = chain("opened")
    with pytest.raises(InvalidInputError):
        reseal(first, payload=payload)


def test_removed_tails_and_runs_and_replaced_entries_are_found_by_pins() -> None:
    old = chain("opened", "note", "closed")
    new = chain("opened", run=OTHER, pins=(Pin(RUN, 2, old[2].digest),))
    assert broken_pins({RUN: old, OTHER: new}) == ()
    assert "its tail was removed" in broken_pins({RUN: old[:2], OTHER: new})[0]
    assert "was removed" in broken_pins({OTHER: new})[0]
    forged = [*old[:2], reseal(old[2], payload={"n": 3})]
    assert "it was replaced" in broken_pins({RUN: forged, OTHER: new})[0]


@pytest.mark.parametrize("payload", [{}, {"pins": "none"}, {"pins": [{"run": RUN}]}])
def test_an_opened_entry_without_proper_pins_is_refused(payload: dict[str, Json]) -> None:
    [first] = chain("opened")
    with pytest.raises(CorruptError):
        pins_of(reseal(first, payload=payload).entry)


def test_run_ids_have_one_form() -> None:
    assert parse_run_id("run-20260214-031500-k3x9") == "run-20260214-031500-k3x9"
    for wrong in ("", "inc-1", "inc-20260214-031500-K3X9", "../../x", "inc-20260214-031500-k3x9\n"):
        with pytest.raises(InvalidInputError, match="is not a run id"):
            parse_run_id(wrong)
