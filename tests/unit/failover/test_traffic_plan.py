"""Who serves which name: away from what is lost, and back."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from vedr.chain.quorum import Domain
from vedr.errors import InvalidInputError, NotFoundError, RefusedError
from vedr.failover.traffic import Backend, Endpoint, Guard, Picture, Share, digest, parse_guard, tag_of
from vedr.failover.traffic_division import Moves, View, apportion
from vedr.failover.traffic_plan import TrafficPlan, plan_away, plan_back, plan_undo
from vedr.inventory import Gateway, Site, parse_site
from vedr.policies.traffic import Traffic
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, step

EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"
US, EU, AP = (Domain("region", name) for name in ("us-east", "eu-west", "ap-south"))
ZONE_A = Domain("zone", "us-east-1a")
PLACES = {"us-0": "us-east-1a", "us-1": "us-east-1b", "eu-0": "eu-west-1a", "ap-0": "ap-south-1a"}
ALL = frozenset(PLACES)
GLOBAL = ("api", "rpc")


def site_of(*, reserve: frozenset[str] = frozenset(), **policy: object) -> Site:
    example = parse_site(EXAMPLE.read_text(encoding="utf-8"), source="example.toml")
    gateways = tuple(
        Gateway(name=n, region=z[:-3], zone=z, unit="g", url=f"http://{n}:8080", reserve=n in reserve)
        for n, z in PLACES.items()
    )
    return example.model_copy(update={"gateways": gateways, "traffic": Traffic.model_validate(policy)})


def view_of(site: Site, *, weighted: bool = True, name: str = "dns", **names: dict[str, int]) -> View:
    endpoints = tuple(Endpoint(g.name, g.region, (g.name,)) for g in site.gateways)
    shares = {n.replace("_", "-"): Share({**dict.fromkeys(ALL, 0), **weights}, 300) for n, weights in names.items()}
    return View(Backend(name, endpoints, is_weighted=weighted), Picture(name, shares, None, tag_of(shares, None)))


CALM = {"us-0": 20, "us-1": 20, "eu-0": 35, "ap-0": 25}


def serving(plan: TrafficPlan, name: str = "api", change: int = 0) -> dict[str, int]:
    return {endpoint: weight for endpoint, weight in plan.changes[change].names[name].weights.items() if weight}


def test_a_lost_regions_users_go_to_the_named_target() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL, 1, (US,), "ap-south"), [view_of(site, api=CALM)])
    assert serving(plan) == {"eu-0": 35, "ap-0": 65}
    assert plan.changes[0].names["api"].ttl_s == 60
    assert (plan.longest_ttl_s, plan.guard.epoch) == (300, 1)


def test_without_a_named_target_the_first_by_priority_takes_over() -> None:
    site = site_of()
    assert serving(plan_away(Moves(site, ALL, 1, (US,)), [view_of(site, api=CALM)])) == {"eu-0": 75, "ap-0": 25}
    assert serving(plan_away(Moves(site, ALL, 1, (EU,)), [view_of(site, api=CALM)])) == {
        "us-0": 38,
        "us-1": 37,
        "ap-0": 25,
    }


def test_a_site_may_share_what_is_lost_by_workload() -> None:
    site = site_of(lost_share="workload")
    assert serving(plan_away(Moves(site, ALL, 1, (US,)), [view_of(site, api=CALM)])) == {"eu-0": 58, "ap-0": 42}


def test_a_lost_zone_leaves_the_regions_users_in_the_region() -> None:
    site = site_of()
    assert serving(plan_away(Moves(site, ALL, 1, (ZONE_A,)), [view_of(site, api=CALM)])) == {
        "us-1": 40,
        "eu-0": 35,
        "ap-0": 25,
    }


def test_a_planned_drain_of_one_gateway_leaves_the_others() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL, 1, (Domain("node", "us-0"),)), [view_of(site, api=CALM)])
    assert serving(plan) == {"us-1": 40, "eu-0": 35, "ap-0": 25}


def test_an_endpoint_without_proof_of_health_gets_nobody() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL - {"eu-0"}, 1, (US,)), [view_of(site, api=CALM)])
    assert serving(plan) == {"ap-0": 100}
    assert "eu-0 has no proof of health: nobody is sent there" in plan.notes
    with pytest.raises(RefusedError, match="eu-west can't take over api"):
        plan_away(Moves(site, ALL - {"eu-0"}, 1, (US,), "eu-west"), [view_of(site, api=CALM)])


@pytest.mark.parametrize(
    ("proven", "lost"), [(frozenset(), (ZONE_A,)), (ALL, (US, EU, AP)), (frozenset({"us-0"}), (US,))]
)
def test_a_plan_that_would_leave_no_endpoint_is_refused(proven: frozenset[str], lost: tuple[Domain, ...]) -> None:
    site = site_of()
    with pytest.raises(RefusedError, match=r"api \(dns\) would be served by nobody"):
        plan_away(Moves(site, proven, 1, lost), [view_of(site, api=CALM)])


def test_a_regions_own_name_follows_its_users_to_the_target_and_others_stay() -> None:
    site = site_of()
    view = view_of(site, api=CALM, rpc_us_east={"us-0": 50, "us-1": 50}, rpc_eu_west={"eu-0": 100})
    plan = plan_away(Moves(site, ALL, 1, (US,), "ap-south"), [view])
    assert serving(plan, "rpc-us-east") == {"ap-0": 100}
    assert serving(plan, "rpc-eu-west") == {"eu-0": 100}


def test_a_regions_own_name_that_nobody_else_can_serve_is_left_alone_and_said() -> None:
    site = site_of()
    view = view_of(site, api=CALM)
    only_us = Share({"us-0": 50, "us-1": 50}, 300)
    names = {**view.picture.names, "rpc-us-east": only_us}
    plan = plan_away(Moves(site, ALL, 1, (US,)), [View(view.backend, Picture("dns", names, None, "t"))])
    assert set(plan.changes[0].names) == {"api"}
    assert "dns: rpc-us-east is left as it is, nobody can serve it" in plan.notes


def test_plain_dns_has_no_weights_only_presence_and_the_plan_says_so() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL, 1, (US,)), [view_of(site, weighted=False, api=dict.fromkeys(ALL, 1))])
    assert serving(plan) == {"eu-0": 75, "ap-0": 25}  # 40 % of us-east on top of 35 %: by workload, not by records
    assert any("api has no weights" in note for note in plan.notes)


def test_the_present_weights_of_those_who_stay_are_kept_in_proportion() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL, 1, (AP,)), [view_of(site, api={"us-0": 100, "eu-0": 100, "ap-0": 50})])
    assert serving(plan) == {"us-0": 30, "us-1": 30, "eu-0": 40}


def test_users_come_back_in_stages_and_calm_times_return_with_the_last() -> None:
    site = site_of(ttl_s=300)
    weights = {"eu-0": 75, "ap-0": 25}
    seen = []
    for stage in site.traffic.stages_pct:
        plan = plan_back(Moves(site, ALL, 2), [view_of(site, api=weights, rpc_us_east={"ap-0": 100})], US, stage)
        weights = serving(plan)
        seen.append((weights, plan.changes[0].names["api"].ttl_s, serving(plan, "rpc-us-east")))
    assert seen == [
        ({"us-0": 2, "us-1": 2, "eu-0": 72, "ap-0": 24}, 60, {"us-0": 5, "us-1": 5, "ap-0": 90}),
        ({"us-0": 10, "us-1": 10, "eu-0": 60, "ap-0": 20}, 60, {"us-0": 25, "us-1": 25, "ap-0": 50}),
        ({"us-0": 20, "us-1": 20, "eu-0": 35, "ap-0": 25}, 300, {"us-0": 50, "us-1": 50}),
    ]


def test_a_zone_comes_back_beside_the_one_that_held_the_region() -> None:
    site = site_of()
    view = view_of(site, api={"us-1": 40, "eu-0": 35, "ap-0": 25})
    assert serving(plan_back(Moves(site, ALL, 2), [view], ZONE_A, 10)) == {
        "us-0": 4,
        "us-1": 36,
        "eu-0": 35,
        "ap-0": 25,
    }
    assert serving(plan_back(Moves(site, ALL, 2), [view], ZONE_A, 100)) == CALM


def test_a_zone_that_was_its_whole_region_comes_back_as_the_region() -> None:
    site = site_of()
    view = view_of(site, api={"us-0": 38, "us-1": 37, "ap-0": 25})
    plan = plan_back(Moves(site, ALL, 2), [view], Domain("zone", "eu-west-1a"), 10)
    assert sum(serving(plan).values()) == 100
    assert serving(plan)["eu-0"] == 4  # 10 % of 35


def test_a_region_that_serves_all_alone_is_back_already() -> None:
    site = site_of(home="primary")
    view = view_of(site, api={"us-0": 50, "us-1": 50})
    assert serving(plan_back(Moves(site, ALL, 2), [view], US, 10)) == {"us-0": 50, "us-1": 50}


def test_nothing_comes_back_without_proof_of_health() -> None:
    site = site_of()
    with pytest.raises(RefusedError, match="region us-east has no gateway with a proof"):
        plan_back(Moves(site, ALL - {"us-0", "us-1"}, 2), [view_of(site, api={"eu-0": 100})], US, 10)
    with pytest.raises(RefusedError, match="it has none"):
        plan_back(Moves(site, ALL, 2), [view_of(site, api={"eu-0": 100})], Domain("zone", "eu-west-1b"), 10)


def test_a_stage_that_the_site_does_not_have_is_refused() -> None:
    site = site_of()
    with pytest.raises(InvalidInputError, match="10, 50, 100"):
        plan_back(Moves(site, ALL, 2), [view_of(site, api={"eu-0": 100})], US, 25)


def test_a_reserve_serves_in_a_failover_and_not_in_calm_times() -> None:
    site = site_of(reserve=frozenset({"eu-0", "us-1"}))
    away = plan_away(Moves(site, ALL, 1, (US,)), [view_of(site, api=CALM)])
    assert serving(away) == {"eu-0": 75, "ap-0": 25}
    back = plan_back(Moves(site, ALL, 2), [view_of(site, api=serving(away))], US, 100)
    assert serving(back) == {"us-0": 40, "eu-0": 35, "ap-0": 25}  # eu-west has nobody else
    stopped = plan_away(Moves(site, ALL - {"us-1"}, 1, (EU,)), [view_of(site, api=CALM)])
    assert not stopped.notes


def test_an_endpoint_of_several_gateways_serves_while_one_of_them_does() -> None:
    site = site_of()
    endpoints = (Endpoint("us", "us-east", ("us-0", "us-1")), Endpoint("eu", "eu-west", ("eu-0",)))
    shares = {"gateway": Share({"us": 60, "eu": 40}, None)}
    mesh = View(Backend("mesh", endpoints, is_weighted=True, has_ttl=False), Picture("mesh", shares, None, "t"))
    assert serving(plan_away(Moves(site, ALL, 1, (ZONE_A,)), [mesh]), "gateway") == {"us": 60, "eu": 40}
    away = plan_away(Moves(site, ALL, 1, (US,)), [mesh])
    assert serving(away, "gateway") == {"eu": 100}
    assert away.changes[0].names["gateway"].ttl_s is None


def test_every_backend_gets_its_own_change_under_one_digest() -> None:
    site = site_of()
    views = [view_of(site, name=name, api=CALM) for name in ("dns", "mesh")]
    plan = plan_away(Moves(site, ALL, 1, (US,)), views)
    assert [change.backend for change in plan.changes] == ["dns", "mesh"]
    assert {change.guard for change in plan.changes} == {plan.guard}
    assert plan == plan_away(Moves(site, ALL, 1, (US,)), views)
    others = [plan_away(Moves(site, ALL, 2, (US,)), views), plan_away(Moves(site, ALL, 1, (US,), "ap-south"), views)]
    assert len({plan.guard.plan, *(other.guard.plan for other in others)}) == 3


def test_undoing_restores_what_was_there() -> None:
    site = site_of()
    view = view_of(site, api=CALM)
    plan = plan_away(Moves(site, ALL, 1, (US,)), [view])
    undo = plan_undo(plan, 2, [Picture("dns", plan.changes[0].names, plan.guard, "now")])
    assert undo.changes[0].names == view.picture.names
    assert (undo.changes[0].expected, undo.guard.epoch) == ("now", 2)


@pytest.mark.parametrize("domain", [Domain("region", "mars"), Domain("zone", "us-east-9z"), Domain("node", "us-9")])
def test_a_place_that_the_site_lacks_is_named(domain: Domain) -> None:
    with pytest.raises(NotFoundError, match=domain.name):
        Moves(site_of(), ALL, 1, (domain,))


def test_a_target_that_the_site_lacks_is_named() -> None:
    with pytest.raises(NotFoundError, match="mars"):
        Moves(site_of(), ALL, 1, (US,), "mars")


def test_a_plan_needs_something_to_leave_and_backends() -> None:
    site = site_of()
    with pytest.raises(InvalidInputError, match="away from what"):
        plan_away(Moves(site, ALL, 1), [view_of(site, api=CALM)])
    with pytest.raises(InvalidInputError, match="no backends"):
        plan_away(Moves(site, ALL, 1, (US,)), [])


def test_a_plan_is_kept_by_the_ledger_as_it_is() -> None:
    site = site_of()
    plan = plan_away(Moves(site, ALL, 1, (US,)), [view_of(site, api=CALM)])

    @step(title="Plan", budget_s=1)
    def planned(_: Context[Order]) -> TrafficPlan:
        """Plans."""
        return plan

    assert planned.decode(planned.encode(plan)) == plan


def test_a_guard_is_read_back_as_it_was_written() -> None:
    guard = Guard(17, digest({"x": 1}))
    assert parse_guard(str(guard)) == guard


@settings(deadline=None)  # a busy machine is no failure
@given(some.lists(some.integers(0, 10_000), min_size=1, max_size=40))
def test_weights_add_up_and_nothing_above_zero_is_rounded_away(parts: list[int]) -> None:
    ratios = {str(number): Fraction(part) for number, part in enumerate(parts)}
    if not any(ratios.values()):
        with pytest.raises(InvalidInputError):
            apportion(100, ratios)
        return
    weights = apportion(100, ratios)
    assert sum(weights.values()) == 100
    assert {key for key, weight in weights.items() if weight} == {key for key, ratio in ratios.items() if ratio}
    whole = sum(ratios.values())
    for key, weight in weights.items():
        if ratios[key] * 100 >= whole * 50:  # a half or more is never far off
            assert weight <= ratios[key] * 100 / whole + 1


WEIGHTS = some.dictionaries(some.sampled_from(sorted(ALL)), some.integers(0, 255))


@settings(deadline=None)  # a busy machine is no failure
@given(
    WEIGHTS, some.sets(some.sampled_from(sorted(ALL))), some.sampled_from([(US,), (EU,), (AP,), (ZONE_A,), (US, EU)])
)
def test_whatever_is_lost_nobody_is_sent_to_it_or_to_whom_nobody_vouches_for(
    weights: dict[str, int], proven: set[str], lost: tuple[Domain, ...]
) -> None:
    site = SITE
    try:
        plan = plan_away(Moves(site, frozenset(proven), 1, lost), [view_of(site, api=weights)])
    except RefusedError:
        gone = {g.name for g in site.gateways for d in lost if d.name in (g.region, g.zone)}
        assert not proven - gone
        return
    served = serving(plan)
    assert sum(served.values()) == 100
    for gateway in site.gateways:
        if gateway.name in served:
            assert gateway.name in proven
            assert not any(domain.name in (gateway.region, gateway.zone) for domain in lost)


SITE = site_of()
