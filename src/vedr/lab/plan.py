"""From the template and a lab's settings to everything that has an address: pure, nothing is created.

Guarantees: the same template and settings give the same plan, so `up` can be run again; every path lies in the lab's
folder.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from vedr.lab import addresses as at
from vedr.lab.addresses import Addresses, Mode
from vedr.lab.template import NodePolicy, Placement, Template
from vedr.policies.names import Role

OPS: Final = "ops"
"""Name of the supervisor that runs what stands outside all zones."""

_Placed = TypeVar("_Placed", NodePolicy, Placement)

DNS_PORT_OFFSET: Final = 53
VAULT_PORT_OFFSET: Final = 54
METRICS_PORT_OFFSET: Final = 55
STATUS_PAGE_PORT_OFFSET: Final = 56
ORCHESTRATOR_SERVER_PORT_OFFSET: Final = 57
AGENT_PORT_OFFSET: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What one lab was started with; kept in its folder, so that later commands need only its name."""

    name: str
    network: str
    port_base: int
    mode: Mode
    folder: Path
    programs: Path
    project: Path


@dataclass(frozen=True, slots=True)
class Zone:
    name: str
    region: str
    number: int


@dataclass(frozen=True, slots=True)
class Member:
    """A part that stands in a zone: a provider daemon, a gateway or a region's store."""

    name: str
    zone: Zone
    host: int
    reserve: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode(Member):
    """A chain node."""

    role: Role
    power: int
    home: Path
    standbys: tuple[str, ...] = ()
    key_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedSigner:
    """A remote signer: of which validator, for which node."""

    validator: PlannedNode
    node: PlannedNode

    @property
    def is_standby(self) -> bool:
        return self.node != self.validator

    @property
    def name(self) -> str:
        return f"{self.validator.name}-at-{self.node.name}" if self.is_standby else f"{self.validator.name}-signer"

    @property
    def listen(self) -> str:
        """Where its node waits for it."""
        return f"unix://{self.node.home}/signer.sock"


