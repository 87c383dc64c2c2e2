"""A fleet of 1,000 nodes in 50 regions with 540 snapshots: what the daily checks, a report and retention take.

    python -m bench.scale [--regions 50] [--nodes 20] [--write docs/measurements.md]

Aims: validation under 60 s, report under 10 s, plan of what retention removes under 30 s.

Nodes answer over HTTP on the loopback, from one process, with headers that a light client verifies; buckets and
registers are in memory; snapshots, proofs and ledger entries are signed.
"""

import argparse
import contextlib
import datetime as dt
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.report import write_between_marks
from bench.scaling.history import DAYS, SNAPSHOTS, fill_buckets, write_ledger
from bench.scaling.network import Fleet, Shape, serving
from vedr.adapters.check_probes import SiteCustody, SiteNetwork, SiteStores
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.secrets_memory import MemoryVault
from vedr.adapters.shared_rpc import SharedNodes, SharingSite
from vedr.adapters.site import OpenSite, utc_now
from vedr.backup import retention
from vedr.inventory import Signing
from vedr.readiness.finding import Finding
from vedr.readiness.ports import BucketState, Ports
from vedr.readiness.registry import CHECKS
from vedr.readiness.validation import OpenPorts, validate
from vedr.reports.binder import Binder

AIMS_S: Final = {"validation": 60.0, "report": 10.0, "plan": 30.0}
SLOWEST_SHOWN: Final = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Took:
    """What one thing cost: by the clock, and of this process's CPU time."""

    wall_s: float
    cpu_s: float


class Simulated:
    """The site's files, buckets, registers and secrets, shared by every opening of it."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        key = Ed25519PrivateKey.generate()
        pem = folder / "signing.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        signing = Signing(key=f"file:{pem}", trusted=(key.public_key().public_bytes_raw().hex(),))
        self.fleet = Fleet(shape, folder, _free_port(), now_ns=time.time_ns(), signing=signing)
        names = self.fleet.site.regions_by_priority
        self.stores = {name: MemoryStore(name) for name in names}
        self.registers = {name: MemoryRegisters(name) for name in names}
        self.vault = MemoryVault(*names)

    def opened(self, nodes: SharedNodes | None = None) -> OpenSite:
        """The site as a command opens it, with our buckets in place of S3's."""
        opened = OpenSite(self.fleet.site) if nodes is None else SharingSite(self.fleet.site, nodes)
        for name in ("stores", "registers", "vault"):
            opened.__dict__[name] = getattr(self, name)
        return opened

    @contextlib.contextmanager
    def shared_ports(self) -> Iterator[OpenPorts]:
        """As adapters.check_probes.shared_ports."""
        with SharedNodes() as nodes:
            yield partial(self._ports, nodes)

    @contextlib.contextmanager
    def _ports(self, nodes: SharedNodes) -> Iterator[Ports]:
        with self.opened(nodes) as opened:
            yield Ports(
                opened=opened,
                network=SiteNetwork(None),
                store=_Stores(opened),
                custody=SiteCustody(opened),
                clock=utc_now,
            )


class _Stores(SiteStores):
    """A bucket in memory has no settings to ask for."""

    def bucket_state(self, region: str) -> BucketState:
        return BucketState(versioned=bool(region), lock_mode="", lock_days=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, tell, write; 1 when an aim was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=20, help="in each region")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    order = parser.parse_args(arguments)
    shape = Shape(order.regions, order.nodes)
    with tempfile.TemporaryDirectory(prefix="vedr-scale-") as folder:
        text, missed = measured(Path(folder), shape)
    print(text)
    if order.write:
        write_between_marks(order.write, "scale", text)
    return int(missed)


def measured(folder: Path, shape: Shape) -> tuple[str, bool]:
    """The report, and whether an aim was missed."""
    simulated = Simulated(folder, shape)
    runs, made = timed(lambda: _fill(simulated))
    print(f"made {SNAPSHOTS} snapshots and {runs} runs in {made.wall_s:.0f} s", file=sys.stderr, flush=True)
    before_s = _children_cpu_s()
    with serving(simulated.fleet):
        findings, validation = timed(lambda: _validate(simulated))
    nodes_s = _children_cpu_s() - before_s
    report = timed(lambda: _report(simulated, folder / "reports"))[1]
    with simulated.opened() as opened:
        origin = simulated.fleet.site.regions_by_priority[0]
        decided, plan = timed(lambda: retention.plan(opened.repository, origin, "state"))
        pruned, prune = timed(lambda: retention.prune(opened.repository, origin, "state"))
    took = {"validation": validation, "report": report, "plan": plan}
    rows = [
        ("validation", f"`vedr check`: all {len(findings)} checks, side by side", validation),
        (
            "report",
            f"`vedr report`: the index of {DAYS} days and a page for each incident and drill, of {runs} runs",
            report,
        ),
        ("plan", f"`vedr snapshot prune --plan`: {len(decided.kept)} kept, {len(decided.expired)} expired", plan),
        ("", f"`vedr snapshot prune`: {pruned.removed_objects} objects gone in {shape.regions} regions", prune),
    ]
    lines = [
        f"{shape.nodes:,} nodes in {shape.regions} regions, {SNAPSHOTS} snapshots in each region's bucket; seconds:",
        "",
        "| What | Clock | CPU | Aim |",
        "|---|---|---|---|",
        *(f"| {what} | {one.wall_s:.1f} | {one.cpu_s:.1f} | {_aim(name)} |" for name, what, one in rows),
        "",
        f"The simulated nodes took {nodes_s:.1f} CPU seconds of their own, on the same cores, while they were asked.",
        "",
        *_findings(findings),
    ]
    return "\n".join(lines), any(one.wall_s > AIMS_S[name] for name, one in took.items())


def _fill(simulated: Simulated) -> int:
    now = dt.datetime.now(dt.UTC)
    with simulated.opened() as opened:
        fill_buckets(opened.repository, simulated.fleet.site.regions_by_priority[0], now)
        return write_ledger(simulated.stores, simulated.fleet.site.name, opened.signer, now)


def _validate(simulated: Simulated) -> tuple[Finding, ...]:
    with simulated.shared_ports() as open_ports:
        return validate(CHECKS, open_ports, simulated.fleet.site.checks)


def _report(simulated: Simulated, folder: Path) -> None:
    """The index, and a page for each incident and drill."""
    with simulated.opened() as opened:
        binder = Binder(opened.journal, folder, utc_now)
        overview = binder.overview(utc_now() - dt.timedelta(days=DAYS))
        binder.write_all(overview)


def timed(act: Callable[[], T]) -> tuple[T, Took]:
    """What it gives, and what it cost."""
    wall_s, cpu_s = time.monotonic(), time.process_time()
    result = act()
    return result, Took(time.monotonic() - wall_s, time.process_time() - cpu_s)


def _children_cpu_s() -> float:
    """Of processes that have ended: the one that answers for the nodes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _aim(name: str) -> str:
    return f"under {AIMS_S[name]:g}" if name else ""


def _findings(findings: Sequence[Finding]) -> list[str]:
    slowest = sorted(findings, key=lambda one: one.took_s, reverse=True)[:SLOWEST_SHOWN]
    lines = ["The slowest checks; those of hardware tokens, DNS and schedules have nothing to look at here:", ""]
    lines += ["| Check | Clock | Result |", "|---|---|---|"]
    return lines + [f"| {one.check} | {one.took_s:.1f} | {one.status}: {one.observed[:100]} |" for one in slowest]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
