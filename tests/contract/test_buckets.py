"""Buckets are set up as the site asks, and every object asks for the site's storage class."""

import json
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tomli_w
from beside import beside
from typer.testing import CliRunner

from vedr.adapters.s3_control import open_control
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.cli import build
from vedr.errors import VerificationFailedError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey
from vedr.readiness.expirations import Expiration, too_soon
from vedr.targets import Retention

pytestmark = pytest.mark.server

sitemaker = beside("sitemaker", Path(__file__).parents[1] / "unit" / "custody_keys" / "sitemaker.py")
AS_ASKED_DAYS = 90 + 10 + 2


def make_site(folder: Path, endpoint: str, credentials: Credentials, **store: Any) -> Path:
    keys = json.dumps({"access_key": credentials.access_key, "secret_key": credentials.secret_key})
    place = {
        "endpoint": endpoint,
        "credentials": sitemaker.secret(folder / "secrets" / "s3", keys.encode()),
        "cloud_region": "us-east-1",
        **store,
    }
    names = {region: f"{region}-{folder.name[-12:].strip('-_').replace('_', '-')}" for region in sitemaker.REGIONS}
    path: Path = sitemaker.make_site(folder, stores={r: {"bucket": name, **place} for r, name in names.items()})
    return path


def buckets(site: Path, *words: str) -> Any:
    return CliRunner().invoke(build(), ["snapshot", "buckets", "--site", str(site), *words])


def test_absent_buckets_are_named_then_made_with_versions_lock_and_lifecycle(
    tmp_path: Path, moto_of_traffic: str
) -> None:
    site = make_site(tmp_path, moto_of_traffic, Credentials("a" * 20, "b"), object_lock_days=102)
    missing = buckets(site)
    assert isinstance(missing.exception, VerificationFailedError)
    assert "there is no such bucket" in missing.output
    made = buckets(site, "--apply", "--json")
    assert made.exit_code == 0, made.output
    for state in json.loads(made.stdout).values():
        assert (state["versioned"], state["lock_days"], state["lock_mode"]) == (True, 102, "COMPLIANCE")
        assert state["expire_days"] == AS_ASKED_DAYS
    assert buckets(site).exit_code == 0


def test_a_rule_that_somebody_changed_is_named_and_set_again(tmp_path: Path, moto_of_traffic: str) -> None:
    site = make_site(tmp_path, moto_of_traffic, Credentials("a" * 20, "b"))
    assert buckets(site, "--apply").exit_code == 0
    store = tomllib.loads(site.read_text())["regions"]["eu-west"]["store"]
    control = open_control(
        StoreConfig(endpoint=moto_of_traffic, bucket=store["bucket"], cloud_region="us-east-1"), Credentials("a", "b")
    )
    control.delete_bucket_lifecycle(Bucket=store["bucket"])
    control.put_bucket_versioning(Bucket=store["bucket"], VersioningConfiguration={"Status": "Suspended"})
    found = buckets(site)
    assert isinstance(found.exception, VerificationFailedError)
    assert "not as the site asks: eu-west (not versioned)" in str(found.exception)
    assert "replaced versions stay for ever, 102 days are asked for" in found.output
    assert buckets(site, "--apply", "--region", "eu-west").exit_code == 0
    assert buckets(site).exit_code == 0


def test_rules_that_a_server_has_in_force_are_read_as_what_they_take(moto_of_traffic: str) -> None:
    config = StoreConfig(endpoint=moto_of_traffic, bucket="ruled", cloud_region="us-east-1")
    store = S3Store("us-east", config, Credentials("a", "b"))
    store.configure(expire_days=AS_ASKED_DAYS)
    ours = store.facts().expirations
    assert ours is not None
    assert {(one.prefix, one.current, one.days) for one in ours} == {
        ("", False, AS_ASKED_DAYS),
        ("sign-state/", False, 1),
    }
    assert too_soon(ours, Retention(), ["us-east"]) == ()
    rules: list[Any] = [
        {"ID": "week", "Status": "Enabled", "Filter": {"Prefix": "us-east/"}, "Expiration": {"Days": 7}},
        {"ID": "old", "Status": "Enabled", "Prefix": "ledger/", "Expiration": {"Date": "2030-01-01T00:00:00Z"}},
        {
            "ID": "cold",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "eu-west/", "Tags": [{"Key": "a", "Value": "b"}]}},
            "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}],
            "NoncurrentVersionTransitions": [{"NoncurrentDays": 31, "StorageClass": "DEEP_ARCHIVE"}],
        },
        {
            "ID": "warm",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}],
        },
        {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}},
    ]
    open_control(config, Credentials("a", "b")).put_bucket_lifecycle_configuration(
        Bucket="ruled", LifecycleConfiguration={"Rules": rules}
    )
    assert store.facts().expirations == store.beside("ruled").facts().expirations
    assert store.facts().expirations == (
        Expiration("week", "us-east/", "removes", current=True, days=7),
        Expiration("old", "ledger/", "removes", current=True, days=0),
        Expiration("cold", "eu-west/", "archives", current=True, days=30),
        Expiration("cold", "eu-west/", "archives", current=False, days=31),
    )


def test_a_server_without_lifecycle_rules_is_told_and_no_failure(tmp_path: Path, s3_server: Any) -> None:
    site = make_site(tmp_path, s3_server.endpoint, s3_server.credentials)
    made = buckets(site, "--apply")
    assert made.exit_code == 0, made.output
    assert made.output.count("versioned, no lock, no lifecycle rules here") == len(sitemaker.REGIONS)


def test_a_region_that_is_down_is_a_failure_that_spares_the_others(tmp_path: Path, s3_server: Any) -> None:
    site = make_site(tmp_path, s3_server.endpoint, s3_server.credentials)
    document = tomllib.loads(site.read_text())
    document["regions"]["eu-west"]["store"]["endpoint"] = "http://127.0.0.1:9"
    site.write_text(tomli_w.dumps(document))
    found = buckets(site, "--apply")
    assert isinstance(found.exception, VerificationFailedError)
    assert "eu-west" in found.exception.message
    assert "Connection refused" in found.output
    assert found.output.count("versioned, no lock") == len(sitemaker.REGIONS) - 1


class _Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[str | None]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(self.headers["x-amz-storage-class"])
        self.send_response(200)
        self.send_header("etag", '"x"')
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []
    handler = type("Recorder", (_Recorder,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("asked", "sent"), [("STANDARD", None), ("STANDARD_IA", "STANDARD_IA")])
def test_every_object_asks_for_the_sites_storage_class(
    recorder: tuple[str, list[str | None]], asked: str, sent: str | None
) -> None:
    endpoint, seen = recorder
    config = StoreConfig.model_validate(
        {"endpoint": endpoint, "bucket": "one", "cloud_region": "us-east-1", "storage_class": asked}
    )
    S3Store("us-east", config, Credentials("a", "b")).create(ObjectKey("k"), b"x")
    assert seen == [sent]
