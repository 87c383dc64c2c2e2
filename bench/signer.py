"""What the remote signer adds to a signature, and how fast a standby takes over.

    python -m bench.signer --work FOLDER [--signatures 300] [--write docs/measurements.md]

A stand-in for the node asks for one prevote a height and waits for each answer, over the socket that a node uses.
Registers are in three real S3 servers on this machine: between real regions one round trip to the nearer of the other
two comes on top.  The baseline is CometBFT's own FilePV, in its own process and language.  A take-over is measured
from a process that begins to import until its first signature is at the node, the old signer being frozen.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measuring import busy_s
from bench.report import cores, write_between_marks
from bench.servers import ACCESS_KEY, BUCKET, CLOUD_REGION, SECRET_KEY, serve
from vedr.adapters.pkcs11_token_key import open_token_key
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.privval_socket import SocketStream, TcpAddress, dial, parse_address
from vedr.adapters.s3_registers import S3Registers
from vedr.adapters.s3_store import Credentials
from vedr.chain.block import BlockId
from vedr.chain.encoding import bytes_field, message_field
from vedr.chain.register import NEVER_SIGNED, Position, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.inventory import Hsm, StoreConfig
from vedr.ports import SigningKey
from vedr.signer.link import Link
from vedr.signer.messages import MAX_MESSAGE_BYTES, MessageType, Vote
from vedr.signer.metrics import Metrics
from vedr.signer.rules import Mark
from vedr.signer.secret_connection import SecretConnection
from vedr.signer.service import Register, Signer
from vedr.signer.stream import Stream, receive_message, send_message
from vedr.signer.tenure import Terms, begin, holder_of

REGIONS: Final = ("us-east", "eu-west", "ap-south")
CHAIN_ID: Final = "bench-1"
SEED: Final = sha256(b"bench").digest()
BLOCK: Final = BlockId(sha256(b"block").digest(), 1, sha256(b"parts").digest())
PAUSE_S: Final = 0.05  # between two signatures; a chain leaves hundreds of milliseconds
FIRST_PORT: Final = 43700
ACCEPT_S: Final = 30.0
ROOT: Final = Path(__file__).resolve().parent.parent
SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = b"1234"
TOKEN: Final = "bench"  # noqa: S105 (a label)


class FileKey:
    """A key in memory, as read from a file."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(SEED)

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class NoRegister:
    """For what the socket, the program and this host's disk cost alone."""

    def advance(self, position: Position) -> None:
        del position

    def has(self, position: Position) -> bool:
        return bool(position.digest)


def main() -> None:
    """The command; with `--standby`, a child of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signatures", type=int, default=300)
    parser.add_argument("--take-overs", type=int, default=5)
    parser.add_argument("--block-time-s", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="the first of three free ports")
    parser.add_argument("--work", type=Path, help="an empty or absent folder")
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    parser.add_argument("--standby", help=argparse.SUPPRESS)
    order = parser.parse_args()
    if order.standby:
        standby(json.loads(order.standby))
        return
    if order.work is None:
        parser.error("--work is needed")
    text = measured(order.work.absolute(), order)
    print(text)
    if order.write:
        write_between_marks(order.write, "signer", text)


def measured(work: Path, order: argparse.Namespace) -> str:
    """The report."""
    from vedr.adapters.s3_control import open_control  # noqa: PLC0415 (brings boto3, which a signer does not import)

    work.mkdir(parents=True, exist_ok=True)
    load, busy, began = os.getloadavg()[0], busy_s(), time.monotonic()
    with contextlib.ExitStack() as stack:
        ports = range(order.port, order.port + len(REGIONS))
        for region, port in zip(REGIONS, ports, strict=True):
            stack.enter_context(serve("labs3", work / region, port))
            open_control(_store(port), _credentials()).create_bucket(Bucket=BUCKET)
        bench = Bench(work, tuple(ports), order.signatures)
        rows = [("CometBFT's FilePV, in its own process", file_pv(order.signatures)), *bench.latencies(stack)]
        overs = [bench.take_over(number, order.block_time_s) for number in range(order.take_overs)]
    used = (busy_s() - busy) / (time.monotonic() - began) / cores()
    return report(rows, overs, order, load=load, used=used)


def report(
    rows: Sequence[tuple[str, tuple[float, float]]],
    overs: Sequence[Mapping[str, float]],
    order: argparse.Namespace,
    *,
    load: float,
    used: float,
) -> str:
    base_p50, base_p99 = rows[0][1]
    lines = [
        f"{cores()} cores, load average at the start {load:.2f}, {used:.0%} of the machine used while measuring.",
        f"{order.signatures} signatures each, {PAUSE_S * 1000:.0f} ms apart; milliseconds, as the node waits:",
        "",
        "| Signer | p50 | p99 | added p50 | added p99 |",
        "|---|---|---|---|---|",
    ]
    for title, (p50, p99) in rows:
        lines.append(f"| {title} | {p50:.1f} | {p99:.1f} | {p50 - base_p50:.1f} | {p99 - base_p99:.1f} |")
    lines += [
        "",
        f"Take-over from a frozen signer, blocks of {order.block_time_s:g} s, {len(overs)} times, seconds:",
        "",
    ]
    lines += ["| Part | Median | Largest |", "|---|---|---|"]
    for part in overs[0]:
        values = [one[part] for one in overs]
        lines.append(f"| {part} | {statistics.median(values):.2f} | {max(values):.2f} |")
    return "\n".join(lines)


def file_pv(count: int) -> tuple[float, float]:
    """CometBFT's own signer."""
    done = subprocess.run(
        ["go", "test", "-run", "^$", "-bench", "FilePV", "-benchtime", f"{count}x", "./internal/node"],
        cwd=ROOT / "deployments" / "lab",
        check=True,
        capture_output=True,
        text=True,
    )
    found = {name: float(value) for value, name in re.findall(r"([\d.]+) (p\d\d)-ms", done.stdout)}
    return found["p50"], found["p99"]


