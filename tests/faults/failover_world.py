"""A site in files, which outlives the processes of the runs that act on it: units, registers, users' names, a chain.

Real: the flows and their steps, the ledger with its leases, appointments, how a signer begins, planning and steering of
traffic, the nodes' configuration files.  In files instead of servers: hosts' units, the regions' registers, what users
are sent to.  Made up: the chain, which makes five blocks a second, signed by whoever holds a key and runs.  Providers
are left out.  `effects` has everything that was changed, in order; what was so already changes nothing.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.site import OpenSite, utc_now
from vedr.adapters.traffic_memory import MemoryTraffic
from vedr.chain.appointment import appointed
from vedr.chain.block import Flag, ValidatorSet
from vedr.chain.block import Validator as ChainValidator
from vedr.chain.node_config import set_signer_address, signer_address
from vedr.chain.register import NEVER_SIGNED, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import ConflictError, UnavailableError
from vedr.failover.traffic import Change, Guard, Share
from vedr.failover.traffic_steering import Proof, Steering
from vedr.inventory import Gateway, Node, RemoteSigner, Site, parse_site
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, Settings
from vedr.lab.site_file import _document
from vedr.lab.template import load_template
from vedr.ports import ObjectKey, Tagged
from vedr.signer.tenure import Terms, begin, holder_of, terms_when_appointed

TEMPLATE: Final = Path(__file__).parents[2] / "deployments" / "sites" / "lab.toml"
LOST: Final = "us-east"
BLOCKS_PER_S: Final = 5  # nodes asked two seconds apart, on a busy machine, still count as level
FIRST_BLOCK: Final = 100
_NAMES: Final = TypeAdapter(dict[str, Share])

Point = Callable[[], None]


def key_of(name: str) -> bytes:
    """A validator's public key; its private one is the hash of its name."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return private.public_key().public_bytes_raw()


def paper_site() -> Site:
    """The lab's, without providers; its homes are given to it by `World`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "genesis.json").write_text("{}")
        made = Plan(Settings("lab", "10.77", 4200, "namespaces", folder, folder, folder), load_template(TEMPLATE))
        LabSecrets(folder).create_missing(made)
        addresses = {
            node.name: hashlib.sha256(key_of(node.name)).digest()[:20].hex().upper()
            for node in made.nodes
            if node.role == "validator"
        }
        site = parse_site(tomli_w.dumps(_document(made, addresses)), source="lab.toml")
    return site.model_copy(
        update={
            "providers": (),
            "traffic": site.traffic.model_copy(update={"failover_ttl_s": 1, "ttl_s": 1}),
            "chain": site.chain.model_copy(update={"block_time_s": 1 / BLOCKS_PER_S}),
        }
    )


class FileRegisters(MemoryRegisters):
    """A region's registers in a folder; those of the lost region are silent."""

    def __init__(self, world: "World", region: str, point: Point) -> None:
        super().__init__(region)
        self._world, self._point = world, point
        self._folder = world.state / "registers" / region
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, key: ObjectKey) -> Tagged | None:
        self._world.check_region(self.region)
        with self._world.locked(f"register-{self.region}"):
            path = self._folder / key.replace("/", "%")
            return Tagged(path.read_bytes(), _tag(path.read_bytes())) if path.exists() else None

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        self._world.check_region(self.region)
        self._point()
        with self._world.locked(f"register-{self.region}"):
            path = self._folder / key.replace("/", "%")
            if (_tag(path.read_bytes()) if path.exists() else None) != expected:
                raise ConflictError(f"{key} is not what it was", remedy="Read it again.")
            _put(path, data)
        self._point()
        return _tag(data)


class FileTraffic(MemoryTraffic):
    """What users are sent to, in a file."""

    def __init__(self, world: "World", point: Point) -> None:
        super().__init__(world.site, name="dns")
        self._world, self._point, self._path = world, point, world.state / "traffic.json"
        self._load()

    def picture(self) -> Any:
        self._load()
        return super().picture()

    def answers(self, names: Any) -> Any:
        self._load()
        return super().answers(names)

    def shift(self, change: Change) -> bool:
        self._point()
        with self._world.locked("traffic"):
            if done := super().shift(change):
                guard = [change.guard.epoch, change.guard.plan]
                served = _NAMES.dump_python(self.served.names, mode="json")
                _put(self._path, json.dumps([served, guard]).encode())
                self._world.effect(f"traffic {change.guard.plan}")
        self._point()
        return done

    def _load(self) -> None:
        if self._path.exists():
            names, guard = json.loads(self._path.read_text())
            self.served.names, self.served.guard = _NAMES.validate_python(names), Guard(*guard)


