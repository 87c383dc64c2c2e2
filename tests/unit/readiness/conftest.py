from pathlib import Path
from typing import Any

import pytest
from beside import beside

_network = beside("network_world", Path(__file__).parent / "network_world.py")


@pytest.fixture
def net(tmp_path: Path) -> Any:
    """A site in which all is well."""
    return _network.make_net(tmp_path)