@dataclass(frozen=True)
class Plan:
    """Names, places and addresses of one lab."""

    settings: Settings
    template: Template

    @cached_property
    def addresses(self) -> Addresses:
        return Addresses(self.settings.network, self.settings.mode)

    @cached_property
    def zones(self) -> tuple[Zone, ...]:
        return tuple(Zone(zone, region, number) for number, (zone, region) in enumerate(self.template.zones, start=1))

    @cached_property
    def nodes(self) -> tuple[PlannedNode, ...]:
        return tuple(
            PlannedNode(
                policy.name,
                self.zone(policy.zone),
                host,
                role=policy.role,
                power=policy.power,
                home=self.folder / "nodes" / policy.name,
                standbys=policy.standbys,
                key_hosts=policy.key_hosts,
            )
            for policy, host in _with_hosts(self.template.nodes, at.NODE_HOSTS)
        )

    @cached_property
    def providers(self) -> tuple[Member, ...]:
        return tuple(
            Member(p.name, self.zone(p.zone), host, p.reserve)
            for p, host in _with_hosts(self.template.providers, at.PROVIDER_HOSTS)
        )

    @cached_property
    def gateways(self) -> tuple[Member, ...]:
        return tuple(
            Member(p.name, self.zone(p.zone), host, p.reserve)
            for p, host in _with_hosts(self.template.gateways, at.GATEWAY_HOSTS)
        )

    @cached_property
    def signers(self) -> tuple[PlannedSigner, ...]:
        """Of every validator that has standbys: the one at home, then those."""
        by_name = {node.name: node for node in self.nodes}
        return tuple(
            PlannedSigner(validator, by_name[name])
            for validator in self.nodes
            if validator.standbys
            for name in (validator.name, *validator.standbys)
        )

    @cached_property
    def stores(self) -> dict[str, Member]:
        """Each region's S3 server, in the region's first zone."""
        return {region: Member(f"s3-{region}", self.first_zone(region), at.STORE_HOST) for region in self.regions}

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(self.template.regions)

    @property
    def folder(self) -> Path:
        return self.settings.folder

    @property
    def chain_id(self) -> str:
        return self.template.chain.id.replace("{lab}", self.settings.name)

    @property
    def dns_zone(self) -> str:
        return self.template.dns.zone.replace("{lab}", self.settings.name)

    @property
    def dns_port(self) -> int:
        return self.settings.port_base + DNS_PORT_OFFSET

    @property
    def vault_port(self) -> int:
        return self.settings.port_base + VAULT_PORT_OFFSET

    @property
    def vault_url(self) -> str:
        return f"http://{self.addresses.ops}:{self.vault_port}"

    @property
    def metrics_address(self) -> str:
        """`address:port` of the site's exporter."""
        return f"{self.addresses.ops}:{self.settings.port_base + METRICS_PORT_OFFSET}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.metrics_address}/metrics"

    @property
    def status_page_port(self) -> int:
        return self.settings.port_base + STATUS_PAGE_PORT_OFFSET

    @property
    def status_page_url(self) -> str:
        return f"https://{self.addresses.ops}:{self.status_page_port}/"

    @property
    def orchestrator_front(self) -> str:
        """`address:port` at which everybody reaches Prefect."""
        return f"{self.addresses.ops}:{self.settings.port_base}"

    @property
    def orchestrator_url(self) -> str:
        return f"http://{self.orchestrator_front}"

    @property
    def orchestrator_server_port(self) -> int:
        return self.settings.port_base + ORCHESTRATOR_SERVER_PORT_OFFSET

    @property
    def orchestrator_server(self) -> str:
        """`address:port` of the server itself, which the front asks."""
        return f"{self.addresses.ops}:{self.orchestrator_server_port}"

    def bucket(self, region: str) -> str:
        return self.template.store.bucket.replace("{region}", region).replace("{lab}", self.settings.name)

    def register_bucket(self, region: str) -> str:
        return f"{self.bucket(region)}-registers"

    def zone(self, name: str) -> Zone:
        return next(zone for zone in self.zones if zone.name == name)

    def first_zone(self, region: str) -> Zone:
        return next(zone for zone in self.zones if zone.region == region)

    def nodes_in(self, region: str, *roles: Role) -> tuple[PlannedNode, ...]:
        return tuple(n for n in self.nodes if n.zone.region == region and (not roles or n.role in roles))

    def provider_home(self, provider: Member) -> Path:
        return self.folder / "providers" / provider.name

    def listen(self, member: Member, port: int) -> str:
        """`address:port` that the member binds."""
        return f"{self.addresses.listen(member.zone.number, member.host)}:{port}"

    def published(self, member: Member, port: int) -> str:
        """`address:port` that everybody else uses."""
        return f"{self.addresses.published(member.zone.number, member.host)}:{port}"

    def dialled(self, member: Member, port: int, *, from_zone: Zone) -> str:
        """`address:port` that parts of another zone use, so that a cut of either zone is felt."""
        return f"{self.addresses.dialled(from_zone.number, member.zone.number, member.host)}:{port}"

    def agent_address(self, zone: Zone | None) -> str:
        """Where a zone's supervisor listens; None is the one outside all zones."""
        if zone is None:
            return f"{self.addresses.ops}:{self.settings.port_base + AGENT_PORT_OFFSET}"
        return f"{self.addresses.published(zone.number, at.AGENT_HOST)}:{at.AGENT_PORT}"

    def agent_url(self, zone: Zone | None) -> str:
        return f"http://{self.agent_address(zone)}"

    def agent_folder(self, zone: Zone | None) -> Path:
        return self.folder / "zones" / (zone.name if zone else OPS)


def _with_hosts(placed: Sequence[_Placed], first_host: int) -> list[tuple[_Placed, int]]:
    """Numbers each zone's members from `first_host`, in the template's order."""
    taken: Counter[str] = Counter()
    numbered = []
    for policy in placed:
        numbered.append((policy, first_host + taken[policy.zone]))
        taken[policy.zone] += 1
    return numbered
