from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.signature import Signer

UNIT = Path(__file__).parents[1]
beside("chainmaker", UNIT / "chain" / "chainmaker.py")
beside("topology_world", UNIT / "readiness" / "topology_world.py")
_ledger = beside("ledger_world", UNIT / "runbook" / "world.py")


@pytest.fixture
def drill_ledger() -> Iterator[object]:
    """A ledger over three fake regions."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    made = _ledger.World({region: MemoryStore(region) for region in _ledger.REGIONS}, _ledger.Clock(), signer)
    yield made
    for journal in made.journals:
        journal.close()
