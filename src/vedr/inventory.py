"""The site: one TOML file, parsed once into frozen data.

Guarantees: unknown keys are refused; every rule that can be checked from the file alone is checked; an error names the
file, the line and the remedy.  Secrets are never in the file, only references (`file:…`, `env:…`, `aws-secret:…`).
Leaves out: whether the things described exist or answer, which preflight and the daily checks find out.

Sizes are bytes, durations seconds unless the name carries another unit, powers are CometBFT voting power.
"""

import os
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal, NewType, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from vedr.errors import InvalidInputError, NotFoundError
from vedr.policies.approval import Approval
from vedr.policies.checks import Checks
from vedr.policies.continuity import Continuity
from vedr.policies.controller import ControllerPolicy
from vedr.policies.custody import Custody
from vedr.policies.drills import Drills
from vedr.policies.fleet import Fleet
from vedr.policies.key_files import KeyFile
from vedr.policies.names import HexKey, NodeName, RegionName, Role, SecretRef, ZoneName
from vedr.policies.notifications import Notifications
from vedr.policies.traffic import Traffic
from vedr.targets import Frozen, Retention, Schedule, TargetOverrides
from vedr.toml_lines import line_of

Height = NewType("Height", int)
"""A block height, 1 or more; 0 means 'none yet'."""

MIN_ZONES_PER_REGION: Final = 2  # VirtEngine's rule: a region survives the loss of a zone
MIN_FULL_NODES_PER_REGION: Final = 2
MIN_BACKUP_REGIONS: Final = 3
OBJECT_LOCK_MARGIN_DAYS: Final = 2
SITES_ENV: Final = "VEDR_SITES"
SITE_ENV: Final = "VEDR_SITE"


class Chain(Frozen):
    """How the site's node program is run, and the root of trust for its chain.

    Commands are argument lists; `{home}`, `{data}`, `{rpc}` in them are filled in.
    """

    chain_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{2,49}$")]
    block_time_s: float = Field(gt=0, le=60)
    start: tuple[str, ...] = Field(min_length=1)
    start_isolated: tuple[str, ...] = Field(min_length=1)
    inspect: tuple[str, ...] = Field(min_length=1)
    inspect_deep: tuple[str, ...] = Field(
        default=(), description="reads every key of the application's state as well; empty: the program can't"
    )
    rollback: tuple[str, ...] = Field(
        default=(), description="takes a stopped node one block back, its application too; empty: the program can't"
    )
    genesis: Path
    genesis_sha256: HexKey
    trust_height: int = Field(default=0, ge=0)
    trust_hash: Annotated[str, StringConstraints(pattern=r"^([0-9A-F]{64})?$")] = ""
    trust_period_s: int = Field(default=168 * 3600, gt=0)
    max_clock_drift_s: float = Field(default=10.0, ge=0)
    state_sync_interval: int = Field(default=0, ge=0, description="blocks between the nodes' own snapshots; 0: none")
    software: dict[str, str] = Field(default_factory=dict)
    database_backend: Literal["goleveldb"] = "goleveldb"

    @model_validator(mode="after")
    def _anchor_is_whole(self) -> Self:
        if bool(self.trust_height) != bool(self.trust_hash):
            raise ValueError(
                "trust_height and trust_hash belong together: give both, or neither to trust the genesis validators"
            )
        return self


class Signing(Frozen):
    """Manifest and ledger signatures (Ed25519): the key that this site signs with, and all that it believes."""

    key: SecretRef
    trusted: tuple[HexKey, ...] = Field(min_length=1, description="public keys, raw 32 bytes in hex")


class Encryption(Frozen):
    """Client-side encryption of stored objects: `none`, or AES-256-GCM under a 32-byte site key."""

    mode: Literal["none", "aes-256-gcm"] = "none"
    key: SecretRef | None = None

    @model_validator(mode="after")
    def _key_with_mode(self) -> Self:
        if (self.mode == "none") != (self.key is None):
            raise ValueError("encryption.key is needed by, and only by, mode aes-256-gcm")
        return self


class StoreConfig(Frozen):
    """A region's bucket."""

    kind: Literal["s3"] = "s3"
    endpoint: str | None = Field(default=None, description="None: the cloud's own endpoint")
    bucket: str = Field(min_length=3, max_length=63)
    register_bucket: str | None = Field(
        default=None,
        min_length=3,
        max_length=63,
        description="sign-state registers, written several times a block: unversioned, without locks; None: `bucket`",
    )
    account: str | None = Field(
        default=None, pattern=r"^[0-9]{12}$", description="whose the bucket has to be; None: not asked"
    )
    cloud_region: str
    credentials: SecretRef | None = Field(
        default=None, description="JSON {access_key, secret_key}; None: the cloud's own chain"
    )
    object_lock_days: int = Field(default=0, ge=0, description="0: off")
    storage_class: Literal["STANDARD", "STANDARD_IA", "GLACIER_IR"] = "STANDARD"


