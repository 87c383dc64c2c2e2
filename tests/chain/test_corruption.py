"""RB-DR-004 on a real node of a real network, damaged for real: the flow runs as `vedr run` runs it.

One full node stands under a real zone supervisor (labzoned) with real stores; the validators are the other nodes of the
site, which it takes for full ones, and one node of the site does not answer.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from chain_network import Network, eventually, labnode
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback_ports import free_port

from flows.config_backup import RUNBOOK as CONFIG_BACKUP
from flows.data_corruption import RUNBOOK
from tasks.corruption_orders import DataCorruption
from tasks.orders import RegionJob
from vedr.adapters.lab_fleet import ZoneAgent
from vedr.adapters.site import open_site
from vedr.backup.capture import NodeCondition
from vedr.backup.chain_snapshot import snapshot_node
from vedr.errors import RefusedError
from vedr.lab import corruption
from vedr.runbook.run import Outcome

NODE, ZONE, TOKEN = "full0", "us-east-1a", "a-token-of-this-test"
PLACES = {"full0": "us-east-1a", "val0": "us-east-1b", "val1": "eu-west-1a", "val2": "eu-west-1b",
          "val3": "ap-south-1a", "silent": "ap-south-1b"}  # fmt: skip
CHOSEN = bool(os.environ.get("VEDR_CORRUPTIONS"))
pytestmark = pytest.mark.server
long = pytest.mark.skipif(not CHOSEN, reason="set VEDR_CORRUPTIONS=1: every kind of damage, ten seconds or more each")
UP_AGAIN_S = 20.0


@dataclass
class World:
    """A site file over the shared network, and its one supervised node."""

    network: Network
    folder: Path
    site: Path
    agent: ZoneAgent
    kept: Path

    @property
    def home(self) -> Path:
        return self.network.home(NODE)

    def put_back(self) -> None:
        """The node as it was before the first test, whatever a test that failed has left of it."""
        self.stop(kill=True)
        shutil.rmtree(self.home)
        shutil.copytree(self.kept, self.home)
        self.start()
        self.keeps_up()

    def is_well(self) -> bool:
        """Whether it keeps up, with the configuration that it had."""
        for name in ("config/config.toml", "config/genesis.json"):
            if (self.home / name).read_bytes() != (self.kept / name).read_bytes():
                return False
        try:
            self.network.reach(self.network.height("val1"), NODE, within_s=UP_AGAIN_S)
        except AssertionError:
            return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        self.agent.act(NODE, "kill" if kill else "stop", limit_s=60)

    def start(self) -> None:
        self.agent.act(NODE, "start")

    def restart(self) -> None:
        self.stop()
        self.start()
        self.keeps_up()

    def back_up_configuration(self) -> None:
        outcome = CONFIG_BACKUP.perform(RegionJob(region="us-east", even_if_fresh=True, site=str(self.site)))
        assert isinstance(outcome, Outcome)
        assert outcome.outcome == "completed"

    def damage(self, what: str) -> str:
        self.stop(kill=True)
        return corruption.corrupt(self.home, what, record=self.folder / "faults.jsonl")

    def recover(self, **order: Any) -> dict[str, Any]:
        """Run RB-DR-004; the results of its steps."""
        outcome = RUNBOOK.perform(DataCorruption(node=NODE, site=str(self.site), **order))
        assert isinstance(outcome, Outcome)
        assert outcome.outcome == "completed"
        assert outcome.met
        return self.results(outcome)

    def results(self, outcome: Outcome) -> dict[str, Any]:
        with open_site(str(self.site)) as opened:
            entries = opened.journal.read(outcome.run_id).entries
        return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}

    def healthy(self) -> None:
        """It is at the tip, with the chain's state."""
        tip = self.network.height("val0")
        self.network.reach(tip + 2, NODE)
        with self.network.rpc(NODE) as own, self.network.rpc("val3") as other:
            assert own.commit(tip + 1).header.hash() == other.commit(tip + 1).header.hash()  # type: ignore[arg-type]

    def transact(self, number: int, prefix: str = "k") -> None:
        for n in range(number):
            url = f'{self.network.url("val1")}/broadcast_tx_commit?tx="{prefix}{n}={time.monotonic_ns()}"'
            urllib.request.urlopen(url, timeout=10).close()  # noqa: S310 - our own node

    def keeps_up(self) -> None:
        self.network.reach(self.network.height("val1"), NODE)

    def snapshot(self) -> str:
        """As chain-snapshot does where a pause is too long; of this very node."""
        with open_site(str(self.site)) as opened:
            node = opened.site.node(NODE)
            created = snapshot_node(
                opened.repository, opened.site.chain, node, self.home,
                fleet=opened.fleet, condition=NodeCondition(catching_up=False, validator_power=0),
                inspector=opened.inspector, headers=opened.light_client(besides=NODE).verified_header,
                method="stop",  # a busy machine may not freeze a process within the second that a pause has
            )  # fmt: skip
        return str(created.id)

    def opened(self) -> Any:
        return open_site(str(self.site))


