"""What vedr writes is read by a program that knows nothing but docs/formats/ledger.md."""

import dataclasses
import datetime as dt
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import VerificationFailedError
from vedr.ledger import RunId, digest_of, seal_entry
from vedr.ports import ObjectKey
from vedr.runbook.journal import Journal
from vedr.signature import Signer

PROGRAM = Path(__file__).with_name("second_reader.py")
RUN = RunId("inc-20260214-031500-aaaa")
NOW = dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)


def second_read(folder: Path) -> Any:
    return beside("ledger_second_reader", PROGRAM).read(folder, "lab")


@pytest.fixture
def stores() -> dict[str, MemoryStore]:
    return {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")}


@pytest.fixture
def journal(stores: dict[str, MemoryStore]) -> Iterator[Journal]:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    made = Journal(stores, site="lab", signer=signer, trusted=[signer.public_hex], clock=lambda: NOW)
    yield made
    made.close()


def export(journal: Journal, folder: Path) -> Path:
    for region, objects in journal.copies_by_region(RUN).items():
        (folder / RUN / region).mkdir(parents=True)
        for name, data in objects.items():
            (folder / RUN / region / name).write_bytes(data)
    (folder / RUN / "trusted-keys.json").write_text(json.dumps(list(journal.trusted)))
    return folder / RUN


def a_run(journal: Journal) -> None:
    writer = journal.open(RUN, "RB-DR-001", {"title": "größer ≠ gleich", "nested": {"b": [1, None, True], "a": {}}})
    writer.append("step_started", {"step": "look"})
    writer = journal.resume(RUN, {})
    writer.append("step_completed", {"step": "look", "result": {"text": '"\\\n\u2028'}})
    writer.append("closed", {"outcome": "completed"})
    journal.heal(RUN)


def test_both_readers_see_the_same_entries_and_the_same_head(journal: Journal, tmp_path: Path) -> None:
    a_run(journal)
    folder = export(journal, tmp_path)
    done = subprocess.run([sys.executable, PROGRAM, folder, "lab"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    entries = journal.read(RUN).entries
    assert [(one["seq"], one["kind"], one["epoch"], one["prev"]) for one in found["entries"]] == [
        (one.seq, one.kind, one.epoch, one.prev) for one in entries
    ]
    assert [one["payload"] for one in found["entries"]] == [dict(one.payload) for one in entries]
    assert found["head"] == journal.verify(RUN).heads[0].digest


def test_both_readers_find_any_edit(journal: Journal, stores: dict[str, MemoryStore], tmp_path: Path) -> None:
    a_run(journal)
    chance = random.Random(7)
    for number in range(40):
        region, seq = chance.choice(list(stores)), chance.randrange(5)
        key = ObjectKey(f"ledger/{RUN}/{seq:08d}.json")
        good = stores[region].get(key)
        place = chance.randrange(len(good))
        stores[region].overwrite(
            key, good[:place] + bytes([good[place] ^ chance.randrange(1, 256)]) + good[place + 1 :]
        )
        with pytest.raises(VerificationFailedError):
            journal.verify(RUN)
        assert second_read(export(journal, tmp_path / str(number)))["wrong"] != []
        stores[region].overwrite(key, good)


def test_both_readers_agree_who_won_a_slot(journal: Journal, stores: dict[str, MemoryStore], tmp_path: Path) -> None:
    writer = journal.open(RUN, "RB-DR-001", {})
    journal.heal(RUN)
    opened = stores["us-east"].get(ObjectKey(f"ledger/{RUN}/00000000.json"))
    lost = dataclasses.replace(writer.entries[0], seq=1, kind="note", payload={"who": "lost"}, prev=digest_of(opened))
    stores["us-east"].overwrite(ObjectKey(f"ledger/{RUN}/00000001.json"), seal_entry(lost, journal.signer).data)
    writer.append("note", {"who": "won"})
    writer.append("closed", {})
    journal.heal(RUN)
    found = second_read(export(journal, tmp_path))
    assert [one["payload"].get("who") for one in found["entries"]] == [None, "won", None]
    assert found["wrong"] == []
    assert journal.verify(RUN).entries == 3


def test_both_readers_find_an_entry_that_is_gone(
    journal: Journal, stores: dict[str, MemoryStore], tmp_path: Path
) -> None:
    a_run(journal)
    del stores["eu-west"]._versions[ObjectKey(f"ledger/{RUN}/00000002.json")]
    with pytest.raises(VerificationFailedError, match="entry 2 is missing in eu-west"):
        journal.verify(RUN)
    assert second_read(export(journal, tmp_path))["wrong"] == ["2: eu-west: missing"]
    for region in ("us-east", "ap-south"):
        del stores[region]._versions[ObjectKey(f"ledger/{RUN}/00000002.json")]
    with pytest.raises(VerificationFailedError):
        journal.verify(RUN)
    assert second_read(export(journal, tmp_path / "gone"))["wrong"] == ["2: undecidable, with later entries"]
