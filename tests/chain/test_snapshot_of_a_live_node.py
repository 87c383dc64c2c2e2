# ruff: noqa: ARG002 (a fake takes what the port gives it)
"""The whole way of a snapshot on a real node that goes on making blocks: captured, stored, restored, booted, proven."""

import datetime as dt
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_network import Network

from vedr.adapters.inspector import CommandInspector
from vedr.adapters.isolated_node import IsolatedNode
from vedr.backup import restore
from vedr.backup.capture import NodeCondition
from vedr.backup.chain_snapshot import snapshot_node
from vedr.backup.verify import newest_proofs, verify_boot
from vedr.chain.light import LightClient
from vedr.inventory import Node
from vedr.ports import Pause, UnitStatus

pytestmark = pytest.mark.server


class SignalFleet:
    """Pauses a process of this machine by SIGSTOP, and measures for how long."""

    def __init__(self, pid: int) -> None:
        self.pid, self.since, self.paused_s = pid, 0.0, 0.0

    def status(self, unit: str, zone: str) -> UnitStatus:
        return UnitStatus(unit, "running", self.pid, dt.datetime.now(dt.UTC), None, "running")

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        self.since = time.monotonic()
        os.kill(self.pid, signal.SIGSTOP)
        stats = list(Path(f"/proc/{self.pid}/task").glob("*/stat"))
        while any(stat.read_text().rsplit(")", 1)[1].split()[0] != "T" for stat in stats if stat.exists()):
            time.sleep(0.0005)

    def resume(self, unit: str, zone: str) -> Pause:
        os.kill(self.pid, signal.SIGCONT)
        self.paused_s = time.monotonic() - self.since
        return Pause(self.paused_s, expired=False)


@pytest.fixture
def light(network: Network, tmp_path: Path) -> Iterator[LightClient]:
    with network.rpc("val3") as primary, network.rpc("val2") as witness:
        yield LightClient(network.chain(), [primary, witness], tmp_path / "trust")


def test_snapshots_of_a_node_that_makes_blocks_boot_to_what_the_chain_says(
    network: Network, light: LightClient, make_world: Any, tmp_path: Path
) -> None:
    world = make_world(key=bytes(32))
    chain, home = network.chain(), network.home("full0")
    node = Node(
        name="full0", region="us-east", zone="us-east-1a", role="full", rpc=network.url("full0"), p2p="h:1",
        home=home, unit="full0",
    )  # fmt: skip
    fleet = SignalFleet(network.processes["full0"].pid)
    isolated = IsolatedNode(chain)
    heights = []
    for number in range(2):
        world.clock.advance(hours=4)
        created = snapshot_node(
            world.repository, chain, node, home,
            fleet=fleet,  # type: ignore[arg-type]
            condition=NodeCondition(catching_up=False, validator_power=0),
            inspector=CommandInspector(chain),
            headers=light.verified_header,
        )  # fmt: skip
        point = created.verified.manifest.facts.chain
        assert point is not None
        assert point.header_hash is not None
        heights.append(point.height)
        assert not any(
            "priv_validator" in file.path or "node_key" in file.path for file in created.verified.manifest.files
        )
        scratch = tmp_path / f"scratch-{number}"
        scratch.mkdir()
        staged = restore.fetch(world.repository, created.verified, scratch, "i1")
        outcome = verify_boot(
            world.repository, created.verified, staged.path,
            lambda data: isolated.prove(data, light), from_regions=staged.from_regions,
        )  # fmt: skip
        assert outcome.require().facts["app_hash"] == point.app_hash
        network.reach(network.height("full0") + 2, "full0")
    assert heights == sorted(set(heights))
    assert len(newest_proofs(world.repository, "us-east", "state")) == 2
    assert sorted(path.name for path in home.glob(".vedr-*")) == [".vedr-capture.lock"]
