"""One run of `vedr lab up`: every part, in the order in which they need each other.

Guarantees: each part is made or started only where it is missing, and waited for; a node that cannot run doesn't keep
the rest from starting, and is named at the end.
"""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from vedr.adapters.s3_control import open_control as open_store_control
from vedr.adapters.s3_store import Credentials
from vedr.errors import DeadlineError, UnavailableError, VedrError
from vedr.inventory import Node, Site
from vedr.lab import (
    agents,
    custodians,
    gateway,
    keys,
    names,
    network,
    orchestrator,
    prefect_front,
    readiness,
    signers,
    status_page,
    testnet,
    units,
    vault,
)
from vedr.lab.addresses import STORE_PORT
from vedr.lab.credentials import LabSecrets, write_whole
from vedr.lab.plan import Plan, Zone
from vedr.lab.progress import Report, timed
from vedr.lab.settings import TEMPLATE, save_settings
from vedr.lab.site_file import write_site_file

SERVICE_LIMIT_S: Final = 60.0  # these limits tell a hang from a busy machine; an idle one needs a tenth
BLOCKS_LIMIT_S: Final = 120.0
ORCHESTRATOR_LIMIT_S: Final = 400.0

_Result = TypeVar("_Result")


class Startup:
    """One run of `up`, part by part, in order."""

    def __init__(self, plan: Plan, report: Report, *, deploy: bool) -> None:
        self.deploy = deploy
        self.plan = plan
        self.report = report
        self.secrets = LabSecrets(plan.folder)

    def run(self) -> Site:
        plan = self.plan
        with timed(self.report, "keys") as note:
            save_settings(plan.settings)
            _keep_template(plan)
            self.secrets.create_missing(plan)
            tokens = self.secrets.create_missing_tokens(plan)
            shared = ", the recovery key handed out in shares" if custodians.hold_ceremony(plan) else ""
            note(f"{tokens} new SoftHSM tokens{shared}")
        if plan.settings.mode == "namespaces":
            with timed(self.report, "network") as note:
                made = network.create_missing(plan)
                for zone in plan.zones:
                    network.heal(plan, zone)
                note(f"{plan.addresses.cidr}, {len(plan.zones)} zones, of which {made} made now")
        with timed(self.report, "chain") as note:
            validators = testnet.make_missing(plan)
            site = write_site_file(plan, validators)
            note(f"{plan.chain_id}, {len(plan.nodes)} nodes")
        with timed(self.report, "tokens") as note:
            note(f"validators' keys put on {keys.put_on_tokens(plan, validators)} tokens")
            signers.put_before(plan)
        self._write_configurations()
        self._start_supervisors()
        self._start_wave(0, "services")
        self._wait_for_vault()
        self._make_buckets(site)
        if plan.signers:
            with timed(self.report, "registers") as note:
                note(f"{signers.found_registers(site)} founded now")
        self._start_wave(1, "signers")
        self._start_wave(2, "nodes")
        problems = self._wait_for_blocks(site)
        self._wait_for_services(site)
        self._wait_for_orchestrator()
        if self.deploy:  # before the workers: their heartbeats and SQLite's one writer get in its way
            problems += self._deploy()
        self._start_wave(3, "workers, providers, load")
        if problems:
            raise DeadlineError(
                f"lab {plan.settings.name} runs, but: {'; '.join(problems)}",
                remedy="Recover nodes with RB-DR-001, then `vedr lab up` again.",
            )
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
        status_page.write_missing(plan, dt.datetime.now(dt.UTC))
        prefect_front.write_config(plan)
        for folder in _data_folders(plan):
            folder.mkdir(parents=True, exist_ok=True)
        for provider in plan.providers:
            config = plan.provider_home(provider) / "config"
            config.mkdir(exist_ok=True)
            write_whole(config / "provider.toml", units.provider_config(plan, provider), mode=0o644)
        keys.make_provider_keys(plan)

    def _start_supervisors(self) -> None:
        with timed(self.report, "supervisors") as note:
            started = agents.start_missing(self.plan, (*self.plan.zones, None))
            if self.plan.settings.mode == "relays":
                _in_parallel([partial(_heal_relays, self.plan, zone) for zone in self.plan.zones])
            note(f"{len(self.plan.zones) + 1}, of which {started} started now")

    def _start_wave(self, wave: int, title: str) -> None:
        with timed(self.report, title) as note:
            wanted = [
                (zone, [u for u in units.of_zone(self.plan, zone) if u.wave == wave])
                for zone in (*self.plan.zones, None)
            ]
            counts = _in_parallel([partial(agents.start_units, self.plan, zone, chosen) for zone, chosen in wanted])
            active = sum(not unit.reserve for _, chosen in wanted for unit in chosen)
            note(f"{active}, of which {sum(counts)} started now")

    def _make_buckets(self, site: Site) -> None:
        with timed(self.report, "stores") as note:
            made = _in_parallel([partial(self._make_bucket, site, region) for region in site.regions])
            note(f"{sum(made)} new buckets, one a region, versioned and lockable")

    def _make_bucket(self, site: Site, region: str) -> bool:
        config = site.regions[region].store
        control = open_store_control(config, Credentials(*self.secrets.read_store_credentials(region)))
        log = self.plan.folder / "logs" / f"s3-{region}.log"
        until = partial(readiness.until, limit_s=SERVICE_LIMIT_S, log=log)
        listening = partial(readiness.responds, f"http://{self.plan.published(self.plan.stores[region], STORE_PORT)}/")
        until(f"the store of {region}", listening)
        there = {bucket["Name"] for bucket in control.list_buckets()["Buckets"]}
        if config.register_bucket and config.register_bucket not in there:
            control.create_bucket(Bucket=config.register_bucket)
        if config.bucket in there:
            return False
        control.create_bucket(Bucket=config.bucket, ObjectLockEnabledForBucket=True)
        control.put_bucket_versioning(Bucket=config.bucket, VersioningConfiguration={"Status": "Enabled"})
        return True

    def _wait_for_vault(self) -> None:
        with timed(self.report, "secrets manager") as note:
            log = self.plan.folder / "logs" / f"{units.VAULT_UNIT}.log"
            ready = partial(readiness.responds, f"{self.plan.vault_url}/")
            readiness.until("the secrets manager", ready, limit_s=SERVICE_LIMIT_S, log=log)
            process = agents.unit_pid(self.plan, None, units.VAULT_UNIT)
            note(self.plan.vault_url + (", with what it held before" if vault.remember(self.plan, process) else ""))

    def _wait_for_blocks(self, site: Site) -> list[str]:
        """Every node makes or fetches blocks; returns what is wrong with those that don't."""
        with timed(self.report, "blocks") as note:
            heights = _in_parallel([partial(self._height, node, above=-1) for node in site.nodes])
            first = max((height for height in heights if isinstance(height, int)), default=0)
            alive = [n for n, height in zip(site.nodes, heights, strict=True) if isinstance(height, int)]
            later = _in_parallel([partial(self._height, node, above=first) for node in alive])
            note(f"{sum(isinstance(height, int) for height in later)} of {len(site.nodes)} nodes above height {first}")
        return [problem for problem in (*heights, *later) if isinstance(problem, str)]

    def _height(self, node: Node, *, above: int) -> int | str:
        """The node's height once it is above that one; else what is wrong."""
        deadline = time.monotonic() + BLOCKS_LIMIT_S
        log = self.plan.folder / "logs" / f"{node.name}.log"
        while time.monotonic() < deadline:
            try:
                if (height := readiness.height(node.rpc)) > above:
                    return int(height)
            except VedrError:
                if agents.unit_state(self.plan, self.plan.zone(node.zone), node.unit) == "failed":
                    return f"{node.name} does not run, see {log}"
            time.sleep(readiness.POLL_S)
        return f"{node.name} is not above height {above} after {BLOCKS_LIMIT_S:g} s, see {log}"

    def _wait_for_services(self, site: Site) -> None:
        with timed(self.report, "gateways and name server") as note:
            for entry in (gateway for gateway in site.gateways if not gateway.reserve):
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
        with timed(self.report, "Prefect") as note:
            logs = self.plan.folder / "logs"
            log = logs / f"{units.SERVER_UNIT}.log"
            server = partial(readiness.answers, f"http://{self.plan.orchestrator_server}/api/health")
            readiness.until("Prefect", server, limit_s=ORCHESTRATOR_LIMIT_S, log=log)
            front = partial(readiness.answers, f"{self.plan.orchestrator_url}/api/health")
            front_log = logs / f"{units.FRONT_UNIT}.log"
            readiness.until("the front of Prefect", front, limit_s=SERVICE_LIMIT_S, log=front_log)
            for pool in orchestrator.pools(self.plan):
                ensure = partial(orchestrator.ensure_pool, self.plan, pool)
                readiness.until(f"work pool {pool}", ensure, limit_s=ORCHESTRATOR_LIMIT_S, log=log)
            note(self.plan.orchestrator_url)

    def _deploy(self) -> list[str]:
        with timed(self.report, "deployments") as note:
            try:
                note(orchestrator.deploy(self.plan))
            except UnavailableError as error:
                note("failed")
                return [error.message]
        return []


def _heal_relays(plan: Plan, zone: Zone) -> None:
    agent = agents.connect(plan, zone)
    try:
        agent.heal()
    finally:
        agent.close()


def _keep_template(plan: Plan) -> None:
    kept = plan.folder / "template.toml"
    if not kept.exists():
        write_whole(kept, (plan.settings.project / TEMPLATE).read_text(encoding="utf-8"), mode=0o644)


def _data_folders(plan: Plan) -> Iterator[Path]:
    for name in ("logs", "load", "work", "prefect", "config-backups", "signers"):
        yield plan.folder / name
    for provider in plan.providers:
        yield plan.provider_home(provider)
    for region in plan.regions:
        yield plan.folder / "s3" / region


def _in_parallel(calls: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """All results in order; the first error wins, after all have ended."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda call: call(), calls))
