"""What Route 53 answers, and what vedr makes of it; over moto behind a front as strict as Amazon's."""

from collections.abc import Callable
from typing import Any

import pytest
from loopback_ports import free_port
from traffic_parts import ALL, ZONE
from traffic_route53_parts import error_text, record_of

from vedr.adapters import dns_answers, traffic_route53
from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, CorruptError, DeadlineError, NotFoundError, RefusedError, UnavailableError
from vedr.failover.traffic_answers import wait_until_answered
from vedr.failover.traffic_division import Moves, View
from vedr.failover.traffic_plan import TrafficPlan, plan_away

pytestmark = pytest.mark.server

US = Domain("region", "us-east")


@pytest.fixture
def zone(make_route53: Callable[..., Any]) -> Any:
    return make_route53()


def leaving(zone: Any, traffic: Any) -> TrafficPlan:
    return plan_away(Moves(zone.site(), ALL, 1, (US,), "eu-west"), [View(traffic.backend, traffic.picture())])


def test_only_weights_and_ttls_change_health_checks_and_targets_stay(zone: Any) -> None:
    traffic = zone.traffic()
    before = {(r["Name"], r["SetIdentifier"]): r for r in zone.sets() if "SetIdentifier" in r}
    traffic.shift(leaving(zone, traffic).changes[0])
    after = {(r["Name"], r["SetIdentifier"]): r for r in zone.sets() if "SetIdentifier" in r}
    assert before.keys() == after.keys()
    for key, record in after.items():
        assert {**record, "Weight": 0, "TTL": 0} == {**before[key], "Weight": 0, "TTL": 0}
    assert after[f"api.{ZONE}.", "gateway-us-east-0.api"]["Weight"] == 0
    assert after[f"api.{ZONE}.", "gateway-eu-west-0.api"]["Weight"] == 75
    assert after[f"api.{ZONE}.", "gateway-us-east-0.api"]["HealthCheckId"]
    assert after[f"rpc-us-east.{ZONE}.", "gateway-eu-west-0.rpc-us-east"]["Weight"] == 100


def test_a_record_set_that_changed_after_the_look_makes_amazon_refuse_the_batch(zone: Any) -> None:
    traffic = zone.traffic()
    change = leaving(zone, traffic).changes[0]
    look = traffic._look()
    zone.put("api", "gateway-us-east-0", 7)
    traffic._look = lambda: look
    before = zone.sets()
    with pytest.raises(ConflictError, match="do not match the current values"):
        traffic.shift(change)
    assert zone.sets() == before


def test_a_second_vedr_that_looked_at_the_same_time_is_refused_by_the_guard(zone: Any) -> None:
    traffic, beside = zone.traffic(), zone.traffic()
    change = leaving(zone, traffic).changes[0]
    look = beside._look()
    traffic.shift(change)
    beside._look = lambda: look
    with pytest.raises(ConflictError, match=r"already exists|do not match"):
        beside.shift(leaving(zone, beside).changes[0])


def test_a_shift_returns_when_all_servers_of_amazon_have_it(zone: Any) -> None:
    traffic = zone.traffic()
    zone.strict.pending = 3
    traffic.shift(leaving(zone, traffic).changes[0])
    assert len([path for method, path in zone.strict.requests if "/change/" in path]) == 3


def test_a_change_that_stays_pending_is_not_called_done_and_is_found_done_later(zone: Any) -> None:
    traffic = zone.traffic(insync_limit_s=4)
    plan = leaving(zone, traffic)
    zone.strict.pending = 99
    with pytest.raises(UnavailableError, match="has not carried it to all its servers in 4 s"):
        traffic.shift(plan.changes[0])
    assert not traffic.shift(plan.changes[0])


def test_a_busy_route_53_is_waited_for_and_then_left_for_later(zone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_route53, "MAX_TRIES", 2)
    traffic = zone.traffic()
    plan = leaving(zone, traffic)
    busy = ("POST", 400, error_text("PriorRequestNotComplete"))
    zone.strict.scripted = [busy]
    assert traffic.shift(plan.changes[0])
    zone.strict.scripted = [("GET", 400, error_text("Throttling", "Rate exceeded"))] * 5
    with pytest.raises(UnavailableError, match="Throttling"):
        traffic.picture()


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("AccessDenied", 403, RefusedError),
        ("InvalidClientTokenId", 403, RefusedError),
        ("NoSuchHostedZone", 404, NotFoundError),
        ("InvalidInput", 400, RefusedError),
        ("InternalFailure", 500, UnavailableError),
    ],
)
def test_each_of_amazons_errors_means_one_thing(zone: Any, code: str, status: int, error: type[Exception]) -> None:
    zone.strict.scripted = [("GET", status, error_text(code))] * 5
    with pytest.raises(error, match=zone.zone_id):
        zone.traffic().picture()
    assert all(answer.problem for answer in zone.traffic(endpoint=f"http://127.0.0.1:{free_port()}").answers(["api"]))


