"""`vedr check` on real parts: S3 servers, a name server, tokens, TLS; each broken for real, and one that hangs."""

import contextlib
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from beside import beside
from typer.testing import CliRunner

from vedr.adapters import dns_answers
from vedr.adapters.check_probes import SiteNetwork, SiteStores, open_ports
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.pkcs11_token_site import make as make_reference
from vedr.adapters.s3_control import open_control
from vedr.adapters.site import OpenSite, open_site
from vedr.cli import build
from vedr.custody.escrow import SCHEME, Epoch
from vedr.custody.hsm_keys import from_ed25519
from vedr.errors import NotFoundError, UnavailableError
from vedr.inventory import load_site
from vedr.readiness.finding import Finding
from vedr.readiness.registry import CHECKS
from vedr.readiness.validation import choose, validate

pytestmark = pytest.mark.server


sitemaker = beside("sitemaker", Path(__file__).parents[1] / "unit" / "custody_keys" / "sitemaker.py")
REGIONS = sitemaker.REGIONS
QUICK = {"deadline_s": 60.0, "subject_deadline_s": 20.0}


@dataclass
class Station:
    """A site over real parts, and the checks on it."""

    path: Path
    server: Any
    buckets: dict[str, str]

    def change(self, **tables: Any) -> None:
        document = tomllib.loads(self.path.read_text())
        for name, table in tables.items():
            if isinstance(table, dict):
                document.setdefault(name, {}).update(table)
            else:
                document[name] = table
        self.path.write_text(tomli_w.dumps(document))

    def change_store(self, region: str, **changed: Any) -> None:
        document = tomllib.loads(self.path.read_text())
        document["regions"][region]["store"].update(changed)
        self.path.write_text(tomli_w.dumps(document))

    def look(self, name: str) -> Finding:
        site = load_site(str(self.path))
        (finding,) = validate(choose(CHECKS, [name]), partial(open_ports, site), site.checks)
        return finding

    def command(self, *words: str) -> tuple[int, Any]:
        result = CliRunner().invoke(build(), ["check", *words, "--json", "--site", str(self.path)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def station(tmp_path: Path, s3_server: Any) -> Station:
    """Fresh versioned buckets of the session's server; nodes that nobody runs."""
    keys = {"access_key": s3_server.credentials.access_key, "secret_key": s3_server.credentials.secret_key}
    credentials = sitemaker.secret(tmp_path / "secrets" / "s3", json.dumps(keys).encode())
    buckets = {region: s3_server.store(region).config.bucket for region in REGIONS}
    stores = {
        region: {
            "endpoint": s3_server.endpoint,
            "bucket": bucket,
            "credentials": credentials,
            "cloud_region": "us-east-1",
        }
        for region, bucket in buckets.items()
    }
    made = Station(sitemaker.make_site(tmp_path, stores=stores), s3_server, buckets)
    made.change(checks=QUICK)
    return made


# --- buckets


def test_real_buckets_take_keep_give_and_remove(station: Station) -> None:
    finding = station.look("bucket-read-write")
    assert finding.status == "passed", finding
    with open_site(str(station.path)) as opened:
        assert not [found for store in opened.stores.values() for found in store.list("checks/probe/")]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"bucket": "there-is-none"}, "failed"),
        ({"endpoint": "http://127.0.0.1:9"}, "could not run"),
    ],
)
def test_one_broken_bucket_is_found_and_the_others_are_heard(
    station: Station, changed: dict[str, str], status: str
) -> None:
    station.change_store("eu-west", **changed)
    finding = station.look("bucket-read-write")
    assert finding.status in (status, "could not run"), finding
    assert finding.observed.startswith("eu-west: ")
    assert "4 of 6 well" in finding.observed


def test_credentials_that_the_server_refuses_fail(station: Station, tmp_path: Path) -> None:
    wrong = {"access_key": station.server.credentials.access_key, "secret_key": "wrong"}
    station.change_store(
        "eu-west", credentials=sitemaker.secret(tmp_path / "secrets" / "no", json.dumps(wrong).encode())
    )
    assert station.look("bucket-read-write").status == "failed"


def test_a_server_that_is_killed_costs_its_region_only(station: Station, start_server: Callable[[], Any]) -> None:
    server = start_server()
    keys = {"access_key": server.credentials.access_key, "secret_key": server.credentials.secret_key}
    own = sitemaker.secret(station.path.parent / "secrets" / "own", json.dumps(keys).encode())
    bucket = server.store("eu-west").config.bucket
    station.change_store("eu-west", endpoint=server.endpoint, bucket=bucket, credentials=own)
    try:
        assert station.look("bucket-read-write").status == "passed"
        server.stop()
        finding = station.look("bucket-read-write")
    finally:
        server.stop()
    assert (finding.status, "us-east" in finding.observed) == ("could not run", False)


