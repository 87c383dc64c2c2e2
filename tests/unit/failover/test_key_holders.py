"""Where key files sign, as the ledger tells: the newest lease is believed, and a closed run is read once."""

import datetime as dt
from collections.abc import Iterator
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.errors import UnavailableError
from vedr.failover.key_holders import KeyHolders
from vedr.failover.promotion_record import TEXT, facts_of
from vedr.ledger import RunId
from vedr.policies.key_files import KeyFile
from vedr.runbook.journal import Journal
from vedr.runbook.writer import Writer
from vedr.signature import Signer

KEY = Signer(Ed25519PrivateKey.generate())
FILES = (KeyFile(validator="val", hosts=("full",)), KeyFile(validator="other", hosts=("spare",)))
NOW = dt.datetime(2026, 2, 14, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def stores() -> dict[str, MemoryStore]:
    return {name: MemoryStore(name) for name in ("us-east", "eu-west", "ap-south")}


@pytest.fixture
def journal(stores: dict[str, MemoryStore]) -> Iterator[Journal]:
    with closing(Journal(stores, site="test", signer=KEY, trusted=[KEY.public_hex], clock=lambda: NOW)) as made:
        yield made


def let_sign(journal: Journal, number: int, host: str, *, epoch: int, runbook: str = "RB-DR-002") -> Writer:
    run = journal.open(RunId(f"inc-20260214-0000{number:02d}-aaaa"), runbook, {"order": {}})
    evidence = {"epoch": epoch, "host": host, "floor": "5/0/3"}
    run.append("note", {"text": TEXT, **facts_of("val", "arming", evidence)})
    return run


def test_the_newest_lease_is_believed_whichever_run_was_opened_last(journal: Journal) -> None:
    holders = KeyHolders(FILES, journal)
    assert holders.look() == {"val": "val", "other": "other"}
    resumed = let_sign(journal, 1, "full", epoch=1)
    let_sign(journal, 2, "val", epoch=2, runbook="failback").append("closed", {"outcome": "completed"})
    assert holders.look()["val"] == "val"
    resumed.append("note", {"text": TEXT, **facts_of("val", "armed", {"epoch": 3, "host": "full"})})
    assert holders.look() == {"val": "full", "other": "other"}


def test_a_closed_run_is_read_once_and_a_silent_ledger_is_an_error(
    journal: Journal, stores: dict[str, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_sign(journal, 1, "full", epoch=1).append("closed", {"outcome": "completed"})
    read: list[RunId] = []
    real = journal.read
    monkeypatch.setattr(journal, "read", lambda run_id: read.append(run_id) or real(run_id))
    holders = KeyHolders(FILES, journal)
    assert [holders.look()["val"] for _ in range(2)] == ["full", "full"]
    assert len(read) == 1
    for name in ("us-east", "eu-west"):
        stores[name].faults.down = True
    with pytest.raises(UnavailableError):
        holders.look()


def test_a_site_without_key_files_asks_no_ledger(journal: Journal, stores: dict[str, MemoryStore]) -> None:
    for store in stores.values():
        store.faults.down = True
    assert KeyHolders((), journal).look() == {}
