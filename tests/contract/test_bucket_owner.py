"""Whose a bucket is: a server that answers as Amazon documents `x-amz-expected-bucket-owner`, which moto leaves out."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from vedr.adapters.s3_store import Credentials, S3Store
from vedr.errors import RefusedError, VedrError, VerificationFailedError
from vedr.inventory import StoreConfig

OURS, THEIRS = "123456789012", "999999999999"
VERSIONED = b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>%s</Status></VersioningConfiguration>'
ABSENT = {"object-lock": "ObjectLockConfigurationNotFoundError", "lifecycle": "NoSuchLifecycleConfiguration"}


class Owned(BaseHTTPRequestHandler):
    """One bucket; `lets`: whom its policy lets in."""

    protocol_version = "HTTP/1.1"
    owner = OURS
    lets: Literal["anybody", "nobody"] = "anybody"
    versioning = b"Enabled"

    def do_HEAD(self) -> None:
        expected = self.headers["x-amz-expected-bucket-owner"]
        refused = self.lets == "nobody" or expected not in (None, self.owner)
        self._answer(403 if refused else 200, b"")

    def do_GET(self) -> None:
        asked = self.path.partition("?")[2].partition("=")[0]
        if self.lets == "nobody":
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        elif asked == "versioning":
            self._answer(200, VERSIONED % self.versioning)
        else:
            self._answer(404, f"<Error><Code>{ABSENT[asked]}</Code><Message>none</Message></Error>".encode())

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        self._answer(409, b"<Error><Code>BucketAlreadyExists</Code><Message>taken</Message></Error>")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Owned]]]:
    handler = type("OwnedHere", (Owned,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads = True
        thread = Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", handler
        listening.shutdown()
        thread.join()


def store(endpoint: str, account: str | None = OURS) -> S3Store:
    config = StoreConfig(endpoint=endpoint, bucket="backups", cloud_region="us-east-1", account=account)
    return S3Store("eu-west", config, Credentials("a", "b"))


def test_a_bucket_of_our_account_tells_how_it_is_set_up(server: Any) -> None:
    endpoint, handler = server
    assert store(endpoint).facts().versioned
    handler.versioning = b"Suspended"
    assert not store(endpoint).facts().versioned


def test_a_bucket_that_another_account_made_under_our_name_is_found_though_it_takes_all_we_write(server: Any) -> None:
    endpoint, handler = server
    handler.owner = THEIRS
    with pytest.raises(VerificationFailedError, match=f"is not account {OURS}'s") as found:
        store(endpoint).facts()
    assert "[regions.eu-west.store]" in found.value.remedy
    assert store(endpoint, account=None).facts().versioned  # nobody asked whose it is


def test_credentials_that_are_refused_are_told_as_such(server: Any) -> None:
    endpoint, handler = server
    handler.lets = "nobody"
    for account in (OURS, None):
        with pytest.raises(RefusedError, match=r"refuses our credentials|may not do this") as found:
            store(endpoint, account).facts()
        assert "policy" in found.value.remedy


def test_a_name_that_is_taken_is_told_and_not_to_be_tried_again(server: Any) -> None:
    endpoint, _ = server
    with pytest.raises(VedrError, match="another account's") as found:
        store(endpoint).configure()
    assert not found.value.transient
    assert "Choose another bucket" in found.value.remedy


def test_an_account_has_twelve_digits() -> None:
    with pytest.raises(ValidationError, match="account"):
        StoreConfig(bucket="backups", cloud_region="us-east-1", account="me")
