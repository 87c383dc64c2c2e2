"""Validators that sign from a key file, moved by RB-DR-002 and brought home by the failback: planned, lost, refused.

The flows themselves on a site in files (key_file_world), with EC2 stood in for by moto where a cloud has to answer.
"""

from collections.abc import Callable
from typing import Any

import boto3
import key_file_site as sites
import key_file_world
import pytest

from flows import failovers
from tasks import aftercare, compromise_containing, outages, signing
from vedr.adapters.fence_instances import Ec2Instances
from vedr.chain.sign_state import FILE_NAME, read_sign_state
from vedr.custody.key_backup_collect import Owner
from vedr.errors import RefusedError
from vedr.failover.key_disk import address_on
from vedr.failover.signer_disk import double_sign_check
from vedr.ledger import RunId

STAGES = ["locked", "fenced", "observed", "quieted", "floored", "key_ready", "arming", "armed", "watched"]

pytestmark = pytest.mark.server


def test_a_zone_that_is_emptied_hands_a_key_file_over_and_the_failback_takes_it_off_again(
    made: Callable[..., Any],
) -> None:
    site = made()
    sites.empty_zone()
    assert site.stages("RB-DR-002") == STAGES
    assert site.signs_at() == [site.standby.name]
    assert not (site.home.home / "data").exists()
    assert address_on(site.home.home) == site.home.address  # its own host keeps it, fenced
    with site.open() as opened:
        (watched,) = aftercare.watched_runs(opened).values()
        (move,) = watched.moves
        assert move.validator == site.home.name
        aftercare._check_key_files(opened, {site.home.name: move})
    sites.go_home()
    assert site.stages("failback") == STAGES
    assert site.signs_at() == [site.home.name]
    assert address_on(site.standby.home) not in ("", site.home.address)
    assert site.world.unit(site.standby.unit) == "running"
    assert not (site.standby.home / "config" / "vedr-own").exists()
    assert double_sign_check(site.home.home / "config" / "config.toml") == 0  # as it was: a restart need not be silent
    site.check_signed_once()
    assert site.silent_blocks() <= 20 + 3 * key_file_world.BLOCKS_PER_S  # quiet, and what the made up hosts need


def test_a_full_node_that_was_given_a_key_is_not_brought_back_as_one(made: Callable[..., Any]) -> None:
    site = made()
    sites.empty_zone()
    with site.open() as opened:
        with pytest.raises(RefusedError, match="signs with the key file of validator-eu-west-1"):
            signing.guard(opened, site.standby, print)
        with pytest.raises(RefusedError, match="fenced by a failover"):
            signing.guard(opened, site.home, print)


def test_a_dead_zone_s_key_file_stays_and_the_plan_says_why_while_all_else_completes(made: Callable[..., Any]) -> None:
    site = made()
    site.world.darken("eu-west-1b", dead=True)
    outcome = sites.lose_zone()
    (decided,) = [e.payload["result"] for e in site.entries("RB-DR-002") if e.payload.get("step") == "decide" and
                  e.kind == "step_completed"]  # fmt: skip
    (left,) = [one for one in decided["left"] if one["name"] == site.home.name]
    assert "the agent of eu-west-1b does not answer" in left["reason"]
    assert "[[key_files]] fences" in left["reason"]
    assert not site.stages("RB-DR-002")
    assert outcome.outcome == "completed"
    assert site.world.unit(site.standby.unit) == "running"