def test_versioning_that_was_switched_off_and_locks_that_are_missing_are_found(station: Station) -> None:
    buckets = {part for part in station.look("retention").observed.split("; ") if "versioned" in part}
    assert len(buckets) == 3
    with OpenSite(load_site(str(station.path))) as opened:
        client = open_control(opened.stores["eu-west"].config, station.server.credentials)
        client.put_bucket_versioning(Bucket=station.buckets["eu-west"], VersioningConfiguration={"Status": "Suspended"})
    finding = station.look("retention")
    assert (finding.status, "bucket of eu-west: not versioned" in finding.observed) == ("failed", True)
    station.change_store("us-east", object_lock_days=102)
    finding = station.look("retention")
    assert "no object lock, the site asks for COMPLIANCE 102 days" in finding.observed


def test_a_real_lock_is_read_as_it_is(station: Station) -> None:
    locked = station.server.locked_store("us-east")
    station.change_store("us-east", bucket=locked.config.bucket)
    with OpenSite(load_site(str(station.path))) as opened:
        probes = SiteStores(opened)
        state = probes.bucket_state("us-east")
        assert (state.versioned, state.lock_mode, state.lock_days) == (True, "COMPLIANCE", 1)
    finding = station.look("bucket-read-write")  # the site does not say that there is a lock
    assert (finding.status, "us-east: an object could not be removed" in finding.observed) == ("failed", True)
    station.change_store("us-east", object_lock_days=102)
    assert station.look("bucket-read-write").status == "passed"
    assert "COMPLIANCE 1 days, the site asks for COMPLIANCE 102 days" in station.look("retention").observed
    station.change_store("us-east", bucket=station.buckets["us-east"])
    finding = station.look("bucket-read-write")
    assert (finding.status, "should hold could be removed" in finding.observed) == ("failed", True)


# --- names


