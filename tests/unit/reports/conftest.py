from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.signature import Signer

_ledger = beside("ledger_world", Path(__file__).parents[1] / "runbook" / "world.py")
beside("report_world", Path(__file__).parent / "report_world.py")


@pytest.fixture
def ledger() -> Iterator[object]:
    """A ledger over three fake regions with a clock that stands still."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    made = _ledger.World({region: MemoryStore(region) for region in _ledger.REGIONS}, _ledger.Clock(), signer)
    yield made
    for journal in made.journals:
        journal.close()
