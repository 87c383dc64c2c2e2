"""Starts a site's node program on restored data, apart from everything, to hear what state it holds.

Guarantees: the node has no key of ours and no peers; as root it has a network namespace of its own, where nothing but
loopback exists; it ends before the call does, and with this process if that dies; all is bounded in time.
Leaves out: comparing (`chain.boot.prove`), and separation from the network when not root: there the node listens on a
free loopback port and only the program's own `start_isolated` keeps it from peers.

Works on the data in place: the node replays its last block and writes as nodes do.  Nothing else may use it.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

from vedr.adapters.rpc import HttpChainRpc
from vedr.chain.boot import BootedState, BootProof, HeaderVerifier, prove
from vedr.chain.inspection import Inspected
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.inventory import Chain, Height

Isolation = Literal["namespace", "loopback"]
_Answer = TypeVar("_Answer")

BOOT_DEADLINE_S: Final = 180.0
STOP_GRACE_S: Final = 30.0
_NAMESPACE_RPC: Final = "127.0.0.1:26657"
_POLL_S: Final = 0.1
_TAIL_BYTES: Final = 2000
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_PRIVATE: Final = ("priv_validator_key.json", "node_key.json")
_CONFIG: Final = """\
moniker = "vedr-isolated"
db_backend = "{backend}"
log_level = "info"

[p2p]
laddr = "tcp://127.0.0.1:0"
pex = false
persistent_peers = ""
seeds = ""

[statesync]
enable = false

[tx_index]
indexer = "null"
"""
_APP_CONFIG: Final = 'pruning = "nothing"\n'


@dataclass(frozen=True, slots=True)
class IsolatedNode:
    """How a site's data is booted.

    Attributes:
        chain: Gives the program, genesis and database backend.
        app_config: An `app.toml` to use, when the application needs more than a pruning rule.
        isolation: None chooses the best that this process may have.
    """

    chain: Chain
    app_config: Path | None = None
    isolation: Isolation | None = None
    deadline_s: float = BOOT_DEADLINE_S

    def boot(self, data_dir: Path) -> BootedState:
        """Start, ask, stop.  Raises as `boot_isolated`."""
        return boot_isolated(
            self.chain, self.app_config, data_dir, isolation=self.isolation, deadline_s=self.deadline_s
        )

    def prove(
        self,
        data_dir: Path,
        light_client: HeaderVerifier,
        *,
        read_state: Callable[[Path], Inspected] | None = None,
    ) -> BootProof:
        """Boot, and compare with verified headers.  Raises as `boot_isolated` and `chain.boot.prove`."""
        return prove(data_dir, light_client, self.boot, read_state=read_state)


def boot_isolated(
    chain: Chain,
    app_config: Path | None,
    data_dir: Path,
    *,
    isolation: Isolation | None = None,
    deadline_s: float = BOOT_DEADLINE_S,
) -> BootedState:
    """Start the chain's node on `data_dir` in isolation, wait for its application's answer, stop it.

    Raises:
        NotFoundError: no such data folder, genesis or program.
        InvalidInputError: the data holds a key, or `namespace` was asked for where it can't be had.
        VerificationFailedError: the node ended instead of serving, with the last lines that it wrote.
        DeadlineError: it did not serve in time.
    """
    _check_data(data_dir)
    isolation = isolation or best_isolation()
    if isolation == "namespace" and best_isolation() != "namespace":
        raise InvalidInputError(
            "a network namespace needs root and the tools unshare, setpriv and ip",
            remedy="Run as root, install util-linux and iproute2, or use isolation loopback.",
        )
    with tempfile.TemporaryDirectory(prefix="vedr-boot-") as scratch:
        home = _make_home(Path(scratch), chain, app_config, data_dir)
        with _Run(chain, home, data_dir, isolation) as run:
            state = run.observe(time.monotonic() + deadline_s)
        return BootedState(
            chain_id=state.chain_id,
            height=state.height,
            app_hash=state.app_hash,
            block_hash=state.block_hash,
            took_s=state.took_s,
            stopped_cleanly=run.stopped_cleanly,
        )


def best_isolation() -> Isolation:
    """`namespace` when this process may make one, which it tries; else `loopback`."""
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "ip"))
    if os.geteuid() != 0 or not tools:
        return "loopback"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "namespace" if tried.returncode == 0 else "loopback"


def _check_data(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise NotFoundError(f"{data_dir}: no such data folder", remedy="Restore or stage a snapshot first.")
    for name in _PRIVATE:
        if (data_dir / name).exists():
            raise InvalidInputError(
                f"{data_dir} holds {name}: keys are never near an isolated boot", remedy="Find out how it got there."
            )


def _make_home(scratch: Path, chain: Chain, app_config: Path | None, data_dir: Path) -> Path:
    """A home with the site's genesis, a configuration of our own and no keys; `data` leads to the data."""
    home = scratch / "home"
    (home / "config").mkdir(parents=True)
    try:
        genesis = chain.genesis.read_bytes()
        application = app_config.read_text(encoding="utf-8") if app_config else _APP_CONFIG
    except OSError as error:
        raise NotFoundError(f"{error.filename}: {error.strerror}", remedy="Check [chain] of the site file.") from error
    observed = hashlib.sha256(genesis).hexdigest()
    if observed != chain.genesis_sha256:
        raise VerificationFailedError(
            f"genesis {chain.genesis}: SHA-256 observed {observed}, expected {chain.genesis_sha256}",
            remedy="Get the genesis file again from its source.",
        )
    (home / "config" / "genesis.json").write_bytes(genesis)
    (home / "config" / "config.toml").write_text(_CONFIG.format(backend=chain.database_backend), encoding="utf-8")
    (home / "config" / "app.toml").write_text(application, encoding="utf-8")
    (home / "data").symlink_to(data_dir.resolve(), target_is_directory=True)
    return home


