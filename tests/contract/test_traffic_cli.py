"""`vedr traffic` over a real name server and real gateways: away from us-east, and back."""

import contextlib
import json
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from loopback_ports import free_port
from traffic_parts import EXAMPLE, ZONE, ZONES, Knot
from typer.testing import CliRunner

from vedr.cli.traffic import app
from vedr.errors import InvalidInputError, UnavailableError, VedrError, VerificationFailedError

pytestmark = pytest.mark.server

HOSTS = {name: f"127.0.{number}.1" for number, name in enumerate(ZONES, start=11)}


@dataclass
class Town:
    """A site with a name server and a gateway at each address; those in `dead` answer 502."""

    site: str
    knot: Knot
    dead: set[str]

    def run(self, *arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--site", self.site, "--json"])
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exception is None, result.output
        return json.loads(result.stdout)

    def serving(self, name: str) -> set[str]:
        weights = self.run("show")["rfc2136"]["names"][name]["weights"]
        return {gateway for gateway, weight in weights.items() if weight}


def zone_file() -> str:
    lines = [
        f"{ZONE}. 60 SOA ns.{ZONE}. h.{ZONE}. 1 300 60 86400 10",
        f"{ZONE}. 60 NS ns.{ZONE}.",
        f"ns.{ZONE}. 60 A 127.0.0.1",
    ]
    for gateway, zone in ZONES.items():
        names = [f"rpc-{zone.rsplit('-', 1)[0]}", *(("api", "rpc") if "us-east" in zone else ())]
        lines += [f"{name}.{ZONE}. 1 A {HOSTS[gateway]}" for name in names]
    return "\n".join(lines) + "\n"


@pytest.fixture
def town(tmp_path: Path, make_knot: Callable[..., Knot]) -> Iterator[Town]:
    knot, port, dead = make_knot(zone_text=zone_file()), free_port(), set[str]()
    key = tmp_path / "dns.key"
    key.touch(mode=0o600)
    key.write_bytes(knot.key)
    site = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    site["fleet"] = {"kind": "lab"}
    site["dns"] = {"server": "127.0.0.1", "port": knot.port, "zone": ZONE, "key": f"file:{key}"}
    site["traffic"] = {"home": "primary", "ttl_s": 1, "failover_ttl_s": 1, "backends": [{"kind": "rfc2136"}]}
    site["gateways"] = [
        {"name": n, "region": z.rsplit("-", 1)[0], "zone": z, "unit": n, "url": f"http://{HOSTS[n]}:{port}"}
        for n, z in ZONES.items()
    ]
    (tmp_path / "site.toml").write_text(tomli_w.dumps(site))
    with contextlib.ExitStack() as closing:
        for host in HOSTS.values():
            closing.enter_context(gateway_at(host, port, dead))
        yield Town(str(tmp_path / "site.toml"), knot, dead)


@contextlib.contextmanager
def gateway_at(host: str, port: int, dead: set[str]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(502 if host in dead else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


US = {"gateway-us-east-0", "gateway-us-east-1"}


def test_users_are_moved_away_from_us_east_and_back(town: Town) -> None:
    assert town.serving("api") == US
    assert town.run("check")["problems"] == []
    town.dead |= {HOSTS[gateway] for gateway in US}
    with pytest.raises(VerificationFailedError, match="api leads to gateway-us-east-0, which is not healthy"):
        town.run("check")
    shown = town.run("set", "--away-from", "us-east")
    assert town.serving("api") == US  # only shown
    done = town.run("set", "--away-from", "us-east", "--apply")
    assert (done["plan"], done["written"]) == (shown["plan"], ["rfc2136"])
    assert town.serving("api") == town.serving("rpc-us-east") == {"gateway-eu-west-0"}
    assert town.run("check")["problems"] == []
    with pytest.raises(VedrError, match="no gateway with a proof of health"):
        town.run("set", "--back-to", "us-east", "--stage", "10", "--apply")
    town.dead.clear()
    for stage, expected in (("10", US | {"gateway-eu-west-0"}), ("100", US)):
        town.run("set", "--back-to", "us-east", "--stage", stage, "--apply")
        assert town.serving("api") == expected
    assert town.run("show")["rfc2136"]["last"]["epoch"] == 0


def test_a_server_that_is_down_is_said_with_its_exit_status(town: Town) -> None:
    town.knot.stop()
    with pytest.raises(UnavailableError, match="not known: rfc2136"):
        town.run("show")


def test_a_later_run_keeps_what_it_did(town: Town) -> None:
    town.knot.update(("_vedr-traffic", 5, "TXT", '"vedr-traffic/1 epoch=9 plan=0123456789abcdef"'))
    assert town.run("set", "--away-from", "us-east-1a")["epoch"] == 9
    assert town.run("show")["rfc2136"]["last"] == {"epoch": 9, "plan": "0123456789abcdef"}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--away-from", "us-east", "--back-to", "us-east"),
        ("--back-to", "us-east"),
        ("--away-from", "us-east", "--stage", "10"),
        ("--back-to", "us-east", "--stage", "10", "--target", "eu-west"),
        ("--away-from", "mars"),
    ],
)
def test_a_request_that_says_no_way_is_refused(town: Town, arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError):
        town.run("set", *arguments)


def test_tables_are_shown_to_people(town: Town) -> None:
    for arguments in (["show"], ["check"], ["set", "--away-from", "us-east-1a"]):
        result = CliRunner().invoke(app, [*arguments, "--site", town.site])
        assert result.exit_code == 0, result.output
        assert "{" not in result.stdout
