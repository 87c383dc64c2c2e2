"""Real servers for the session, found where the build leaves them, ended with it."""

import os
import secrets as random_source
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vedr.adapters.s3_store import Credentials, S3Store, open_control
from vedr.inventory import StoreConfig

REPOSITORY = Path(__file__).parents[1]
START_DEADLINE_S = 15.0


def find_binary(name: str) -> str:
    """A program that the build makes: `$VEDR_BIN`, build/bin, then PATH and Go's folder."""
    folders = [os.environ.get("VEDR_BIN", ""), str(REPOSITORY / "build" / "bin"), os.environ.get("PATH", "")]
    folders.append(str(Path.home() / "go" / "bin"))
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    if found is None:
        pytest.fail(f"{name} is not built: run `make build`", pytrace=False)
    return found


@dataclass
class S3Server:
    """One labs3 process; `buckets` come and go with tests."""

    folder: Path
    port: int
    credentials: Credentials
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            "ROOT_ACCESS_KEY_ID": self.credentials.access_key,
            "ROOT_SECRET_ACCESS_KEY": self.credentials.secret_key,
        }
        arguments = [find_binary("labs3"), "--listen", f"127.0.0.1:{self.port}"]
        arguments += ["--data", str(self.folder / "data"), "--versions", str(self.folder / "versions")]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
        self._wait_until_it_answers()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def store(self, region: str, bucket: str | None = None) -> S3Store:
        """A store over a fresh bucket with versioning."""
        name = bucket or f"b-{random_source.token_hex(6)}"
        config = StoreConfig(endpoint=self.endpoint, bucket=name, cloud_region="us-east-1")
        if bucket is None:
            client = open_control(config, self.credentials)
            client.create_bucket(Bucket=name)
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return S3Store(region, config, self.credentials)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.endpoint, timeout=1).close()
            except urllib.error.HTTPError as answer:
                answer.close()
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail((self.folder / "log").read_text(), pytrace=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_s3(folder: Path) -> S3Server:
    server = S3Server(folder, free_port(), Credentials("test-access", random_source.token_hex(16)))
    server.start()
    return server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One real S3 server for the session; tests take buckets of their own."""
    server = start_s3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()