def test_a_key_file_that_can_t_be_moved_after_all_leaves_its_run_open_with_all_else_done(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = made()
    decided = outages.describe

    def dark_now(found: Any) -> Any:
        if not site.stages("RB-DR-002"):  # not again when it is gone on with
            site.world.darken("eu-west-1b", dead=True)
        return decided(found)

    monkeypatch.setattr(failovers, "describe", dark_now)
    with pytest.raises(RefusedError, match="all else of zone eu-west-1b is done, but not the key file") as caught:
        sites.empty_zone()
    assert "go on with this run" in caught.value.remedy
    entries = site.entries("RB-DR-002")
    done = [e.payload["step"] for e in entries if e.kind == "step_completed"]
    assert {"verify_service", "watch_blocks"} <= set(done)
    assert entries[-1].kind == "paused"
    assert site.world.unit(site.standby.unit) == "running"  # nothing was stopped for it
    assert set(site.stages("RB-DR-002")) == {"locked"}
    (site.world.state / "dark-eu-west-1b").unlink()
    sites.empty_zone(incident=entries[0].run_id)
    assert site.signs_at() == [site.standby.name]
    site.check_signed_once()


def test_without_a_backup_nothing_is_fenced(made: Callable[..., Any]) -> None:
    site = made()
    for store in site.stores.values():
        for one in list(store.list("eu-west/keys/")):
            store.delete(one.key)
    with pytest.raises(RefusedError, match="no backup of the key"):
        sites.empty_zone()
    assert site.signs_at() == [site.home.name]
    assert not site.stages("RB-DR-002")


# --- a cloud that answers


@pytest.mark.usefixtures("aws")
def test_a_dead_zone_s_key_file_moves_when_its_cloud_says_that_the_machine_is_off(
    made: Callable[..., Any], paper: Any
) -> None:
    ec2, scaling, watching = (
        boto3.client(name, region_name="eu-west-1") for name in ("ec2", "autoscaling", "cloudwatch")
    )
    machine = sites.machine_of(ec2)
    site = made(**sites.fenced_by(paper, "instance", machine))
    site.cloud = Ec2Instances(ec2, scaling, watching)
    last = site.world.advance()
    site.world.darken("eu-west-1b", dead=True)
    sites.lose_zone()
    assert site.cloud.state(machine) == "stopped"
    assert site.signs_at() == [site.standby.name]
    assert [(one["host"], one["method"]) for one in site.evidence("fenced")["hosts"]] == [
        (site.home.name, "instance stopped"),
        (site.standby.name, "process ended and disk renamed"),
    ]
    assert read_sign_state(site.standby.home / "data" / FILE_NAME).height > last + 20
    ec2.start_instances(InstanceIds=[machine])  # without its unit: docs/signing-safety.md
    site.world.set_unit(site.home.unit, "stopped")
    (site.world.state / "dark-eu-west-1b").unlink()
    for node in site.world.site.nodes:
        if node.zone == "eu-west-1b" and not node.is_validator:
            site.world.set_unit(node.unit, "running")
    sites.go_home()
    assert site.signs_at() == [site.home.name]
    assert address_on(site.standby.home) != site.home.address
    site.check_signed_once()


# --- a halted chain, and people


def halted(site: Any) -> Any:
    """The chain stands, and nobody can read what the validator signed last."""
    site.world.advance()
    (site.world.state / "halted").touch()
    (site.home.home / "data" / FILE_NAME).write_text("damaged")
    return site


def test_on_a_halted_chain_whose_last_signature_is_not_known_two_people_take_the_risk(
    made: Callable[..., Any],
) -> None:
    site, seen = halted(made()), list[str]()
    thread = sites.answer_when_asked(site, {"zoe": True, "yan": True}, seen)
    sites.empty_zone()
    thread.join()
    assert "it signs twice: 5 % of the stake is slashed and the validator is removed for ever" in seen[0]
    assert {"halted", "watched"} <= set(site.stages("RB-DR-002"))
    assert "accepted by" in site.evidence("floored")["reason"]
    assert site.signs_at() == [site.standby.name]


def test_one_person_who_refuses_the_risk_leaves_the_key_fenced_and_the_standby_serving(
    made: Callable[..., Any],
) -> None:
    site, seen = halted(made()), list[str]()
    thread = sites.answer_when_asked(site, {"zoe": True, "yan": False}, seen)
    with pytest.raises(RefusedError, match="yan refused"):
        sites.empty_zone()
    thread.join()
    assert "key_ready" not in site.stages("RB-DR-002")
    assert not site.signs_at()
    assert site.world.unit(site.standby.unit) == "running"
    assert (site.standby.home / "data").exists()


def test_a_compromised_key_is_contained_at_the_full_node_that_was_given_it(made: Callable[..., Any]) -> None:
    site = made()
    sites.empty_zone()
    run_id = RunId("inc-20260214-120000-aaaa")
    with site.open() as opened:
        owner = Owner("validator", site.home.name, site.home.region)
        assert compromise_containing._contain_given_hosts(opened, owner, run_id, print) == ""
    assert not site.signs_at()
    assert address_on(site.standby.home) == ""
    assert site.world.unit(site.standby.unit) == "stopped"