def test_an_api_that_is_out_of_reach_proves_nothing(zone: Any) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        zone.traffic(endpoint=f"http://127.0.0.1:{free_port()}").picture()


def test_a_name_that_is_not_weighted_cannot_be_shifted(zone: Any) -> None:
    zone.write(
        "UPSERT", {"Name": f"api.{ZONE}.", "Type": "AAAA", "TTL": 60, "ResourceRecords": [{"Value": "2001:db8::1"}]}
    )
    with pytest.raises(RefusedError, match=r"AAAA in hosted zone .* is not weighted"):
        zone.traffic().picture()


def test_a_global_name_without_record_sets_is_named(make_route53: Callable[..., Any]) -> None:
    with pytest.raises(NotFoundError, match=rf"portal\.{ZONE}"):
        make_route53(global_names=["api", "portal"]).traffic().picture()


def test_record_sets_of_nobody_are_shown_and_get_no_users(zone: Any) -> None:
    zone.write("UPSERT", record_of("api", "canary", 50))
    traffic = zone.traffic()
    assert traffic.picture().names["api"].strangers == ("canary.api",)
    plan = leaving(zone, traffic)
    with pytest.raises(DeadlineError, match="api leads to"):
        wait_until_answered([traffic], plan, deadline_s=0)
    traffic.shift(plan.changes[0])
    assert traffic.picture().names["api"].strangers == ()
    assert [r["Weight"] for r in zone.sets() if r.get("SetIdentifier") == "canary.api"] == [0]


def test_host_names_as_targets_are_followed_in_answers(zone: Any) -> None:
    gateways = {"gateway-us-east-0": 50, "gateway-eu-west-0": 50}
    old = [record for record in zone.sets() if record["Name"] == f"api.{ZONE}."]
    for record in old:
        zone.write("DELETE", record)
    for gateway, weight in gateways.items():
        target = [{"Value": f"{gateway}.elb.example."}]
        zone.write("UPSERT", record_of("api", gateway, weight, Type="CNAME", ResourceRecords=target))
    traffic = zone.traffic()
    plan = leaving(zone, traffic)
    traffic.shift(plan.changes[0])
    wait_until_answered([traffic], plan, deadline_s=20)
    (answer,) = traffic.answers(["api"])
    assert (answer.endpoints, answer.complete) == (("gateway-eu-west-0",), False)


def test_an_alias_keeps_its_target_and_has_no_ttl(zone: Any) -> None:
    alias = {"HostedZoneId": zone.zone_id, "DNSName": "localhost.", "EvaluateTargetHealth": True}
    zone.write("DELETE", *(r for r in zone.sets() if r["Name"] == f"rpc-eu-west.{ZONE}."))
    zone.write(
        "UPSERT", record_of("rpc-eu-west", "gateway-eu-west-0", 0, TTL=None, ResourceRecords=None, AliasTarget=alias)
    )
    traffic = zone.traffic()
    plan = leaving(zone, traffic)
    assert plan.changes[0].names["rpc-eu-west"].weights == {"gateway-eu-west-0": 100}
    traffic.shift(plan.changes[0])
    (record,) = [r for r in zone.sets() if r["Name"] == f"rpc-eu-west.{ZONE}."]
    assert (record["AliasTarget"]["DNSName"], record["Weight"], "TTL" in record) == ("localhost.", 100, False)
    book = traffic._book("rpc-eu-west", traffic._look().sets["rpc-eu-west"])
    assert set(book.values()) == {"gateway-eu-west-0"}


def test_two_guards_are_one_too_many(zone: Any) -> None:
    values = [{"Value": '"vedr-traffic/1 epoch=1 plan=0123456789abcdef"'}, {"Value": '"x"'}]
    zone.write("UPSERT", {"Name": f"_vedr-traffic.{ZONE}.", "Type": "TXT", "TTL": 60, "ResourceRecords": values})
    with pytest.raises(CorruptError, match="2 records"):
        zone.traffic().picture()


def test_a_name_server_that_is_silent_is_no_answer(zone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_answers, "TIMEOUT_S", 0.2)
    traffic = zone.traffic(servers=[f"127.0.0.1:{free_port()}"])
    (answer,) = traffic.answers(["api"])
    assert "does not answer" in answer.problem
