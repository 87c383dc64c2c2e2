from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.runbook.replicas import Replicas
from vedr.signature import Signer

_module = beside("ledger_world", Path(__file__).parent / "world.py")


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture
def world(signer: Signer) -> Iterator[object]:
    made = _module.World({region: MemoryStore(region) for region in _module.REGIONS}, _module.Clock(), signer)
    yield made
    for journal in made.journals:
        journal.close()


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    made = Replicas(
        {region: MemoryStore(region) for region in _module.REGIONS}, patience_s=0.3, rest_s=0.2, deadline_s=1.0
    )
    yield made
    made.close()
