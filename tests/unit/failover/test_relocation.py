"""What moves where, over the lab's own topology."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedr.chain.quorum import OUTSIDE, Domain
from vedr.errors import NotFoundError, RefusedError
from vedr.failover import relocation
from vedr.failover.relocation import Relocation, Situation, choose_target, place_of, plan, signer_named, within
from vedr.failover.relocation_key_files import KeyHosts, KeyMove, go_home
from vedr.inventory import Site, parse_site
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, Settings
from vedr.lab.site_file import _document
from vedr.lab.template import load_template

TEMPLATE = Path(__file__).parents[3] / "deployments" / "sites" / "lab.toml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The lab's, on paper."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "genesis.json").write_text("{}")
    paper = Settings("lab", "10.77", 4200, "namespaces", folder, folder, folder)
    made = Plan(paper, load_template(TEMPLATE))
    LabSecrets(folder).create_missing(made)
    addresses = {node.name: f"{number:040X}" for number, node in enumerate(made.nodes) if node.role == "validator"}
    return parse_site(tomli_w.dumps(_document(made, addresses)), source="lab.toml")


def situation(site: Site, **changed: Any) -> Situation:
    """Everything at home and in sync."""
    validators = [node for node in site.nodes if node.is_validator]
    values: dict[str, Any] = {
        "serving": frozenset(node.name for node in site.nodes),
        "signing": frozenset(node.name for node in validators),
        "powers": {node.name: node.power for node in validators} | {OUTSIDE: 0},
        "outside_online": 0,
        "holders": {node.name: f"{node.name}-signer" for node in validators if site.signers_of(node.name)},
    }
    return Situation(**{**values, **changed})


def lost(site: Site, domain: Domain, **changed: Any) -> Situation:
    """The same, with everything in that place gone."""
    gone = {node.name for node in site.nodes if within(domain, node.zone, node.region)}
    before = situation(site)
    silent = KeyHosts(unproven=dict.fromkeys(gone, "silent"), unfit=dict.fromkeys(gone, "silent"))
    values = {"serving": before.serving - gone, "signing": before.signing - gone, "key_hosts": silent}
    return situation(site, **{**values, **changed})


def relocate(site: Site, name: str, seen: Situation, *, target: str = "", planned: bool = False) -> Relocation:
    domain = place_of(site, name)
    return plan(site, domain, choose_target(site, domain, target, seen.serving), seen, planned=planned)


def test_a_lost_region_s_keys_move_to_the_secondary_and_restore_quorum(site: Site) -> None:
    found = relocate(site, "us-east", lost(site, Domain("region", "us-east")))
    assert found.target == "region eu-west"
    assert [(move.validator, move.node) for move in found.moves] == [
        ("validator-us-east-0", "fullnode-eu-west-0"),
        ("validator-us-east-1", "fullnode-eu-west-1"),
    ]
    assert found.validators == ("validator-us-east-0", "validator-us-east-1")
    assert (found.online_before, found.online_after, found.needed_power) == (30, 50, 34)
    assert [(one.provider, one.reserve) for one in found.handovers] == [
        ("provider-us-east-0", "provider-eu-west-1"),
        ("provider-us-east-1", "provider-ap-south-1"),
    ]
    assert found.gateways == ("gateway-eu-west-1",)
    assert not found.refusals
    assert not found.warnings


def test_each_key_has_further_standbys_whose_nodes_are_in_no_other_move(site: Site) -> None:
    found = relocate(site, "us-east", lost(site, Domain("region", "us-east")))
    nodes = {move.validator: [signer_named(site, name).node for name in move.others] for move in found.moves}
    assert nodes == {"validator-us-east-0": ["fullnode-ap-south-0"], "validator-us-east-1": ["fullnode-ap-south-1"]}


def test_a_validator_that_signs_from_a_file_stays_and_the_reason_is_said(site: Site) -> None:
    found = relocate(site, "eu-west", lost(site, Domain("region", "eu-west")))
    assert [move.validator for move in found.moves] == ["validator-eu-west-0"]
    assert [(left.name, left.power) for left in found.left] == [("validator-eu-west-1", 10)]
    assert "key file" in found.left[0].reason
    assert found.target == "region ap-south"  # the next by priority


def test_a_revoked_key_is_moved_nowhere(site: Site) -> None:
    region = Domain("region", "us-east")
    found = relocate(site, "us-east", lost(site, region, revoked=frozenset({"validator-us-east-0"})))
    assert [move.validator for move in found.moves] == ["validator-us-east-1"]
    assert [left.name for left in found.left if "revoked" in left.reason] == ["validator-us-east-0"]


def test_a_zone_moves_within_its_region_first(site: Site) -> None:
    found = relocate(site, "us-east-1a", lost(site, Domain("zone", "us-east-1a")))
    assert found.target == "zone us-east-1b"
    assert [move.node for move in found.moves] == ["fullnode-us-east-1"]
    assert [one.reserve for one in found.handovers] == ["provider-us-east-2"]


def test_a_named_target_is_taken_and_a_senseless_one_refused(site: Site) -> None:
    seen = lost(site, Domain("region", "us-east"))
    assert relocate(site, "us-east", seen, target="ap-south").moves[0].region == "ap-south"
    for target in ("us-east", "us-east-1b"):
        with pytest.raises(RefusedError, match="lies in region us-east"):
            relocate(site, "us-east", seen, target=target)
    with pytest.raises(NotFoundError):
        relocate(site, "us-east", seen, target="mars-1")
    dark = lost(site, Domain("region", "us-east"), serving=frozenset({"fullnode-ap-south-0"}))
    with pytest.raises(RefusedError, match="no node in sync"):
        relocate(site, "us-east", dark, target="eu-west")
    with pytest.raises(RefusedError, match="no place outside"):
        relocate(site, "us-east", situation(site, serving=frozenset()))


def test_a_key_that_stands_elsewhere_already_is_moved_from_there(site: Site) -> None:
    """A second loss, of where the first one's keys went."""
    holders = situation(site).holders | {"validator-us-east-0": "validator-us-east-0-at-fullnode-eu-west-0"}
    seen = lost(site, Domain("region", "eu-west"), holders=holders)
    found = relocate(site, "eu-west", seen)
    moved = {move.validator: move for move in found.moves}
    assert moved["validator-us-east-0"].holder == "validator-us-east-0-at-fullnode-eu-west-0"
    assert moved["validator-us-east-0"].region != "eu-west"


