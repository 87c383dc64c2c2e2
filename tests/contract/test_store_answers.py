"""What people read when a store refuses or is gone: what happened, where, what to do; from the real server and SDKs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store as Unsigned

from vedr.adapters.s3_answers import MAX_SAID_CHARS, Place
from vedr.adapters.s3_registers import S3Registers
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey
from vedr.runbook.replicas import Replicas, Slot

pytestmark = pytest.mark.server

KEY = ObjectKey("us-east/state/m/one.json")
IN_SITE_FILE = "[regions.us-east.store]"
SECRET = "a-secret-that-is-wrong"

Calls = dict[str, Callable[[], Any]]


def calls_of(store: S3Store) -> Calls:
    registers = S3Registers(store.region, store.config, store._credentials)
    return {
        "create": lambda: store.create(KEY, b"x"),
        "get": lambda: store.get(KEY),
        "head": lambda: store.head(KEY),
        "list": lambda: list(store.list("us-east/")),
        "delete": lambda: store.delete(KEY),
        "facts": store.facts,
        "swap": lambda: registers.swap(KEY, b"x", expected=None),
        "read": lambda: registers.read(KEY),
    }


def assert_for_people(error: VedrError, store: S3Store) -> None:
    config = store.config
    assert config.endpoint is not None
    place = f"s3://{config.bucket}/"
    assert place in error.message
    assert urlsplit(config.endpoint).netloc in error.message
    assert len(error.message) < len(place) + len(KEY) + MAX_SAID_CHARS + 60
    for noise in ("<", "\n", "Debug", "HostId", SECRET, "Signature="):
        assert noise not in f"{error}"
    assert error.remedy


def other(server: Any, *, secret: str | None = None, access: str | None = None, **changed: Any) -> S3Store:
    store = server.store("us-east")
    keys = server.credentials
    credentials = Credentials(access or keys.access_key, secret or keys.secret_key)
    return S3Store("us-east", store.config.model_copy(update=changed), credentials)


REFUSALS: dict[str, tuple[dict[str, str], str, tuple[str, ...]]] = {
    "wrong secret": ({"secret": SECRET}, "the secret key is wrong", ()),
    "unknown key": ({"access": "nobody"}, "the access key is unknown there", ("head",)),  # a 404 without a word
    "no bucket": ({"bucket": "there-is-none"}, "there is no such bucket", ("head", "facts", "read", "swap")),
    "other cloud region": (
        {"cloud_region": "eu-west-1"}, "the server is of another cloud region", ("head", "delete", "facts")
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", REFUSALS)
def test_a_refusal_says_what_is_wrong_where_and_what_to_correct(s3_server: Any, way: str) -> None:
    changed, means, unclear = REFUSALS[way]
    store = other(s3_server, **changed)
    for name, call in calls_of(store).items():
        if name in unclear:
            continue
        with pytest.raises(RefusedError) as found:
            call()
        assert_for_people(found.value, store)
        assert IN_SITE_FILE in found.value.remedy
        assert means in found.value.message or (name, way) == ("head", "wrong secret"), name


def test_a_server_that_is_not_there_is_named_with_the_systems_reason(s3_server: Any) -> None:
    dead = s3_server.unreachable("us-east")
    for call in calls_of(dead).values():
        with pytest.raises(UnavailableError, match="does not answer \\(Connection refused\\)") as found:
            call()
        assert_for_people(found.value, dead)


def test_what_the_credentials_may_not_do_is_refused_with_a_word_on_the_policy(s3_server: Any) -> None:
    store = s3_server.store("us-east")
    store.create(KEY, b"x")
    nobody = Unsigned(
        store.config.bucket,
        endpoint=s3_server.endpoint,
        region="us-east-1",
        skip_signature=True,
        client_options={"allow_http": True},
    )
    with pytest.raises((BaseError, OSError)) as raw:
        obstore.get(nobody, KEY)
    error = Place("us-east", store.config).error(raw.value, KEY)
    assert isinstance(error, RefusedError)
    assert "our credentials may not do this (AccessDenied)" in error.message
    assert "policy" in error.remedy
    assert_for_people(error, store)


class _Overloaded(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"<Error><Code>SlowDown</Code><Message>Please &lt;reduce&gt; it.{' Now.' * 1000}</Message></Error>"
        self.send_response(503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_overloaded_server_is_tried_again_and_quoted_in_one_short_line(s3_server: Any) -> None:
    with served(_Overloaded) as endpoint:
        store = other(s3_server, endpoint=endpoint)
        with pytest.raises(UnavailableError, match="503 SlowDown \\(Please <reduce> it") as found:
            store.get(KEY)
        with pytest.raises(UnavailableError, match="503 SlowDown"):
            store.facts()
    assert len(found.value.message) < MAX_SAID_CHARS + 120


class _Undecided(BaseHTTPRequestHandler):
    """Amazon's answer to a conditional put while another put or delete of the key is under way."""

    answers: ClassVar[list[tuple[int, str]]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, code = self.answers.pop(0) if self.answers else (200, "")
        body = f"<Error><Code>{code}</Code><Message>Said.</Message></Error>" if code else ""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_key_that_somebody_is_at_is_tried_again_and_never_called_existing(s3_server: Any) -> None:
    busy, exists = (409, "ConditionalRequestConflict"), (412, "PreconditionFailed")
    with served(_Undecided) as endpoint:
        store = other(s3_server, endpoint=endpoint)
        _Undecided.answers[:] = [busy]
        store.create(KEY, b"x")
        _Undecided.answers[:] = [busy] * 20
        with pytest.raises(UnavailableError, match="others write or remove it just now"):
            store.create(KEY, b"x")
        _Undecided.answers[:] = [exists]
        with pytest.raises(ConflictError, match="exists already"):
            store.create(KEY, b"x")


def test_amazons_own_endpoint_is_named_as_amazons() -> None:
    place = Place("eu-west", StoreConfig(bucket="state", cloud_region="eu-west-1"))
    assert place.name("a/b") == "s3://state/a/b in eu-west (Amazon S3, eu-west-1)"


def test_an_absent_object_is_told_from_an_absent_bucket(s3_server: Any) -> None:
    with pytest.raises(NotFoundError, match=r"s3://.*/us-east/state/m/one.json in us-east .* does not exist"):
        s3_server.store("us-east").get(KEY)
    with pytest.raises(RefusedError):
        other(s3_server, bucket="there-is-none").get(KEY)


@pytest.mark.parametrize("lost", [{"secret": SECRET}, {"bucket": "there-is-none"}], ids=["credentials", "bucket"])
def test_a_region_that_refuses_the_ledger_is_done_without_and_is_no_empty_region(
    s3_server: Any, lost: dict[str, str]
) -> None:
    good = [s3_server.store("us-east"), s3_server.store("eu-west")]
    replicas = Replicas({"us-east": good[0], "eu-west": good[1], "ap-south": other(s3_server, **lost)})
    slot = Slot("ledger/run/00000000")
    try:
        assert replicas.propose(slot, b"entry", lambda _: True) == b"entry"
        assert replicas.settle(slot, lambda _: True) == b"entry"
        assert set(replicas.copies(slot).main) <= {"us-east", "eu-west"}
    finally:
        replicas.close()
    refusing = {region: other(s3_server, **lost) for region in ("eu-west", "ap-south")}
    alone = Replicas({"us-east": good[0], **refusing})
    with pytest.raises(UnavailableError, match="1 of 3 regions answered"):
        alone.copies(slot)
    alone.close()
