"""A real node's data folder at rest: goleveldb's tables, logs, MANIFEST and CURRENT, and the consensus log.

A one-validator network of the lab's node program makes blocks and transactions and is stopped twice, so that tables are
written. The look is what RB-DR-004 reads at rest (tasks.corruption_detecting): every key and value of the state, the
tables that a database counts on, the consensus log, and every table against the snapshot in the store.

Leaves out: what goleveldb does not read again (its own log file, the lock, a CURRENT of before), which is `harmless`
when the whole inspection gives what it gave before.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import urllib.request
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.corrupting.damage import Around, damage
from bench.corrupting.shelf import shelves
from bench.corrupting.trial import Case, FalsePass, Verdict
from bench.servers import find_program
from vedr.adapters.inspector import CommandInspector
from vedr.adapters.rpc import HttpChainRpc
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.chain import consensus_log
from vedr.chain.leveldb import missing_tables
from vedr.errors import CorruptError, VedrError, VerificationFailedError
from vedr.failover.corruption_offsets import compare_with_store
from vedr.inventory import Chain, Node
from vedr.signature import Signer
from vedr.targets import Retention

CHAIN_ID: Final = "vedr-damage"
BLOCKS: Final = 12
START_DEADLINE_S: Final = 120.0
NEVER_READ: Final = ("LOG", "LOG.old", "LOCK", "CURRENT.bak")
DATABASES: Final = ("application.db", "blockstore.db", "state.db")


class NodeData:
    """The three databases that a node starts from, and its consensus log."""

    name = "a real node's databases"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "node"
        self._folder.mkdir()
        self._home, self._chain = _make_node(self._folder)
        self._data = self._home / "data"
        self._aside = self._folder / "aside"
        self._inspector = CommandInspector(self._chain)
        self._original = self._inspector.inspect(self._home, self._data, deep=True)
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        self._repository = Repository(shelves(), signer, (signer.public_hex,), Codec(None), Retention())
        create(self._repository, Source("us-east", "state", "val0"), read_tree(self._data), Facts())
        self._files = {path: path.read_bytes() for path in _files(self._data)}
        self._node = Node.model_validate(
            {
                "name": "val0", "region": "us-east", "zone": "us-east-1a", "role": "full", "unit": "val0",
                "rpc": "http://127.0.0.1:9", "p2p": "127.0.0.1:9", "home": str(self._home),
            }
        )  # fmt: skip

    def case(self, chance: random.Random) -> Case:
        path = chance.choice([path for path, data in self._files.items() if data])
        alike = [data for one, data in self._files.items() if one != path and one.suffix == path.suffix and data]
        around = Around(siblings=alike, older=alike[:1])
        hurt = damage(self._files[path], chance, around)
        if hurt.data is None:
            path.rename(self._aside)
        else:
            with path.open("r+b") as file:  # in place: the inode stays, as when a disk fails
                file.write(hurt.data)
                file.truncate()
        return Case(hurt.kind, str(path.relative_to(self._data)), lambda: self._look(path, hurt.data))

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look(self, path: Path, data: bytes | None) -> Verdict:
        try:
            findings = self._findings()
        finally:
            self._mend(path)
        if findings:
            raise VerificationFailedError("; ".join(findings), remedy="Bring proven data: RB-DR-004.")
        if path.name in NEVER_READ or self._is_whole_without(path, data):
            return "harmless"
        raise FalsePass(f"{path.relative_to(self._data)} is damaged, and nothing was found")

    def _is_whole_without(self, path: Path, data: bytes | None) -> bool:
        """Every record is still there, with rubbish after the last; or the log of a finished height is gone.

        goleveldb and CometBFT pass over what a crash leaves half-written at the end; a consensus log holds only what a
        height that is not yet decided would replay, and a node that is stopped between blocks starts without.
        """
        if path.parent.name == "cs.wal":
            return not data
        return data is not None and data.startswith(self._files[path]) and path.suffix != ".ldb"

    def _findings(self) -> list[str]:
        """As tasks.corruption_detecting.Looking gathers them."""
        found = [damaged] if (damaged := consensus_log.damage_in(self._data / "cs.wal")) else []
        try:
            inspected = self._inspector.inspect(self._home, self._data, deep=True)
        except VedrError as error:
            return [*found, error.message]
        if inspected != self._original:  # headers tell: a lower height is behind, another hash is not the chain's
            found.append(f"the state is another: {inspected}")
        for database in DATABASES:
            try:
                found += missing_tables(self._data / database)
            except CorruptError as error:
                found.append(error.message)
        return [*found, *compare_with_store(self._repository, self._node, self._data).damaged]

    def _mend(self, path: Path) -> None:
        if path.exists():
            with path.open("r+b") as file:
                file.write(self._files[path])
                file.truncate()
        else:
            self._aside.rename(path)


def _files(data: Path) -> list[Path]:
    folders = [data / name for name in (*DATABASES, "cs.wal")]
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]


def _make_node(folder: Path) -> tuple[Path, Chain]:
    """Make blocks with transactions, stop, go on, stop."""
    program, home, port = find_program("labnode"), folder / "val0", 20_000 + os.getpid() % 6_000 * 2
    plan = {
        "chain_id": CHAIN_ID, "timeout_commit": "50ms", "db_backend": "goleveldb",
        "nodes": [
            {
                "name": "val0", "home": str(home), "role": "validator", "power": 10,
                "p2p_listen": f"tcp://127.0.0.1:{port}", "p2p_dial": f"127.0.0.1:{port}",
                "rpc_listen": f"tcp://127.0.0.1:{port + 1}", "metrics_listen": "", "snapshot_interval": 0,
                "snapshot_keep": 0, "retain_blocks": 0,
            }
        ],
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    subprocess.run([program, "testnet", "--plan", folder / "plan.json"], check=True, capture_output=True)
    for height in (BLOCKS, 2 * BLOCKS):
        _run_until(program, home, f"http://127.0.0.1:{port + 1}", height)
    genesis = home / "config" / "genesis.json"
    return home, Chain(
        chain_id=CHAIN_ID,
        block_time_s=1,
        start=(program,),
        start_isolated=(program,),
        inspect=(program, "inspect", "--data", "{data}"),
        inspect_deep=(program, "inspect", "--data", "{data}", "--deep"),
        genesis=genesis,
        genesis_sha256=sha256(genesis.read_bytes()).hexdigest(),
    )


def _run_until(program: str, home: Path, url: str, height: int) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    with (home / "log").open("ab") as log:
        process = subprocess.Popen([program, "start", "--home", home], stdout=log, stderr=log)
    try:
        with HttpChainRpc(url) as rpc:
            while time.monotonic() < deadline:
                try:
                    reached = int(rpc.status().latest_height)
                    urllib.request.urlopen(f'{url}/broadcast_tx_sync?tx="k{reached}=v"', timeout=5).close()  # noqa: S310
                except (VedrError, OSError):
                    reached = 0
                if reached >= height:
                    return
                time.sleep(0.05)
        raise RuntimeError(f"no block {height} within {START_DEADLINE_S:g} s: {(home / 'log').read_text()[-500:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