def test_a_plan_that_would_halt_the_chain_is_refused(site: Site) -> None:
    nobody = situation(site, serving=frozenset(n.name for n in site.nodes if n.role == "validator"), holders={})
    stuck = plan(site, Domain("region", "eu-west"), Domain("region", "ap-south"), nobody, planned=True)
    assert stuck.online_after == 30
    assert "this would halt the chain" in stuck.refusals[0]


def test_a_chain_that_stays_halted_is_warned_of(site: Site) -> None:
    found = relocate(
        site, "eu-west", lost(site, Domain("region", "eu-west"), signing=frozenset({"validator-us-east-0"}))
    )
    assert "stays halted: 14 power is still short" in found.warnings[0]


def test_strange_names_are_not_found(site: Site) -> None:
    with pytest.raises(NotFoundError):
        place_of(site, "us-east-1z")
    with pytest.raises(NotFoundError):
        signer_named(site, "nobody")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])  # drawing is slow where the machine is busy
@given(data=st.data())
def test_no_plan_ever_gives_a_node_two_keys_or_leaves_one_in_what_is_lost(site: Site, data: st.DataObject) -> None:
    places = [*site.regions, *(zone for region in site.regions.values() for zone in region.zones)]
    domain = place_of(site, data.draw(st.sampled_from(places)))
    holders = {
        node.name: data.draw(st.sampled_from([signer.name for signer in site.signers_of(node.name)]))
        for node in site.nodes
        if site.signers_of(node.name)
    }
    serving = frozenset(data.draw(st.sets(st.sampled_from([node.name for node in site.nodes]), min_size=2)))
    seen = lost(site, domain, holders=holders)
    seen = situation(site, holders=holders, signing=seen.signing, serving=serving & seen.serving)
    try:
        target = choose_target(site, domain, "", seen.serving)
    except RefusedError:
        return
    found = plan(site, domain, target, seen, planned=False)
    others = [signer_named(site, name) for move in found.moves for name in move.others]
    assert not any(within(domain, site.node(one.node).zone, site.node(one.node).region) for one in others)
    nodes = [*(move.node for move in found.moves), *(one.node for one in others)]
    assert len(set(nodes)) == len(nodes)
    kept = {signer_named(site, holders[v]).node for v in holders if v not in {m.validator for m in found.moves}}
    assert not kept & set(nodes)
    for move in found.moves:
        assert not within(domain, move.zone, move.region)
        assert signer_named(site, move.signer).validator == move.validator
    assert relocation.needed_power(found.total_power) == found.needed_power


