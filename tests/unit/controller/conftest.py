import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


_simulator = _beside("controller_simulator", "simulator.py")
_real_site = _beside("controller_real_site", "real_site.py")
_ports = _beside("loopback_ports", "../../ports.py")


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
