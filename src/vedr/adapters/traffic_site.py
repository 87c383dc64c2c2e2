"""Opens the traffic backends that a site file names.

Guarantees: nothing is contacted and no secret is read before a backend is used.
Leaves out: every decision.
"""

from functools import partial

from vedr.adapters.secrets import resolve
from vedr.adapters.traffic_gateways import HttpProber
from vedr.adapters.traffic_rfc2136 import DnsTraffic
from vedr.errors import InvalidInputError
from vedr.failover.traffic import Traffic
from vedr.failover.traffic_steering import Steering
from vedr.inventory import Site
from vedr.policies.traffic import Backend, DynamicDns
from vedr.ports import Clock


def open_steering(site: Site, clock: Clock) -> Steering:
    """The site's traffic."""
    prober = HttpProber(site.traffic.health_path, clock)
    backends = tuple(_open(site, backend) for backend in site.traffic.backends)
    return Steering(site, backends, prober, clock)


def _open(site: Site, backend: Backend) -> Traffic:
    if isinstance(backend, DynamicDns):
        return _dns(site, backend)
    raise InvalidInputError(f"backend {backend.kind} is not known", remedy="Use rfc2136.")


def _dns(site: Site, config: DynamicDns) -> DnsTraffic:
    if site.dns is None or site.dns.key is None:
        raise InvalidInputError(
            "backend rfc2136 needs [dns] with a key", remedy='Refer to it: key = "file:…" (hmac-sha256:NAME:BASE64).'
        )
    return DnsTraffic(site, config, site.dns, partial(resolve, site.dns.key))
