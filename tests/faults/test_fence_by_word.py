"""The fence by a denied network and two people's word, whole: RB-DR-002 over a zone whose hosts answer nobody.

Real: the flow with its questions and answers in the ledger, the promotion, and the deny in EC2 as moto has it.
"""

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

import boto3
import key_file_site as sites
import key_file_world
import pytest

from tasks import aftercare, key_files, outages
from tasks.failover_orders import ZoneFailover
from vedr.adapters import fence_site
from vedr.adapters.fence_network import QUARANTINE, Ec2NetworkDeny
from vedr.adapters.site import utc_now
from vedr.errors import RefusedError
from vedr.failover.fencing import FirstWay

AGREED = {"zoe": True, "yan": True}

pytestmark = pytest.mark.server


class Cloud:
    """EC2, the validator's machine in it, and what somebody may do to its interface."""

    def __init__(self) -> None:
        self.ec2: Any = boto3.client("ec2", region_name="us-east-1")
        self.machine = sites.machine_of(self.ec2)
        self.former = [group["GroupId"] for group in self._face()["Groups"]]

    def _face(self) -> Any:
        wanted = [{"Name": "attachment.instance-id", "Values": [self.machine]}]
        return self.ec2.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"][0]

    @property
    def is_denied(self) -> bool:
        return [group["GroupName"] for group in self._face()["Groups"]] == [QUARANTINE]

    def lift(self) -> None:
        self.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=self._face()["NetworkInterfaceId"], Groups=self.former
        )


@pytest.fixture
def cloud(aws: None) -> Cloud:
    del aws
    return Cloud()


@pytest.fixture
def dark(made: Callable[..., Any], paper: Any, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The zone is cut off or dead; only its cloud can be asked about the validator's host."""

    def make(**changed: Any) -> Any:
        site = made(**{**sites.fenced_by(paper, "network", cloud.machine), **changed})
        site.firewall = Ec2NetworkDeny(cloud.ec2, {key_file_world.VALIDATOR: cloud.machine}, utc_now)
        monkeypatch.setattr(fence_site, "FirstWay", functools.partial(FirstWay, limit_s=0.2))
        site.world.darken(key_file_world.ZONE, dead=True)
        return site

    return make


def test_a_key_moves_when_its_host_is_cut_off_and_two_people_saw_its_process_stopped(
    dark: Callable[..., Any], cloud: Cloud
) -> None:
    site, seen = dark(), list[str]()
    plan = outages.plan_of(ZoneFailover(zone="eu-west-1b"))
    assert any("two different people have to look at its console" in warning for warning in plan.warnings)
    thread = sites.answer_when_asked(site, AGREED, seen)
    sites.lose_zone()
    thread.join()
    assert seen == ["I saw that the signer process on validator-eu-west-1 is stopped and can't be started by itself."]
    assert cloud.is_denied
    assert site.signs_at() == [site.standby.name]
    host = site.evidence("fenced")["hosts"][0]
    assert host["method"] == "network denied and attested"
    assert "say yan and zoe" in str(host) or "say zoe and yan" in str(host)
    assert site.questions("RB-DR-002") == 1
    site.check_signed_once()

    with site.open() as opened:  # what is watched for the hour after it
        (watched,) = aftercare.watched_runs(opened).values()
        (move,) = watched.moves
        aftercare._check_key_files(opened, {site.home.name: move})
        cloud.lift()
        with pytest.raises(RefusedError, match="network is not denied any more"):
            aftercare._check_key_files(opened, {site.home.name: move})


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ({"zoe": True, "zoe@virtengine.com": True}, "[01] of 2 people agreed"),
        ({"zoe": True, "yan": False}, "yan refused"),
    ],
)
def test_without_two_people_s_word_the_key_stays_and_nobody_is_asked_twice(
    dark: Callable[..., Any], paper: Any, people: dict[str, bool], said: str
) -> None:
    site = dark(approval=paper.approval.model_copy(update={"limit_s": 3}))
    thread = sites.answer_when_asked(site, people, [])
    with pytest.raises(RefusedError, match=said):
        sites.lose_zone()
    thread.join()
    assert site.questions("RB-DR-002") == 1
    assert set(site.stages("RB-DR-002")) == {"locked"}
    assert not site.signs_at()
    assert site.world.unit(site.standby.unit) == "running"  # and serves


def test_people_who_were_asleep_are_asked_anew_when_the_run_is_gone_on_with(
    dark: Callable[..., Any], paper: Any
) -> None:
    site = dark(approval=paper.approval.model_copy(update={"limit_s": 1}))
    with pytest.raises(RefusedError, match="0 of 2 people") as caught:
        sites.lose_zone()
    assert "go on with this run" in caught.value.remedy
    entries = site.entries("RB-DR-002")
    site.world.site.approval.__dict__["limit_s"] = 60
    thread = sites.answer_when_asked(site, AGREED, [])
    sites.lose_zone(incident=entries[0].run_id)
    thread.join()
    assert site.signs_at() == [site.standby.name]


def test_a_word_that_has_expired_when_the_key_would_be_armed_arms_nothing(
    dark: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = dark()

    def clock() -> dt.datetime:  # the silence on the chain took very long
        return utc_now() + dt.timedelta(hours=2 if "arming" in site.stages("RB-DR-002") else 0)

    monkeypatch.setattr(fence_site, "utc_now", clock)
    thread = sites.answer_when_asked(site, AGREED, [])
    with pytest.raises(RefusedError, match="0 of 2 people said since"):
        sites.lose_zone()
    thread.join()
    assert "armed" not in site.stages("RB-DR-002")
    assert not site.signs_at()


def test_a_host_that_is_still_heard_of_is_not_fenced_and_nobody_is_asked(dark: Callable[..., Any]) -> None:
    site = dark()
    (site.world.state / f"peer-{site.home.name}").touch()
    with pytest.raises(RefusedError, match=r"still ha(s|ve) it as a peer"):
        sites.lose_zone()
    assert site.questions("RB-DR-002") == 0
    assert not site.signs_at()


def test_a_deny_that_is_lifted_during_the_promotion_arms_nothing_and_needs_people_s_word_again(
    dark: Callable[..., Any], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = dark()
    place_key = key_files.KeyHandling._place_key

    def lifted(*arguments: Any) -> Any:
        cloud.lift()
        return place_key(*arguments)

    monkeypatch.setattr(key_files.KeyHandling, "_place_key", lifted)
    thread = sites.answer_when_asked(site, AGREED, [])
    with pytest.raises(RefusedError, match="its network is not denied"):
        sites.lose_zone()
    thread.join()
    assert "armed" not in site.stages("RB-DR-002")
    assert not site.signs_at()
    monkeypatch.setattr(key_files.KeyHandling, "_place_key", place_key)
    thread = sites.answer_when_asked(site, {"xia": True, "yan": True}, [])
    sites.lose_zone(incident=site.entries("RB-DR-002")[0].run_id)
    thread.join()
    assert cloud.is_denied
    assert site.questions("RB-DR-002") == 2
    assert site.signs_at() == [site.standby.name]
    site.check_signed_once()
