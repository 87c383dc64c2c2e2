import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# importlib mode leaves sys.path alone; the network is a module beside the tests.
_spec = importlib.util.spec_from_file_location("chain_network", Path(__file__).parent / "network.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["chain_network"] = _module
_spec.loader.exec_module(_module)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Four validators of powers 10, 20, 30, 40 and a full node, all running."""
    net = _module.Network(tmp_path_factory.mktemp("net"))
    net.start()
    try:
        net.reach(3)
        yield net
    finally:
        net.stop()
