"""A drill's target is kept in its non-disruptive form too: never dropped, never replaced by another."""

from pathlib import Path

import pytest

from tasks.drills_orders import FullDrill, NodeDrill, RegionDrill, Rehearsal, instead_of
from tasks.drills_rehearsing import check_target, region_of
from vedr.drills.scenario import SCENARIOS
from vedr.errors import InvalidInputError, NotFoundError
from vedr.inventory import Site, load_site
from vedr.runbook.choices import check_choices

EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"


@pytest.fixture(scope="module")
def site() -> Site:
    return load_site(str(EXAMPLE))


def test_a_weekly_drill_s_node_is_the_one_whose_region_s_snapshot_is_restored(site: Site) -> None:
    node = next(one for one in site.nodes if not one.is_validator and one.region != site.regions_by_priority[0])
    order = instead_of(NodeDrill(target=node.name, reason="why"), SCENARIOS["weekly"])
    check_choices(order, site)
    check_target(site, order)
    assert (order.target, order.cadence, order.reason) == (node.name, "weekly", "why")
    assert region_of(site, order) == node.region


def test_a_place_is_kept_and_nothing_named_is_the_primary_region(site: Site) -> None:
    last = site.regions_by_priority[-1]
    order = instead_of(RegionDrill(target=last), SCENARIOS["quarterly"])
    check_target(site, order)
    assert region_of(site, order) == last
    assert region_of(site, Rehearsal(target=site.regions[last].zones[0])) == last
    assert region_of(site, instead_of(FullDrill(), SCENARIOS["annual"])) == site.regions_by_priority[0]


def test_a_node_where_promotions_are_rehearsed_is_refused_and_so_is_what_the_site_does_not_have(site: Site) -> None:
    with pytest.raises(InvalidInputError, match="not about one node"):
        check_target(site, Rehearsal(cadence="monthly", target=site.nodes[0].name))
    with pytest.raises(NotFoundError):
        check_choices(Rehearsal(target="nowhere"), site)
    with pytest.raises(NotFoundError):
        region_of(site, Rehearsal(target="nowhere"))