# --- validators that sign from a key file


def test_a_zone_that_is_emptied_moves_a_key_file_to_the_host_that_may_have_it(site: Site) -> None:
    found = relocate(site, "eu-west-1b", situation(site), planned=True)
    assert found.key_moves == (
        KeyMove("validator-eu-west-1", 10, "validator-eu-west-1", "fullnode-ap-south-0", "ap-south-1a", "ap-south"),
    )
    assert found.validators == ("validator-eu-west-1",)
    assert (found.online_before, found.online_after) == (50, 50)
    assert not found.left


def test_a_key_file_stays_where_a_host_of_it_can_t_be_proven_fenced_and_the_plan_says_what_would_help(
    site: Site,
) -> None:
    hosts = KeyHosts(unproven={"validator-eu-west-1": "process-and-disk: the agent of eu-west-1b is silent"})
    found = relocate(site, "eu-west-1b", situation(site, key_hosts=hosts), planned=True)
    assert not found.key_moves
    assert "the agent of eu-west-1b is silent" in found.left[0].reason
    assert "[[key_files]] fences does (instance, network)" in found.left[0].reason


def test_a_standby_that_may_have_had_the_key_has_to_be_proven_fenced_too(site: Site) -> None:
    hosts = KeyHosts(holders={"validator-eu-west-1": "validator-eu-west-1"}, unproven={"fullnode-ap-south-0": "silent"})
    found = relocate(site, "eu-west-1b", situation(site, key_hosts=hosts), planned=True)
    assert [left.name for left in found.left] == ["validator-eu-west-1"]


def test_a_key_file_that_is_away_is_not_in_its_own_zone_any_more(site: Site) -> None:
    away = situation(site, key_hosts=KeyHosts(holders={"validator-eu-west-1": "fullnode-ap-south-0"}))
    assert not relocate(site, "eu-west-1b", away, planned=True).key_moves
    back = relocate(site, "ap-south-1a", away, planned=True)
    assert [(move.origin, move.host) for move in back.key_moves] == [("fullnode-ap-south-0", "validator-eu-west-1")]
    assert [left.name for left in back.left] == ["validator-ap-south-0"]  # nobody may be given its key file


def test_no_remote_key_goes_to_a_node_that_has_a_key_file(site: Site) -> None:
    away = KeyHosts(holders={"validator-eu-west-1": "fullnode-ap-south-0"})
    found = relocate(site, "us-east", lost(site, Domain("region", "us-east"), key_hosts=away), target="ap-south")
    assert "fullnode-ap-south-0" not in [move.node for move in found.moves]


def test_no_key_file_goes_to_a_node_that_a_remote_key_goes_to(site: Site) -> None:
    holders = {**situation(site).holders, "validator-us-east-0": "validator-us-east-0-at-fullnode-ap-south-0"}
    found = relocate(site, "eu-west-1b", situation(site, holders=holders), planned=True)
    assert not found.key_moves
    assert "no other host that may be given it is in sync, free and outside" in found.left[0].reason


def test_a_key_file_is_not_moved_while_the_chain_would_halt_without_it(site: Site) -> None:
    few = situation(site).signing - {"validator-us-east-0"}  # 40 of 50 power, 34 are needed
    found = relocate(site, "eu-west-1b", situation(site, signing=few), planned=True)
    assert not found.key_moves
    assert "the chain would halt" in found.left[0].reason
    assert "30 of 34" in found.left[0].reason


def test_a_revoked_key_file_is_given_to_nobody(site: Site) -> None:
    found = relocate(site, "eu-west-1b", situation(site, revoked=frozenset({"validator-eu-west-1"})), planned=True)
    assert "revoked" in found.left[0].reason


def test_a_host_whose_disk_does_not_answer_is_given_no_key(site: Site) -> None:
    hosts = KeyHosts(unfit={"fullnode-ap-south-0": "its home is not on this machine"})
    found = relocate(site, "eu-west-1b", situation(site, key_hosts=hosts), planned=True)
    assert "its home is not on this machine" in found.left[0].reason


