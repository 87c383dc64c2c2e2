from pathlib import Path
from typing import Any

import pytest
from beside import beside

_backups = beside("backup_world", Path(__file__).parent / "backup_world.py")
_network = beside("network_world", Path(__file__).parent / "network_world.py")


@pytest.fixture
def net(tmp_path: Path) -> Any:
    """A site in which all is well."""
    return _network.make_net(tmp_path)


@pytest.fixture
def night(make_world: Any, tmp_path: Path) -> Any:
    """A site whose backups are all there."""
    return _backups.make_night(make_world(), tmp_path)
