"""How units are stopped and started: the lab's zone agents, systemd over SSH, or Kubernetes.

Guarantees: a unit of the site, by its name and zone, stands for just one thing that can be stopped alone, a systemd
unit on one host or a workload of one cluster; what would stop two is refused when the file is read.
Leaves out: whether hosts and workloads exist, which the first call to them tells.
"""

from collections import Counter
from collections.abc import Iterable
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from vedr.policies.names import NodeName, RegionName, SecretRef, ZoneName
from vedr.targets import Frozen

UnitName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9@_.-]{0,199}$")]
SystemdUnit = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9@_.:-]{0,199}\.service$")]
"""A service's full name, so that nothing is guessed; no character of it means anything to a shell."""
HostAddress = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9.:-]{0,252}$")]
Login = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
InstanceId = Annotated[str, StringConstraints(pattern=r"^i-[0-9a-f]{8,17}$")]
WorkloadKind = Literal["StatefulSet", "Deployment"]

SCALED: Final = MappingProxyType[str, WorkloadKind](
    {"virtengine-fullnode": "StatefulSet", "provider-daemon": "StatefulSet", "api-gateway": "Deployment"}
)


FAILOVER_REPLICAS: Final = MappingProxyType({"virtengine-fullnode": 5, "provider-daemon": 3, "api-gateway": 4})
"""VirtEngine's plan for RB-DR-003."""


class SshHost(Frozen):
    """A machine, and what runs on it: the site's units, each with its systemd name there."""

    zone: ZoneName
    address: HostAddress
    port: int = Field(default=22, ge=1, le=65535)
    units: dict[UnitName, SystemdUnit] = Field(min_length=1)


class Ssh(Frozen):
    """systemd over SSH.  A host whose key is not in `known_hosts` is refused, and so is one whose key changed."""

    user: Login = "vedr"
    key: SecretRef = Field(description="the private key, in OpenSSH's or PEM form, without a passphrase")
    known_hosts: SecretRef = Field(description="OpenSSH's file of host keys; plain or hashed names, no @ markers")
    become: Literal["sudo", "nothing"] = Field(default="sudo", description="how systemctl gets its rights")
    manager: Literal["system", "user"] = "system"
    stop_grace_s: float = Field(default=60.0, gt=0, description="TimeoutStopSec of the units should be longer")
    hosts: dict[str, SshHost] = Field(min_length=1)

    @model_validator(mode="after")
    def _units_are_single(self) -> Self:
        placed = [(unit, host.zone) for host in self.hosts.values() for unit in host.units]
        services = [(name, service) for name, host in self.hosts.items() for service in host.units.values()]
        problems = [
            *(f"unit {unit!r} of zone {zone} is on {count} hosts" for (unit, zone), count in _twice(placed)),
            *(f"host {name!r}: {count} units are {service}" for (name, service), count in _twice(services)),
        ]
        if problems:
            raise ValueError("; ".join(problems) + ": a unit is one service of one host")
        return self


class Workload(Frozen):
    """A StatefulSet or Deployment that is one unit of the site, in one zone: scaled to 0 when the unit is stopped."""

    zone: ZoneName
    kind: WorkloadKind = "StatefulSet"
    name: KubernetesName
    replicas: int = Field(default=1, ge=1, description="when it is started")


class Cluster(Frozen):
    """A region's cluster: a context of a kubeconfig, or its address with a token and its authority's certificate."""

    kubeconfig: SecretRef | None = None
    context: str = ""
    server: str = Field(default="", pattern=r"^(https://.+)?$")
    token: SecretRef | None = None
    authority: SecretRef | None = Field(default=None, description="PEM")
    namespace: KubernetesName = "virtengine"
    units: dict[UnitName, Workload] = Field(default_factory=dict)
    scaled: dict[KubernetesName, WorkloadKind] = Field(
        default_factory=lambda: dict(SCALED),
        description="workloads whose replicas a region failover raises; no unit is one of them",
    )
    failover_replicas: dict[KubernetesName, Annotated[int, Field(ge=0, le=100)]] = Field(
        default_factory=lambda: dict(FAILOVER_REPLICAS),
        description="of those, while they serve for a place that is lost; what has more keeps that",
    )

    @model_validator(mode="after")
    def _is_reachable_one_way(self) -> Self:
        direct = (bool(self.server), self.token is not None, self.authority is not None)
        if (self.kubeconfig is None) != all(direct) or (self.kubeconfig is not None and any(direct)):
            raise ValueError("give kubeconfig (and context), or server, token and authority")
        return self

    @model_validator(mode="after")
    def _workloads_are_single(self) -> Self:
        names = [(workload.kind, workload.name) for workload in self.units.values()]
        shared = [f"{kind} {name} is {count} units" for (kind, name), count in _twice(names)]
        shared += [f"{kind} {name} is a unit and scaled" for kind, name in names if self.scaled.get(name) == kind]
        if shared:
            raise ValueError("; ".join(shared) + ": to stop one would stop the other, give each a workload of its own")
        return self


