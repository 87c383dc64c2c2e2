"""The lab's template: topology and policy without addresses or keys, as deployments/sites/lab.toml holds them.

Guarantees: unknown keys are refused and every name is unique and placed in a zone that exists, before anything starts.
Leaves out: what only a running lab has; vedr.lab.plan adds addresses, vedr.lab.site_file writes the whole site.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from vedr.errors import InvalidInputError, NotFoundError
from vedr.policies.names import NodeName, RegionName, Role, ZoneName
from vedr.targets import Frozen, Retention, Schedule, TargetOverrides

MAX_ZONES = 9  # zone numbers are one digit of an address in the rootless lab
MAX_UNITS_PER_KIND_AND_ZONE = 10  # see vedr.lab.plan: each kind has ten host addresses in a zone


class ChainPolicy(Frozen):
    """How the lab's chain is made."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9{}][a-zA-Z0-9{}_.-]{2,49}$")]
    block_time_s: float = Field(gt=0, le=60, description="about; what predictions count with")
    timeout_commit_s: float = Field(gt=0, le=60)
    snapshot_interval: int = Field(ge=0, description="blocks; 0: no state-sync snapshots")
    snapshot_keep: int = Field(ge=1)


class LoadPolicy(Frozen):
    """What the load generator writes."""

    transactions_per_s: float = Field(ge=0)
    value_bytes: int = Field(ge=1, le=64 * 1024)


class DnsPolicy(Frozen):
    zone: str
    ttl_s: int = Field(ge=1)


class StorePolicy(Frozen):
    bucket: str
    object_lock_days: int = Field(default=0, ge=0)


class RegionPolicy(Frozen):
    cloud_region: str
    role: Literal["primary", "secondary", "tertiary"]
    priority: int = Field(ge=1)
    workload_pct: int = Field(ge=0, le=100)
    zones: tuple[ZoneName, ...] = Field(min_length=1)


class NodePolicy(Frozen):
    name: NodeName
    zone: ZoneName
    role: Role
    power: int = Field(default=0, ge=0)
    standbys: tuple[NodeName, ...] = Field(
        default=(), description="full nodes that may take a validator's key over; with any, it signs from its HSM"
    )
    key_hosts: tuple[NodeName, ...] = Field(
        default=(), description="full nodes that may be given the key file of a validator that signs from one"
    )


class Placement(Frozen):
    """A provider daemon or gateway: only its name and place; in reserve, it is stopped until a failover needs it."""

    name: NodeName
    zone: ZoneName
    reserve: bool = False


class Template(Frozen):
    """The whole template."""

    template: Literal[1]
    chain: ChainPolicy
    load: LoadPolicy
    dns: DnsPolicy
    store: StorePolicy
    regions: dict[RegionName, RegionPolicy]
    nodes: tuple[NodePolicy, ...]
    providers: tuple[Placement, ...] = ()
    gateways: tuple[Placement, ...] = ()
    targets: TargetOverrides = TargetOverrides()
    retention: Retention = Retention()
    schedule: Schedule = Schedule()

    @property
    def zones(self) -> tuple[tuple[str, str], ...]:
        """(zone, region) of every zone, in the file's order."""
        return tuple((zone, name) for name, region in self.regions.items() for zone in region.zones)

    @model_validator(mode="after")
    def _everything_has_a_place(self) -> Self:
        problems = [*_repeated(self), *_homeless(self), *_too_many(self), *_bad_standbys(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _placed(template: Template) -> list[NodePolicy | Placement]:
    return [*template.nodes, *template.providers, *template.gateways]


def _repeated(template: Template) -> list[str]:
    names = Counter(thing.name for thing in _placed(template))
    zones = Counter(zone for zone, _ in template.zones)
    return [f"{value!r} is used {count} times: make it unique" for value, count in (names + zones).items() if count > 1]


def _homeless(template: Template) -> list[str]:
    known = {zone for zone, _ in template.zones}
    return [
        f"{thing.name} is in zone {thing.zone!r}, which no region has"
        for thing in _placed(template)
        if thing.zone not in known
    ]


def _bad_standbys(template: Template) -> list[str]:
    full = {node.name for node in template.nodes if node.role != "validator"}
    problems = []
    for node in template.nodes:
        if node.standbys and node.role != "validator":
            problems.append(f"{node.name} has standbys, but is no validator")
        if len(set(node.standbys)) < len(node.standbys):
            problems.append(f"{node.name} names a standby twice")
        if node.key_hosts and (node.standbys or node.role != "validator"):
            problems.append(f"{node.name} has key hosts, but is no validator that signs from a file")
        problems += [
            f"{node.name} names the standby {name!r}: no full node" for name in node.standbys if name not in full
        ]
    return problems


def _too_many(template: Template) -> list[str]:
    problems = []
    if len(template.zones) > MAX_ZONES:
        problems.append(f"{len(template.zones)} zones, but a lab has {MAX_ZONES} at most")
    kinds: dict[str, list[str]] = {
        "nodes": [node.zone for node in template.nodes],
        "providers": [provider.zone for provider in template.providers],
        "gateways": [gateway.zone for gateway in template.gateways],
    }
    for kind, zones in kinds.items():
        for zone, count in Counter(zones).items():
            if count > MAX_UNITS_PER_KIND_AND_ZONE:
                problems.append(f"zone {zone} has {count} {kind}, but {MAX_UNITS_PER_KIND_AND_ZONE} at most fit")
    return problems


def load_template(path: Path) -> Template:
    """Read and check a template.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: not TOML, or a rule is broken; every problem is listed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no lab template at {path}", remedy="Run from the project's folder, or name one with --template."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path}: not TOML: {error}", remedy="Correct the line that is named.") from error
    try:
        return Template.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, where)) or 'template'}: {message.removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False)
            for where, message in [(problem["loc"], problem["msg"])]
        ]
        raise InvalidInputError("\n".join(problems), remedy="Correct these keys of the template.") from None
