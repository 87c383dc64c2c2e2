"""The S3 servers that methods are measured against, each a process of its own with an empty folder.

`labs3` is the lab's: signatures and checksums verified, versions kept.  `sink` only moves bytes: the physical limit.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench.measuring import process_cpu_s, tree_bytes

ServerKind = Literal["labs3", "sink"]

ACCESS_KEY: Final = "bench"
SECRET_KEY: Final = "bench-secret"  # noqa: S105 (of a server that lives for seconds on the loopback)
BUCKET: Final = "bench"
CLOUD_REGION: Final = "us-east-1"
START_DEADLINE_S: Final = 15.0
STOP_DEADLINE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    kind: ServerKind
    port: int
    pid: int
    data: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cpu_s(self) -> float:
        return process_cpu_s(self.pid)

    @property
    def stored_bytes(self) -> int:
        """What its clients have left in it."""
        return tree_bytes(self.data)


def find_program(name: str) -> str:
    """A program's path: from $VEDR_BENCH_BIN, the checkout's build/bin, or PATH.

    Raises:
        FileNotFoundError: it is in none of them.
    """
    built = Path(__file__).resolve().parent.parent / "build" / "bin"
    places = [os.environ.get("VEDR_BENCH_BIN", ""), str(built), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(filter(None, places)))
    if found is None:
        raise FileNotFoundError(f"{name} is neither in $VEDR_BENCH_BIN, nor in build/bin, nor on PATH")
    return found


@contextlib.contextmanager
def serve(kind: ServerKind, folder: Path, port: int) -> Iterator[Server]:
    """Start on an empty folder; end it and remove the folder afterwards."""
    folder.mkdir(parents=True)
    data = folder / "data"
    argv = [find_program(kind), "--listen", f"127.0.0.1:{port}", "--data", str(data)]
    if kind == "labs3":
        argv += ["--versions", str(folder / "versions"), "--region", CLOUD_REGION]
    data.mkdir()
    environment = {**os.environ, "ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_for(port, process, folder / "log")
        yield Server(kind, port, process.pid, data)
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def client_environment() -> Mapping[str, str]:
    """Credentials for every client."""
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": CLOUD_REGION}


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"no server on port {port}: {log.read_text(errors='replace')[-500:]}")