def write_site(network: Network, folder: Path, s3: Any, agent: str) -> Path:
    key = Ed25519PrivateKey.generate()
    for name, content in {
        "signing.pem": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "token": TOKEN.encode(),
        "store.json": json.dumps(
            {"access_key": s3.credentials.access_key, "secret_key": s3.credentials.secret_key}
        ).encode(),
    }.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    regions = {}
    for number, region in enumerate(("us-east", "eu-west", "ap-south"), start=1):
        regions[region] = {
            "cloud_region": "us-east-1",
            "role": ("primary", "secondary", "tertiary")[number - 1],
            "priority": number,
            "workload_pct": 30,
            "work_pool": region,
            "zones": [f"{region}-1a", f"{region}-1b"],
            "store": {
                "endpoint": s3.endpoint,
                "bucket": s3.store(region).config.bucket,
                "cloud_region": "us-east-1",
                "credentials": f"file:{folder}/store.json",
            },
        }
    silent = f"http://127.0.0.1:{free_port()}"
    chain = network.chain(
        state_sync_interval=network.snapshot_interval, rollback=(labnode(), "rollback", "--home", "{home}")
    )
    document = {
        "version": 1,
        "name": "damaged",
        "kind": "lab",
        "work_dir": str(folder / "work"),
        "chain": chain.model_dump(mode="json"),
        "signing": {"key": f"file:{folder}/signing.pem", "trusted": [key.public_key().public_bytes_raw().hex()]},
        "regions": regions,
        "nodes": [
            {
                "name": name,
                "region": zone[:-3],
                "zone": zone,
                "role": "archive" if zone.endswith("b") else "full",
                "rpc": silent if name == "silent" else network.url(name),
                "p2p": "127.0.0.1:1",
                "home": str(folder / name if name == "silent" else network.home(name)),
                "unit": name,
            }
            for name, zone in PLACES.items()
        ],
        "fleet": {"kind": "lab", "agents": {ZONE: agent}, "token": f"file:{folder}/token"},
        "custody": {"unit_log": str(folder / "{unit}.log")},
        "orchestrator": {"api_url": f"{silent}/api", "ui_url": silent},
        "config_repository": {"path": str(folder / "config")},
    }
    path = folder / "site.toml"
    path.write_text(tomli_w.dumps(document))
    return path


