"""`vedr sign-state ship` as a process: real files, real servers, kill -9 and SIGTERM."""

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from beside import beside

from vedr.adapters.site import OpenSite
from vedr.chain.register import Validator
from vedr.chain.shipping_watch import look_at_copies
from vedr.chain.sign_state import FILE_NAME, SignState
from vedr.custody.key_material import VALIDATOR_FILE
from vedr.failover.key_disk import put_key
from vedr.failover.signer_disk import Ticket
from vedr.inventory import Height, load_site

pytestmark = pytest.mark.server

MAKER = Path(__file__).parents[1] / "unit" / "custody_keys" / "sitemaker.py"
NAME = "validator-us-east"
CHANGES_A_SECOND = 200


@dataclass
class World:
    """A site whose regions are real servers, and one validator's file."""

    site_file: Path
    servers: dict[str, Any]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.site_file.parent / "nodes" / NAME / "data" / FILE_NAME

    def write(self, height: int, file: Path | None = None) -> None:
        """As FilePV does it: beside it, then rename."""
        file = file or self.file
        message = b"vote %d" % height
        state = SignState(Height(height), 0, 3, hashlib.sha512(message).digest(), message)
        temporary = file.with_name(f"write-file-atomic-{height}")
        temporary.write_bytes(state.to_json())
        temporary.replace(file)

    def give_the_key_away(self, host: str) -> Path:
        """As a move leaves both homes: the own one fenced, the key at the host, whose state file this is."""
        site = tomllib.loads(self.site_file.read_text())
        site["key_files"] = [{"validator": NAME, "hosts": [host]}]
        self.site_file.write_text(tomli_w.dumps(site))
        home, away = (self.site_file.parent / "nodes" / name for name in (NAME, host))
        (away / "data").mkdir()
        put_key(away, (home / VALIDATOR_FILE).read_bytes())
        (home / "data").rename(home / Ticket(1, 1).folder)
        return away / "data" / FILE_NAME

    def command(self, *words: str) -> list[str]:
        vedr = [sys.executable, "-c", "from vedr.cli import main; main()", "sign-state", *words]
        return [*vedr, "--validator", NAME, "--site", str(self.site_file)]

    def ship(self, *more: str) -> tuple[subprocess.Popen[str], int]:
        """A shipper, and the port of its metrics."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        words = self.command("ship", *more, "--metrics", f"127.0.0.1:{port}")
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        assert process.stderr is not None
        assert "shipping" in process.stderr.readline()
        return process, port

    def heights(self) -> list[int]:
        with OpenSite(load_site(str(self.site_file))) as opened:
            node = opened.site.node(NAME)
            copies = look_at_copies(Validator(opened.site.chain.chain_id, node.address), opened.registers)
        return sorted(state.height for state in copies.states)


@pytest.fixture
def world(tmp_path: Path, start_server: Callable[[], Any]) -> Iterator[World]:
    servers = {region: start_server() for region in ("us-east", "eu-west", "ap-south")}
    maker = beside("sitemaker", MAKER)
    stores = {}
    for region, server in servers.items():
        document = {"access_key": server.credentials.access_key, "secret_key": server.credentials.secret_key}
        reference = maker.secret(tmp_path / "secrets" / region, json.dumps(document).encode())
        config = server.store(region).config
        stores[region] = {
            "endpoint": config.endpoint,
            "bucket": config.bucket,
            "cloud_region": config.cloud_region,
            "credentials": reference,
        }
    made = World(maker.make_site(tmp_path, stores=stores), servers)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    for server in servers.values():
        server.stop()


def scrape(port: int, series: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_a_validator_s_states_are_shipped_through_kills_and_outages_and_the_last_one_before_it_ends(
    world: World,
) -> None:
    done, last = threading.Event(), [0]

    def sign() -> None:
        began = time.monotonic()
        while not done.is_set():
            last[0] += 1
            world.write(100 + last[0])
            time.sleep(max(0.0, began + last[0] / CHANGES_A_SECOND - time.monotonic()))

    signing = threading.Thread(target=sign)
    signing.start()
    try:
        first, _ = world.ship()
        time.sleep(0.5)  # let it be in the midst of things; nothing below depends on how far it came
        first.kill()
        first.wait()
        second, port = world.ship()
        world.servers["ap-south"].stop()
        deadline = time.monotonic() + 60
        while scrape(port, f'vedr_sign_state_ship_lag_seconds_count{{validator="{NAME}"}}') < 50:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        world.servers["ap-south"].start()
    finally:
        done.set()
        signing.join()
    lag = f'vedr_sign_state_ship_lag_seconds_bucket{{validator="{NAME}",le="%s"}}'
    assert scrape(port, lag % "1") >= 0.9 * scrape(port, lag % "+Inf")
    second.send_signal(signal.SIGTERM)
    _, said = second.communicate(timeout=15)
    assert (second.returncode, "stop the validator" in said) == (0, False)
    assert world.heights().count(100 + last[0]) >= 2


def test_the_last_state_that_could_not_be_shipped_is_said_and_show_tells_what_is_there(world: World) -> None:
    world.write(5)
    shipper, port = world.ship()
    series = f'vedr_sign_state_shipped_height{{validator="{NAME}",region="%s"}}'
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        try:
            if all(scrape(port, series % region) == 5 for region in world.servers):
                break
        except AssertionError:
            time.sleep(0.05)
    for region in ("us-east", "eu-west"):
        world.servers[region].stop()
    world.write(6)
    shipper.send_signal(signal.SIGTERM)
    _, said = shipper.communicate(timeout=20)
    assert shipper.returncode == 7
    assert "did not reach a majority" in said
    shown = subprocess.run(world.command("show", "--json"), capture_output=True, text=True, check=False, timeout=60)
    document = json.loads(shown.stdout)
    assert shown.returncode == 7
    assert {region: copy["height"] for region, copy in document["regions"].items()} == {"ap-south": 6}
    assert set(document["problems"]) == {"us-east", "eu-west"}


def test_a_key_that_was_moved_is_shipped_from_its_new_host_and_its_home_is_silent(world: World) -> None:
    host = "full-ap-south"
    world.write(9, world.give_the_key_away(host))
    home, home_port = world.ship()
    away, _ = world.ship("--host", host)
    assert scrape(home_port, f'vedr_sign_state_signs_here{{validator="{NAME}"}}') == 0
    away.send_signal(signal.SIGTERM)
    _, said = away.communicate(timeout=20)
    assert (away.returncode, "stop the validator" in said) == (0, False)
    home.send_signal(signal.SIGTERM)
    _, said = home.communicate(timeout=20)
    assert (home.returncode, "ALARM" in said) == (0, False)
    assert world.heights().count(9) >= 2
    stranger = subprocess.run(
        world.command("ship", "--host", "full-eu-west"), capture_output=True, text=True, check=False, timeout=60
    )
    assert stranger.returncode == 2
    assert f"never on full-eu-west, but on {NAME}, {host}" in " ".join(stranger.stderr.split())
