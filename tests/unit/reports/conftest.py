import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.signature import Signer


def _beside(name: str, path: Path) -> ModuleType:
    """A module beside tests: importlib mode leaves sys.path alone."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_ledger = _beside("ledger_world", Path(__file__).parents[1] / "runbook" / "world.py")
_beside("report_world", Path(__file__).parent / "report_world.py")


@pytest.fixture
def ledger() -> Iterator[object]:
    """A ledger over three fake regions with a clock that stands still."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    made = _ledger.World({region: MemoryStore(region) for region in _ledger.REGIONS}, _ledger.Clock(), signer)
    yield made
    for journal in made.journals:
        journal.close()
