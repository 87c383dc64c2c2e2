"""Real servers for the session, found where the build leaves them, ended with it."""

import datetime as dt
import importlib.util
import os
import random
import secrets as random_source
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.s3_control import open_control
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.backup import restore
from vedr.backup.layout import Source
from vedr.backup.manifest import ChainPoint, Facts
from vedr.backup.repository import Listed, Repository, list_snapshots
from vedr.backup.sealing import Codec
from vedr.backup.snapshot import Created, create
from vedr.backup.tree import read_tree
from vedr.inventory import Height, Hsm, StoreConfig
from vedr.signature import Signer
from vedr.targets import Retention


def _beside() -> ModuleType:
    """The one module that has to be found by hand; it finds the others."""
    spec = importlib.util.spec_from_file_location("beside", Path(__file__).with_name("beside.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["beside"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent
beside = _beside().beside
free_port = beside("loopback_ports", HERE / "ports.py").free_port
beside("folder_store", HERE / "stores" / "folder_store.py")
beside("held_registers", HERE / "held_registers.py")
REPOSITORY = HERE.parent
START_DEADLINE_S = 15.0
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it to 80, and a console that is made then stays so narrow


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
    options: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            "ROOT_ACCESS_KEY_ID": self.credentials.access_key,
            "ROOT_SECRET_ACCESS_KEY": self.credentials.secret_key,
        }
        arguments = [find_binary("labs3"), "--listen", f"127.0.0.1:{self.port}"]
        arguments += ["--data", str(self.folder / "data"), "--versions", str(self.folder / "versions"), *self.options]
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

    def locked_store(self, region: str) -> S3Store:
        """A store over a fresh bucket whose objects can't be deleted for a day."""
        config = StoreConfig(
            endpoint=self.endpoint,
            bucket=f"l-{random_source.token_hex(6)}",
            cloud_region="us-east-1",
            object_lock_days=1,
        )
        store = S3Store(region, config, self.credentials)
        store.configure()
        return store

    def stranger(self, region: str, access_key: str | None = None) -> S3Store:
        """With a wrong secret, or a key that the server does not know."""
        config = self.store(region).config
        return S3Store(region, config, Credentials(access_key or self.credentials.access_key, "wrong"))

    def unreachable(self, region: str) -> S3Store:
        """At a port where nobody listens."""
        config = StoreConfig(endpoint=f"http://127.0.0.1:{free_port()}", bucket="some-bucket", cloud_region="us-east-1")
        return S3Store(region, config, self.credentials)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.endpoint, timeout=1).close()  # noqa: S310 (our own server)
            except urllib.error.HTTPError as answer:
                answer.close()
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail((self.folder / "log").read_text(), pytrace=False)


def start_s3(folder: Path, *options: str) -> S3Server:
    server = S3Server(folder, free_port(), Credentials("test-access", random_source.token_hex(16)), options=options)
    server.start()
    return server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One real S3 server for the session; tests take buckets of their own."""
    server = start_s3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., S3Server]:
    """Starts a server of the test's own, with those options, which the test may kill."""
    return lambda *options: start_s3(tmp_path_factory.mktemp("s3"), *options)


REGIONS = ("us-east", "eu-west", "ap-south")
BEGINNING = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)
LONG_AGO_NS = 1_700_000_000 * 10**9


class ManualClock:
    """Time that moves when told to."""

    def __init__(self, now: dt.datetime = BEGINNING) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += dt.timedelta(**amount)


@dataclass
class BackupWorld:
    """Three regions in memory, a clock, and a folder that is backed up."""

    folder: Path
    clock: ManualClock
    stores: dict[str, MemoryStore]
    repository: Repository
    data: Path
    source: Source = field(default=Source("us-east", "state", "full-0"))

    def write(self, path: str, content: bytes) -> None:
        """A file that is not fresh, so that the next snapshot may recognise it."""
        target = self.data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, ns=(LONG_AGO_NS, LONG_AGO_NS))

    def fill(self, *, tables: int = 3, table_bytes: int = 300_000, seed: int = 1) -> None:
        chance = random.Random(seed)
        for number in range(tables):
            self.write(f"application.db/{number:06}.ldb", chance.randbytes(table_bytes // 2) * 2)
        self.write("application.db/CURRENT", b"MANIFEST-000001\n")
        self.write("application.db/MANIFEST-000001", chance.randbytes(500))
        self.write("empty", b"")

    def facts(self, height: int) -> Facts:
        point = ChainPoint("chain-1", Height(height), "AB" * 32, None, None, Height(height), Height(height))
        return Facts(chain=point, software=(("app", "1"),), database_backend="goleveldb", method="pause", pause_ms=12)

    def back_up(self, height: int = 100, *, rehash: bool = False, min_regions: int | None = None) -> Created:
        return create(
            self.repository,
            self.source,
            read_tree(self.data),
            self.facts(height),
            rehash=rehash,
            min_regions=min_regions,
        )

    def listed(self) -> tuple[Listed, ...]:
        return list_snapshots(self.repository, self.source.origin, self.source.kind).snapshots

    def restored(self, home: Path | None = None, index: int = 0) -> dict[str, bytes]:
        """What the index-th newest snapshot brings back."""
        target = home or self.folder / f"home-{random_source.token_hex(4)}"
        target.mkdir(exist_ok=True)
        verified = restore.open_manifest(self.repository, self.listed()[index], chain_id="chain-1")
        content = dict(self.content(restore.fetch(self.repository, verified, target, "i1").path))
        content.pop(restore.COMPLETE_MARK)
        return content

    def content(self, folder: Path | None = None) -> Mapping[str, bytes]:
        root = folder or self.data
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


WorldMaker = Callable[..., BackupWorld]


@pytest.fixture
def make_world(tmp_path_factory: pytest.TempPathFactory) -> WorldMaker:
    """A fresh world for each call."""

    def make(*, key: bytes | None = None, retention: Retention | None = None) -> BackupWorld:
        folder = tmp_path_factory.mktemp("world")
        (folder / "source").mkdir()
        clock = ManualClock()
        stores = {region: MemoryStore(region, clock=clock) for region in REGIONS}
        signer = Signer(Ed25519PrivateKey.generate())
        repository = Repository(stores, signer, (signer.public_hex,), Codec(key), retention or Retention(), clock)
        return BackupWorld(folder, clock, stores, repository, folder / "source")

    return make


@pytest.fixture
def world(make_world: WorldMaker) -> BackupWorld:
    made = make_world()
    made.fill()
    return made


SOFTHSM_MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-geheim"


@dataclass
class SoftHsm:
    """Real SoftHSM tokens, each in a folder and with a configuration of its own, as regions have them."""

    folder: Path

    def make(self, label: str, *, config: Path | None = None) -> Hsm:
        """A fresh token; with the `config` of another, beside it."""
        if config is None:
            tokens = self.folder / label / "tokens"
            tokens.mkdir(parents=True)
            config = self.folder / label / "softhsm2.conf"
            config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        secret = self.folder / "pin"
        secret.touch(mode=0o600)
        secret.write_text(PIN)
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "12345678"],
            env={**os.environ, "SOFTHSM2_CONF": str(config)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return Hsm(module=SOFTHSM_MODULE, token_label=label, pin=f"file:{secret}", config=config)

    @staticmethod
    def pin() -> bytes:
        return PIN.encode()


@pytest.fixture(scope="session")
def make_soft_hsm() -> Callable[[Path], SoftHsm]:
    """Tokens in a folder of choice."""
    return SoftHsm


@pytest.fixture
def soft_hsm(tmp_path: Path) -> SoftHsm:
    return SoftHsm(tmp_path / "hsm")
