"""What stands around a Kubernetes API, for tests: controllers that make pods of workloads, kubelets that run them.

They know only the API, so that a real kube-apiserver could stand in for the twin.  A kubelet can be lost, as with its
machine; a workload can be deaf, so that its pods do not follow SIGTERM.
"""

import contextlib
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from vedr.adapters.kubernetes_api import KubernetesApi
from vedr.errors import ConflictError, NotFoundError, UnavailableError

NAMESPACE: Final = "virtengine"
BEAT_S: Final = 0.1
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
APPS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}"
Json = dict[str, Any]


@dataclass
class Machinery:
    """Started with the API; `lost` nodes have no kubelet, `deaf` workloads need a kill, `stuck` ones never run."""

    api: KubernetesApi
    lost: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    workloads: dict[str, tuple[str, str]] = field(default_factory=dict)

    def start(self) -> None:
        with contextlib.suppress(ConflictError):
            self.api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def add_node(self, name: str, zone: str) -> None:
        self.api.create(
            "/api/v1/nodes", {"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}, "spec": {}}
        )
        self._report(name, "True")

    def lose_node(self, name: str) -> None:
        """Its kubelet is silent, and the node controller says so."""
        self.lost.add(name)
        self._report(name, "Unknown")

    def find_node(self, name: str) -> None:
        self.lost.discard(name)
        self._report(name, "True")

    def add_workload(self, name: str, node: str, *, kind: str = "StatefulSet", replicas: int = 0) -> None:
        labels = {"app.kubernetes.io/name": name}
        spec: Json = {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "none"}], "terminationGracePeriodSeconds": 30},
            },
        }
        if kind == "StatefulSet":
            spec["serviceName"] = name
        plural = f"{kind.lower()}s"
        self.api.create(
            f"{APPS}/{plural}", {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        )
        self.workloads[name] = (plural, node)

    def pods(self, name: str) -> list[Json]:
        return [dict(pod) for pod in self.api.list(PODS, labelSelector=f"app.kubernetes.io/name={name}")]

    def _run(self) -> None:
        while not self._ending.wait(BEAT_S):
            for name, (plural, node) in list(self.workloads.items()):
                with contextlib.suppress(ConflictError, NotFoundError, UnavailableError):
                    self._control(name, plural, node)
            for pod in self.api.list(PODS):
                with contextlib.suppress(ConflictError, NotFoundError, UnavailableError):
                    self._kubelet(dict(pod))

    def _control(self, name: str, plural: str, node: str) -> None:
        """The workload's controller: as many pods as are wanted, those that go included."""
        workload = self.api.get(f"{APPS}/{plural}/{name}")
        wanted, pods = workload["spec"].get("replicas", 0), self.pods(name)
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        for pod in staying[wanted:]:
            self.api.delete(f"{PODS}/{pod['metadata']['name']}", {})
        taken = {pod["metadata"]["name"] for pod in pods}
        ordinals = [f"{name}-{number}" for number in range(wanted)]
        if plural == "deployments":
            ordinals = [f"{name}-{secrets.token_hex(4)}" for _ in range(wanted - len(staying))]
        for pod_name in ordinals:
            if pod_name not in taken:
                self._make_pod(pod_name, dict(workload), node)
        ready = sum(pod["status"].get("phase") == "Running" for pod in staying if "status" in pod)
        status = {
            "replicas": len(pods),
            "readyReplicas": ready,
            "observedGeneration": workload["metadata"]["generation"],
        }
        if {key: (workload.get("status") or {}).get(key, 0) for key in status} != status:
            self.api.merge(f"{APPS}/{plural}/{name}/status", {"status": status})

    def _make_pod(self, name: str, workload: Json, node: str) -> None:
        template = workload["spec"]["template"]
        kind = "ReplicaSet" if "serviceName" not in workload["spec"] else "StatefulSet"
        owner = {
            "apiVersion": "apps/v1",
            "kind": kind,
            "name": name,
            "uid": workload["metadata"]["uid"],
            "controller": True,
        }
        metadata = {"name": name, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
        spec = {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none"}],
            "terminationGracePeriodSeconds": 30,
        }
        self.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def _kubelet(self, pod: Json) -> None:
        metadata, path = pod["metadata"], f"{PODS}/{pod['metadata']['name']}"
        if pod["spec"].get("nodeName") in self.lost:
            return
        workload = metadata["labels"]["app.kubernetes.io/name"]
        if "deletionTimestamp" in metadata:
            if workload not in self.deaf or metadata["deletionGracePeriodSeconds"] <= 1:
                self.api.delete(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}})
        elif workload not in self.stuck and (pod.get("status") or {}).get("phase") != "Running":
            running = {"name": "main", "image": "none", "imageID": "", "ready": True, "restartCount": 0}
            state = {"running": {"startedAt": "2026-11-02T12:00:00Z"}}
            status = {
                "phase": "Running",
                "startTime": "2026-11-02T12:00:00Z",
                "containerStatuses": [{**running, "state": state}],
                "conditions": [{"type": "Ready", "status": "True"}],
            }
            self.api.merge(f"{path}/status", {"status": status})

    def _report(self, node: str, ready: str) -> None:
        condition = {"type": "Ready", "status": ready, "reason": "Test"}
        self.api.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [condition]}})
