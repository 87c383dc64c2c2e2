"""Controllers as processes, over real stores: they agree, one acts, and its lease passes on when it stands still."""

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.server

POLICY = {
    "interval_s": 0.4,
    "failures": 2,
    "recoveries": 2,
    "probe_deadline_s": 0.4,
    "fresh_s": 10.0,
    "lease_s": 6.0,
    "zone": "propose",
}
PATIENCE_S = 60.0
VEDR = [sys.executable, "-c", "from vedr.cli import main; main()"]


def eventually(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE_S:g} s: {what}", pytrace=False)
        time.sleep(0.1)


class Watched:
    """A site, its services and its controllers' processes."""

    def __init__(
        self, folder: Path, real: ModuleType, servers: list[Any], free_port: Callable[[], int], **policy: Any
    ) -> None:
        self.folder = folder
        self.prefect = real.FakePrefect()
        self.prefect_service = self.prefect.service()
        self.states = {zone: real.NodeState() for zone in real.ZONES}
        self.nodes = {zone: real.node_service(state) for zone, state in self.states.items()}
        self.gateways = {zone: real.answering_service() for zone in real.ZONES}
        for service in (self.prefect_service, *self.nodes.values(), *self.gateways.values()):
            service.start()
        self.site = real.write_site(
            folder,
            dict(zip(real.REGIONS, servers, strict=True)),
            nodes={zone: service.url for zone, service in self.nodes.items()},
            gateways={zone: service.url for zone, service in self.gateways.items()},
            api=self.prefect_service.url,
            **{**POLICY, **policy},
        )
        regions = tomllib.loads(self.site.read_text())["regions"]
        self.stores = {name: region["store"]["endpoint"] for name, region in regions.items()}
        self.nowhere = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.metrics = {region: free_port() for region in real.REGIONS}

    def cut_off(self, region: str) -> Path:
        """The same site as a controller sees it that reaches nothing outside its region: its own file of it."""
        text = self.site.read_text()
        services = (*self.nodes.items(), *self.gateways.items())
        reached = [service.url for zone, service in services if region not in zone]
        reached += [endpoint for name, endpoint in self.stores.items() if name != region]
        for url in (*reached, self.prefect_service.url):
            text = text.replace(url, f"http://127.0.0.1:{self.nowhere}")
        path = self.folder / f"cut-{region}.toml"
        path.write_text(text)
        return path

    def start(self, region: str, site: Path | None = None) -> None:
        arguments = ["controller", "run", "--region", region, "--site", str(site or self.site)]
        arguments += ["--metrics", f"127.0.0.1:{self.metrics[region]}"]
        with (self.folder / f"{region}.log").open("ab") as log:
            self.processes[region] = subprocess.Popen(
                [*VEDR, *arguments],
                stderr=log,
            )

    def said(self, region: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{region}.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def status(self) -> Any:
        done = subprocess.run(
            [*VEDR, "controller", "status", "--json", "--site", str(self.site)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 6, 7), done.stderr
        return json.loads(done.stdout)

    def proposals(self) -> list[int]:
        """The epoch of each proposal's writer, as its log tells."""
        epochs = []
        for region in self.processes:
            epoch = 0
            for line in self.said(region):
                if line["event"] == "lease" and "held by this controller" in line["text"]:
                    epoch = int(line["text"].rsplit(" ", 1)[1])
                elif line["event"] == "proposed":
                    epochs.append(epoch)
        return epochs

    def shown(self) -> str:
        command = [*VEDR, "controller", "status", "--site", str(self.site)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def metric(self, region: str, line: str) -> bool:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.metrics[region]}/metrics"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return line in answer.read().decode().splitlines()
        return False

    def is_holder(self, region: str) -> bool:
        return self.metric(region, f'vedr_controller_lease_held{{vantage="{region}"}} 1')

    def down(self, zone: str) -> None:
        self.nodes[zone].stop()
        self.gateways[zone].stop()

    def kill(self, region: str) -> None:
        self.processes[region].kill()
        self.processes[region].wait()

    def holder(self) -> str:
        """The region whose controller holds the lease, by its metrics; empty: none of those that run."""
        alive = [region for region, process in self.processes.items() if process.poll() is None]
        return next((region for region in alive if self.is_holder(region)), "")

    def end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
        for service in (self.prefect_service, *self.nodes.values(), *self.gateways.values()):
            service.stop()


@pytest.fixture
def watched(
    tmp_path: Path,
    real: ModuleType,
    start_server: Callable[[], Any],
    unused_port: Callable[[], int],
    request: pytest.FixtureRequest,
) -> Iterator[Watched]:
    servers = [start_server() for _ in real.REGIONS]
    world = Watched(tmp_path, real, servers, unused_port, **getattr(request, "param", {}))
    yield world
    world.end()
    for server in servers:
        server.stop()


def test_a_holder_that_stands_still_loses_its_lease_and_does_not_act_when_it_wakes(watched: Watched) -> None:
    watched.start("us-east")
    eventually(lambda: watched.is_holder("us-east"), "the first controller holds the lease")
    watched.start("eu-west")
    eventually(
        lambda: any("us-east" in line.get("text", "") for line in watched.said("eu-west")), "the second one follows"
    )
    os.kill(watched.processes["us-east"].pid, signal.SIGSTOP)
    eventually(lambda: watched.is_holder("eu-west"), "the lease passes on")
    watched.down("ap-south-1a")
    os.kill(watched.processes["us-east"].pid, signal.SIGCONT)
    eventually(lambda: watched.proposals() != [], "two vantage points of three agree, and the holder proposes")
    # On a machine that is slow enough the lease may have gone back by now; under its old epoch us-east did nothing.
    assert all(epoch > 1 for epoch in watched.proposals())

    status = watched.status()
    assert status["lease"]["epoch"] > 1
    zone = next(place for place in status["places"] if place["name"] == "ap-south-1a")
    assert (zone["agreed"], zone["outage"]["state"]) == ("down", "proposed")
    assert zone["command"].startswith("vedr run RB-DR-002 --zone=ap-south-1a --detected-at=")
    assert status["vantages"]["ap-south"] is None
    assert watched.metric("eu-west", 'vedr_controller_agreed_down{vantage="eu-west",kind="zone",name="ap-south-1a"} 1')
    assert len(watched.proposals()) == 1
    assert watched.prefect.runs == {}
    shown = watched.shown()
    assert "the lease is held by " in shown
    assert "by hand: vedr run RB-DR-002 --zone=ap-south-1a" in shown
    assert "ap-south: no report" in shown

    watched.processes["eu-west"].terminate()
    assert watched.processes["eu-west"].wait(timeout=30) == 0
    eventually(lambda: watched.is_holder("us-east"), "a lease that was given back is taken at once")


def in_maintenance(zone: str) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    return {"maintenance": [{"domains": [zone], "reason": "new disks", "start": now - day, "end": now + day}]}


@pytest.mark.parametrize("watched", [in_maintenance("us-east-1b")], indirect=True)
def test_a_holder_that_is_killed_is_followed_by_one_that_acts_once_and_a_partitioned_minority_never_acts(
    watched: Watched,
) -> None:
    watched.start("us-east")
    eventually(lambda: watched.is_holder("us-east"), "the first controller holds the lease")
    for region in ("eu-west", "ap-south"):
        watched.start(region)
        eventually(lambda of=region: watched.said(of) != [], f"{region} watches")
    watched.kill("us-east")
    watched.start("us-east", watched.cut_off("us-east"))  # comes back, and reaches nobody: all else is down to it
    watched.down("eu-west-1a")
    watched.down("us-east-1b")  # in its maintenance window
    eventually(lambda: watched.proposals() != [], "the two that see each other agree, and one of them proposes")
    eventually(lambda: len(held_back(watched)) > 0, "the zone in maintenance is said to be left alone")
    acted = watched.holder()
    if acted:  # and is killed in its turn: whoever follows finds what was done
        watched.kill(acted)
        watched.start(acted)
        eventually(lambda: watched.holder() not in ("", "us-east"), "the lease passes on again")
    before = len(watched.said("eu-west")) + len(watched.said("ap-south"))
    places = {place["name"]: place for place in watched.status()["places"]}
    assert places["eu-west-1a"]["outage"]["state"] == "proposed"
    assert places["us-east-1b"]["outage"]["state"] == "open"
    lines = [line for region in watched.processes for line in watched.said(region)]
    assert before
    assert [line["outage"] for line in lines if line["event"] == "proposed"] == [places["eu-west-1a"]["outage"]["id"]]
    own = watched.said("us-east")
    minority = own[max(n for n, line in enumerate(own) if line["event"] == "watching") :]
    assert not [line for line in minority if line["event"] in ("opened", "proposed", "started", "closed")]
    assert not [line for line in minority if "held by this controller" in line.get("text", "")]


@pytest.mark.parametrize("watched", [{"zone": "start"}], indirect=True)
def test_a_start_whose_answer_is_lost_and_whose_holder_is_killed_is_made_once(watched: Watched) -> None:
    watched.prefect.lose_answers = True
    for region in ("us-east", "eu-west", "ap-south"):
        watched.start(region)
    eventually(lambda: watched.holder() != "", "one holds the lease")
    watched.down("eu-west-1a")
    eventually(lambda: events(watched, "start-unclear") != [], "it was sent, and is said not to be known")
    first = watched.holder()
    if first:
        watched.kill(first)
    watched.prefect.lose_answers = False
    eventually(lambda: events(watched, "started") != [], "whoever holds the lease asks again with the same key")
    (run,) = watched.prefect.runs.values()
    assert run["deployment"] == "dep-2"
    assert run["parameters"]["order"]["zone"] == "eu-west-1a"
    place = next(place for place in watched.status()["places"] if place["name"] == "eu-west-1a")
    assert run["idempotency_key"] == f"vedr-controller/{place['outage']['id']}"
    assert place["outage"]["state"] == "started"
    assert not list((watched.folder / "work" / "controller").glob("*"))  # nor plainly besides


def events(watched: Watched, kind: str) -> list[dict[str, Any]]:
    return [line for region in watched.processes for line in watched.said(region) if line["event"] == kind]


def held_back(watched: Watched) -> list[dict[str, Any]]:
    return [line for line in events(watched, "held-back") if "new disks" in line["text"]]