class Kubernetes(Frozen):
    """A cluster a region; pods are never deleted by force, which would only hide them."""

    clusters: dict[RegionName, Cluster] = Field(min_length=1)
    stop_grace_s: float = Field(default=120.0, gt=0, description="more than terminationGracePeriodSeconds")
    start_limit_s: float = Field(default=120.0, gt=0, description="until a container runs")

    @model_validator(mode="after")
    def _units_are_single(self) -> Self:
        placed = [(unit, work.zone) for cluster in self.clusters.values() for unit, work in cluster.units.items()]
        if twice := [f"unit {unit!r} of zone {zone} is in {count} clusters" for (unit, zone), count in _twice(placed)]:
            raise ValueError("; ".join(twice))
        return self


class Fleet(Frozen):
    """One way for the whole site: `kind`, and the table that goes with it."""

    kind: Literal["lab", "systemd-ssh", "kubernetes"] = "lab"
    agents: dict[ZoneName, str] = Field(default_factory=dict, description="lab: the zones' agents")
    token: SecretRef | None = Field(default=None, description="lab: the agents' bearer token")
    ssh: Ssh | None = None
    kubernetes: Kubernetes | None = None
    instances: dict[NodeName, InstanceId] = Field(
        default_factory=dict, description="EC2's id of a node's machine: for the fences that stop it or cut it off"
    )
    cloud_credentials: SecretRef | None = Field(
        default=None, description="JSON {access_key, secret_key}; None: the cloud's own chain"
    )

    @model_validator(mode="after")
    def _kind_has_its_table(self) -> Self:
        given = {
            "lab": bool(self.agents) or self.token is not None,
            "systemd-ssh": self.ssh is not None,
            "kubernetes": self.kubernetes is not None,
        }
        tables = {"lab": "agents and token", "systemd-ssh": "[fleet.ssh]", "kubernetes": "[fleet.kubernetes]"}
        if self.kind != "lab" and not given[self.kind]:
            raise ValueError(f"kind {self.kind!r} needs {tables[self.kind]}")
        if strays := [tables[kind] for kind, is_given in given.items() if is_given and kind != self.kind]:
            raise ValueError(f"kind {self.kind!r} does not take {', '.join(strays)}: remove it, or change the kind")
        return self

    def problems(self, wanted: Iterable[tuple[str, str, str]]) -> list[str]:
        """What is wrong for these things of the site, each (name, unit, zone); the lab's agents are asked instead."""
        if self.kind == "lab":
            return []
        things = list(wanted)
        known = self._known()
        missing = [
            f"{name}: [fleet] knows no unit {unit!r} in zone {zone}"
            for name, unit, zone in things
            if (unit, zone) not in known
        ]
        shared = [
            f"{count} things are unit {unit!r} in zone {zone}: to stop one would stop the other"
            for (unit, zone), count in _twice([(unit, zone) for _, unit, zone in things])
        ]
        return missing + shared

    def _known(self) -> set[tuple[str, str]]:
        hosts = self.ssh.hosts.values() if self.ssh else ()
        clusters = self.kubernetes.clusters.values() if self.kubernetes else ()
        return {
            *((unit, host.zone) for host in hosts for unit in host.units),
            *((unit, work.zone) for cluster in clusters for unit, work in cluster.units.items()),
        }


def _twice(things: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    return [(thing, count) for thing, count in Counter(things).items() if count > 1]
