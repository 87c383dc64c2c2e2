"""The fleet of a site whose units are workloads of Kubernetes: a StatefulSet or Deployment a unit, a cluster a region.

Guarantees: a unit is called stopped only when it is scaled to 0 and no pod of it is left that could still run.  A pod
that is being deleted on a node that does not report is not stopped: that is an UnavailableError, which proves nothing.
Pods are never deleted by force, which takes them off the list while their processes may go on.
Leaves out: retries, and pausing, which Kubernetes can't.  When a node's object is removed, Kubernetes itself forgets
its pods; whoever removes it must know that the machine is off.  `since` is the epoch when no pod tells it.
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Never

from vedr.adapters.kubernetes_api import KubernetesApi, Object, conditions, dig, name_of
from vedr.errors import ConflictError, DeadlineError, NotFoundError, RefusedError, UnavailableError
from vedr.policies.fleet import Kubernetes, WorkloadKind
from vedr.ports import UnitState, UnitStatus

POLL_S: Final = 0.25
MOST_ATTEMPTS: Final = 10
KILL_GRACE_S: Final = 1  # the least that is not by force
NEVER: Final = dt.datetime.fromtimestamp(0, dt.UTC)
PLURALS: Final[Mapping[WorkloadKind, str]] = {"StatefulSet": "statefulsets", "Deployment": "deployments"}


@dataclass(frozen=True, slots=True)
class Workload:
    """A StatefulSet or Deployment in its cluster."""

    api: KubernetesApi
    namespace: str
    kind: WorkloadKind
    name: str

    @property
    def path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/{PLURALS[self.kind]}/{self.name}"

    @property
    def where(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name} of cluster {self.api.name}"

    def wanted(self) -> int:
        return _wanted(self.api.get(f"{self.path}/scale"))

    def scale(self, replicas: int) -> int:
        """Set the number of replicas; what it was.

        The version that a conflict is about changes with every word of the controller too: written again while the
        number is the one that we read.  ConflictError when somebody else changes the number meanwhile.
        """
        scale = self.api.get(f"{self.path}/scale")
        was = _wanted(scale)
        for attempt in range(1, MOST_ATTEMPTS + 1):
            if _wanted(scale) == replicas:
                break
            try:
                self.api.replace(f"{self.path}/scale", {**scale, "spec": {"replicas": replicas}})
                break
            except ConflictError:
                scale = self.api.get(f"{self.path}/scale")
                if _wanted(scale) != was or attempt == MOST_ATTEMPTS:
                    raise
        return was

    def pods(self) -> tuple[int, Sequence[Object]]:
        """Replicas wanted, and the pods that may have a process or get one."""
        scale = self.api.get(f"{self.path}/scale")
        selector = dig(scale, "status", "selector")
        if not selector:  # an empty one would select every pod of the namespace
            raise UnavailableError(f"{self.where} tells no selector of its pods", remedy="Look at its controller.")
        pods = self.api.list(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=selector)
        return _wanted(scale), [pod for pod in pods if not _is_over(pod)]

    def lost(self, pods: Sequence[Object]) -> str:
        """Of the pods on nodes that do not report, what is seen; empty when every node reports."""
        found = []
        for pod in pods:
            node = dig(pod, "spec", "nodeName")
            if not node:
                continue
            try:
                ready = conditions(self.api.get(f"/api/v1/nodes/{node}")).get("Ready", "not told")
            except NotFoundError:
                ready = "gone"
            if ready not in ("True", "False") or dig(pod, "status", "phase") == "Unknown":
                found.append(f"pod {name_of(pod)} on node {node} (Ready: {ready})")
        return ", ".join(found)


@dataclass(frozen=True, slots=True)
class _Unit:
    workload: Workload
    replicas: int


class KubernetesFleet:
    """vedr.ports.Fleet over Kubernetes.

    Args:
        policy: Clusters and their units.
        open_api: Connects to the cluster of a region, when it is first needed.
    """

    def __init__(self, policy: Kubernetes, open_api: Callable[[str], KubernetesApi]) -> None:
        self._policy = policy
        self._open = open_api

    def status(self, unit: str, zone: str) -> UnitStatus:
        workload = self._unit(unit, zone).workload
        wanted, pods = workload.pods()
        if lost := workload.lost(pods):
            raise UnavailableError(f"{workload.where}: {lost}", remedy=_LOST)
        return _status(unit, wanted, pods)

    def start(self, unit: str, zone: str) -> UnitStatus:
        there = self._unit(unit, zone)
        there.workload.scale(there.replicas)
        until = time.monotonic() + self._policy.start_limit_s
        while True:
            wanted, pods = there.workload.pods()
            if any(_runs(pod) and not _is_leaving(pod) for pod in pods):
                return _status(unit, wanted, pods)
            if time.monotonic() > until:
                seen = "; ".join(f"pod {name_of(pod)}: {_why(pod)}" for pod in pods) or "there is no pod"
                raise DeadlineError(
                    f"{there.workload.where} does not run {self._policy.start_limit_s:g} s after its start: {seen}",
                    remedy="See its events: kubectl describe.",
                )
            time.sleep(POLL_S)

    def stop(self, unit: str, zone: str) -> UnitStatus:
        workload = self._unit(unit, zone).workload
        workload.scale(0)
        self._await_none(workload, lambda pods: pods, "it was told to stop")
        return self.status(unit, zone)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        workload = self._unit(unit, zone).workload
        _, pods = workload.pods()
        doomed = {str(dig(pod, "metadata", "uid")) for pod in pods}
        for pod in pods:
            path = f"/api/v1/namespaces/{workload.namespace}/pods/{name_of(pod)}"
            options = {"gracePeriodSeconds": KILL_GRACE_S, "preconditions": {"uid": dig(pod, "metadata", "uid")}}
            try:
                workload.api.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
            except NotFoundError:
                continue
        self._await_none(
            workload, lambda left: [pod for pod in left if dig(pod, "metadata", "uid") in doomed], "it was killed"
        )
        return self.status(unit, zone)

    def pause(self, unit: str, zone: str, *, limit_s: float) -> Never:  # noqa: ARG002 (the port's)
        raise self._unpausable(unit, zone)

    def resume(self, unit: str, zone: str) -> Never:
        raise self._unpausable(unit, zone)

    def _await_none(
        self, workload: Workload, of_concern: Callable[[Sequence[Object]], Sequence[Object]], since: str
    ) -> None:
        limit_s = self._policy.stop_grace_s
        until = time.monotonic() + limit_s
        while True:
            _, pods = workload.pods()
            left = of_concern(pods)
            if not left:
                return
            if time.monotonic() > until:
                if lost := workload.lost(left):
                    raise UnavailableError(f"{workload.where}, {limit_s:g} s after {since}: {lost}", remedy=_LOST)
                raise DeadlineError(
                    f"{workload.where}, {limit_s:g} s after {since}: still there are "
                    f"{', '.join(name_of(pod) for pod in left)}",
                    remedy="See what its containers wait for; do not delete pods by force.",
                )
            time.sleep(POLL_S)

    def _unit(self, unit: str, zone: str) -> _Unit:
        for region, cluster in self._policy.clusters.items():
            workload = cluster.units.get(unit)
            if workload is not None and workload.zone == zone:
                found = Workload(self._open(region), cluster.namespace, workload.kind, workload.name)
                return _Unit(found, workload.replicas)
        raise NotFoundError(
            f"no workload is known for unit {unit!r} in zone {zone!r}",
            remedy="Add it to [fleet.kubernetes.clusters.….units].",
        )

    def _unpausable(self, unit: str, zone: str) -> RefusedError:
        workload = self._unit(unit, zone).workload
        return RefusedError(
            f"{workload.where}: Kubernetes can't pause a pod and promise to let it go on",
            remedy='Capture it stopped: method "stop".',
        )


_LOST: Final = "This proves nothing: its process may go on.  Fence the machine itself, then try again."


def _wanted(scale: Object) -> int:
    return int(dig(scale, "spec", "replicas") or 0)  # 0 is left out of the JSON


def _containers(pod: Object) -> Sequence[Object]:
    listed: Sequence[Object] = dig(pod, "status", "containerStatuses") or ()
    return listed


def _is_over(pod: Object) -> bool:
    """Its kubelet said that every container ended and that none will start again, or it never had a node."""
    if dig(pod, "status", "phase") not in ("Succeeded", "Failed"):
        return False
    containers = _containers(pod)
    all_ended = bool(containers) and all(dig(one, "state", "terminated") is not None for one in containers)
    return all_ended or not dig(pod, "spec", "nodeName")


def _runs(pod: Object) -> bool:
    return any(dig(one, "state", "running") is not None for one in _containers(pod))


def _is_leaving(pod: Object) -> bool:
    return dig(pod, "metadata", "deletionTimestamp") is not None


def _why(pod: Object) -> str:
    waiting = [str(dig(one, "state", "waiting", "reason")) for one in _containers(pod) if dig(one, "state", "waiting")]
    return ", ".join(waiting) or str(dig(pod, "status", "phase"))


def _status(unit: str, wanted: int, pods: Sequence[Object]) -> UnitStatus:
    starts = [str(dig(pod, "status", "startTime")) for pod in pods if dig(pod, "status", "startTime")]
    codes = [dig(one, "lastState", "terminated", "exitCode") for pod in pods for one in _containers(pod)]
    return UnitStatus(
        name=unit,
        state=_state(wanted, pods),
        pid=None,
        since=dt.datetime.fromisoformat(max(starts)) if starts else NEVER,
        exit_code=next((int(code) for code in codes if code is not None), None),
        desired="running" if wanted else "stopped",
    )


def _state(wanted: int, pods: Sequence[Object]) -> UnitState:
    if any(_runs(pod) for pod in pods) or (pods and not wanted):
        return "running"  # also while it goes: what is left may have a process
    return "failed" if wanted else "stopped"
