"""What each supervisor of the lab runs: a unit for every node, store, gateway, provider daemon and Prefect process.

Guarantees: pure; the same plan gives the same definitions.  No secret stands on a command line.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vedr.inventory import SITE_ENV
from vedr.lab import orchestrator, prefect_front, status_page, vault
from vedr.lab.addresses import PROVIDER_PORT, RPC_PORT, SHIPPER_METRICS_PORT, SIGNER_METRICS_PORT, STORE_PORT
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import OPS, Member, Plan, PlannedNode, PlannedSigner, Zone

NODE_GRACE_S: Final = 20
SERVICE_GRACE_S: Final = 10
WORKER_GRACE_S: Final = 10

DNS_UNIT: Final = "dns"
SERVER_UNIT: Final = "prefect-server"
FRONT_UNIT: Final = "prefect-front"
VAULT_UNIT: Final = "vault"
METRICS_UNIT: Final = "metrics"
STATUS_PAGE_UNIT: Final = "status-page"
LOAD_UNIT: Final = "load"


Wave = Literal[0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class Unit:
    """A service as labzoned takes it.

    `wave` orders the start: 0 services, 1 signers, 2 nodes, 3 what needs all of these.  One in reserve is only made
    known to its supervisor: a runbook starts it.  `ready`: what answers once a node may be started that needs it.
    """

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    wave: Wave
    env: dict[str, str] = field(default_factory=dict)
    restart: Literal["no", "on-failure", "at-boot"] = "no"
    grace_s: int = SERVICE_GRACE_S
    reserve: bool = False
    ready: str = ""

    def definition(self) -> dict[str, object]:
        """Labzoned's JSON."""
        return {
            "name": self.name,
            "argv": list(self.argv),
            "env": self.env,
            "cwd": str(self.cwd),
            "log": str(self.log),
            "autostart": False,
            "restart": self.restart,
            "stop_grace_s": self.grace_s,
        }


def of_zone(plan: Plan, zone: Zone | None) -> tuple[Unit, ...]:
    """A zone's units; None is what stands outside all zones."""
    return _ops_units(plan) if zone is None else _zone_units(plan, zone)


def worker_name(region: str | None) -> str:
    """The unit of a region's worker; None is the one outside all regions."""
    return f"worker-{region or OPS}"


def _zone_units(plan: Plan, zone: Zone) -> tuple[Unit, ...]:
    """A region's store and worker are in its first zone."""
    nodes = [node for node in plan.nodes if node.zone == zone]
    units = [_node(plan, node) for node in nodes]
    units += [_signer(plan, signer) for signer in plan.signers if signer.node.zone == zone]
    units += [_shipper(plan, node) for node in nodes if shipped_from(plan, node)]
    units += [_gateway(plan, gateway) for gateway in plan.gateways if gateway.zone == zone]
    units += [_provider(plan, provider) for provider in plan.providers if provider.zone == zone]
    if zone == plan.first_zone(zone.region):
        units += [_store(plan, zone.region), _worker(plan, zone.region), _controller(plan, zone.region)]
    return tuple(units)


def _ops_units(plan: Plan) -> tuple[Unit, ...]:
    folder = plan.folder
    dns = Unit(
        DNS_UNIT, ("knotd", "-c", str(folder / "dns" / "knot.conf")), folder / "dns", _log(plan, DNS_UNIT), wave=0
    )
    server = Unit(
        SERVER_UNIT, orchestrator.server_command(plan), plan.settings.project, _log(plan, SERVER_UNIT), wave=0,
        env=orchestrator.environment(plan), restart="on-failure",
    )  # fmt: skip
    secrets = Unit(
        VAULT_UNIT, vault.command(plan), plan.folder, _log(plan, VAULT_UNIT), wave=0, env=vault.environment(plan)
    )
    fronts = (_prefect_front(plan), _status_page(plan))
    return (dns, server, secrets, *fronts, _worker(plan, None), load_unit(plan), _metrics(plan))


