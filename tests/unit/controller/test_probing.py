"""Looking at real servers: what answers, what does not, and what its supervisor says."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.probing import SiteProber
from vedr.adapters.site import OpenSite
from vedr.cli import controller
from vedr.errors import UnavailableError
from vedr.inventory import Site, load_site
from vedr.policies.fleet import Fleet as FleetPolicy
from vedr.policies.fleet import Ssh, SshHost
from vedr.ports import Fleet, UnitStatus

DEADLINE_S = 1.0


class Site1:
    """A site whose stores are never asked."""

    def __init__(self, folder: Path, real: ModuleType) -> None:
        self.states = {zone: real.NodeState() for zone in real.ZONES}
        self.nodes = {zone: real.node_service(state) for zone, state in self.states.items()}
        self.gateways = {
            zone: real.answering_service(status)
            for zone, status in zip(real.ZONES, (200, 404, 502, 503, 200, 200), strict=True)
        }
        self.services = [*self.nodes.values(), *self.gateways.values()]
        self.folder, self.real = folder, real

    def site(self) -> Site:
        store = SimpleNamespace(
            credentials=SimpleNamespace(access_key="a", secret_key="b"),
            store=lambda region: SimpleNamespace(
                config=SimpleNamespace(endpoint="http://127.0.0.1:9", bucket=f"nowhere-{region}")
            ),
        )
        path = self.real.write_site(
            self.folder,
            dict.fromkeys(self.real.REGIONS, store),
            nodes={zone: service.url for zone, service in self.nodes.items()},
            gateways={zone: service.url for zone, service in self.gateways.items()},
            api="http://127.0.0.1:9",
        )
        return load_site(str(path))


@pytest.fixture
def world(tmp_path: Path, real: ModuleType) -> Iterator[Site1]:
    made = Site1(tmp_path, real)
    with real.running(*made.services):
        yield made


def look(world: Site1, fleet: Fleet | None = None) -> dict[str, Any]:
    prober = SiteProber(world.site(), fleet, deadline_s=DEADLINE_S)
    try:
        return {answer.service.name: answer for answer in prober.look()}
    finally:
        prober.close()


def test_every_service_gives_one_answer_with_what_was_seen(world: Site1) -> None:
    world.states["us-east-1b"].catching_up = True
    world.states["eu-west-1a"].chain = "another-1"
    world.nodes["eu-west-1b"].stop()
    seen = {name: (answer.answers, answer.said) for name, answer in look(world).items()}
    assert seen["us-east-1a"] == (True, "height 100")
    assert seen["us-east-1b"] == (False, "catches up, at height 100")
    assert seen["eu-west-1a"] == (False, "is of chain 'another-1'")
    assert seen["eu-west-1b"][0] is False
    assert "ConnectError" in seen["eu-west-1b"][1]
    assert [seen[f"gateway-{zone}"] for zone in world.real.ZONES][:4] == [
        (True, "HTTP 200"),
        (True, "HTTP 404"),
        (False, "HTTP 502"),
        (False, "HTTP 503"),
    ]
    assert len(seen) == 12


def test_a_service_that_hangs_costs_a_look_its_deadline_and_no_more(world: Site1) -> None:
    release = threading.Event()
    world.states["ap-south-1a"].hangs = release
    began = time.monotonic()
    seen = look(world)
    took = time.monotonic() - began
    release.set()
    assert not seen["ap-south-1a"].answers
    assert seen["us-east-1a"].answers
    assert took < 8 * DEADLINE_S


class Supervisors:
    """Of one unit that failed; every other host does not answer."""

    def status(self, unit: str, zone: str) -> UnitStatus:
        if zone != "us-east-1a":
            raise UnavailableError("no route to host")
        return UnitStatus(unit, "failed", None, cast("Any", None), 1, "running")


def test_what_does_not_answer_is_explained_by_its_supervisor_where_that_answers(world: Site1) -> None:
    world.nodes["us-east-1a"].stop()
    world.nodes["ap-south-1b"].stop()
    seen = look(world, cast("Fleet", Supervisors()))
    assert seen["us-east-1a"].said.endswith("(unit failed)")
    assert seen["ap-south-1b"].said.endswith("(supervisor does not answer)")
    assert seen["us-east-1b"].said == "height 100"


class HangingSupervisors:
    """Of hosts that take the question and never say anything."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []

    def status(self, unit: str, zone: str) -> UnitStatus:
        self.asked.append(unit)
        self.release.wait(60)
        raise UnavailableError(f"{zone}: no answer")


def test_supervisors_that_hang_keep_no_service_from_being_looked_at(world: Site1) -> None:
    """They would fill the pool that services are asked in: a dead region would then take the healthy ones with it."""
    fleet = HangingSupervisors()
    for zone in ("us-east-1a", "us-east-1b"):
        world.nodes[zone].stop()
        world.gateways[zone].stop()
    prober = SiteProber(world.site(), cast("Fleet", fleet), deadline_s=DEADLINE_S)
    try:
        for _ in range(2):
            seen = {answer.service.name: answer for answer in prober.look()}
            assert "ConnectError" in seen["us-east-1a"].said
            assert "no word from its supervisor" in seen["us-east-1a"].said
            assert seen["ap-south-1a"].answers
        assert fleet.asked.count("us-east-1a") == 1  # not again while it hangs
    finally:
        fleet.release.set()
        prober.close()


def ssh_files(folder: Path) -> tuple[str, str]:
    """References of a private key and of a host's, as [fleet.ssh] wants them."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    for name, content in (("key", private), ("known", b"127.0.0.1 " + public)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    return f"file:{folder / 'key'}", f"file:{folder / 'known'}"


def test_a_controller_asks_the_supervisors_of_every_kind_of_fleet(world: Site1, tmp_path: Path) -> None:
    key, known = ssh_files(tmp_path)
    ssh = Ssh(
        key=key,
        known_hosts=known,
        hosts={"a": SshHost(zone="us-east-1a", address="127.0.0.1", units={"us-east-1a": "node.service"})},
    )
    site = world.site().model_copy(update={"fleet": FleetPolicy(kind="systemd-ssh", ssh=ssh)})
    with OpenSite(site) as opened:
        assert controller._fleet(opened) is opened.fleet


def test_a_controller_without_supervisors_watches_on_and_says_what_it_lacks(
    world: Site1, capsys: pytest.CaptureFixture[str]
) -> None:
    with OpenSite(world.site()) as opened:
        assert controller._fleet(opened) is None
    said = json.loads(capsys.readouterr().err)
    assert said["event"] == "unexplained"
    assert "[fleet] has no token" in said["problem"]
    assert "bearer token" in said["remedy"]


def test_a_region_that_hangs_as_a_whole_makes_no_service_elsewhere_look_gone(world: Site1) -> None:
    release = threading.Event()
    state = world.real.NodeState(hangs=release)
    hanging = world.real.node_service(state)
    with world.real.running(hanging):
        site = world.site()
        lost = [
            site.gateways[0].model_copy(update={"name": f"gateway-lost-{n}", "url": hanging.url}) for n in range(120)
        ]
        crowded = site.model_copy(update={"gateways": (*lost, *site.gateways)})
        prober = SiteProber(crowded, None, deadline_s=DEADLINE_S)
        try:
            seen = {answer.service.name: answer.said for answer in prober.look()}
        finally:
            release.set()
            prober.close()
    assert [seen[f"gateway-{zone}"] for zone in world.real.ZONES[:2]] == ["HTTP 200", "HTTP 404"]
    assert seen["gateway-lost-119"] != "HTTP 200"
