import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from loopback_ports import free_port

from vedr.adapters.traffic_memory import MemoryTraffic, Served, calm
from vedr.adapters.traffic_rfc2136 import DnsTraffic
from vedr.failover.traffic import Share

HERE = Path(__file__).parent
_parts = beside("traffic_parts", HERE / "traffic_parts.py")
_istio = beside("traffic_istio_parts", HERE / "traffic_istio_parts.py")
_route53 = beside("traffic_route53_parts", HERE / "traffic_route53_parts.py")
_notify = beside("notify_rig", HERE / "notify_rig.py")


@pytest.fixture
def make_channel(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A channel of that kind, and its service; all end with the test."""
    with _notify.channels(tmp_path) as make:
        yield make


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server's side for 127.0.0.1 under a certificate of its own, and that certificate."""
    return _notify.make_authority(tmp_path_factory.mktemp("tls"))


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
def traffic_by_memory() -> Any:
    """In calm times, over nothing."""
    site = _parts.make_site()
    served = Served(calm(site))

    def meddle() -> None:
        served.names["api"] = Share({**served.names["api"].weights, "gateway-us-east-0": 7}, 60)

    return _parts.Stage(site, MemoryTraffic(site, served), MemoryTraffic(site, served), "api", meddle)


@pytest.fixture
def traffic_by_rfc2136(make_knot: Callable[..., Any]) -> Any:
    """In calm times, over a real knotd."""
    knot = make_knot()
    site = _parts.make_site(home="primary")

    def connect() -> DnsTraffic:
        return DnsTraffic(site, site.traffic.backends[0], knot.dns, lambda: knot.key)

    return _parts.Stage(site, connect(), connect(), "api", lambda: knot.update(("api", 60, "A", "192.0.2.30")))


@pytest.fixture(scope="session")
def moto_of_traffic() -> Iterator[str]:
    """moto's server; every test makes hosted zones of its own."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (two seconds that only these tests pay)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server._port}"
    server.stop()


@pytest.fixture
def make_route53(moto_of_traffic: str) -> Iterator[Callable[..., Any]]:
    """A hosted zone with weighted record sets, served by name servers, behind a strict front."""
    with contextlib.ExitStack() as closing:

        def make(**policy: Any) -> Any:
            strict = _route53.StrictRoute53(moto_of_traffic)
            url = closing.enter_context(strict.served())
            return _route53.make_zone(url, moto_of_traffic, strict, closing, policy)

        yield make


@pytest.fixture
def traffic_by_route53(make_route53: Callable[..., Any]) -> Any:
    """In calm times, over moto."""
    return make_route53().stage()


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A cluster with a VirtualService and its DestinationRule."""
    twins = beside("traffic_kubernetes_twin", HERE / "kubernetes_twin.py")
    twin = twins.Twin(tmp_path, free_port())
    twin.start()
    yield lambda **policy: _istio.make_mesh(twin, twins.TOKEN, policy)
    twin.stop()


@pytest.fixture
def traffic_by_istio(make_mesh: Callable[..., Any]) -> Iterator[Any]:
    """In calm times, over a twin of the Kubernetes API."""
    mesh = make_mesh()
    yield mesh.stage()
    mesh.close()
