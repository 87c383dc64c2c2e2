"""Opens the traffic backends that a site file names.

Guarantees: nothing is contacted and no secret is read before a backend is used.
Leaves out: every decision.
"""

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING

from vedr.adapters.secrets import resolve
from vedr.adapters.traffic_gateways import HttpProber
from vedr.adapters.traffic_rfc2136 import DnsTraffic
from vedr.errors import InvalidInputError
from vedr.failover.traffic import Traffic
from vedr.failover.traffic_steering import Steering
from vedr.inventory import Site
from vedr.policies.traffic import Backend, DynamicDns, Istio, Route53
from vedr.ports import Clock

if TYPE_CHECKING:
    from vedr.adapters.kubernetes_api import KubernetesApi
    from vedr.adapters.s3_store import Credentials


def open_steering(site: Site, clock: Clock, closing: contextlib.ExitStack) -> Steering:
    """The site's traffic; connections that stay open are given to `closing`."""
    prober = HttpProber(site.traffic.health_path, clock)
    backends = tuple(_open(site, backend, closing) for backend in site.traffic.backends)
    names = [traffic.backend.name for traffic in backends]
    if len(set(names)) != len(names):
        raise InvalidInputError(
            f"[traffic] has two backends of one name: {', '.join(names)}",
            remedy="One of each kind, and a mesh a region.",
        )
    return Steering(site, backends, prober, clock)


def _open(site: Site, config: Backend, closing: contextlib.ExitStack) -> Traffic:
    """Only the SDKs of the backends that a site has are imported."""
    if isinstance(config, DynamicDns):
        return _dns(site, config)
    if isinstance(config, Route53):
        from vedr.adapters.traffic_route53 import Route53Traffic  # noqa: PLC0415

        return Route53Traffic(site, config, partial(_credentials, config))
    from vedr.adapters.traffic_istio import IstioTraffic  # noqa: PLC0415

    return IstioTraffic(site, config, partial(_cluster, config, closing))


def _dns(site: Site, config: DynamicDns) -> DnsTraffic:
    if site.dns is None or site.dns.key is None:
        raise InvalidInputError(
            "backend rfc2136 needs [dns] with a key", remedy='Refer to it: key = "file:…" (hmac-sha256:NAME:BASE64).'
        )
    return DnsTraffic(site, config, site.dns, partial(resolve, site.dns.key))


def _credentials(config: Route53) -> "Credentials | None":
    from vedr.adapters.s3_store import Credentials  # noqa: PLC0415

    if config.credentials is None:
        return None
    try:
        stored = json.loads(resolve(config.credentials))
        return Credentials(access_key=str(stored["access_key"]), secret_key=str(stored["secret_key"]))
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            "credentials of Route 53 are not JSON {access_key, secret_key}", remedy=f"Correct {config.credentials}."
        ) from None


def _cluster(config: Istio, closing: contextlib.ExitStack) -> "KubernetesApi":
    from vedr.adapters.kubernetes_api import KubernetesApi, from_kubeconfig  # noqa: PLC0415

    access = from_kubeconfig(resolve(config.kubeconfig), config.context, config.kubeconfig)
    api = KubernetesApi(config.region, access)
    closing.callback(api.close)
    return api
