"""Damage on a region's disk, found as people find it, and mended by typing what the error says."""

import dataclasses
import os
import random
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from typer.testing import CliRunner

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.site import open_site
from vedr.backup.layout import Kind, Source, manifest_key, object_key, placement_key
from vedr.backup.manifest import Facts
from vedr.backup.repository import list_snapshots
from vedr.backup.snapshot import Created, create
from vedr.backup.tree import read_tree
from vedr.cli import build
from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.ports import ObjectKey
from vedr.readiness.backups import backup_integrity
from vedr.readiness.copies import newest, newest_good

pytestmark = pytest.mark.server

sitemaker = beside("sitemaker", Path(__file__).parents[1] / "unit" / "custody_keys" / "sitemaker.py")
COMMAND = re.compile(r"vedr snapshot heal(?: --[a-z]+ [\w-]+)+")


@dataclass
class Shop:
    """A site over three real buckets, and the disks behind them."""

    path: Path
    server: Any
    buckets: dict[str, str]
    data: Path

    def snapshot(self, kind: Kind = "state", name: str = "full-us-east") -> Created:
        with open_site(str(self.path)) as opened:
            return create(opened.repository, Source("us-east", kind, name), read_tree(self.data), Facts())

    def on_disk(self, region: str, key: ObjectKey) -> Path:
        return Path(self.server.folder / "data" / self.buckets[region] / key)

    def flip(self, region: str, key: ObjectKey) -> None:
        """One bit of the last byte, behind the server's back."""
        with self.on_disk(region, key).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            (last,) = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    def lose(self, region: str, key: ObjectKey) -> None:
        self.on_disk(region, key).unlink()

    def type(self, command: str) -> None:
        """As somebody at a terminal; raises what the command ends with."""
        words = shlex.split(command)
        assert words.pop(0) == "vedr"
        result = CliRunner(env={"VEDR_SITE": str(self.path)}).invoke(build(), words, catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.fixture
def shop(tmp_path: Path, s3_server: Any) -> Shop:
    keys = f'{{"access_key": "{s3_server.credentials.access_key}", "secret_key": "{s3_server.credentials.secret_key}"}}'
    credentials = sitemaker.secret(tmp_path / "secrets" / "s3", keys.encode())
    buckets = {region: s3_server.store(region).config.bucket for region in sitemaker.REGIONS}
    place = {"endpoint": s3_server.endpoint, "credentials": credentials, "cloud_region": "us-east-1"}
    stores = {region: {"bucket": bucket, **place} for region, bucket in buckets.items()}
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        (data / f"{number:06}.ldb").write_bytes(os.urandom(300_000))
    (data / "CURRENT").write_bytes(b"MANIFEST-000001\n")
    return Shop(sitemaker.make_site(tmp_path, stores=stores), s3_server, buckets, data)


def keys_of(created: Created) -> dict[str, ObjectKey]:
    manifest = created.verified.manifest
    return {
        "object": object_key(manifest.source, manifest.epoch, manifest.objects[0].name),
        "placement": placement_key(manifest.source, created.id),
        "manifest": manifest_key(manifest.source, created.id),
    }


DAMAGES: dict[str, Callable[[Shop, str, ObjectKey], None]] = {"flipped bit": Shop.flip, "loss": Shop.lose}


@pytest.mark.parametrize("what", ["object", "placement", "manifest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_failed_verification_tells_to_type_mends_the_region(shop: Shop, what: str, damage: str) -> None:
    created = shop.snapshot()
    DAMAGES[damage](shop, "eu-west", keys_of(created)[what])
    verify = f"vedr snapshot verify {created.id}"
    with pytest.raises(VerificationFailedError, match="eu-west") as found:
        shop.type(verify)
    (command,) = COMMAND.findall(found.value.remedy)
    shop.type(command)
    shop.type(verify)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_daily_check_tells_to_type_mends_a_configuration(shop: Shop, damage: str) -> None:
    created = shop.snapshot("config", "config-us-east")
    shop.snapshot()
    DAMAGES[damage](shop, "ap-south", keys_of(created)["object"])
    with open_site(str(shop.path)) as opened:

        def look() -> Any:
            return backup_integrity(opened.repository, ["us-east"], opened.site.checks, random.Random(1))

        found = look()
        assert found.status == "failed", found
        (command,) = COMMAND.findall(found.remedy)
        shop.type(command)
        assert look().status == "passed"


def test_a_loss_in_a_majority_is_mended_by_a_command_for_each_region(shop: Shop) -> None:
    created = shop.snapshot("provider", "provider-us-east")
    for region in ("us-east", "ap-south"):
        shop.lose(region, keys_of(created)["object"])
    with open_site(str(shop.path)) as opened:
        listed = newest(opened.repository, "us-east", "provider", deadline_s=20)
        with pytest.raises(VedrError, match="whole in a majority") as found:
            newest_good(opened.repository, listed, listed.ids, deadline_s=20)
        commands = COMMAND.findall(found.value.remedy)
        assert len(commands) == 2
        for command in commands:
            shop.type(command)
        assert newest_good(opened.repository, listed, listed.ids, deadline_s=20).verified.id == created.id


def test_a_snapshot_that_meets_a_damaged_object_tells_what_mends_its_region(shop: Shop) -> None:
    first = shop.snapshot()
    shop.flip("eu-west", keys_of(first)["object"])
    second = shop.snapshot(name="other-us-east")
    assert second.under_replicated == ("eu-west",)
    (error,) = (outcome.error for outcome in second.regions if outcome.error is not None)
    (command,) = COMMAND.findall(error.remedy)
    shop.type(command)
    shop.type(f"vedr snapshot verify {second.id}")


def test_a_region_that_missed_a_snapshot_gets_it_by_the_command_that_was_told(shop: Shop) -> None:
    down = MemoryStore("eu-west")
    down.faults.down = True
    source = Source("us-east", "config", "config-us-east")
    with open_site(str(shop.path)) as opened:
        stores = {**opened.repository.stores, "eu-west": down}
        partial = dataclasses.replace(opened.repository, stores=stores)
        with pytest.raises(UnavailableError, match="whole in us-east, ap-south only") as found:
            create(partial, source, read_tree(shop.data), Facts(), min_regions=3)
        (command,) = COMMAND.findall(found.value.remedy)
        shop.type(command)
        (listed,) = list_snapshots(opened.repository, "us-east", "config").snapshots
    shop.type(f"vedr snapshot verify {listed.id} --kind config")
