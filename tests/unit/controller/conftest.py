from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from beside import beside

HERE = Path(__file__).parent
_simulator = beside("controller_simulator", HERE / "simulator.py")
_real_site = beside("controller_real_site", HERE / "real_site.py")
_ports = beside("loopback_ports", HERE.parents[1] / "ports.py")


@pytest.fixture
def sim() -> ModuleType:
    """The simulator's module; every test makes worlds of its own."""
    return _simulator


@pytest.fixture
def real() -> ModuleType:
    """The module that makes whole sites of real servers."""
    return _real_site


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Gives ports on loopback that nobody listens on."""
    free_port: Callable[[], int] = _ports.free_port
    return free_port
