"""Traffic by one cluster's mesh: route weights of an Istio VirtualService, locality of its DestinationRule.

A destination (host and subset) stands for a gateway, a zone or a region, as the site says.  The VirtualService's http
route gets all of them, those at 0 with weight 0; everything else about the route stays.  The DestinationRule's
`localityLbSetting` follows the same weights: with `failover`, regions without users fail over to the one with most;
with `distribute`, callers of every region are sent as the weights say.

Guarantees: each write carries the resourceVersion that was read, so that the API server refuses a stale one; the last
plan's epoch and digest are an annotation of the VirtualService, written with the weights.
Leaves out: atomicity between the two objects (the rule first, then the route, and the same shift again completes it);
what proxies have taken over already, which the API server does not know.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Final, Protocol

from vedr.errors import InvalidInputError, VedrError
from vedr.failover.traffic import (
    TOTAL_WEIGHT,
    Answer,
    Backend,
    Change,
    Endpoint,
    Picture,
    Share,
    already_serves,
    check_basis,
    check_guard,
    check_serves,
    digest,
    parse_guard,
)
from vedr.failover.traffic_division import apportion
from vedr.inventory import Gateway, Site
from vedr.policies.traffic import Istio

API: Final = "/apis/networking.istio.io/v1"
ANNOTATION: Final = "vedr.virtengine.network/traffic"
_LEAST_OUTLIER: Final[Mapping[str, Any]] = {"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s"}
"""Locality settings work only beside outlier detection; a rule that has its own keeps it."""

Object = Mapping[str, Any]


class Cluster(Protocol):
    """What is needed of a cluster's API; ConflictError when the patch's resourceVersion is not the newest."""

    def get(self, path: str) -> Object:
        """The object."""

    def merge(self, path: str, patch: Object) -> Object:
        """A JSON merge patch (RFC 7386)."""


@dataclass(frozen=True, slots=True)
class Look:
    """The picture, and the objects that it was made from."""

    picture: Picture
    service: Object
    rule: Object | None


class IstioTraffic:
    """`vedr.failover.traffic.Traffic`."""

    def __init__(self, site: Site, config: Istio, connect: Callable[[], Cluster]) -> None:
        self._site, self._config, self._connect = site, config, connect
        self._endpoints = _endpoints(site, config)
        self._destinations = {name: _destination(config, name) for name in self._endpoints}
        self._backend = Backend(
            f"istio {config.region}",
            tuple(Endpoint(n, gs[0].region, tuple(g.name for g in gs)) for n, gs in self._endpoints.items()),
            is_weighted=True,
            has_ttl=False,
            region=config.region,
        )

    @property
    def backend(self) -> Backend:
        return self._backend

    def picture(self) -> Picture:
        return self._look().picture

    def shift(self, change: Change) -> bool:
        check_serves(change)
        now = self._look()
        check_guard(now.picture, change)
        share = change.names[self._config.virtual_service]
        setting = self._locality(share)
        serves = already_serves(now.picture, change, is_weighted=True)
        if not serves:
            check_basis(now.picture, change, f"VirtualService {self._config.virtual_service} in {self._backend.name}")
        rule_is_wrong = now.rule is not None and _setting_of(now.rule) != setting
        if now.rule is not None and rule_is_wrong:
            self._cluster.merge(self._rule_path, _rule_patch(now.rule, setting))
        if not serves:
            self._cluster.merge(self._service_path, self._service_patch(now.service, share, change.guard))
        return rule_is_wrong or not serves

    def answers(self, names: Collection[str]) -> tuple[Answer, ...]:
        """From the API server, anew; the proxies follow it within seconds and are not asked."""
        try:
            share = self._look().picture.names[self._config.virtual_service]
        except VedrError as error:
            return tuple(Answer(self._backend.name, name, problem=error.message) for name in names)
        return tuple(Answer(self._backend.name, name, tuple(sorted(share.serving)), share.strangers) for name in names)

    def _look(self) -> Look:
        service = self._cluster.get(self._service_path)
        rule = self._cluster.get(self._rule_path) if self._config.destination_rule else None
        text = service["metadata"].get("annotations", {}).get(ANNOTATION)
        guard = parse_guard(text) if text else None
        share = self._share(self._route(service))
        names = {self._config.virtual_service: share}
        # Not the resourceVersion, which also Istio's own status updates change: that one guards the write.
        tag = digest({"http": service["spec"]["http"], "guard": str(guard)})
        return Look(Picture(self._backend.name, names, guard, tag), service, rule)

    def _route(self, service: Object) -> Object:
        """The http route that carries the weights."""
        routes = [http for http in service["spec"].get("http", ()) if self._config.route in ("", http.get("name", ""))]
        if len(routes) != 1 or not routes[0].get("route"):
            raise InvalidInputError(
                f"VirtualService {self._config.virtual_service} has {len(routes)} http routes "
                f"{self._config.route or 'of any name'}, one with destinations is needed",
                remedy="Give the route a name, and name it in [traffic].",
            )
        found: Object = routes[0]
        return found

    def _share(self, route: Object) -> Share:
        owners = {destination: name for name, destination in self._destinations.items()}
        weights = dict.fromkeys(self._endpoints, 0)
        strangers = []
        for entry in route["route"]:
            weight = TOTAL_WEIGHT if len(route["route"]) == 1 else int(entry.get("weight", 0))
            if (owner := owners.get(_place(entry))) is not None:
                weights[owner] += weight
            elif weight:
                strangers.append("/".join(_place(entry)))
        return Share(weights, None, tuple(strangers))

    def _service_patch(self, service: Object, share: Share, guard: object) -> Object:
        ours = self._route(service)
        entries = self._entries(ours, share)
        http = [{**route, "route": entries} if route is ours else route for route in service["spec"]["http"]]
        metadata = {
            "resourceVersion": service["metadata"]["resourceVersion"],
            "annotations": {ANNOTATION: str(guard)},
        }
        return {"metadata": metadata, "spec": {"http": http}}

    def _entries(self, route: Object, share: Share) -> list[Object]:
        """The destinations that are there with their new weights, then those that are new."""
        owners = {destination: name for name, destination in self._destinations.items()}
        left = {name: weight for name, weight in share.weights.items() if weight}
        kept: list[Object] = [
            {**entry, "weight": left.pop(owners.get(_place(entry), ""), 0)} for entry in route["route"]
        ]
        like = route["route"][0]["destination"]
        port = {"port": like["port"]} if "port" in like else {}
        for name, weight in left.items():
            host, subset = self._destinations[name]
            destination = {"host": host, **({"subset": subset} if subset else {}), **port}
            kept.append({"destination": destination, "weight": weight})
        return kept

    def _locality(self, share: Share) -> dict[str, Any]:
        """The rule's setting for these weights; regions and zones as Kubernetes labels nodes with them."""
        regions = {name: self._site.regions[name].cloud_region for name in self._site.regions_by_priority}
        by_region = dict.fromkeys(regions, 0)
        by_place: dict[str, int] = {}
        for name, gateways in self._endpoints.items():
            first = gateways[0]
            by_region[first.region] += share.weights[name]
            zone = "*" if self._config.by == "region" else f"{first.zone}/*"
            place = f"{regions[first.region]}/{zone}"
            by_place[place] = by_place.get(place, 0) + share.weights[name]
        if self._config.locality == "distribute":
            to = {place: weight for place, weight in _to_total(by_place).items() if weight}
            return {"enabled": True, "distribute": [{"from": f"{region}/*", "to": to} for region in regions.values()]}
        best = max(by_region, key=lambda name: by_region[name])
        away = [{"from": regions[name], "to": regions[best]} for name, weight in by_region.items() if not weight]
        return {"enabled": True, **({"failover": away} if away else {})}

    @property
    def _service_path(self) -> str:
        return f"{API}/namespaces/{self._config.namespace}/virtualservices/{self._config.virtual_service}"

    @property
    def _rule_path(self) -> str:
        return f"{API}/namespaces/{self._config.namespace}/destinationrules/{self._config.destination_rule}"

    @cached_property
    def _cluster(self) -> Cluster:
        return self._connect()