def test_a_key_file_goes_home_only_when_its_own_host_can_be_given_it(site: Site) -> None:
    key_file, home = site.key_files[0], site.node("validator-eu-west-1")
    away = {"validator-eu-west-1": "fullnode-ap-south-0"}
    assert isinstance(go_home(key_file, home, KeyHosts(away), 10), KeyMove)
    assert "bring it back" in str(go_home(key_file, home, KeyHosts(away, unfit={home.name: "silent"}), 10))
    assert "nothing can prove" in str(
        go_home(key_file, home, KeyHosts(away, unproven={"fullnode-ap-south-0": "silent"}), 10)
    )


# --- what an earlier failover moved


def test_a_second_failover_neither_takes_a_state_that_left_before_nor_a_reserve_that_serves_with_it(site: Site) -> None:
    """The region of a zone that was left before: the zone's provider works on elsewhere."""
    region, states = Domain("region", "us-east"), {"provider-eu-west-1": "provider-us-east-0"}
    found = relocate(site, "us-east", lost(site, region, provider_states=states))
    assert [(one.provider, one.reserve) for one in found.handovers] == [("provider-us-east-1", "provider-ap-south-1")]


def test_a_state_whose_reserve_is_lost_too_goes_on_to_the_next_that_is_free(site: Site) -> None:
    """Of the reserves, one has another's state, and those of the region that was lost first are lost with it."""
    states = {"provider-eu-west-1": "provider-us-east-0", "provider-ap-south-1": "provider-us-east-1"}
    there = frozenset(node.name for node in site.nodes if node.region == "ap-south")
    seen = lost(site, Domain("zone", "eu-west-1b"), serving=there, provider_states=states)
    found = relocate(site, "eu-west-1b", seen, target="ap-south")
    assert found.handovers == ()
    (left,) = [one for one in found.left if one.name == "provider-eu-west-1"]
    assert "serves with provider-us-east-0's state, and no provider in reserve is left" in left.reason
    home_again = lost(site, Domain("zone", "eu-west-1b"), provider_states=states)
    found = relocate(site, "eu-west-1b", home_again, target="ap-south")
    assert [(one.provider, one.reserve) for one in found.handovers] == [("provider-eu-west-1", "provider-us-east-2")]


def test_a_state_that_was_handed_to_a_reserve_is_handed_on_beside_those_at_home(site: Site) -> None:
    region, states = Domain("region", "eu-west"), {"provider-eu-west-1": "provider-us-east-0"}
    found = relocate(site, "eu-west", lost(site, region, provider_states=states))
    assert [(one.provider, one.reserve) for one in found.handovers] == [
        ("provider-eu-west-0", "provider-ap-south-1"),
        ("provider-eu-west-1", "provider-us-east-2"),
    ]


def test_emptying_the_new_home_of_moved_keys_is_refused_when_nobody_else_may_have_them(site: Site) -> None:
    """The power that stands there counts, not that of the validators which are at home there."""
    holders = situation(site).holders | {"validator-us-east-0": "validator-us-east-0-at-fullnode-eu-west-0"}
    serving = frozenset(node.name for node in site.nodes if node.region == "eu-west" or node.is_validator)
    found = relocate(site, "eu-west", situation(site, holders=holders, serving=serving), planned=True, target="us-east")
    home = {move.validator: move.node for move in found.moves}
    assert home["validator-us-east-0"] == "validator-us-east-0"
    stuck = situation(site, holders=holders, serving=frozenset({"validator-ap-south-0"}))
    found = plan(site, Domain("region", "eu-west"), Domain("region", "ap-south"), stuck, planned=True)
    assert found.online_after == 20
    assert "from 50 to 20 of 50, 34 are needed" in found.refusals[0]


def test_emptying_the_old_home_of_moved_keys_takes_none_of_their_power(site: Site) -> None:
    holders = situation(site).holders | {
        f"validator-us-east-{n}": f"validator-us-east-{n}-at-fullnode-eu-west-{n}" for n in range(2)
    }
    nobody = situation(site, holders=holders, serving=frozenset({"validator-ap-south-0", "validator-eu-west-0"}))
    found = plan(site, Domain("region", "us-east"), Domain("region", "eu-west"), nobody, planned=True)
    assert (found.online_before, found.online_after, found.refusals) == (50, 50, ())