def test_a_real_name_server_is_asked(
    station: Station, make_knot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = sys.modules["traffic_parts"].ZONE
    lines = [f"{zone}. 60 SOA ns.{zone}. h.{zone}. 1 300 60 86400 10", f"{zone}. 60 NS ns.{zone}."]
    lines += [f"{name}.{zone}. 60 A 127.0.0.1" for name in ("ns", "api", "rpc", *(f"rpc-{r}" for r in REGIONS))]
    knot = make_knot(zone_text="\n".join(lines) + "\n")
    gateways = [
        {
            "name": f"gw-{r}",
            "region": r,
            "zone": f"{sitemaker.CLOUD[r]}a",
            "unit": f"gw-{r}",
            "url": "http://127.0.0.1:5",
        }
        for r in REGIONS
    ]
    station.change(dns={"server": "127.0.0.1", "port": knot.port, "zone": zone, "ttl_s": 60}, gateways=gateways)
    assert station.look("dns-health").status == "passed"
    knot.update(("api", 60, "A", "192.0.2.66"))
    finding = station.look("dns-health")
    assert (finding.status, "api: points to 192.0.2.66" in finding.observed) == ("failed", True)
    with knot.frozen(), monkeypatch.context() as patch:
        patch.setattr(dns_answers, "TIMEOUT_S", 0.2)
        finding = station.look("dns-health")
    assert finding.status == "could not run"
    knot.stop()
    assert station.look("dns-health").status == "could not run"


# --- secrets and tokens


def test_a_secret_that_is_gone_or_open_to_others_is_found(station: Station, tmp_path: Path) -> None:
    token = tmp_path / "secrets" / "token"
    token.chmod(0o644)
    finding = station.look("secrets-access")
    assert (finding.status, "fleet.token: secret file" in finding.observed) == ("failed", True)
    token.unlink()
    assert "fleet.token: secret file" in station.look("secrets-access").observed
    assert b"token" not in finding.observed.encode().replace(b"fleet.token", b"").replace(str(token).encode(), b"")


def test_the_escrow_tells_when_a_passphrase_was_made(
    station: Station, moto_of_traffic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    station.change(custody={"escrow": {"endpoints": dict.fromkeys(REGIONS, moto_of_traffic)}})
    with OpenSite(load_site(str(station.path))) as opened, open_ports(opened.site) as ports:
        with pytest.raises(UnavailableError, match="nobody tells"):
            ports.custody.passphrase_made("node", Epoch(1))
        opened.keys.escrow.open_epoch("node")
        made = ports.custody.passphrase_made("node", Epoch(1))
        assert abs((dt.datetime.now(dt.UTC) - made).total_seconds()) < 3600
        assert SCHEME == "aws-secret:"


def test_real_tokens_sign_and_one_that_lost_its_key_is_found(station: Station, soft_hsm: Any) -> None:
    key = sitemaker.Ed25519PrivateKey.generate()
    public = from_ed25519(key.public_key().public_bytes_raw())
    hsms = {region: soft_hsm.make(region) for region in ("us-east", "eu-west")}
    for hsm in hsms.values():
        with TokenProcess(hsm, soft_hsm.pin, writable=True) as token:
            token.import_ed25519(key.private_bytes_raw(), label="val-0", key_id=b"\x01")
    document = tomllib.loads(station.path.read_text())
    for region, hsm in hsms.items():
        document["regions"][region]["hsm"] = json.loads(hsm.model_dump_json())
    next(node for node in document["nodes"] if node["role"] == "validator")["address"] = public.consensus_address
    station.path.write_text(tomli_w.dumps(document))
    assert station.look("hsm-replication").observed.startswith("site keys has no references")
    with open_site(str(station.path)) as opened:
        make_reference(opened, "val-0", role="validator")
    assert station.look("hsm-replication").status == "passed"
    subprocess.run(
        ["softhsm2-util", "--delete-token", "--token", "eu-west"],
        env={**os.environ, "SOFTHSM2_CONF": str(hsms["eu-west"].config)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    finding = station.look("hsm-replication")
    assert (finding.status, "val-0 in eu-west" in finding.observed) == ("failed", True)


# --- health pages


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/sick" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_site_without_a_zone_has_no_names() -> None:
    with pytest.raises(NotFoundError):
        SiteNetwork(None).resolve_name("x")


# --- what hangs


class Hanging:
    """Accepts connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.close()


def test_hanging_nodes_block_no_other_check_and_none_of_them_passes(station: Station, hanging: Hanging) -> None:
    document = tomllib.loads(station.path.read_text())
    for thing in (*document["nodes"], *document["providers"]):
        thing["rpc" if "rpc" in thing else "url"] = f"http://127.0.0.1:{hanging.port}"
    station.path.write_text(tomli_w.dumps(document))
    station.change(checks={"deadline_s": 20.0, "subject_deadline_s": 5.0})
    site = load_site(str(station.path))
    names = ("node-health", "service-health", "state-sync-endpoints", "bucket-read-write")
    began = time.monotonic()
    findings = validate(choose(CHECKS, names), partial(open_ports, site), site.checks)
    assert time.monotonic() - began < 30
    statuses = {finding.check: finding.status for finding in findings}
    assert statuses.pop("bucket-read-write") == "passed"
    assert set(statuses.values()) <= {"failed", "could not run"}


def test_a_hanging_store_costs_its_region_and_the_deadline(station: Station, hanging: Hanging) -> None:
    station.change_store("eu-west", endpoint=f"http://127.0.0.1:{hanging.port}")
    station.change(checks={"deadline_s": 60.0, "subject_deadline_s": 8.0})
    finding = station.look("bucket-read-write")
    assert finding.took_s < 20
    assert (finding.status, finding.observed.startswith("eu-west: ")) == ("could not run", True)
    assert "4 of 6 well" in finding.observed


# --- the command and the scheduled run


def test_the_command_ends_with_zero_only_when_all_passed(station: Station) -> None:
    code, found = station.command("bucket-read-write")
    assert (code, found["passed"]) == (0, True)
    code, found = station.command("bucket-read-write", "dns-health")
    assert (code, found["passed"]) == (3, False)
    assert all(one["remedy"] for one in found["findings"] if one["status"] != "passed")


def test_every_check_of_a_site_where_nothing_runs_fails_with_a_remedy(station: Station) -> None:
    _, found = station.command()
    passing = {one["check"] for one in found["findings"] if one["status"] == "passed"}
    assert passing <= {"bucket-read-write", "retention"}
    for one in found["findings"]:
        assert one["status"] == "passed" or one["remedy"], one
        assert "fault of vedr" not in one["remedy"], one


def test_the_daily_validation_fails_after_all_were_heard_and_the_ledger_has_the_findings(station: Station) -> None:
    runner = CliRunner(env={"VEDR_SITE": str(station.path)})
    failing = runner.invoke(build(), ["run", "daily-validation", "--checks", "bucket-read-write dns-health"])
    assert getattr(failing.exception, "exit_code", None) == 3, failing.output
    with open_site(str(station.path)) as opened:
        (run_id,) = opened.journal.runs_of("daily-validation")
        entries = opened.journal.read(run_id).entries
    done = next(entry for entry in entries if entry.kind == "step_completed")
    findings: Any = done.payload["result"]
    assert [(one["check"], one["status"]) for one in findings["findings"]] == [
        ("dns-health", "failed"),
        ("bucket-read-write", "passed"),
    ]
    passing = runner.invoke(build(), ["run", "daily-validation", "--checks", "bucket-read-write", "--json"])
    assert passing.exit_code == 0, passing.output