def _endpoints(site: Site, config: Istio) -> dict[str, list[Gateway]]:
    grouped: dict[str, list[Gateway]] = {}
    for gateway in site.gateways:
        key = {"gateway": gateway.name, "zone": gateway.zone, "region": gateway.region}[config.by]
        grouped.setdefault(key, []).append(gateway)
    return grouped


def _destination(config: Istio, name: str) -> tuple[str, str]:
    filled = {config.by: name}
    return config.host.format(**filled), config.subset.format(**filled)


def _place(entry: Object) -> tuple[str, str]:
    destination = entry["destination"]
    return destination["host"], destination.get("subset", "")


def _to_total(weights: Mapping[str, int]) -> dict[str, int]:
    """Istio wants a distribution to add up to 100."""
    return apportion(TOTAL_WEIGHT, {place: Fraction(weight) for place, weight in weights.items()})


def _setting_of(rule: Object) -> Object:
    policy = rule["spec"].get("trafficPolicy", {})
    found: Object = policy.get("loadBalancer", {}).get("localityLbSetting", {})
    return found


def _rule_patch(rule: Object, setting: Mapping[str, Any]) -> Object:
    """Only one of the three ways may be there; the others' are taken out."""
    ways = {"failover": None, "distribute": None, "failoverPriority": None}
    outlier = rule["spec"].get("trafficPolicy", {}).get("outlierDetection") or _LEAST_OUTLIER
    policy = {"loadBalancer": {"localityLbSetting": {**ways, **setting}}, "outlierDetection": outlier}
    return {"metadata": {"resourceVersion": rule["metadata"]["resourceVersion"]}, "spec": {"trafficPolicy": policy}}
