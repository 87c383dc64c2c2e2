"""The engine on real servers that die, and on real concurrency."""

import concurrent.futures
import datetime as dt
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.backup import replicate, restore, retention, verify
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository, list_snapshots
from vedr.backup.sealing import Codec
from vedr.backup.snapshot import Created, create
from vedr.backup.tree import read_tree
from vedr.signature import Signer
from vedr.targets import Retention

pytestmark = pytest.mark.server

SOURCE = Source("us-east", "provider", "provider-0")
REGIONS = ("us-east", "eu-west", "ap-south")


@pytest.fixture
def servers(start_server: Any) -> Iterator[dict[str, Any]]:
    started = {region: start_server() for region in REGIONS}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def repository(servers: dict[str, Any]) -> Repository:
    signer = Signer(Ed25519PrivateKey.generate())
    stores = {region: server.store(region) for region, server in servers.items()}
    return Repository(stores, signer, (signer.public_hex,), Codec(os.urandom(32)), Retention())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:06}.ldb").write_bytes(os.urandom(600_000))
        os.utime(folder / f"{number:06}.ldb", (1e9, 1e9))
    return folder


def back_up(repository: Repository, data: Path, source: Source = SOURCE, **options: Any) -> Created:
    return create(repository, source, read_tree(data), Facts(), **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != restore.COMPLETE_MARK}


def test_a_server_killed_in_mid_backup_is_healed_when_it_is_back(
    repository: Repository, servers: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    killed = threading.Event()

    def kill_at_a_third(done: int, total: int) -> None:
        if done > total / 3 and not killed.is_set():
            killed.set()
            servers["eu-west"].stop()

    created = back_up(repository, data, progress=kill_at_a_third)
    assert created.under_replicated == ("eu-west",)
    (tmp_path / "home").mkdir()
    staged = restore.fetch(repository, created.verified, tmp_path / "home", "i1", prefer=("eu-west",))
    assert content(staged.path) == content(data)
    servers["eu-west"].start()
    listed = list_snapshots(repository, "us-east", "provider").snapshots
    assert [one.error for one in replicate.heal(repository, listed)] == [None]
    listed = list_snapshots(repository, "us-east", "provider").snapshots
    assert verify.verify(repository, listed[0], depth=2).require().ok


def test_two_writers_and_a_prune_at_once_leave_only_whole_snapshots(repository: Repository, data: Path) -> None:
    late = Repository(
        repository.stores, repository.signer, repository.trusted, repository.codec, repository.retention,
        lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=200),
    )  # fmt: skip
    back_up(repository, data)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        writers = [
            pool.submit(back_up, late, data, Source("us-east", "provider", f"provider-{number}")) for number in (1, 2)
        ]
        pool.submit(retention.prune, late, "us-east", "provider").result()
        created = [writer.result() for writer in writers]
    retention.prune(late, "us-east", "provider")
    listed = list_snapshots(repository, "us-east", "provider").snapshots
    assert {one.id for one in created} <= {one.id for one in listed}
    for one in listed:
        assert verify.verify(repository, one, depth=2).require().ok


def test_pruning_frees_a_closed_epoch_on_a_real_server(repository: Repository, data: Path) -> None:
    back_up(repository, data)
    late = Repository(
        repository.stores, repository.signer, repository.trusted, repository.codec, repository.retention,
        lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=200),
    )  # fmt: skip
    new = back_up(late, data)
    pruned = retention.prune(late, "us-east", "provider")
    assert [listed.id for listed in pruned.plan.kept] == [new.id]
    left = {entry.key.split("/")[3] for entry in repository.stores["us-east"].list("us-east/provider/e/")}
    assert left == {f"{new.verified.manifest.epoch:05}"}


def test_a_locked_bucket_is_counted_not_fought(s3_server: Any, data: Path) -> None:
    signer = Signer(Ed25519PrivateKey.generate())
    store = s3_server.locked_store("us-east")
    locked = Repository({"us-east": store}, signer, (signer.public_hex,), Codec(), Retention())
    back_up(locked, data)
    late = Repository(
        locked.stores, signer, locked.trusted, locked.codec, locked.retention,
        lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=200),
    )  # fmt: skip
    back_up(late, data)
    pruned = retention.prune(late, "us-east", "provider")
    assert pruned.locked > 0
    assert pruned.removed_objects == 0
    for listed in list_snapshots(locked, "us-east", "provider").snapshots:
        assert verify.verify(locked, listed, depth=2).require().ok
