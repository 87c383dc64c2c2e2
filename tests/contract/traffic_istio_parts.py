"""A mesh for tests: a VirtualService and a DestinationRule behind a twin of the Kubernetes API."""

import copy
from dataclasses import dataclass, field
from typing import Any, Final

from traffic_parts import Stage, make_site

from vedr.adapters.kubernetes_api import Access, KubernetesApi
from vedr.adapters.traffic_istio import API, IstioTraffic
from vedr.inventory import Site

SERVICES: Final = f"{API}/namespaces/virtengine/virtualservices"
RULES: Final = f"{API}/namespaces/virtengine/destinationrules"
HOST: Final = "api-gateway.virtengine.svc.cluster.local"
SERVICE: Final[dict[str, Any]] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "api-gateway", "labels": {"app.kubernetes.io/name": "api-gateway"}},
    "spec": {
        "hosts": ["api.virtengine.network"],
        "gateways": ["virtengine/public"],
        "http": [
            {
                "name": "metrics",
                "match": [{"uri": {"prefix": "/metrics"}}],
                "route": [{"destination": {"host": "prometheus"}}],
            },
            {
                "name": "api",
                "retries": {"attempts": 3},
                "route": [
                    {"destination": {"host": HOST, "subset": "us-east", "port": {"number": 8080}}, "weight": 40},
                    {"destination": {"host": HOST, "subset": "eu-west", "port": {"number": 8080}}, "weight": 35},
                    {"destination": {"host": HOST, "subset": "ap-south", "port": {"number": 8080}}, "weight": 25},
                ],
            },
        ],
    },
}
RULE: Final[dict[str, Any]] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "api-gateway"},
    "spec": {
        "host": HOST,
        "trafficPolicy": {
            "connectionPool": {"tcp": {"maxConnections": 100}},
            "loadBalancer": {"simple": "LEAST_REQUEST"},
        },
        "subsets": [{"name": name, "labels": {"region": name}} for name in ("us-east", "eu-west", "ap-south")],
    },
}


@dataclass
class Mesh:
    """One cluster, and the site whose users it serves."""

    twin: Any
    token: str
    config: dict[str, Any]
    opened: list[KubernetesApi] = field(default_factory=list)

    def site(self, **more: Any) -> Site:
        return make_site(backends=[{**self.config, **more}])

    def traffic(self, **more: Any) -> IstioTraffic:
        site = self.site(**more)
        return IstioTraffic(site, site.traffic.backends[0], self.connect)

    def connect(self) -> KubernetesApi:
        url = f"https://127.0.0.1:{self.twin.port}"
        self.opened.append(KubernetesApi("eu-west", Access(url, self.twin.authority, token=self.token)))
        return self.opened[-1]

    def stage(self) -> Stage:
        return Stage(self.site(), self.traffic(), self.traffic(), "api-gateway", lambda: self.weigh(7))

    def weigh(self, weight: int) -> None:
        """By somebody else: the first destination's weight."""
        service = self.service
        service["spec"]["http"][1]["route"][0]["weight"] = weight
        self.twin.store.answer("PUT", f"{SERVICES}/api-gateway", {}, service)

    def touch(self) -> None:
        """A status update, as Istio writes them: a new resourceVersion, the same content."""
        self.twin.store.answer("PUT", f"{SERVICES}/api-gateway", {}, {**self.service, "status": {"observed": "1"}})

    @property
    def service(self) -> dict[str, Any]:
        return dict(self.twin.store.answer("GET", f"{SERVICES}/api-gateway", {}, {}))

    @property
    def rule(self) -> dict[str, Any]:
        return dict(self.twin.store.answer("GET", f"{RULES}/api-gateway", {}, {}))

    def close(self) -> None:
        for api in self.opened:
            api.close()


def make_mesh(twin: Any, token: str, config: dict[str, Any]) -> Mesh:
    """In calm times: by workload."""
    twin.store.answer("POST", SERVICES, {}, copy.deepcopy(SERVICE))
    twin.store.answer("POST", RULES, {}, copy.deepcopy(RULE))
    named = {
        "kind": "istio",
        "region": "eu-west",
        "kubeconfig": "env:KUBECONFIG_DATA",
        "context": "virtengine-eu-west",
        "virtual_service": "api-gateway",
        "destination_rule": "api-gateway",
        "route": "api",
        "host": HOST,
        "subset": "{region}",
    }
    return Mesh(twin, token, {**named, **config})
