"""A small real network on loopback for these tests: labnode processes, killed with the session.

Ports are drawn free for each network, so that runs side by side don't meet.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from loopback_ports import free_ports

from vedr.adapters.rpc import HttpChainRpc
from vedr.errors import VedrError
from vedr.inventory import Chain

CHAIN_ID = "vedr-test"
ROOT = Path(__file__).parents[2]


def labnode() -> str:
    """The node program: from $VEDR_BIN, build/bin or PATH."""
    folders = [os.environ.get("VEDR_BIN", ""), str(ROOT / "build" / "bin"), os.environ.get("PATH", "")]
    found = shutil.which("labnode", path=os.pathsep.join(filter(None, folders)))
    if found is None:
        pytest.fail("labnode is not built: run make build, or set VEDR_BIN", pytrace=False)
    return found


def eventually(ask: Callable[[], object], what: str, *, within_s: float = 30) -> None:
    """Poll until true; errors of ours count as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if ask():
                return
        except VedrError:
            pass
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


@dataclass
class Network:
    """Nodes by name; the first four validate with the powers given."""

    root: Path
    powers: tuple[int, ...] = (10, 20, 30, 40)
    full: int = 1
    timeout_commit: str = "250ms"
    snapshot_interval: int = 10
    program: str = field(default_factory=labnode)

    def __post_init__(self) -> None:
        self.names = [f"val{i}" for i in range(len(self.powers))] + [f"full{i}" for i in range(self.full)]
        ports = free_ports(2 * len(self.names))
        self.ports = {name: (ports[2 * i], ports[2 * i + 1]) for i, name in enumerate(self.names)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        plan = {
            "chain_id": CHAIN_ID,
            "timeout_commit": self.timeout_commit,
            "db_backend": "goleveldb",
            "nodes": [self._plan(i, name) for i, name in enumerate(self.names)],
        }
        path = self.root / "plan.json"
        path.write_text(json.dumps(plan))
        made = subprocess.run([self.program, "testnet", "--plan", path], check=True, capture_output=True)
        self.made = {node["name"]: node for node in json.loads(made.stdout)["nodes"]}

    def _plan(self, index: int, name: str) -> dict[str, object]:
        p2p, rpc = self.ports[name]
        validates = index < len(self.powers)
        return {
            "name": name,
            "home": str(self.home(name)),
            "role": "validator" if validates else "full",
            **({"power": self.powers[index]} if validates else {}),
            "p2p_listen": f"tcp://127.0.0.1:{p2p}",
            "p2p_dial": f"127.0.0.1:{p2p}",
            "rpc_listen": f"tcp://127.0.0.1:{rpc}",
            "metrics_listen": "",
            "snapshot_interval": self.snapshot_interval,
            "snapshot_keep": 3,
            "retain_blocks": 0,
        }

    def home(self, name: str) -> Path:
        return self.root / name

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name][1]}"

    def rpc(self, name: str) -> HttpChainRpc:
        return HttpChainRpc(self.url(name), name=name)

    def start(self, *names: str) -> None:
        for name in names or self.names:
            with (self.root / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [self.program, "start", "--home", self.home(name)], stdout=log, stderr=log
                )

    def stop(self, *names: str, kill: bool = False) -> None:
        for name in names or tuple(self.processes):
            process = self.processes.pop(name)
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            process.wait(30)

    def height(self, name: str) -> int:
        with self.rpc(name) as rpc:
            return rpc.status().latest_height

    def reach(self, height: int, *names: str, within_s: float = 60) -> None:
        for name in names or tuple(self.processes):
            eventually(lambda name=name: self.height(name) >= height, f"{name} at {height}", within_s=within_s)

    def chain(self, **changes: object) -> Chain:
        genesis = self.home(self.names[0]) / "config" / "genesis.json"
        return Chain(
            chain_id=CHAIN_ID,
            block_time_s=0.5,
            start=(self.program, "start", "--home", "{home}"),
            start_isolated=(self.program, "start", "--home", "{home}", "--isolated", "--rpc-listen", "{rpc}"),
            inspect=(self.program, "inspect", "--data", "{data}"),
            inspect_deep=(self.program, "inspect", "--data", "{data}", "--deep"),
            genesis=genesis,
            genesis_sha256=sha256(genesis.read_bytes()).hexdigest(),
        ).model_copy(update=changes)