@pytest.fixture(scope="module")
def world(network: Network, s3_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("site")
    address = f"127.0.0.1:{free_port()}"
    site = write_site(network, folder, s3_server, f"http://{address}")
    zoned = str(Path(labnode()).with_name("labzoned"))
    arguments = [zoned, "--zone", ZONE, "--listen", address, "--units", str(folder / "units.json")]
    with (folder / "zoned.log").open("ab") as log:
        process = subprocess.Popen([*arguments, "--token-file", str(folder / "token")], stdout=log, stderr=log)
    agent = ZoneAgent(ZONE, f"http://{address}", TOKEN)
    try:
        eventually(agent.info, "the supervisor answers")
        network.stop(NODE)
        kept = Path(shutil.copytree(network.home(NODE), folder / "kept"))
        argv = [labnode(), "start", "--home", str(network.home(NODE))]
        agent.define({"name": NODE, "argv": argv, "log": str(folder / f"{NODE}.log")})
        agent.act(NODE, "start")
        network.reach(3, NODE)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VEDR_PLAIN", "1")
            yield World(network, folder, site, agent, kept)
    finally:
        agent.close()
        process.terminate()
        process.wait(30)
        network.start(NODE)
        network.reach(network.height("val0"), NODE)  # as others found it


@pytest.fixture(autouse=True)
def left_as_found(world: World) -> Iterator[None]:
    """The network is shared: a test that fails half-way leaves no broken node to those after it."""
    yield
    if not world.is_well():
        world.put_back()


def test_a_healthy_node_is_refused(world: World) -> None:
    with pytest.raises(RefusedError, match="healthy"):
        world.recover()


def test_inverted_sectors_are_kept_replaced_and_named_to_the_byte(world: World) -> None:
    """The run finds them, keeps them, brings proven data, and says where the table differs from the store's copy."""
    world.transact(3)
    world.restart()  # so that tables are written
    snapshot = world.snapshot()
    world.damage("app-db")
    found = world.recover()
    assert found["examine_at_rest"]["kind"] == "database"
    kept = Path(found["preserve_damage"]["folder"])
    record = json.loads(Path(found["preserve_damage"]["record"]).read_text())
    for file in record["files"]:
        assert hashlib.sha256((kept / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    (damaged,) = found["record_root_cause"]["damaged"]
    assert damaged.startswith("application.db/")
    assert snapshot in damaged
    world.healthy()


def test_broken_configuration_genesis_and_log_are_replaced_and_the_databases_stay(world: World) -> None:
    """The configuration comes from the backup before the damage: the newest one holds it already."""
    world.back_up_configuration()
    good = {name: (world.home / "config" / name).read_bytes() for name in ("config.toml", "genesis.json")}
    blocks = (world.home / "data" / "blockstore.db").stat().st_ino
    for what in ("config", "genesis", "wal"):
        world.damage(what)
    world.back_up_configuration()  # the hourly backup goes on, and takes the damage in
    found = world.recover(kind="config")
    replaced = {one["name"]: one for one in found["restore_configuration"]}
    assert len(replaced["config/config.toml"]["passed_over"]) == 1
    assert "not TOML" in replaced["config/config.toml"]["passed_over"][0]
    assert {name: (world.home / "config" / name).read_bytes() for name in good} == good
    assert found["bring_and_prove"]["way"] == "new-log"
    assert (Path(found["preserve_damage"]["folder"]) / "data" / "cs.wal" / "wal").is_file()
    assert (world.home / "data" / "blockstore.db").stat().st_ino == blocks
    world.healthy()


@long
def test_a_state_that_diverged_unseen_is_found_by_verified_headers(world: World) -> None:
    """Every checksum is right and the node would start: only reading every key and value tells."""
    world.transact(2)
    world.keeps_up()
    world.damage("app-state")
    found = world.recover()
    assert found["examine_at_rest"]["kind"] == "state"
    assert "verified header" in found["examine_at_rest"]["findings"][0]["detail"]
    assert len(found["verify_across_nodes"]["others"]) >= 2
    world.healthy()


@long
@pytest.mark.parametrize("what", ["block-db", "state-db", "lost-app-db", "lost-block-table", "wipe-data"])
def test_every_other_damage_to_the_databases_is_recovered_from(world: World, what: str) -> None:
    world.transact(1)
    world.restart()
    world.snapshot()
    world.damage(what)
    found = world.recover()
    assert found["examine_at_rest"]["kind"] == "database"
    world.healthy()


@long
def test_a_node_that_halts_on_an_app_hash_is_recovered_though_it_still_answers(world: World) -> None:
    world.transact(1)
    world.keeps_up()
    world.damage("app-state")
    world.start()

    world.transact(5, "k0")  # beside k0, whose leaf was changed: its hash goes into theirs

    def halted() -> bool:
        return world.network.height("val0") - world.network.height(NODE) > 12

    eventually(halted, "the diverged node halts", within_s=90)
    found = world.recover(kind="state")
    assert "state" in {one["kind"] for one in found["detect_corruption"]["findings"]}
    world.healthy()


@long
def test_a_local_copy_that_is_nearer_to_the_tip_than_any_snapshot_is_proven_and_used(world: World) -> None:
    world.keeps_up()
    world.stop()
    spare = Path(shutil.copytree(world.home / "data", world.home / "data.spare"))
    world.start()
    world.keeps_up()
    world.damage("lost-app-db")
    found = world.recover()
    shutil.rmtree(spare)
    assert (found["bring_and_prove"]["way"], found["bring_and_prove"]["source"]) == ("local-copy", "data.spare")
    assert "every key and value" in found["bring_and_prove"]["proof"]
    world.healthy()


@long
def test_a_snapshot_that_fails_its_proof_is_passed_over_for_an_older_one(world: World) -> None:
    world.snapshot()
    world.transact(1)
    newest = world.snapshot()
    with world.opened() as opened:
        for store in opened.stores.values():
            for one in store.list("us-east/state/p/"):
                if newest in one.key:
                    store.delete(one.key)
    world.damage("lost-app-db")
    found = world.recover()
    assert found["bring_and_prove"]["way"] == "snapshot"
    assert newest in found["bring_and_prove"]["passed_over"][0]
    world.healthy()