def _store(port: int) -> StoreConfig:
    return StoreConfig(endpoint=f"http://127.0.0.1:{port}", bucket=BUCKET, cloud_region=CLOUD_REGION)


def _credentials() -> Credentials:
    return Credentials(ACCESS_KEY, SECRET_KEY)


def register_at(ports: Sequence[int], address: str) -> SignStateRegister:
    regions = zip(REGIONS, ports, strict=True)
    registers = {region: S3Registers(region, _store(port), _credentials()) for region, port in regions}
    return SignStateRegister(registers, Validator(CHAIN_ID, address))


class Node:
    """The node's end: listens, asks, waits."""

    def __init__(self, address: str) -> None:
        parsed = parse_address(address)
        self._secret = isinstance(parsed, TcpAddress)
        if isinstance(parsed, TcpAddress):
            self._listener = socket.create_server((parsed.host, parsed.port))
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(parsed.path)
            self._listener.listen()
        self._listener.settimeout(ACCEPT_S)

    @contextlib.contextmanager
    def accept(self) -> Iterator[Stream]:
        connected, _ = self._listener.accept()
        with connected:
            plain = SocketStream(connected, timeout_s=ACCEPT_S)
            yield SecretConnection.handshake(plain, Ed25519PrivateKey.generate()) if self._secret else plain

    def close(self) -> None:
        self._listener.close()


