"""Starting and ending a lab.

Guarantees: `up` starts what is missing and nothing twice, so it may be run again after an interruption or a reboot;
when it returns, every part answered.  `down` ends everything and looks: what it could not end is an error.
Leaves out: installing programs (programs.py says what is missing), and faults.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from vedr.adapters.lab_fleet import ZoneAgent
from vedr.adapters.s3_store import Credentials
from vedr.adapters.s3_store import open_control as open_store_control
from vedr.errors import UnavailableError
from vedr.inventory import Site
from vedr.lab import agents, gateway, names, network, orchestrator, processes, programs, readiness, testnet, units
from vedr.lab.addresses import STORE_PORT
from vedr.lab.credentials import LabSecrets, write_whole
from vedr.lab.plan import Plan, Zone
from vedr.lab.settings import TEMPLATE, exclusive, save_settings
from vedr.lab.site_file import write_site_file
from vedr.lab.units import Unit

SERVICE_LIMIT_S: Final = 30.0
BLOCKS_LIMIT_S: Final = 60.0
ORCHESTRATOR_LIMIT_S: Final = 120.0  # 20 s when cold on an idle machine
END_LIMIT_S: Final = 45.0
KILL_LIMIT_S: Final = 5.0

_Result = TypeVar("_Result")

Report = Callable[[str, str, float], None]
"""Told of each finished part: its title, what was done, seconds."""


@dataclass(frozen=True, slots=True)
class Started:
    """What `up` leaves behind."""

    site: Site
    took_s: float


def up(plan: Plan, report: Report) -> Started:
    """Start what is missing."""
    began = time.monotonic()
    programs.require(plan)
    with exclusive(plan.settings):
        return Started(site=_Start(plan, report).run(), took_s=time.monotonic() - began)


def down(plan: Plan, report: Report, *, purge: bool = False) -> None:
    """End everything.

    Raises:
        UnavailableError: something is left; it is listed.
    """
    with exclusive(plan.settings), _timed(report, "stop") as note:
        ended = _end_all(plan)
        note(f"{ended} processes ended")
        if left := leftovers(plan):
            raise UnavailableError(
                f"lab {plan.settings.name} is not wholly down, left: {'; '.join(left)}",
                remedy="Look at these; `vedr lab down` may be run again.",
            )
        if purge:
            shutil.rmtree(plan.folder)
            note(f"{ended} processes ended, {plan.folder} removed")


def leftovers(plan: Plan) -> list[str]:
    """Every process, namespace and network device of the lab, in words."""
    running = processes.of_lab(plan.folder, _namespaces(plan))
    found = [f"process {p.pid} ({p.command[:80]})" for p in running]
    if plan.settings.mode == "namespaces":
        found += network.leftovers(plan)
    return found


class _Start:
    """One run of `up`, part by part, in order."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self.plan = plan
        self.report = report
        self.secrets = LabSecrets(plan.folder)

    def run(self) -> Site:
        plan = self.plan
        with _timed(self.report, "keys") as note:
            save_settings(plan.settings)
            _keep_template(plan)
            self.secrets.create_missing(plan)
            note(f"{self.secrets.create_missing_tokens(plan)} new SoftHSM tokens")
        if plan.settings.mode == "namespaces":
            with _timed(self.report, "network") as note:
                made = network.create_missing(plan)
                for zone in plan.zones:
                    network.heal(plan, zone)
                note(f"{plan.addresses.cidr}, {made} new zones of {len(plan.zones)}")
        with _timed(self.report, "chain") as note:
            site = write_site_file(plan, testnet.make_missing(plan))
            note(f"{plan.chain_id}, {len(plan.nodes)} nodes")
        self._write_configurations()
        self._start_supervisors()
        self._start_wave(0, "services")
        self._start_wave(1, "nodes")
        self._make_buckets(site)
        self._wait_for_blocks(site)
        self._wait_for_services(site)
        self._wait_for_orchestrator()
        self._start_wave(2, "workers, provider daemons, load")
        self._deploy()
        return site

    def _write_configurations(self) -> None:
        plan = self.plan
        dns = plan.folder / "dns"
        write_whole(dns / "knot.conf", names.knot_config(plan, dns, self.secrets.read_tsig()))
        if not (dns / "zone.db").exists():
            write_whole(dns / "zone.db", names.zone_file(plan))
        for folder in (dns / "run", dns / "db"):
            folder.mkdir(exist_ok=True)
        for entry in plan.gateways:
            folder = units.gateway_folder(plan, entry)
            (folder / "scratch").mkdir(parents=True, exist_ok=True)
            content = gateway.nginx_config(plan, entry, folder, as_root=os.geteuid() == 0)
            write_whole(folder / "nginx.conf", content, mode=0o644)
        for folder in _data_folders(plan):
            folder.mkdir(parents=True, exist_ok=True)

    def _start_supervisors(self) -> None:
        with _timed(self.report, "supervisors") as note:
            started = agents.start_missing(self.plan, (*self.plan.zones, None))
            if self.plan.settings.mode == "relays":
                _in_parallel([partial(_heal_relays, self.plan, zone) for zone in self.plan.zones])
            note(f"{started} started of {len(self.plan.zones) + 1}")

    def _start_wave(self, wave: int, title: str) -> None:
        with _timed(self.report, title) as note:
            wanted = [
                (zone, [u for u in units.of_zone(self.plan, zone) if u.wave == wave])
                for zone in (*self.plan.zones, None)
            ]
            counts = _in_parallel([partial(start_units, self.plan, zone, chosen) for zone, chosen in wanted])
            note(f"{sum(counts)} started of {sum(len(chosen) for _, chosen in wanted)}")

    def _make_buckets(self, site: Site) -> None:
        with _timed(self.report, "stores") as note:
            made = _in_parallel([partial(self._make_bucket, site, region) for region in site.regions])
            note(f"{sum(made)} new buckets, one a region, versioned and lockable")

    def _make_bucket(self, site: Site, region: str) -> bool:
        config = site.regions[region].store
        control = open_store_control(config, Credentials(*self.secrets.read_store_credentials(region)))
        log = self.plan.folder / "logs" / f"s3-{region}.log"
        until = partial(readiness.until, limit_s=SERVICE_LIMIT_S, log=log)
        listening = partial(readiness.listens, self.plan.published(self.plan.stores[region], STORE_PORT))
        until(f"the store of {region}", listening)
        if config.bucket in [bucket["Name"] for bucket in control.list_buckets()["Buckets"]]:
            return False
        control.create_bucket(Bucket=config.bucket, ObjectLockEnabledForBucket=True)
        control.put_bucket_versioning(Bucket=config.bucket, VersioningConfiguration={"Status": "Enabled"})
        return True

    def _wait_for_blocks(self, site: Site) -> None:
        """Every node has made or fetched a block past its first answer: the chain moves and all follow."""
        with _timed(self.report, "blocks") as note:
            first = max(_in_parallel([partial(self._first_height, node.rpc, node.name) for node in site.nodes]))
            for node in site.nodes:
                readiness.until(
                    f"{node.name} at height {first + 1}",
                    lambda url=node.rpc: readiness.height(url) > first,  # type: ignore[misc]
                    limit_s=BLOCKS_LIMIT_S,
                    log=self.plan.folder / "logs" / f"{node.name}.log",
                )
            note(f"all nodes above height {first}")

    def _first_height(self, url: str, name: str) -> int:
        readiness.until(
            name, lambda: readiness.height(url) >= 0, limit_s=BLOCKS_LIMIT_S,
            log=self.plan.folder / "logs" / f"{name}.log",
        )  # fmt: skip
        return readiness.height(url)

    def _wait_for_services(self, site: Site) -> None:
        with _timed(self.report, "gateways and name server") as note:
            for entry in site.gateways:
                readiness.until(
                    entry.name, partial(readiness.answers, f"{entry.url}/healthz"), limit_s=SERVICE_LIMIT_S,
                    log=self.plan.folder / "logs" / f"{entry.name}.log",
                )  # fmt: skip
            readiness.until(
                "the name server",
                partial(readiness.listens, f"{self.plan.addresses.ops}:{self.plan.dns_port}"),
                limit_s=SERVICE_LIMIT_S,
                log=self.plan.folder / "logs" / "dns.log",
            )
            note(f"{len(site.gateways)} gateways, zone {self.plan.dns_zone}")

    def _wait_for_orchestrator(self) -> None:
        with _timed(self.report, "Prefect") as note:
            url = f"{self.plan.orchestrator_url}/api/health"
            log = self.plan.folder / "logs" / f"{units.SERVER_UNIT}.log"
            readiness.until("Prefect", partial(readiness.answers, url), limit_s=ORCHESTRATOR_LIMIT_S, log=log)
            for pool in orchestrator.pools(self.plan):
                orchestrator.ensure_pool(self.plan, pool)
            note(self.plan.orchestrator_url)

    def _deploy(self) -> None:
        with _timed(self.report, "deployments") as note:
            note(orchestrator.deploy(self.plan))


