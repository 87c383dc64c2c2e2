"""Scaling of a region's workloads, and cordoning of a zone's nodes, over Kubernetes.

Guarantees: what vedr.ports.Scaling and ZoneHosts promise.
Leaves out: retries, and draining (tasks.cordoning says why).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vedr.adapters.fleet_kubernetes import Workload
from vedr.adapters.kubernetes_api import KubernetesApi, Object, conditions, dig, name_of
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError
from vedr.policies.fleet import Kubernetes
from vedr.ports import Replicas

POLL_S: Final = 0.5
MOST_REPLICAS: Final = 100  # a slip of the finger, not a plan
ZONE_LABEL: Final = "topology.kubernetes.io/zone"


class KubernetesScaling:
    """vedr.ports.Scaling.

    Args:
        policy: Clusters and what may be scaled there.
        open_api: Connects to the cluster of a region, when it is first needed.
    """

    def __init__(self, policy: Kubernetes, open_api: Callable[[str], KubernetesApi]) -> None:
        self._policy = policy
        self._open = open_api

    def replicas(self, workload: str, region: str) -> Replicas:
        return _replicas(workload, self._read(self._workload(workload, region)))

    def scale(self, workload: str, region: str, replicas: int) -> Replicas:
        if not 0 <= replicas <= MOST_REPLICAS:
            raise InvalidInputError(
                f"{workload} in {region}: {replicas} replicas", remedy=f"Want 0 to {MOST_REPLICAS}."
            )
        there = self._workload(workload, region)
        before = _replicas(workload, self._read(there))
        there.scale(replicas)
        return before

    def wait_ready(self, workload: str, region: str, *, limit_s: float) -> Replicas:
        there = self._workload(workload, region)
        until = time.monotonic() + limit_s
        while True:
            read = self._read(there)
            replicas = _replicas(workload, read)
            is_seen = int(dig(read, "status", "observedGeneration") or 0) >= int(
                dig(read, "metadata", "generation") or 0
            )
            if is_seen and replicas.ready >= replicas.wanted:
                return replicas
            if time.monotonic() > until:
                raise DeadlineError(
                    f"{there.where}: {replicas.ready} of {replicas.wanted} are ready after {limit_s:g} s; "
                    f"{_unready(there) or 'the controller has not made the others'}",
                    remedy="Look for room: nodes, volumes and images.",
                )
            time.sleep(POLL_S)

    def _read(self, there: Workload) -> Object:
        return there.api.get(there.path)

    def _workload(self, name: str, region: str) -> Workload:
        cluster = self._policy.clusters.get(region)
        if cluster is None or name not in cluster.scaled:
            raise NotFoundError(
                f"no workload {name!r} may be scaled in region {region!r}",
                remedy="Add it to [fleet.kubernetes.clusters.….scaled].",
            )
        return Workload(self._open(region), cluster.namespace, cluster.scaled[name], name)


class KubernetesZones:
    """vedr.ports.ZoneHosts: a zone is the nodes that bear its label.

    Args:
        regions: The region of each zone.
        open_api: Connects to the cluster of a region, when it is first needed.
    """

    def __init__(self, regions: Mapping[str, str], open_api: Callable[[str], KubernetesApi]) -> None:
        self._regions = regions
        self._open = open_api

    def cordon(self, zone: str) -> tuple[str, ...]:
        return self._mark(zone, unschedulable=True)

    def uncordon(self, zone: str) -> tuple[str, ...]:
        return self._mark(zone, unschedulable=False)

    def _mark(self, zone: str, *, unschedulable: bool) -> tuple[str, ...]:
        api, nodes = self._api(zone), self._nodes(zone)
        for node in nodes:
            api.merge(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": unschedulable or None}})
        return nodes

    def _nodes(self, zone: str) -> tuple[str, ...]:
        nodes = self._api(zone).list("/api/v1/nodes", labelSelector=f"{ZONE_LABEL}={zone}")
        if not nodes:
            raise NotFoundError(f"no node has the label {ZONE_LABEL}={zone}", remedy="Label the zone's nodes.")
        return tuple(sorted(name_of(node) for node in nodes))

    def _api(self, zone: str) -> KubernetesApi:
        if zone not in self._regions:
            raise NotFoundError(f"no region has a zone {zone!r}", remedy=f"Choose one of: {', '.join(self._regions)}.")
        return self._open(self._regions[zone])


def _replicas(name: str, workload: Object) -> Replicas:
    wanted = dig(workload, "spec", "replicas")
    return Replicas(name, 1 if wanted is None else int(wanted), int(dig(workload, "status", "readyReplicas") or 0))


def _unready(there: Workload) -> str:
    _, pods = there.pods()
    waiting = [pod for pod in pods if conditions(pod).get("Ready") != "True"]
    return ", ".join(f"pod {name_of(pod)}: {_reason(pod)}" for pod in waiting)


def _reason(pod: Object) -> str:
    """Of the first condition that is not met, or of the first container that waits."""
    unmet: Sequence[Object] = [c for c in dig(pod, "status", "conditions") or () if c.get("status") != "True"]
    held: Sequence[Any] = [dig(c, "state", "waiting", "reason") for c in dig(pod, "status", "containerStatuses") or ()]
    told = [str(reason) for reason in (*held, *(condition.get("reason") for condition in unmet)) if reason]
    return told[0] if told else str(dig(pod, "status", "phase"))
