import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beside import beside

HERE = Path(__file__).parent
_network = beside("chain_network", HERE / "network.py")
_signing = beside("chain_signing", HERE / "signing.py")


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
    def make(**how: Any) -> Iterator[object]:
        world = _signing.World(tmp_path, servers, **how)
        try:
            yield world
        finally:
            world.close()

    yield make
    for server in servers:
        server.stop()
