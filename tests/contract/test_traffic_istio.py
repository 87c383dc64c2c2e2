"""What a mesh's objects look like before and after; over a twin of the Kubernetes API with its conflicts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from traffic_istio_parts import HOST, SERVICES
from traffic_parts import ALL

from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.failover.traffic_answers import wait_until_answered
from vedr.failover.traffic_division import Moves, View
from vedr.failover.traffic_plan import TrafficPlan, plan_away, plan_back

pytestmark = pytest.mark.server

US = Domain("region", "us-east")


@pytest.fixture
def mesh(make_mesh: Callable[..., Any]) -> Iterator[Any]:
    made = make_mesh()
    yield made
    made.close()


def leaving(mesh: Any, traffic: Any, *lost: Domain) -> TrafficPlan:
    return plan_away(Moves(mesh.site(), ALL, 1, lost or (US,)), [View(traffic.backend, traffic.picture())])


def test_only_weights_annotation_and_locality_change(mesh: Any) -> None:
    traffic = mesh.traffic()
    before, rule_before = mesh.service, mesh.rule
    plan = leaving(mesh, traffic)
    traffic.shift(plan.changes[0])
    after = mesh.service
    assert [entry["weight"] for entry in after["spec"]["http"][1]["route"]] == [0, 75, 25]
    for entry, old in zip(after["spec"]["http"][1]["route"], before["spec"]["http"][1]["route"], strict=True):
        assert entry["destination"] == old["destination"]
    assert after["spec"]["http"][0] == before["spec"]["http"][0]
    assert after["spec"]["http"][1]["retries"] == {"attempts": 3}
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert after["metadata"]["annotations"] == {"vedr.virtengine.network/traffic": str(plan.guard)}
    policy = mesh.rule["spec"]["trafficPolicy"]
    assert policy["connectionPool"] == rule_before["spec"]["trafficPolicy"]["connectionPool"]
    assert policy["loadBalancer"] == {
        "simple": "LEAST_REQUEST",
        "localityLbSetting": {"enabled": True, "failover": [{"from": "us-east-1", "to": "eu-west-1"}]},
    }
    assert policy["outlierDetection"]["consecutive5xxErrors"] == 5
    assert mesh.rule["spec"]["subsets"] == rule_before["spec"]["subsets"]


def test_the_way_back_ends_without_failover_between_regions(mesh: Any) -> None:
    traffic = mesh.traffic()
    traffic.shift(leaving(mesh, traffic).changes[0])
    back = plan_back(Moves(mesh.site(), ALL, 2), [View(traffic.backend, traffic.picture())], US, 100)
    traffic.shift(back.changes[0])
    assert mesh.rule["spec"]["trafficPolicy"]["loadBalancer"]["localityLbSetting"] == {"enabled": True}
    assert traffic.picture().names["api-gateway"].weights == {"us-east": 40, "eu-west": 35, "ap-south": 25}


def test_zones_are_distributed_as_the_weights_say(mesh: Any) -> None:
    by_zone = {"by": "zone", "subset": "{zone}", "locality": "distribute"}
    service = mesh.service
    service["spec"]["http"][1]["route"] = [{"destination": {"host": HOST, "subset": "us-east-1a"}}]
    mesh.twin.store.answer("PUT", f"{SERVICES}/api-gateway", {}, service)
    traffic = mesh.traffic(**by_zone)
    assert traffic.picture().names["api-gateway"].serving == {"us-east-1a"}
    moves = Moves(mesh.site(**by_zone), ALL, 1, (Domain("zone", "us-east-1a"),))
    plan = plan_away(moves, [View(traffic.backend, traffic.picture())])
    traffic.shift(plan.changes[0])
    assert mesh.rule["spec"]["trafficPolicy"]["loadBalancer"]["localityLbSetting"]["distribute"] == [
        {"from": f"{region}/*", "to": {"us-east-1/us-east-1b/*": 100}}
        for region in ("us-east-1", "eu-west-1", "ap-south-1")
    ]
    assert mesh.service["spec"]["http"][1]["route"] == [
        {"destination": {"host": HOST, "subset": "us-east-1a"}, "weight": 0},
        {"destination": {"host": HOST, "subset": "us-east-1b"}, "weight": 100},
    ]


def test_istios_own_status_updates_do_not_spoil_a_plan(mesh: Any) -> None:
    traffic = mesh.traffic()
    plan = leaving(mesh, traffic)
    mesh.touch()
    assert traffic.shift(plan.changes[0])


def test_a_write_over_a_newer_version_is_refused_by_the_server(mesh: Any) -> None:
    traffic = mesh.traffic()
    plan = leaving(mesh, traffic)
    look = traffic._look()
    mesh.weigh(7)
    traffic._look = lambda: look
    before = mesh.service
    with pytest.raises(ConflictError, match="the object has been modified"):
        traffic.shift(plan.changes[0])
    assert mesh.service == before


def test_a_shift_that_stopped_between_rule_and_route_is_completed_by_the_next(mesh: Any) -> None:
    traffic = mesh.traffic()
    plan = leaving(mesh, traffic)
    mesh.twin.answers["virtualservices/api-gateway"] = (503, b"{}")
    with pytest.raises(UnavailableError):
        traffic.shift(plan.changes[0])
    del mesh.twin.answers["virtualservices/api-gateway"]
    patch = traffic._cluster.merge
    traffic._cluster.merge = lambda path, body: patch(path, body) if "destinationrules" in path else _fail()
    with pytest.raises(UnavailableError):
        traffic.shift(plan.changes[0])
    assert "localityLbSetting" in mesh.rule["spec"]["trafficPolicy"]["loadBalancer"]
    traffic._cluster.merge = patch
    assert traffic.shift(plan.changes[0])
    wait_until_answered([traffic], plan, deadline_s=5)


def _fail() -> Any:
    raise UnavailableError("the connection ended")


def test_a_locality_that_somebody_changed_is_put_right_by_the_same_shift(mesh: Any) -> None:
    traffic = mesh.traffic()
    plan = leaving(mesh, traffic)
    traffic.shift(plan.changes[0])
    traffic._cluster.merge(
        traffic._rule_path, {"spec": {"trafficPolicy": {"loadBalancer": {"localityLbSetting": None}}}}
    )
    assert traffic.shift(plan.changes[0])
    assert not traffic.shift(plan.changes[0])


def test_destinations_of_nobody_are_shown_and_get_no_users(mesh: Any) -> None:
    service = mesh.service
    service["spec"]["http"][1]["route"].append({"destination": {"host": "canary"}, "weight": 5})
    mesh.twin.store.answer("PUT", f"{SERVICES}/api-gateway", {}, service)
    traffic = mesh.traffic()
    assert traffic.picture().names["api-gateway"].strangers == ("canary/",)
    traffic.shift(leaving(mesh, traffic).changes[0])
    assert mesh.service["spec"]["http"][1]["route"][-1]["weight"] == 0


@pytest.mark.parametrize(("route", "said"), [("", "2 http routes of any name"), ("nowhere", "0 http routes nowhere")])
def test_a_route_that_is_not_one_is_named(mesh: Any, route: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        mesh.traffic(route=route).picture()


def test_objects_that_are_not_there_and_credentials_that_are_refused(mesh: Any) -> None:
    mesh.twin.answers["virtualservices/nowhere"] = (404, b"{}")
    with pytest.raises(NotFoundError):
        mesh.traffic(virtual_service="nowhere").picture()
    mesh.token = "wrong"
    with pytest.raises(RefusedError):
        mesh.traffic().picture()


def test_a_cluster_that_is_out_of_reach_is_an_answer_with_a_problem(mesh: Any) -> None:
    traffic = mesh.traffic()
    traffic.picture()
    mesh.twin.answers["virtualservices/api-gateway"] = (503, b"{}")
    (answer,) = traffic.answers(["api-gateway"])
    assert "503" in answer.problem


def test_a_mesh_without_a_rule_keeps_no_locality(mesh: Any) -> None:
    traffic = mesh.traffic(destination_rule="")
    before = mesh.rule
    traffic.shift(leaving(mesh, traffic).changes[0])
    assert mesh.rule == before