def load_unit(plan: Plan, *, transactions_per_s: float | None = None, value_bytes: int | None = None) -> Unit:
    """The load generator, at the template's rate unless another is given."""
    policy = plan.template.load
    urls = ",".join(f"http://{plan.published(node, RPC_PORT)}" for node in plan.nodes if node.role != "validator")
    argv = (
        _program(plan, "labload"),
        "--rpc", urls,
        "--rate", f"{transactions_per_s if transactions_per_s is not None else policy.transactions_per_s:g}",
        "--value-bytes", str(value_bytes or policy.value_bytes),
        "--acked", str(plan.folder / "load" / "acked.jsonl"),
    )  # fmt: skip
    return Unit(LOAD_UNIT, argv, plan.folder / "load", _log(plan, LOAD_UNIT), wave=3, restart="on-failure")


def _status_page(plan: Plan) -> Unit:
    folder = status_page.folder(plan)
    argv = ("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr")
    return Unit(STATUS_PAGE_UNIT, argv, folder, _log(plan, STATUS_PAGE_UNIT), wave=0)


def _prefect_front(plan: Plan) -> Unit:
    """Started again when it fails: nobody reaches Prefect without it."""
    folder = prefect_front.folder(plan)
    argv = ("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr")
    return Unit(FRONT_UNIT, argv, folder, _log(plan, FRONT_UNIT), wave=0, restart="on-failure")


def _metrics(plan: Plan) -> Unit:
    """The site's exporter: last, when everything that it asks is there."""
    argv = (str(Path(sys.executable).with_name("vedr")), "metrics", "serve", "--listen", plan.metrics_address)
    env = {SITE_ENV: plan.settings.name, orchestrator.LABS_ENV: str(plan.folder.parent)}
    return Unit(METRICS_UNIT, argv, plan.folder, _log(plan, METRICS_UNIT), wave=3, env=env, restart="on-failure")


ONE_THREAD: Final = {"GOMAXPROCS": "1"}
"""A dozen nodes share two cores: threads that wake each other cost a third of the processor time."""


def _node(plan: Plan, node: PlannedNode) -> Unit:
    argv = (_program(plan, "labnode"), "start", "--home", str(node.home))
    # A node that is down stays down until somebody, or a runbook, brings it back.  But when its zone comes back, it may
    # come before its signer, wait 3 s for it and end: it is tried again, as its service manager would.
    return Unit(
        node.name, argv, node.home, _log(plan, node.name), wave=2,
        env=ONE_THREAD, restart="at-boot", grace_s=NODE_GRACE_S,
    )  # fmt: skip


def shipped_from(plan: Plan, node: PlannedNode) -> tuple[str, ...]:
    """The validators whose sign-state is on this node's disk, or is while their key file is."""
    if node.role == "validator":
        return () if node.standbys else (node.name,)
    return tuple(one.name for one in plan.nodes if node.name in one.key_hosts)


def shipper_name(host: str) -> str:
    """The unit that ships sign-states from a node's disk."""
    return f"{host}-sign-state"


def _shipper(plan: Plan, node: PlannedNode) -> Unit:
    name = shipper_name(node.name)
    argv = (
        str(Path(sys.executable).with_name("vedr")), "sign-state", "ship",
        *(word for validator in shipped_from(plan, node) for word in ("--validator", validator)),
        "--host", node.name,
        "--metrics", plan.listen(node, SHIPPER_METRICS_PORT),
    )  # fmt: skip
    env = {SITE_ENV: plan.settings.name, orchestrator.LABS_ENV: str(plan.folder.parent)}
    return Unit(name, argv, plan.folder, _log(plan, name), wave=3, env=env, restart="on-failure")