@dataclass(frozen=True)
class World:
    """All of it, below one folder."""

    state: Path
    paper: Site
    point: Point = lambda: None

    # --- making it

    def make(self) -> None:
        """Everything at home and at work."""
        (self.state / "began").write_text(str(time.time()))
        for node in self.site.nodes:
            (node.home / "config").mkdir(parents=True)
            (node.home / "config" / "config.toml").write_text('priv_validator_laddr = ""\n')
        with self.quiet() as world:
            for validator in self.site.nodes:
                for signer in self.site.signers_of(validator.name)[:1]:
                    set_signer_address(validator.home, signer.listen)
                    SignStateRegister(world.registers(), self.subject(signer)).found(NEVER_SIGNED)
                    world.set_unit(signer.unit, "running")
            for thing in (*self.site.nodes, *(one for one in self.site.gateways if not one.reserve)):
                world.set_unit(thing.unit, "running")
        (self.state / "effects").unlink(missing_ok=True)

    def lose(self) -> None:
        """The region, with its hosts and its store."""
        (self.state / "lost").touch()

    def find_again(self) -> None:
        """Its hosts come back; signers whose key went elsewhere end by themselves."""
        (self.state / "lost").unlink()
        for signer in self.site.signers:
            if self.site.node(signer.node).region == LOST and self.site.node(signer.node).is_validator:
                _put(self.state / "units" / signer.unit, b"failed")

    # --- parts

    @functools.cached_property
    def site(self) -> Site:
        homes = {node.name: self.state / "nodes" / node.name for node in self.paper.nodes}
        nodes = tuple(node.model_copy(update={"home": homes[node.name]}) for node in self.paper.nodes)
        return self.paper.model_copy(update={"nodes": nodes})

    def registers(self) -> dict[str, FileRegisters]:
        return {region: FileRegisters(self, region, self.point) for region in self.site.regions_by_priority}

    @contextlib.contextmanager
    def quiet(self) -> Iterator["World"]:
        """The same world, acted on by others than the run: nobody is killed there."""
        yield World(self.state, self.paper)

    def subject(self, signer: RemoteSigner) -> Validator:
        return Validator(self.site.chain.chain_id, self.site.node(signer.validator).address)

    def effect(self, what: str) -> None:
        handle = os.open(self.state / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{what}\n".encode())
        os.close(handle)

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Between processes and threads; a killed process lets go."""
        handle = os.open(self.state / f".{what}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def is_lost(self, region: str) -> bool:
        return region == LOST and (self.state / "lost").exists()

    def check_region(self, region: str) -> None:
        if self.is_lost(region):
            raise UnavailableError(f"{region} does not answer", remedy="Wait.")

    # --- units

    def unit(self, name: str) -> str:
        path = self.state / "units" / name
        return path.read_text() if path.exists() else "stopped"

    def set_unit(self, name: str, state: str) -> None:
        """What changes is an effect; a node remembers the signer it was started for, and signers begin by that."""
        with self.locked("units"):
            if self.unit(name) == state:
                return
            for node in self.site.nodes:
                if node.unit == name:
                    (self.state / "units").mkdir(exist_ok=True)
                    _put(self.state / "units" / f".{name}-waits", signer_address(node.home).encode())
            (self.state / "units").mkdir(exist_ok=True)
            _put(self.state / "units" / name, state.encode())
            self.effect(f"{name} {state}")
            with self.quiet() as world:
                for signer in self.site.signers:
                    if self.unit(signer.unit) == "running":
                        world.let_begin(signer)

    def waits_for(self, node: Node) -> str:
        """The signer's address with which it was started; "" for one that does not run."""
        path = self.state / "units" / f".{node.unit}-waits"
        is_up = self.unit(node.unit) == "running" and not self.is_lost(node.region)
        return path.read_text() if is_up and path.exists() else ""

    def let_begin(self, signer: RemoteSigner) -> None:
        """A signer that runs takes the key over when its node asks it, as its unit does."""
        node = self.site.node(signer.node)
        if self.unit(signer.unit) != "running" or self.waits_for(node) != signer.listen:
            return
        register = SignStateRegister(self.registers(), self.subject(signer))
        newest = register.glance().newest
        order = appointed(self.registers(), self.subject(signer))
        if newest is None or newest.is_held_by(signer.name) or (order and order.name != signer.name):
            return
        terms = terms_when_appointed(Terms(signer.name, take_over=False, planned=False, watch_s=0), order)
        begin(register, terms, holder=holder_of(signer.name, 1), own=None).holding.close()
        self.effect(f"{signer.name} takes over")

    # --- the ports

    def status(self, unit: str, zone: str) -> Any:
        self.check_region(zone[:-3])
        return SimpleNamespace(state=self.unit(unit))

    def start(self, unit: str, zone: str) -> Any:
        return self._act(unit, zone, "running")

    def stop(self, unit: str, zone: str) -> Any:
        return self._act(unit, zone, "stopped")

    def kill(self, unit: str, zone: str) -> Any:
        return self._act(unit, zone, "stopped")

    def _act(self, unit: str, zone: str, state: str) -> Any:
        self.check_region(zone[:-3])
        self.point()
        self.set_unit(unit, state)
        self.point()
        return SimpleNamespace(state=state)

    def probe(self, gateways: Sequence[Gateway]) -> tuple[Proof, ...]:
        return tuple(
            Proof(one.name, utc_now(), "" if self.unit(one.unit) == "running" and not self.is_lost(one.region) else "x")
            for one in gateways
        )

    def answers_http(self, url: str, *, healthy: bool) -> bool:
        del healthy
        return any(url.startswith(one.url) and not self.probe([one])[0].problem for one in self.site.gateways)

    def opened(self, stores: Mapping[str, Any], journal: Any) -> OpenSite:
        """The site with these parts."""
        made = OpenSite(self.site)
        fleet = SimpleNamespace(status=self.status, start=self.start, stop=self.stop, kill=self.kill)
        steering = Steering(self.site, (FileTraffic(self, self.point),), self, utc_now)
        parts = {"stores": stores, "journal": journal, "registers": self.registers(), "fleet": fleet, "channels": ()}
        vars(made).update({**parts, "traffic": steering})
        made.rpc = lambda node, **_: MadeUpNode(self, node)  # type: ignore[method-assign,assignment]
        made.light_client = lambda **_: SimpleNamespace(  # type: ignore[method-assign]
            verified_header=lambda height: SimpleNamespace(
                app_hash=_hash("app", height).hex().upper(), hash=_hash("block", height).hex().upper()
            )
        )
        return made


class MadeUpNode:
    """A node of a chain whose blocks are made up."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node, self.name = world, node, node.name

    def status(self) -> Any:
        if self._world.unit(self._node.unit) != "running" or self._world.is_lost(self._node.region):
            raise UnavailableError(f"{self.name} is silent", remedy="Wait.")
        age_s = time.time() - float((self._world.state / "began").read_text())
        height = FIRST_BLOCK + int(age_s * BLOCKS_PER_S)
        return SimpleNamespace(
            chain_id=self._world.site.chain.chain_id, latest_height=height, catching_up=False,
            latest_block_hash=_hash("block", height),
        )  # fmt: skip

    def validators(self, height: int) -> ValidatorSet:
        del height
        nodes = [node for node in self._world.site.nodes if node.is_validator]
        return ValidatorSet(tuple(ChainValidator(key_of(node.name), 10) for node in nodes))

    def commit(self, height: int) -> Any:
        """By whoever is at work now."""
        world, signatures = self._world, []
        for node in world.site.nodes:
            if node.is_validator:
                at_work = self._signs(node)
                flag, address = (Flag.COMMIT, bytes.fromhex(node.address)) if at_work else (Flag.ABSENT, b"")
                signatures.append(SimpleNamespace(flag=flag, address=address))
        header = SimpleNamespace(app_hash=_hash("app", height), height=height)
        return SimpleNamespace(header=header, commit=SimpleNamespace(signatures=signatures))

    def _signs(self, validator: Node) -> bool:
        world, signers = self._world, self._world.site.signers_of(validator.name)
        if not signers:
            return world.unit(validator.unit) == "running" and not world.is_lost(validator.region)
        newest = SignStateRegister(world.registers(), world.subject(signers[0])).glance().newest
        holder = next((one for one in signers if newest and newest.is_held_by(one.name)), signers[0])
        is_up = world.unit(holder.unit) == "running"
        return is_up and world.waits_for(world.site.node(holder.node)) == holder.listen

    def block(self, height: int) -> Any:
        del height
        return SimpleNamespace(evidence=())

    def net_info(self) -> Any:
        others = [node for node in self._world.site.nodes if not self._world.is_lost(node.region)]
        return SimpleNamespace(peers=[SimpleNamespace(moniker=node.name) for node in others])


def _hash(what: str, height: int) -> bytes:
    return hashlib.sha256(f"{what} {height}".encode()).digest()


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.rename(path)
