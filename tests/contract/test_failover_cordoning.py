"""A zone's nodes from RB-DR-002 until the way home: the steps over the twin of Kubernetes' API and a ledger."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from beside import beside

from tasks import cordoning
from tasks.cordoning import Cordoned, cordon, let_use, uncordon
from tasks.failover_orders import Failback
from tasks.outages import describe
from vedr.adapters.fleet_scaling import KubernetesZones
from vedr.adapters.kubernetes_api import Access, KubernetesApi
from vedr.errors import UnavailableError
from vedr.failover.relocation import Relocation
from vedr.inventory import Site, load_site
from vedr.ledger import RunId
from vedr.policies.fleet import Cluster, Kubernetes
from vedr.runbook.steps import Context

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "deployments" / "sites" / "production.example.toml"
ports = sys.modules["loopback_ports"]
twins = beside("cordoned_kubernetes_twin", HERE / "kubernetes_twin.py")
machines = beside("cordoned_kubernetes_machinery", HERE / "kubernetes_machinery.py")
RUN = RunId("inc-20260214-120000-aaaa")
ZONE = "eu-west-1a"
FOUND = Relocation(
    f"zone {ZONE}", "zone eu-west-1b", planned=False, moves=(), left=(), handovers=(), gateways=("g",),
    total_power=0, online_before=0, online_after=0, tip_height=0, tip_hash="", cordons=True,
)  # fmt: skip


@dataclass
class Station:
    """A region's cluster, and a site in front of it."""

    site: Site
    zones: Any
    api: KubernetesApi
    ledger: dict[str, list[Any]] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self, _: object) -> Iterator[Any]:
        journal = SimpleNamespace(
            read=lambda run_id: SimpleNamespace(entries=tuple(self.ledger[run_id])),
            runs_of=lambda name: [one for one, entries in self.ledger.items() if entries[0].payload["runbook"] == name],
        )
        yield SimpleNamespace(site=self.site, zones=self.zones, journal=journal)

    def record(self, run_id: str, runbook: str, at: int, *results: Cordoned) -> None:
        entries = [SimpleNamespace(kind="opened", time=at, payload={"runbook": runbook})]
        entries += [
            SimpleNamespace(
                kind="step_completed", time=at, payload={"step": cordon.key, "result": cordon.encode(result)}
            )
            for result in results
        ]
        self.ledger[run_id] = [*entries, SimpleNamespace(kind="closed", time=at, payload={"outcome": "completed"})]

    def is_cordoned(self, node: str) -> bool:
        return bool(self.api.get(f"/api/v1/nodes/{node}")["spec"].get("unschedulable"))


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    twin = twins.Twin(tmp_path, ports.free_port())
    twin.start()
    api = KubernetesApi("eu-west", Access(f"https://127.0.0.1:{twin.port}", twin.authority, token=twins.TOKEN))
    machinery = machines.Machinery(api)
    for node, zone in (("node-a", ZONE), ("node-b", "eu-west-1b")):
        machinery.add_node(node, zone)
    site = load_site(str(EXAMPLE))
    policy = Kubernetes(clusters={"eu-west": Cluster(kubeconfig="env:K")})
    fleet = site.fleet.model_copy(update={"kubernetes": policy})
    zones = KubernetesZones(dict.fromkeys(site.regions["eu-west"].zones, "eu-west"), lambda _: api)
    made = Station(site.model_copy(update={"fleet": fleet}), zones, api)
    monkeypatch.setattr(cordoning, "open_site", made.open)
    yield made
    api.close()
    twin.stop()


def context(attempt: int = 1, order: Any = None) -> Any:
    return Context(order or Failback(place=ZONE), "", RUN, 1, attempt, resuming=False, say=lambda _: None)


def test_a_lost_zone_takes_nothing_new_until_the_way_home(station: Station) -> None:
    done = cordon.fn(context(), FOUND)
    assert done == cordon.fn(context(), FOUND) == Cordoned(ZONE, ("node-a",), "")
    assert (station.is_cordoned("node-a"), station.is_cordoned("node-b")) == (True, False)
    station.record("one", "RB-DR-002", 1, done)
    assert uncordon.fn(context(order=Failback(place="us-east"))) == ()
    assert station.is_cordoned("node-a")
    assert uncordon.fn(context(order=Failback(place="eu-west"))) == ("node-a",)
    assert not station.is_cordoned("node-a")
    station.record("two", "failback", 2)
    station.api.merge("/api/v1/nodes/node-a", {"spec": {"unschedulable": True}})  # by a person
    assert uncordon.fn(context()) == ()
    assert station.is_cordoned("node-a")


def test_a_run_that_is_abandoned_gives_the_hosts_back(station: Station) -> None:
    assert let_use(context(), cordon.fn(context(), FOUND)) == "node-a may be used again"
    assert not station.is_cordoned("node-a")
    assert "not known" in let_use(context(), None)


def test_a_cluster_that_is_silent_is_asked_again_then_told_of_and_holds_up_nothing(station: Station) -> None:
    def silent(_: str) -> Any:
        raise UnavailableError("the cluster of eu-west is silent", remedy="Wait.")

    station.zones = KubernetesZones({ZONE: "eu-west"}, silent)
    with pytest.raises(UnavailableError):
        cordon.fn(context(), FOUND)
    assert cordon.fn(context(attempt=2), FOUND) == Cordoned(ZONE, (), "the cluster of eu-west is silent")


def test_the_plan_cordons_a_lost_zone_first_and_an_emptied_one_last() -> None:
    def deeds(found: Relocation) -> list[str]:
        return [action.what for action in describe(found).actions]

    assert deeds(FOUND)[0] == f"cordon zone {ZONE}"
    emptied = Relocation(**{name: getattr(FOUND, name) for name in Relocation.__slots__} | {"planned": True})
    assert deeds(emptied)[-1] == f"cordon zone {ZONE}"
