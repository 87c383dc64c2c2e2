"""What every SecretVault must do; run against AWS Secrets Manager's protocol (moto's server) and the fake in memory."""

import datetime as dt
import json
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from loopback_ports import free_port

from vedr.adapters.s3_store import Credentials
from vedr.adapters.secrets_manager import AwsVault, Place
from vedr.adapters.secrets_memory import MemoryVault
from vedr.custody.escrow import Epoch, Escrow, SecretVault
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError

pytestmark = pytest.mark.server

CLOUD = {"us-east": "us-east-1", "eu-west": "eu-west-1", "ap-south": "ap-south-1"}
KEYS = Credentials("test", "test-secret")
NOBODY = "http://127.0.0.1:9"  # discard: nobody listens there


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("moto") / "log"
    program = str(Path(sys.executable).with_name("moto_server"))
    with log.open("wb") as output:
        arguments = [program, "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=1).close()  # noqa: S310 (our own server)
            break
        except (OSError, urllib.error.HTTPError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


def places(url: str, *down: str) -> tuple[Place, ...]:
    return tuple(Place(name, cloud, NOBODY if name in down else url) for name, cloud in CLOUD.items())


@pytest.fixture(params=["memory", "moto"])
def vault(request: pytest.FixtureRequest) -> SecretVault:
    if request.param == "memory":
        return MemoryVault(*CLOUD)
    return AwsVault(places(request.getfixturevalue("moto")), KEYS)


@pytest.fixture
def name() -> str:
    return f"vedr/test/{secrets.token_hex(4)}/0001"


def test_what_is_created_is_read_in_every_region(vault: SecretVault, name: str) -> None:
    vault.create(name, b"value")
    for region in vault.regions:
        assert vault.read(name, region) == b"value"
        assert vault.names(name.rpartition("/")[0], region) == (name,)
        assert vault.names(f"{name}x", region) == ()


def test_a_secret_is_never_changed(vault: SecretVault, name: str) -> None:
    vault.create(name, b"first")
    with pytest.raises(ConflictError):
        vault.create(name, b"second")
    assert vault.read(name, "eu-west") == b"first"


def test_what_is_absent_is_not_found(vault: SecretVault, name: str) -> None:
    with pytest.raises(NotFoundError):
        vault.read(name, "us-east")
    with pytest.raises(NotFoundError):
        vault.replicate(name)
    vault.retire(name)


def test_replicating_what_is_replicated_is_quiet(vault: SecretVault, name: str) -> None:
    vault.create(name, b"value")
    vault.replicate(name)
    vault.replicate(name)
    assert vault.read(name, "ap-south") == b"value"


def test_what_is_retired_is_gone_everywhere_and_its_name_stays_taken(vault: SecretVault, name: str) -> None:
    vault.create(name, b"value")
    vault.retire(name)
    vault.retire(name)
    for region in vault.regions:
        with pytest.raises(NotFoundError):
            vault.read(name, region)
        assert vault.names(name, region) == ()
    with pytest.raises(ConflictError):
        vault.create(name, b"again")


def test_a_secret_is_read_from_a_region_when_the_one_it_was_made_in_is_gone(moto: str, name: str) -> None:
    AwsVault(places(moto), KEYS).create(name, b"value")
    began = dt.datetime.now(dt.UTC)
    left = AwsVault(places(moto, "us-east"), KEYS)
    with pytest.raises(UnavailableError) as caught:
        left.read(name, "us-east")
    assert "value" not in str(caught.value)
    assert left.read(name, "eu-west") == b"value"
    with pytest.raises(UnavailableError):
        left.replicate(name)
    assert dt.datetime.now(dt.UTC) - began < dt.timedelta(seconds=45)


def test_while_a_region_is_silent_nothing_is_made(moto: str, name: str) -> None:
    """It may have a secret of that name, with another value, from an attempt whose answer was lost."""
    for lost in CLOUD:
        with pytest.raises(UnavailableError, match="was not made"):
            AwsVault(places(moto, lost), KEYS).create(name, b"value")
    whole = AwsVault(places(moto), KEYS)
    for region in whole.regions:
        with pytest.raises(NotFoundError):
            whole.read(name, region)
    memory = MemoryVault(*CLOUD)
    memory.down = {"ap-south"}
    with pytest.raises(UnavailableError):
        memory.create(name, b"value")
    assert not any(memory.values.values())


class LosesAnswers(BaseHTTPRequestHandler):
    """A region that makes a secret, copies it nowhere yet, and is gone before it says so."""

    moto = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        makes = self.headers["X-Amz-Target"].endswith(".CreateSecret")
        if makes:
            body = json.dumps({**json.loads(body), "AddReplicaRegions": []}).encode()
        headers = {key: value for key, value in self.headers.items() if key.lower() not in {"content-length", "host"}}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.moto, body, headers), timeout=10) as answer:  # noqa: S310
                status, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        self.close_connection = True
        if not makes:
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


def test_a_secret_whose_answer_was_lost_never_gets_a_second_value(moto: str, name: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Losing", (LosesAnswers,), {"moto": moto}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    losing = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        first, *others = places(moto)
        with pytest.raises(UnavailableError, match=r"whether secret .* was made is not known") as caught:
            AwsVault((replace(first, endpoint=losing), *others), KEYS).create(name, b"value")
    finally:
        server.shutdown()
        server.server_close()
    assert "value" not in str(caught.value)
    whole = AwsVault(places(moto), KEYS)
    with pytest.raises(NotFoundError):
        whole.read(name, "eu-west")
    with pytest.raises(UnavailableError):  # once more, while that region is away
        AwsVault(places(moto, "us-east"), KEYS).create(name, b"second")
    with pytest.raises(ConflictError):
        whole.create(name, b"third")
    whole.replicate(name)
    assert [whole.read(name, region) for region in whole.regions] == [b"value"] * 3


def test_no_region_at_all_is_an_error(name: str) -> None:
    with pytest.raises(UnavailableError, match="was not made"):
        AwsVault(places(NOBODY), KEYS).create(name, b"value")


def test_an_escrow_over_the_real_protocol_is_read_when_a_region_is_gone(moto: str) -> None:
    prefix = f"vedr/{secrets.token_hex(4)}/passphrase"
    whole = Escrow(AwsVault(places(moto), KEYS), prefix)
    assert whole.open_epoch("validator") == 1
    assert whole.spread("validator", Epoch(1)).everywhere
    value = whole.fetch("validator", Epoch(1))
    for lost in CLOUD:
        left = Escrow(AwsVault(places(moto, lost), KEYS), prefix)
        assert left.current("validator").epoch == 1
        assert left.fetch("validator", Epoch(1), prefer=lost) == value


def test_a_refusal_is_not_taken_for_an_outage() -> None:
    from vedr.adapters.secrets_manager import _ours  # noqa: PLC0415 (moto checks no credentials)

    assert isinstance(_ours("AccessDeniedException", "n", "r"), RefusedError)
    assert isinstance(_ours("ThrottlingException", "n", "r"), UnavailableError)
    assert isinstance(_ours("ResourceExistsException", "n", "r"), ConflictError)


def test_a_secret_that_is_not_text_is_refused(moto: str, name: str) -> None:
    vault = AwsVault(places(moto), KEYS)
    vault._client("us-east").create_secret(Name=name, SecretBinary=b"\0")
    with pytest.raises(NotFoundError, match="not text"):
        vault.read(name, "us-east")
