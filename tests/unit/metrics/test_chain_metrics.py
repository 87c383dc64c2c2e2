"""Metrics of nodes, voting power and sign states, on a made chain that breaks at will."""

import datetime as dt
from typing import Any

import pytest

from vedr.errors import UnavailableError, VerificationFailedError
from vedr.reports import metrics_chain

LENGTH = 12


def test_every_node_is_seen_and_the_regions_stand_at_one_height(fleet: Any, values: Any) -> None:
    seen = values(metrics_chain.nodes(fleet.ports))
    assert set(seen["vedr_node_up"].values()) == {1.0}
    assert len(seen["vedr_node_up"]) == len(fleet.site.nodes)
    assert seen["vedr_region_height"] == {(region,): LENGTH for region in fleet.site.regions_by_priority}
    assert seen["vedr_region_height_difference"] == {(): 0}
    assert fleet.world.clock().timestamp() - seen["vedr_chain_block_timestamp_seconds"][()] == pytest.approx(2)


def test_a_region_that_is_behind_shows_as_the_difference(fleet: Any, values: Any) -> None:
    for node in fleet.site.nodes_in("ap-south"):
        fleet.nodes[node.name].tip = 3
    seen = values(metrics_chain.nodes(fleet.ports))
    assert seen["vedr_region_height_difference"] == {(): LENGTH - 3}


def test_a_lost_region_has_no_height_rather_than_an_old_one(fleet: Any, values: Any) -> None:
    for node in fleet.site.nodes_in("ap-south"):
        fleet.nodes[node.name].down = True
    seen = values(metrics_chain.nodes(fleet.ports))
    assert ("ap-south",) not in seen["vedr_region_height"]
    assert {up for (_, region, _), up in seen["vedr_node_up"].items() if region == "ap-south"} == {0.0}
    assert seen["vedr_region_height_difference"] == {(): 0}


def test_with_no_node_answering_there_is_no_block_time_so_that_its_absence_alerts(fleet: Any, values: Any) -> None:
    for node in fleet.nodes.values():
        node.down = True
    seen = values(metrics_chain.nodes(fleet.ports))
    assert set(seen) == {"vedr_node_up"}
    assert set(seen["vedr_node_up"].values()) == {0.0}


def test_a_node_of_another_chain_is_not_up(fleet: Any, values: Any) -> None:
    fleet.nodes["val1"].chain_id = "other-1"
    seen = values(metrics_chain.nodes(fleet.ports))
    assert seen["vedr_node_up"]["val1", "us-east", "validator"] == 0


def test_quorum_and_power_are_those_of_the_audit(fleet: Any, values: Any) -> None:
    seen = values(metrics_chain.power(fleet.ports))
    assert (seen["vedr_voting_power"][()], seen["vedr_voting_power_needed"][()]) == (50, 34)
    assert seen["vedr_quorum_margin"] == {(): 16}
    assert seen["vedr_voting_power_online_ratio"] == {(): 1}
    assert seen["vedr_region_voting_power"] == {("us-east",): 20, ("eu-west",): 20, ("ap-south",): 10}
    assert seen["vedr_region_loss_halts"] == {("us-east",): 1, ("eu-west",): 1, ("ap-south",): 0}
    assert seen["vedr_region_full_nodes_serving"] == dict.fromkeys([("us-east",), ("eu-west",), ("ap-south",)], 2)
    assert seen["vedr_chain_moving"] == {(): 1}
    assert set(seen["vedr_topology_findings"]) == {("critical",), ("warning",), ("note",)}


def test_power_that_two_sources_do_not_show_is_not_told_at_all(fleet: Any) -> None:
    for node in fleet.witnesses()[1:]:
        fleet.nodes[node.name].down = True
    with pytest.raises(VerificationFailedError):
        list(metrics_chain.power(fleet.ports))


def test_a_chain_that_stands_still_is_told_so(fleet: Any, values: Any) -> None:
    fleet.world.clock.advance(minutes=5)
    seen = values(metrics_chain.nodes(fleet.ports))
    age = dt.timedelta(seconds=fleet.world.clock().timestamp() - seen["vedr_chain_block_timestamp_seconds"][()])
    assert age > dt.timedelta(minutes=5)


def test_sign_states_tell_the_majority_and_the_lag(fleet: Any, values: Any) -> None:
    fleet.sign(LENGTH - 2)
    seen = values(metrics_chain.sign_states(fleet.ports))
    assert seen["vedr_sign_state_lag_blocks"] == {(f"val{n}",): 2 for n in range(1, 6)}
    assert set(seen["vedr_sign_state_regions"].values()) == {3}
    assert set(seen["vedr_sign_state_majority"].values()) == {1}
    assert set(seen["vedr_sign_state_held"].values()) == {1}


def test_one_silent_region_leaves_a_majority_and_two_do_not(fleet: Any, values: Any) -> None:
    fleet.sign(LENGTH)
    fleet.registers["ap-south"].faults.down = True
    seen = values(metrics_chain.sign_states(fleet.ports))
    assert set(seen["vedr_sign_state_regions"].values()) == {2}
    assert set(seen["vedr_sign_state_majority"].values()) == {1}
    fleet.registers["eu-west"].faults.down = True
    seen = values(metrics_chain.sign_states(fleet.ports))
    assert set(seen["vedr_sign_state_majority"].values()) == {0}


def test_without_a_tip_no_lag_is_told(fleet: Any) -> None:
    for node in fleet.nodes.values():
        node.down = True
    with pytest.raises(UnavailableError):
        list(metrics_chain.sign_states(fleet.ports))
