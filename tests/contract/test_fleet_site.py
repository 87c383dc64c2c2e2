"""A site's fleet: what its file may say, and what is opened of it."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vedr.adapters.fleet_kubernetes import KubernetesFleet
from vedr.adapters.fleet_site import open_fleet, open_scaling, open_zones
from vedr.errors import InvalidInputError, NotFoundError, RefusedError
from vedr.inventory import Site, parse_site
from vedr.policies.fleet import Fleet

EXAMPLE = Path(__file__).parents[2] / "deployments" / "sites" / "production.example.toml"
HOST = {"zone": "us-east-1a", "address": "h", "units": {"a": "x.service"}}
SSH = {"key": "env:K", "known_hosts": "env:H", "hosts": {"h": HOST}}
WORK = {"zone": "us-east-1a", "name": "w"}
CLUSTER = {"kubeconfig": "env:K", "units": {"a": WORK}}


@pytest.fixture
def site() -> Site:
    return parse_site(EXAMPLE.read_text(), source="production.example.toml")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "systemd-ssh"}, "needs [fleet.ssh]"),
        ({"kind": "kubernetes"}, "needs [fleet.kubernetes]"),
        ({"kind": "systemd-ssh", "ssh": SSH, "token": "env:T"}, "does not take agents and token"),
        ({"kind": "lab", "ssh": SSH}, "does not take [fleet.ssh]"),
        ({"kind": "systemd-ssh", "ssh": SSH | {"hosts": {"h": HOST, "i": HOST}}}, "is on 2 hosts"),
        (
            {
                "kind": "systemd-ssh",
                "ssh": SSH | {"hosts": {"h": HOST | {"units": {"a": "x.service", "b": "x.service"}}}},
            },
            "2 units are x.service",
        ),
        (
            {
                "kind": "kubernetes",
                "kubernetes": {"clusters": {"us-east": CLUSTER | {"units": {"a": WORK, "b": WORK}}}},
            },
            "StatefulSet w is 2 units",
        ),
        (
            {
                "kind": "kubernetes",
                "kubernetes": {
                    "clusters": {"us-east": CLUSTER | {"units": {"a": WORK | {"name": "virtengine-fullnode"}}}}
                },
            },
            "is a unit and scaled",
        ),
        (
            {"kind": "kubernetes", "kubernetes": {"clusters": {"us-east": CLUSTER, "eu-west": CLUSTER}}},
            "is in 2 clusters",
        ),
        ({"kind": "kubernetes", "kubernetes": {"clusters": {"us-east": {"server": "https://x"}}}}, "give kubeconfig"),
        (
            {"kind": "kubernetes", "kubernetes": {"clusters": {"us-east": CLUSTER | {"token": "env:T"}}}},
            "give kubeconfig",
        ),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Fleet.model_validate(table)
    assert said in str(caught.value)


@pytest.mark.parametrize("service", ["x", "x.socket", "-x.service", "a b.service", "a;reboot.service", "$(x).service"])
def test_a_service_that_means_more_than_a_service_is_refused(service: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Fleet.model_validate({"kind": "systemd-ssh", "ssh": SSH | {"hosts": {"h": HOST | {"units": {"a": service}}}}})


def test_a_unit_that_the_fleet_does_not_know_is_found_when_the_file_is_read() -> None:
    changed = EXAMPLE.read_text().replace('{ fullnode-us-east-1 = "virtengine', '{ other = "virtengine')
    with pytest.raises(InvalidInputError, match=r"fullnode-us-east-1: .* knows no unit 'fullnode-us-east-1' in zone"):
        parse_site(changed, source="x.toml")


def test_two_nodes_that_are_one_unit_are_refused() -> None:
    changed = EXAMPLE.read_text().replace('unit = "fullnode-us-east-0"', 'unit = "validator-us-east-0"')
    with pytest.raises(InvalidInputError, match="2 things are unit 'validator-us-east-0'"):
        parse_site(changed, source="x.toml")


def test_hosts_are_neither_scaled_nor_cordoned(site: Site) -> None:
    with contextlib.ExitStack() as closing:
        for opening in (open_scaling, open_zones):
            with pytest.raises(RefusedError, match="systemd-ssh"):
                opening(site, closing)


def test_a_fleet_of_clusters_contacts_none_before_it_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"kind": "kubernetes", "kubernetes": {"clusters": {"us-east": CLUSTER}}}
    changed = site.model_copy(update={"fleet": Fleet.model_validate(table)})
    monkeypatch.delenv("K", raising=False)
    with contextlib.ExitStack() as closing:
        fleet = open_fleet(changed, closing)
        assert isinstance(fleet, KubernetesFleet)
        open_zones(changed, closing)
        with pytest.raises(NotFoundError, match="environment variable K"):
            fleet.status("a", "us-east-1a")
        with pytest.raises(RefusedError, match="no cluster in region eu-west"):
            open_zones(changed, closing).cordon("eu-west-1a")