def start_units(plan: Plan, zone: Zone | None, wanted: Sequence[Unit]) -> int:
    """Define and start those that don't run; what runs is left alone."""
    if not wanted:
        return 0
    agent = agents.connect(plan, zone)
    try:
        known = agent.units()
        missing = [u for u in wanted if u.name not in known or known[u.name].state in ("stopped", "failed")]
        for unit in missing:
            start_unit(agent, unit)
    finally:
        agent.close()
    return len(missing)


def start_unit(agent: ZoneAgent, unit: Unit) -> None:
    agent.define(unit.definition())
    agent.act(unit.name, "start")


def _heal_relays(plan: Plan, zone: Zone) -> None:
    agent = agents.connect(plan, zone)
    try:
        agent.heal()
    finally:
        agent.close()


def _end_all(plan: Plan) -> int:
    """Supervisors end their units gracefully; what outlives them is killed, namespaces last."""
    everything = processes.of_lab(plan.folder, _namespaces(plan))
    heads = [p for zone in (*plan.zones, None) if (p := _process(agents.pid(plan, zone)))]
    processes.end(heads, signal_number=signal.SIGTERM, limit_s=END_LIMIT_S)
    rest = processes.of_lab(plan.folder, _namespaces(plan))
    processes.end(rest, signal_number=signal.SIGKILL, limit_s=KILL_LIMIT_S)
    if plan.settings.mode == "namespaces":
        network.remove(plan)
    for zone in (*plan.zones, None):
        for name in ("agent.pid", "agent.sock"):
            (plan.agent_folder(zone) / name).unlink(missing_ok=True)
    return len(everything)


def _process(pid: int | None) -> processes.Process | None:
    return processes.Process(pid, "labzoned") if pid else None


def _namespaces(plan: Plan) -> frozenset[int]:
    return network.namespace_inodes(plan) if plan.settings.mode == "namespaces" else frozenset()


def _keep_template(plan: Plan) -> None:
    kept = plan.folder / "template.toml"
    if not kept.exists():
        write_whole(kept, (plan.settings.project / TEMPLATE).read_text(encoding="utf-8"), mode=0o644)


def _data_folders(plan: Plan) -> Iterator[Path]:
    for name in ("logs", "load", "work", "prefect", "config-backups"):
        yield plan.folder / name
    for provider in plan.providers:
        yield plan.provider_home(provider)
    for region in plan.regions:
        yield plan.folder / "s3" / region


def _in_parallel(calls: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """All results in order; the first error wins, after all have ended."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda call: call(), calls))


@contextmanager
def _timed(report: Report, title: str) -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    detail = ""

    def note(text: str) -> None:
        nonlocal detail
        detail = text

    yield note
    report(title, detail, time.monotonic() - began)
