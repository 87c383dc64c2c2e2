"""Scaling of a region's workloads, and emptying of a zone's nodes, over Kubernetes.

Guarantees: what vedr.ports.Scaling and ZoneHosts promise.  Pods leave a node by the eviction API only, so that
disruption budgets hold; a pod that nothing would start elsewhere keeps the whole drain from beginning.
Leaves out: retries; data in `emptyDir`, which goes with its pod (kubectl asks, sidecars have such volumes everywhere).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vedr.adapters.fleet_kubernetes import Workload
from vedr.adapters.kubernetes_api import KubernetesApi, Object, conditions, dig, name_of
from vedr.errors import ConflictError, DeadlineError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.policies.fleet import Kubernetes
from vedr.ports import Replicas

POLL_S: Final = 0.5
MOST_REPLICAS: Final = 100  # a slip of the finger, not a plan
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
MIRROR: Final = "kubernetes.io/config.mirror"


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

    def drain(self, zone: str, *, limit_s: float) -> tuple[str, ...]:
        api = self._api(zone)
        until = time.monotonic() + limit_s
        there = self._movable(zone)
        doomed = {uid: _full_name(pod) for uid, pod in there.items()}
        if orphans := [_full_name(pod) for pod in there.values() if not dig(pod, "metadata", "ownerReferences")]:
            raise RefusedError(
                f"zone {zone}: nothing would start {', '.join(orphans)} elsewhere",
                remedy="Move or delete them by hand.",
            )
        while True:
            said = [f"{doomed[uid]}: {_evicted(api, pod)}" for uid, pod in there.items() if uid in doomed]
            there = self._movable(zone)
            if not doomed.keys() & there.keys():
                return tuple(sorted(doomed.values()))
            if time.monotonic() > until:
                raise DeadlineError(
                    f"zone {zone} is not empty after {limit_s:g} s: {'; '.join(said)}", remedy=_NOT_GONE
                )
            time.sleep(POLL_S)

    def _movable(self, zone: str) -> dict[str, Object]:
        """The pods on the zone's nodes that have to go, by uid."""
        api = self._api(zone)
        pods = [pod for node in self._nodes(zone) for pod in _pods_on(api, node)]
        return {str(dig(pod, "metadata", "uid")): pod for pod in pods if not _stays(pod)}

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


_NOT_GONE: Final = "Relax the disruption budget, or fence the machine of a pod that does not go; never delete by force."


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


def _pods_on(api: KubernetesApi, node: str) -> list[Object]:
    pods = api.list("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")
    return [pod for pod in pods if dig(pod, "status", "phase") not in ("Succeeded", "Failed")]


def _stays(pod: Object) -> bool:
    """A node's own: of a DaemonSet, or a static pod's mirror."""
    owners: Sequence[Object] = dig(pod, "metadata", "ownerReferences") or ()
    return any(owner.get("kind") == "DaemonSet" for owner in owners) or MIRROR in (
        dig(pod, "metadata", "annotations") or {}
    )


def _evicted(api: KubernetesApi, pod: Object) -> str:
    """Ask for its eviction; what it now waits for."""
    if dig(pod, "metadata", "deletionTimestamp"):
        return "it is going"
    namespace, name = dig(pod, "metadata", "namespace"), name_of(pod)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": dig(pod, "metadata", "uid")}},
    }
    try:
        api.create(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)
    except (NotFoundError, ConflictError):
        return "it is gone"  # or another of its name is there; the next look tells
    except UnavailableError as error:
        return error.message
    return "it is going"


def _full_name(pod: Object) -> str:
    return f"{dig(pod, 'metadata', 'namespace')}/{name_of(pod)}"
