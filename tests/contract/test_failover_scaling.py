"""More replicas while a region is lost, and fewer afterwards: the steps over the twin of Kubernetes' API."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from beside import beside

from tasks import scaling
from tasks.scaling import Scale, Scaling, lower, plan_scaling, raised, scale_back, scale_target
from vedr.adapters.fleet_scaling import KubernetesScaling
from vedr.adapters.kubernetes_api import Access, KubernetesApi
from vedr.errors import UnavailableError
from vedr.failover.relocation import Relocation
from vedr.ledger import RunId
from vedr.policies.fleet import Cluster, Kubernetes
from vedr.runbook.order import Order
from vedr.runbook.steps import Context

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
ports = sys.modules["loopback_ports"]
twins = beside("scaled_kubernetes_twin", HERE / "kubernetes_twin.py")
machines = beside("scaled_kubernetes_machinery", HERE / "kubernetes_machinery.py")
RUN = RunId("inc-20260214-120000-aaaa")
FOUND = Relocation(
    "region us-east", "region eu-west", planned=False, moves=(), left=(), handovers=(), gateways=(),
    total_power=0, online_before=0, online_after=0, tip_height=0, tip_hash="",
)  # fmt: skip
CLUSTER = Cluster(
    kubeconfig="env:K",
    scaled={"api-gateway": "Deployment", "virtengine-fullnode": "StatefulSet"},
    failover_replicas={"api-gateway": 2, "virtengine-fullnode": 1},
)


@dataclass
class Station:
    """A region's cluster, and a site whose target it is."""

    machinery: Any
    ledger: dict[str, list[Any]] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self, _: object) -> Iterator[Any]:
        regions = {"eu-west": SimpleNamespace(zones=("eu-west-1a",)), "us-east": SimpleNamespace(zones=("us-east-1a",))}
        policy = Kubernetes(clusters={"eu-west": CLUSTER})
        journal = SimpleNamespace(
            read=lambda run_id: SimpleNamespace(entries=tuple(self.ledger[run_id])),
            runs_of=lambda name: [one for one, entries in self.ledger.items() if entries[0].payload["runbook"] == name],
        )
        yield SimpleNamespace(
            site=SimpleNamespace(fleet=SimpleNamespace(kubernetes=policy), regions=regions),
            scaling=KubernetesScaling(policy, lambda _: self.machinery.api),
            journal=journal,
        )

    def replicas(self, workload: str) -> int:
        with self.open("") as opened:
            return int(opened.scaling.replicas(workload, "eu-west").wanted)

    def record(self, run_id: str, runbook: str, at: int, *done: tuple[str, Any]) -> None:
        entries = [SimpleNamespace(kind="opened", time=at, payload={"runbook": runbook})]
        entries += [
            SimpleNamespace(kind="step_completed", time=at, payload={"step": key, "result": result})
            for key, result in done
        ]
        self.ledger[run_id] = [*entries, SimpleNamespace(kind="closed", time=at, payload={"outcome": "completed"})]


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    twin = twins.Twin(tmp_path, ports.free_port())
    twin.start()
    api = KubernetesApi("eu-west", Access(f"https://127.0.0.1:{twin.port}", twin.authority, token=twins.TOKEN))
    machinery = machines.Machinery(api)
    machinery.start()
    machinery.add_node("node-a", "eu-west-1a")
    machinery.add_workload("api-gateway", "node-a", kind="Deployment", replicas=1)
    machinery.add_workload("virtengine-fullnode", "node-a", replicas=1)
    made = Station(machinery)
    monkeypatch.setattr(scaling, "open_site", made.open)
    monkeypatch.setattr(scaling, "READY_LIMIT_S", 20.0)
    yield made
    machinery.stop()
    api.close()
    twin.stop()


def context(attempt: int = 1) -> Any:
    return Context(Order(), "", RUN, 1, attempt, resuming=False, say=lambda _: None)


def test_what_serves_in_the_target_is_raised_once_and_put_back(station: Station) -> None:
    wanted = plan_scaling.fn(context(), FOUND)
    assert wanted == Scaling((Scale("api-gateway", "eu-west", 1, 2),), ())
    done = scale_target.fn(context(), wanted)
    assert [(one.workload, one.ready, one.problem) for one in done] == [("api-gateway", 2, "")]
    scale_target.fn(context(), wanted)
    assert station.replicas("api-gateway") == 2
    station.record(RUN, "RB-DR-003", 1, (plan_scaling.key, plan_scaling.encode(wanted)))
    assert scale_back(context(), None) == "api-gateway in eu-west: 2 -> 1"
    assert scale_back(context(), None) == "nothing was scaled"
    assert station.replicas("api-gateway") == 1


def test_the_way_home_lowers_what_failovers_since_the_last_one_raised_and_leaves_what_a_person_changed(
    station: Station,
) -> None:
    def recorded(before: int, wanted: int) -> tuple[str, Any]:
        return plan_scaling.key, plan_scaling.encode(Scaling((Scale("api-gateway", "eu-west", before, wanted),), ()))

    station.record("one", "RB-DR-003", 1, recorded(0, 9))
    station.record("two", "failback", 2)
    station.record("three", "RB-DR-002", 3, recorded(1, 2))
    station.record("four", "RB-DR-003", 4, recorded(2, 3))
    with station.open("") as opened:
        assert raised(opened) == (Scale("api-gateway", "eu-west", 1, 3),)
        opened.scaling.scale("api-gateway", "eu-west", 5)
        assert "has 5, which somebody else wants" in lower(opened, raised(opened))
        opened.scaling.scale("api-gateway", "eu-west", 3)
        assert lower(opened, raised(opened)) == "api-gateway in eu-west: 3 -> 1"
    assert station.replicas("api-gateway") == 1


@pytest.mark.usefixtures("station")
def test_a_cluster_that_is_silent_is_told_of_and_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Scaling((Scale("api-gateway", "eu-west", 1, 2),), ())

    def silent(*_: object, **__: object) -> Any:
        raise UnavailableError("the cluster does not answer", remedy="Wait.")

    monkeypatch.setattr(KubernetesScaling, "replicas", silent)
    monkeypatch.setattr(KubernetesScaling, "scale", silent)
    assert len(plan_scaling.fn(context(), FOUND).problems) == 2
    with pytest.raises(UnavailableError):
        scale_target.fn(context(), wanted)
    assert "does not answer" in scale_target.fn(context(attempt=2), wanted)[0].problem


def test_a_site_without_clusters_scales_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def open_lab(_: object) -> Iterator[Any]:
        regions = {"eu-west": SimpleNamespace(zones=())}
        yield SimpleNamespace(site=SimpleNamespace(fleet=SimpleNamespace(kubernetes=None), regions=regions))

    monkeypatch.setattr(scaling, "open_site", open_lab)
    assert scale_target.fn(context(), plan_scaling.fn(context(), FOUND)) == ()
    assert scaling.scale_home.fn(context()) == "no cluster can be scaled"
