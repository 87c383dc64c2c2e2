"""What a drill may break."""

from collections.abc import Mapping, Sequence

import pytest
from topology_world import addresses, make_site, power_of

from vedr.chain.quorum import Domain
from vedr.drills.scenario import SCENARIOS
from vedr.drills.targets import Ground, choose, obstacle, radius
from vedr.errors import NotFoundError, RefusedError
from vedr.inventory import Site
from vedr.readiness.topology_losses import Standby, expose

EQUAL = dict.fromkeys((1, 2, 3, 4, 5), 10)
AWAY = (Standby("val1", "full-eu-west-1a", "eu-west-1a", "eu-west"),)
WEEKLY, MONTHLY, QUARTERLY, ANNUAL = (
    SCENARIOS[name].exercises for name in ("weekly", "monthly", "quarterly", "annual")
)


def ground(
    *,
    online: Sequence[int] = (1, 2, 3, 4, 5),
    silent: Sequence[str] = (),
    drilled: Mapping[str, Sequence[str]] | None = None,
    standbys: Sequence[Standby] = (),
    may_halt: bool = False,
) -> Ground:
    site: Site = make_site(
        standbys={1: ["full-eu-west-1a"]}, extra={"drills": {"faults": "none", "may_halt": may_halt}}
    )
    exposure = expose(power_of(site, EQUAL), addresses(*online), standbys=standbys)
    serving = frozenset(node.name for node in site.nodes) - set(silent)
    return Ground(site, exposure, serving, drilled or {})


def test_a_validator_is_never_broken_alone() -> None:
    with pytest.raises(RefusedError, match="validator"):
        choose(ground(), WEEKLY, "val1")


def test_a_node_is_left_alone_when_no_other_full_node_of_its_region_serves() -> None:
    with pytest.raises(RefusedError, match="no other full node"):
        choose(ground(silent=["full-us-east-1a"]), WEEKLY, "full-us-east-1b")
    assert choose(ground(silent=["full-us-east-1a"]), WEEKLY)[0].domain != Domain("node", "full-us-east-1b")


def test_a_zone_is_lost_only_while_the_chain_goes_on_without_it() -> None:
    (act,) = choose(ground(), MONTHLY)
    assert not radius(ground(), act).halts
    with pytest.raises(RefusedError, match="halts the chain: 10 power"):
        choose(ground(online=(1, 2, 3, 4)), MONTHLY, "us-east-1a")
    assert choose(ground(online=(1, 2, 3, 4)), MONTHLY)[0].target in (
        "ap-south-1a",
        "ap-south-1b",
    )  # nobody signs there


def test_a_region_that_would_halt_the_chain_is_not_lost_unless_the_site_allows_it() -> None:
    with pytest.raises(RefusedError, match="must not be broken"):
        choose(ground(standbys=AWAY), QUARTERLY, "us-east")
    assert choose(ground(standbys=AWAY), QUARTERLY)[0].target == "ap-south"
    (act,) = choose(ground(standbys=AWAY, may_halt=True), QUARTERLY, "us-east")
    assert radius(ground(standbys=AWAY, may_halt=True), act).halts


def test_a_halt_that_no_promotion_ends_is_refused_also_where_halts_are_allowed() -> None:
    assert "no validator can be promoted" in obstacle(ground(may_halt=True), Domain("region", "us-east"))


def test_what_was_drilled_the_longest_ago_comes_next() -> None:
    zones = ["us-east-1a", "us-east-1b", "eu-west-1a", "eu-west-1b", "ap-south-1b", "ap-south-1a"]
    (first,) = choose(ground(), MONTHLY)
    assert first.target == "us-east-1a"  # it has the key that can move
    (again,) = choose(ground(drilled={"zone": [*zones, "us-east-1a"]}), MONTHLY)
    assert again.target == "us-east-1b"


def test_the_annual_drill_breaks_no_node_twice_and_exercises_all_six_runbooks() -> None:
    acts = choose(ground(standbys=AWAY, may_halt=True), ANNUAL)
    nodes = [act.target for act in acts if act.kind == "node"]
    assert len(set(nodes)) == len(nodes) == 4
    assert sorted(act.runbook for act in acts) == [f"RB-DR-00{number}" for number in range(1, 7)]


def test_a_name_that_the_site_does_not_have_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no zone"):
        choose(ground(), MONTHLY, "us-east")
