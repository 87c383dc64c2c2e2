import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _beside(name: str, file: str) -> ModuleType:
    """A module beside the tests: importlib mode leaves sys.path alone."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_network = _beside("chain_network", "network.py")
_signing = _beside("chain_signing", "signing.py")


@pytest.fixture(scope="package")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Four validators of powers 10, 20, 30, 40 and a full node, all running."""
    net = _network.Network(tmp_path_factory.mktemp("net"))
    net.start()
    try:
        net.reach(3)
        yield net
    finally:
        net.stop()


@pytest.fixture
def make_signing_world(tmp_path: Path, start_server: Callable[[], Any]) -> Iterator[object]:
    servers = [start_server() for _ in _signing.REGIONS]

    @contextlib.contextmanager
    def make(*, tcp: bool, full: int = 1) -> Iterator[object]:
        world = _signing.World(tmp_path, servers, tcp=tcp, full=full)
        try:
            yield world
        finally:
            world.close()

    yield make
    for server in servers:
        server.stop()