def _signer(plan: Plan, signer: PlannedSigner) -> Unit:
    metrics = plan.listen(signer.node, SIGNER_METRICS_PORT)
    argv = (
        str(Path(sys.executable).with_name("vedr")), "signer", "run",
        "--validator", signer.validator.name,
        "--name", signer.name,
        "--connect", signer.listen,
        "--key", f"token:{signer.validator.name}",
        "--region", signer.node.zone.region,
        "--state", str(plan.folder / "signers" / f"{signer.name}.json"),
        "--when-appointed",
        "--metrics", metrics,
    )  # fmt: skip
    env = {SITE_ENV: plan.settings.name, orchestrator.LABS_ENV: str(plan.folder.parent)}
    log = _log(plan, signer.name)
    # No restart: one that was superseded has to stay away, and a runbook brings back one that crashed.
    return Unit(
        signer.name, argv, plan.folder, log, wave=1, env=env, reserve=signer.is_standby, ready=f"http://{metrics}/metrics"
    )  # fmt: skip


def _provider(plan: Plan, provider: Member) -> Unit:
    home = plan.provider_home(provider)
    urls = ",".join(
        f"http://{plan.published(node, RPC_PORT)}" for node in plan.nodes_in(provider.zone.region, "full", "archive")
    )
    argv = (
        _program(plan, "labprovider"),
        "--home", str(home),
        "--rpc", urls,
        "--listen", plan.listen(provider, PROVIDER_PORT),
        "--id", provider.name,
        "--wait",
        *(("--reserve",) if provider.reserve else ()),
    )  # fmt: skip
    return Unit(provider.name, argv, home, _log(plan, provider.name), wave=3, reserve=provider.reserve)


def provider_config(plan: Plan, provider: Member) -> str:
    """What the stand-in was started with, where VirtEngine's daemon has its configuration: it is backed up hourly."""
    listen = plan.listen(provider, PROVIDER_PORT)
    return f'id = "{provider.name}"\nlisten = "{listen}"\nregion = "{provider.zone.region}"\n'


def _gateway(plan: Plan, gateway: Member) -> Unit:
    folder = gateway_folder(plan, gateway)
    argv = ("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr")
    return Unit(gateway.name, argv, folder, _log(plan, gateway.name), wave=0, reserve=gateway.reserve)


def _store(plan: Plan, region: str) -> Unit:
    store = plan.stores[region]
    folder = plan.folder / "s3" / region
    access_key, secret_key = LabSecrets(plan.folder).read_store_credentials(region)
    argv = (
        _program(plan, "labs3"),
        "--listen", plan.listen(store, STORE_PORT),
        "--data", str(folder / "data"),
        "--versions", str(folder / "versions"),
        "--region", plan.template.regions[region].cloud_region,
    )  # fmt: skip
    env = {"ROOT_ACCESS_KEY_ID": access_key, "ROOT_SECRET_ACCESS_KEY": secret_key}
    return Unit(store.name, argv, folder, _log(plan, store.name), wave=0, env=env, restart="on-failure")


def _worker(plan: Plan, region: str | None) -> Unit:
    name = worker_name(region)
    return Unit(
        name, orchestrator.worker_command(region or OPS), plan.settings.project, _log(plan, name), wave=3,
        env=orchestrator.environment(plan), restart="on-failure", grace_s=WORKER_GRACE_S,
    )  # fmt: skip


def controller_name(region: str) -> str:
    """The unit of a region's failover controller."""
    return f"controller-{region}"


def _controller(plan: Plan, region: str) -> Unit:
    """In reserve: who breaks the lab by hand does not want it repaired behind his back."""
    name = controller_name(region)
    argv = (str(Path(sys.executable).with_name("vedr")), "controller", "run", "--region", region)
    env = {SITE_ENV: plan.settings.name, orchestrator.LABS_ENV: str(plan.folder.parent)}
    return Unit(name, argv, plan.folder, _log(plan, name), wave=3, env=env, restart="on-failure", reserve=True)


def gateway_folder(plan: Plan, gateway: Member) -> Path:
    return plan.folder / "gateways" / gateway.name


def _log(plan: Plan, name: str) -> Path:
    return plan.folder / "logs" / f"{name}.log"


def _program(plan: Plan, name: str) -> str:
    return str(plan.settings.programs / name)
