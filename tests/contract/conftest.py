import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vedr.adapters.traffic_rfc2136 import DnsTraffic


def _beside(name: str, file: str) -> ModuleType:
    """A module beside the tests: importlib mode leaves sys.path alone."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_parts = _beside("traffic_parts", "traffic_parts.py")


@pytest.fixture
def make_knot(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts knotd; all end with the test."""
    started: list[Any] = []

    def make(**settings: Any) -> Any:
        settings.setdefault("zone_text", None if "primary" in settings else _parts.zone_text())
        started.append(_parts.Knot(tmp_path / f"knot-{len(started)}", **settings))
        return started[-1].start()

    yield make
    for knot in started:
        knot.stop()


@pytest.fixture
def traffic_by_rfc2136(make_knot: Callable[..., Any]) -> Any:
    """In calm times, over a real knotd."""
    knot = make_knot()
    site = _parts.make_site(home="primary")

    def connect() -> DnsTraffic:
        return DnsTraffic(site, site.traffic.backends[0], knot.dns, lambda: knot.key)

    return _parts.Stage(site, connect(), connect(), "api", lambda: knot.update(("api", 60, "A", "192.0.2.30")))