class Hsm(Frozen):
    """A PKCS#11 token."""

    module: Path
    token_label: str
    pin: SecretRef
    config: Path | None = Field(default=None, description="SOFTHSM2_CONF, for SoftHSM only")


class Region(Frozen):
    cloud_region: str
    role: Literal["primary", "secondary", "tertiary"]
    priority: int = Field(ge=1)
    workload_pct: int = Field(ge=0, le=100)
    work_pool: str
    zones: tuple[ZoneName, ...] = Field(min_length=MIN_ZONES_PER_REGION)
    store: StoreConfig
    hsm: Hsm | None = None


class Node(Frozen):
    """A chain node: its place, its part, where it answers and where its files are on its host."""

    name: NodeName
    region: RegionName
    zone: ZoneName
    role: Role
    rpc: str = Field(pattern=r"^https?://")
    p2p: str = Field(pattern=r"^[^/]+:\d+$")
    home: Path
    unit: str
    power: int = Field(default=0, ge=0, description="voting power in genesis; 0 for nodes that don't validate")
    address: str = Field(default="", pattern=r"^([0-9A-F]{40})?$", description="consensus address of a validator")

    @property
    def is_validator(self) -> bool:
        return self.role == "validator"

    @model_validator(mode="after")
    def _power_fits_role(self) -> Self:
        if self.is_validator != bool(self.power) or self.is_validator != bool(self.address):
            raise ValueError(f"node {self.name}: validators, and only they, have power and address")
        return self


class Provider(Frozen):
    """A provider daemon.  Its events are numbered `height * sequences_per_block + index in the block`."""

    name: NodeName
    region: RegionName
    zone: ZoneName
    home: Path
    unit: str
    url: str = Field(pattern=r"^https?://")
    sequences_per_block: int = Field(default=1000, ge=1)
    reserve: bool = Field(default=False, description="stopped until a failover gives it another's state")


class Gateway(Frozen):
    """A region's API gateway, as users reach it."""

    name: NodeName
    region: RegionName
    zone: ZoneName
    unit: str
    url: str = Field(pattern=r"^https?://")
    reserve: bool = Field(default=False, description="stopped until a failover needs it")


class RemoteSigner(Frozen):
    """A host where `vedr signer` may use a validator's key, from an HSM replica, for the node that listens for it.

    Of a validator's signers one is at home, with the validator's own node; the others stand by.  Which of them holds
    the key is in the registers, not here.
    """

    name: NodeName = Field(description="as the registers show the holder")
    validator: NodeName
    node: NodeName = Field(description="the node that it signs for")
    unit: str
    listen: str = Field(pattern=r"^(unix|tcp)://.+$", description="the node's priv_validator_laddr while it signs")


class Dns(Frozen):
    """The zone that users resolve; `key` signs dynamic updates (RFC 2136)."""

    server: str
    port: int = Field(default=53, ge=1, le=65535)
    zone: str
    ttl_s: int = Field(default=60, ge=1)
    key: SecretRef | None = None


class Orchestrator(Frozen):
    """Where Prefect is.  Runbooks also run when it isn't there."""

    api_url: str = Field(pattern=r"^https?://")
    ui_url: str = Field(pattern=r"^https?://")


class ConfigRepository(Frozen):
    """The git repository that hourly configuration backups are committed to."""

    path: Path