def ask(stream: Stream, height: int) -> float:
    """One prevote; how long the node waited."""
    vote = Vote(MessageType.PREVOTE, height, 0, BLOCK, time.time_ns(), bytes(20), 0)
    request = message_field(3, message_field(1, vote.encode()) + bytes_field(2, CHAIN_ID.encode()))
    began = time.monotonic()
    send_message(stream, request)
    answer = receive_message(stream, limit_bytes=MAX_MESSAGE_BYTES)
    took_s = time.monotonic() - began
    if len(answer) < len(request):
        raise RuntimeError(f"not signed: {answer!r}")
    return took_s


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are."""

    work: Path
    ports: tuple[int, ...]
    count: int

    def latencies(self, stack: contextlib.ExitStack) -> Iterator[tuple[str, tuple[float, float]]]:
        """p50 and p99 of each way, in milliseconds."""
        unix, tcp = f"unix://{self.work}/node.sock", f"tcp://127.0.0.1:{_free_port()}"
        yield "vedr signer, Unix socket, key file, no registers", self._signer(unix, FileKey(), None)
        yield "vedr signer, Unix socket, key file, registers in three regions", self._signer(unix, FileKey(), "A1")
        yield "vedr signer, TCP, key file, registers in three regions", self._signer(tcp, FileKey(), "A2")
        key = stack.enter_context(self._token())
        yield "vedr signer, TCP, SoftHSM token, registers in three regions", self._signer(tcp, key, "A3")

    def _signer(self, address: str, key: SigningKey, register: str | None) -> tuple[float, float]:
        with contextlib.ExitStack() as stack:
            advancing: Register = NoRegister()
            if register:
                held = register_at(self.ports, register * 20)
                held.found(NEVER_SIGNED)
                tenure = begin(
                    held,
                    Terms("bench", take_over=False, planned=False, watch_s=0),
                    holder=holder_of("bench", 1),
                    own=None,
                )
                stack.callback(tenure.holding.close)
                advancing = tenure.holding
            node = Node(address)
            stack.callback(node.close)
            link = _link(address, key, advancing, self.work / f"state-{register}.json")
            thread = threading.Thread(target=link.run, daemon=True)
            thread.start()
            stack.callback(link.stop)
            with node.accept() as stream:
                took = []
                for height in range(1, self.count + 1):
                    took.append(ask(stream, height) * 1000)
                    time.sleep(PAUSE_S)
        thread.join(ACCEPT_S)
        (self.work / "node.sock").unlink(missing_ok=True)
        return statistics.median(took), sorted(took)[len(took) * 99 // 100]

    @contextlib.contextmanager
    def _token(self) -> Iterator[SigningKey]:
        tokens = self.work / "tokens"
        tokens.mkdir()
        configuration = self.work / "softhsm.conf"
        configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "1234", "--pin", PIN.decode()],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            check=True,
            capture_output=True,
        )
        hsm = Hsm(module=SOFTHSM, token_label=TOKEN, pin="env:BENCH_PIN", config=configuration)
        with TokenProcess(hsm, lambda: PIN, writable=True) as token:
            token.import_ed25519(SEED, label="bench", key_id=b"\x01")
        with open_token_key(hsm, lambda: PIN, label="bench") as key:
            yield key

    def take_over(self, number: int, block_time_s: float) -> dict[str, float]:
        """One, by a process of its own, from a holder that does nothing any more."""
        address = f"unix://{self.work}/standby.sock"
        name = f"B{number}" * 20
        register = register_at(self.ports, name)
        register.found(NEVER_SIGNED)
        terms = Terms("old", take_over=False, planned=False, watch_s=0)
        frozen = begin(register, terms, holder=holder_of("old", 1), own=None)
        node = Node(address)
        facts = {"ports": self.ports, "address": address, "validator": name, "watch_s": 2 * block_time_s}
        facts["state"] = str(self.work / f"standby-{number}.json")
        began = time.time()
        argv = [sys.executable, "-m", "bench.signer", "--standby", json.dumps(facts)]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
            with node.accept() as stream:
                ask(stream, 1)
                ended = time.time()
            process.kill()
            told = json.loads(process.stdout.readline()) if process.stdout else {}
        node.close()
        frozen.holding.close()
        (self.work / "standby.sock").unlink()
        return {
            "process begins, modules imported": told["ready"] - began,
            "old signer watched for two blocks, registers taken over": told["holds"] - told["ready"],
            "dialled, first signature at the node": ended - told["holds"],
            "all": ended - began,
        }


def standby(facts: Mapping[str, object]) -> None:
    """The process that takes over; killed by its parent.  Imports what `vedr signer` imports."""
    import vedr.cli  # noqa: PLC0415 (its cost is part of what is measured)

    vedr.cli.build("signer")
    ready = time.time()
    watch_s = float(str(facts["watch_s"]))
    ports = [int(port) for port in json.loads(json.dumps(facts["ports"]))]
    terms = Terms("new", take_over=True, planned=False, watch_s=watch_s)
    register = register_at(ports, str(facts["validator"]))
    tenure = begin(register, terms, holder=holder_of(terms.name, os.getpid()), own=None)
    print(json.dumps({"ready": ready, "holds": time.time()}), flush=True)
    _link(str(facts["address"]), FileKey(), tenure.holding, Path(str(facts["state"]))).run()


def _link(address: str, key: SigningKey, register: Register, state_file: Path) -> Link:
    metrics = Metrics()

    def log(_event: str, _facts: object) -> None:
        """Nowhere."""

    signer = Signer(
        chain_id=CHAIN_ID,
        key=key,
        register=register,
        state_file=state_file,
        last=Mark(0, 0, 0),
        metrics=metrics,
        log=log,
    )
    own = Ed25519PrivateKey.generate()
    return Link(address, lambda: dial(parse_address(address), own), signer, metrics=metrics, log=log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