class _Run:
    """One isolated process, from start to end."""

    def __init__(self, chain: Chain, home: Path, data_dir: Path, isolation: Isolation) -> None:
        self._isolation = isolation
        self._rpc = _NAMESPACE_RPC if isolation == "namespace" else f"127.0.0.1:{_free_port()}"
        self._log = home.parent / "node.log"
        fill = {"home": str(home), "data": str(data_dir), "rpc": f"tcp://{self._rpc}"}
        self._command = [*_wrapping(isolation), *(argument.format_map(fill) for argument in chain.start_isolated)]
        self._home = home
        self.stopped_cleanly = False

    def __enter__(self) -> Self:
        program = self._command[len(_wrapping(self._isolation))]
        if shutil.which(program) is None:
            raise NotFoundError(f"{program}: no such program", remedy="Install the node, or correct start_isolated.")
        self._started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._home)},  # none of our secrets
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, time to close its databases; SIGKILL for its whole process group when that was not enough."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self.stopped_cleanly = self._process.wait(STOP_GRACE_S) == 0
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def observe(self, deadline: float) -> BootedState:
        """What the node says once its application stands at its store's height."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="isolated") as inside:
            if self._isolation == "namespace":
                self._poll(lambda: inside.submit(_enter_network_of, self._process.pid).result() or None, deadline)
            return inside.submit(self._poll, self._state, deadline).result()

    def _state(self) -> BootedState | None:
        """None when it isn't up yet."""
        with HttpChainRpc(f"http://{self._rpc}", name="isolated node") as rpc:
            try:
                status, info = rpc.status(), rpc.abci_info()
            except UnavailableError:
                return None
            if not 0 < info.height == status.latest_height:
                return None
            return BootedState(
                chain_id=status.chain_id,
                height=Height(info.height),
                app_hash=info.app_hash.hex().upper(),
                block_hash=rpc.commit(info.height).header.hash().hex().upper(),
                took_s=round(time.monotonic() - self._started, 3),
                stopped_cleanly=False,
            )

    def _poll(self, ask: Callable[[], _Answer | None], deadline: float) -> _Answer:
        """Ask until there is an answer; the process must live on, and the deadline not pass."""
        while True:
            if (status := self._process.poll()) is not None:
                raise VerificationFailedError(
                    f"the isolated node ended with status {status}: {self._tail()}",
                    remedy="The data does not start: restore another snapshot, or look at the message.",
                )
            if (answer := ask()) is not None:
                return answer
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"the isolated node did not serve its state in time: {self._tail()}",
                    remedy="Give it longer, or restore another snapshot.",
                )
            time.sleep(_POLL_S)

    def _tail(self) -> str:
        """The last that it wrote."""
        text = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return text or "it wrote nothing"


def _wrapping(isolation: Isolation) -> tuple[str, ...]:
    """Commands that replace themselves by the next: ends with our thread, and has a network of its own."""
    dies_with_us = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
    if isolation == "loopback":
        return dies_with_us
    return (*dies_with_us, "unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "isolated")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _enter_network_of(pid: int) -> bool:
    """Move the calling thread, and only it, into the network of the process (os.setns comes with Python 3.12).

    False while the process is still in ours, whose loopback is ours too, and when it is gone.
    """
    theirs = Path(f"/proc/{pid}/ns/net")
    try:
        if theirs.readlink() == Path("/proc/self/ns/net").readlink():
            return False
        namespace = theirs.open("rb")
    except OSError:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise VerificationFailedError(
                f"setns: {os.strerror(ctypes.get_errno())}", remedy="Run as root, or use isolation loopback."
            )
    return True