class Site(Frozen):
    """One deployment of the fleet."""

    version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    kind: Literal["lab", "staging", "production"]
    work_dir: Path
    chain: Chain
    signing: Signing
    encryption: Encryption = Encryption()
    regions: dict[RegionName, Region]
    nodes: tuple[Node, ...]
    providers: tuple[Provider, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    signers: tuple[RemoteSigner, ...] = ()
    key_files: tuple[KeyFile, ...] = ()
    fleet: Fleet
    dns: Dns | None = None
    orchestrator: Orchestrator
    config_repository: ConfigRepository
    targets: TargetOverrides = TargetOverrides()
    retention: Retention = Retention()
    schedule: Schedule = Schedule()
    custody: Custody = Custody()
    notifications: Notifications = Notifications()
    continuity: Continuity = Continuity()
    checks: Checks = Checks()
    traffic: Traffic = Traffic()
    approval: Approval = Approval()
    controller: ControllerPolicy = ControllerPolicy()
    drills: Drills = Drills()

    def node(self, name: str) -> Node:
        """The node of that name, or NotFoundError listing those that exist."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise NotFoundError(
            f"site {self.name} has no node {name!r}", remedy=f"Choose one of: {', '.join(n.name for n in self.nodes)}."
        )

    def signers_of(self, validator: str) -> tuple[RemoteSigner, ...]:
        """The validator's remote signers, the one at home first; empty when it signs from a key file."""
        found = (signer for signer in self.signers if signer.validator == validator)
        return tuple(sorted(found, key=lambda signer: signer.node != validator))

    def key_file_of(self, validator: str) -> KeyFile | None:
        """Where the validator's key file may be; None when it may not be moved, or it signs remotely."""
        return next((one for one in self.key_files if one.validator == validator), None)

    def region(self, name: str) -> Region:
        """The region of that name, or NotFoundError listing those that exist."""
        if name not in self.regions:
            raise NotFoundError(
                f"site {self.name} has no region {name!r}", remedy=f"Choose one of: {', '.join(self.regions)}."
            )
        return self.regions[name]

    def nodes_in(self, region: str, *roles: Role) -> tuple[Node, ...]:
        """The region's nodes, in the file's order; all roles when none is named."""
        return tuple(n for n in self.nodes if n.region == region and (not roles or n.role in roles))

    @property
    def regions_by_priority(self) -> tuple[str, ...]:
        return tuple(sorted(self.regions, key=lambda name: self.regions[name].priority))

    @property
    def placed(self) -> tuple[Node | Provider | Gateway, ...]:
        """Everything that stands in a zone."""
        placed: list[Node | Provider | Gateway] = [*self.nodes, *self.providers, *self.gateways]
        return tuple(placed)

    @property
    def total_power(self) -> int:
        return sum(n.power for n in self.nodes)

    @model_validator(mode="after")
    def _topology_holds(self) -> Self:
        problems = [*_duplicates(self), *_misplaced(self), *_too_thin(self), *_short_locks(self), *_stray_signers(self)]
        problems += [*self.fleet.problems(_units(self)), *_stray_key_files(self), *_shared_buckets(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _units(site: Site) -> list[tuple[str, str, str]]:
    """Name, unit and zone of all that is started and stopped; a signer stands on its node's host."""
    zones = {node.name: node.zone for node in site.nodes}
    placed = [(thing.name, thing.unit, thing.zone) for thing in site.placed]
    return placed + [(one.name, one.unit, zones[one.node]) for one in site.signers if one.node in zones]


def _duplicates(site: Site) -> list[str]:
    units = Counter(thing.name for thing in site.placed)
    homes: Counter[str] = Counter()
    if site.kind == "lab":  # all on one machine; elsewhere every host has its own
        homes.update([*(str(node.home) for node in site.nodes), *(str(provider.home) for provider in site.providers)])
    pools = Counter(region.work_pool for region in site.regions.values())
    priorities = Counter(str(region.priority) for region in site.regions.values())
    keys = Counter(node.address for node in site.nodes if node.is_validator)  # each is fenced on its own hosts only
    return [
        f"{what} {value!r} is used {count} times: make it unique"
        for what, counter in (
            ("name", units), ("home", homes), ("work_pool", pools), ("priority", priorities), ("address", keys),
        )
        for value, count in counter.items()
        if count > 1
    ]  # fmt: skip


def _shared_buckets(site: Site) -> list[str]:
    """One that two regions name would count as two copies of a backup, and twice in a majority of the registers."""
    stores = [region.store for region in site.regions.values()]
    backups = Counter((store.endpoint, store.bucket) for store in stores)
    registers = Counter((store.endpoint, store.register_bucket or store.bucket) for store in stores)
    return [
        f"{what} {bucket!r} is used by {count} regions: give each its own"
        for what, counter in (("bucket for backups", backups), ("bucket for registers", registers))
        for (_, bucket), count in counter.items()
        if count > 1
    ]


def _misplaced(site: Site) -> list[str]:
    problems = []
    for thing in site.placed:
        if thing.region not in site.regions:
            problems.append(f"{thing.name} is in region {thing.region!r}, which [regions] does not have")
        elif thing.zone not in site.regions[thing.region].zones:
            problems.append(f"{thing.name} is in zone {thing.zone!r}, which region {thing.region} does not have")
    return problems


def _too_thin(site: Site) -> list[str]:
    problems = []
    if len(site.regions) < MIN_BACKUP_REGIONS:
        problems.append(
            f"{len(site.regions)} regions, but backups need {MIN_BACKUP_REGIONS}: add a region with a store"
        )
    for name in site.regions:
        keepers = site.nodes_in(name, "full", "archive")
        if len(keepers) < MIN_FULL_NODES_PER_REGION:
            problems.append(f"region {name} has {len(keepers)} full nodes, needs {MIN_FULL_NODES_PER_REGION} or more")
        if not site.nodes_in(name, "archive"):
            problems.append(f'region {name} has no archive node: give one node role = "archive"')
    return problems


def _short_locks(site: Site) -> list[str]:
    """A lock must outlast the last snapshot that needs the object: docs/formats/store.md."""
    needed = site.retention.chain_state_days + site.retention.epoch_days + OBJECT_LOCK_MARGIN_DAYS
    return [
        f"region {name}: object_lock_days = {days} ends before the last snapshot that needs the object: set {needed} "
        "(chain_state_days + epoch_days + 2) or more, or 0 for none"
        for name, days in ((name, region.store.object_lock_days) for name, region in site.regions.items())
        if 0 < days < needed
    ]


def _stray_signers(site: Site) -> list[str]:
    """Every remotely signing validator has one signer at home; the others stand by at full nodes."""
    problems = []
    roles = {node.name: node.role for node in site.nodes}
    for signer in site.signers:
        if roles.get(signer.validator) != "validator":
            problems.append(f"signer {signer.name}: {signer.validator!r} is no validator of this site")
        elif roles.get(signer.node) is None or (roles[signer.node] == "validator" and signer.node != signer.validator):
            problems.append(f"signer {signer.name} serves {signer.node!r}: name the validator itself, or a full node")
    homes = {signer.validator for signer in site.signers if signer.node == signer.validator}
    problems += [
        f"validator {validator} has standby signers, but none at home: add one with node = validator"
        for validator in sorted({signer.validator for signer in site.signers} - homes)
    ]
    pairs = Counter(f"{signer.validator} at {signer.node}" for signer in site.signers)
    names = Counter(signer.name for signer in site.signers)
    problems += [f"{count} signers are {what!r}: keep one" for what, count in (pairs + names).items() if count > 1]
    return problems


def _stray_key_files(site: Site) -> list[str]:
    """A host holds one key at most, so that what signs there is never in doubt."""
    roles: dict[str, str] = {node.name: node.role for node in site.nodes}
    remote = {signer.validator for signer in site.signers}
    problems = [problem for one in site.key_files for problem in one.problems(roles, set(site.fleet.instances), remote)]
    hosts = Counter(host for one in site.key_files for host in one.every_host)
    return problems + [
        f"{host} is a host of {count} key files: give each its own" for host, count in hosts.items() if count > 1
    ]


def sites_directories() -> tuple[Path, ...]:
    """Where site files are looked for: `$VEDR_SITES` (colon-separated), running labs, then deployments/sites."""
    configured = [Path(p) for p in os.environ.get(SITES_ENV, "").split(":") if p]
    return (*configured, labs_directory(), Path("deployments/sites"))


def labs_directory() -> Path:
    """Where labs keep their state, one folder a lab: `$VEDR_LABS`, else the XDG state folder."""
    if folder := os.environ.get("VEDR_LABS"):
        return Path(folder)
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "vedr" / "labs"


def load_site(name_or_path: str | None = None) -> Site:
    """Read a site by name (`lab`) or by path (`…/x.toml`); default `$VEDR_SITE`, else `lab`.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: not TOML, or a rule is broken; every problem with its line.
    """
    path = find_site(name_or_path or os.environ.get(SITE_ENV) or "lab")
    return parse_site(path.read_text(encoding="utf-8"), source=str(path))


def find_site(name_or_path: str) -> Path:
    """The site's file; NotFoundError names every place that was searched."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        candidates = [Path(name_or_path)]
    else:
        candidates = [
            candidate
            for folder in sites_directories()
            for candidate in (folder / f"{name_or_path}.toml", folder / name_or_path / "site.toml")
        ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    searched = ", ".join(str(c) for c in candidates)
    raise NotFoundError(
        f"no site {name_or_path!r}: looked for {searched}", remedy="Start the lab with `make up`, or set VEDR_SITES."
    )


def parse_site(text: str, *, source: str) -> Site:
    """Bytes in, verified site out; `source` is only for messages."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(
            f"{source}: not TOML: {error}", remedy="Correct the line that the message names."
        ) from error
    if "template" in raw:
        raise NotFoundError(
            f"{source} is the lab's template, and no lab of that name is running", remedy="Start it: make up."
        )
    try:
        return Site.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{source}:{line_of(text, where)}: {'.'.join(where) or 'site'}: {message.removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False, include_url=False)
            for where, message in [(tuple(str(part) for part in problem["loc"]), problem["msg"])]
        ]
        raise InvalidInputError("\n".join(problems), remedy="Correct these lines of the site file.") from None
