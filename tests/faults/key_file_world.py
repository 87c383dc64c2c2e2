"""As failover_world, with a validator whose key is a real file on real disks: what may sign is what those disks allow.

Real besides: the promotion with its fences, sign-states and disks; the key's sealed backup and the escrow that opens
it.  Made up: the chain, whose blocks a host signs while it runs with the validator's key and an open signer disk,
raising its own sign-state as it does.  `signed` tells which host signed which heights, so that two of them show.
"""

import base64
import datetime as dt
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import failover_world
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from failover_world import FIRST_BLOCK, MadeUpNode, World, _put

from vedr.adapters.secrets_memory import MemoryVault
from vedr.adapters.site import OpenSite, utc_now
from vedr.chain.block import Flag
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state, write_sign_state
from vedr.custody import envelope_slots, key_backup_store
from vedr.custody.escrow import Escrow
from vedr.custody.key_backup import make_bundle
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_material import VALIDATOR_FILE, read_key_file
from vedr.errors import UnavailableError
from vedr.failover.key_disk import address_on
from vedr.inventory import Height, Node, Site
from vedr.ports import UnitStatus
from vedr.runbook.journal import Journal

VALIDATOR: Final = "validator-eu-west-1"
STANDBY: Final = "fullnode-ap-south-0"
ZONE: Final = "eu-west-1b"
BLOCKS_PER_S: Final = 15  # on a busy machine, nodes that are asked one after the other still agree
PASSPHRASE: Final = b"a passphrase of the escrow, which every process of these tests knows"
REGIONS: Final = ("us-east", "eu-west", "ap-south")
GONE: Final = (Flag.ABSENT, b"")
_SIGNED: Final[dict[Path, tuple[int, list[tuple[int, int, str]]]]] = {}  # what this process has read of it


def key_document(name: str) -> bytes:
    """The key file of that name, as CometBFT has it."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    public = private.public_key().public_bytes_raw()
    both = private.private_bytes_raw() + public
    return json.dumps(
        {
            "address": hashlib.sha256(public).digest()[:20].hex().upper(),
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(public).decode()},
            "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": base64.b64encode(both).decode()},
        }
    ).encode()


def paper_site() -> Site:
    """The lab's, with a quicker chain."""
    paper = failover_world.paper_site()
    return paper.model_copy(update={"chain": paper.chain.model_copy(update={"block_time_s": 1 / BLOCKS_PER_S})})


def quick_derivation() -> None:
    """Argon2id's cost is the envelope's promise (tests/unit/custody); here it would only be waited for."""
    vars(envelope_slots)["_derived"] = lambda passphrase, slot: hashlib.blake2b(
        passphrase, digest_size=32, salt=slot.salt
    ).digest()


@dataclass(frozen=True)
class KeyWorld(World):
    """All of it, below one folder."""

    def make(self) -> None:
        """Everything at home and at work, each node with a key of its own."""
        super().make()
        for node in self.site.nodes:
            (node.home / "data").mkdir()
            config = node.home / "config"
            with (config / "config.toml").open("a") as file:
                file.write("double_sign_check_height = 0\n")
            (config / "priv_validator_key.json").write_bytes(key_document(node.name))
            (config / "priv_validator_key.json").chmod(0o600)
            write_sign_state(node.home / "data" / FILE_NAME, SignState(Height(0), 0, 0))
        self.advance()

    # --- keys

    def repository(self, stores: Mapping[str, Any], journal: Journal) -> KeyRepository:
        vault = MemoryVault(*REGIONS)
        vault.create(f"{self.site.custody.escrow.prefix}-validator/0001", PASSPHRASE)
        recovery = self.site.custody.recovery_public_key
        return KeyRepository(
            stores=stores, signer=journal.signer, trusted=tuple(journal.trusted),
            escrow=Escrow(vault, self.site.custody.escrow.prefix),
            recovery_public_key=bytes.fromhex(recovery or ""), chain_id=self.site.chain.chain_id,
            retention=self.site.retention, clock=utc_now,
        )  # fmt: skip

    def back_up(self, stores: Mapping[str, Any], journal: Journal) -> None:
        """As key-backup does, of the validator's key."""
        content = key_document(VALIDATOR)
        bundle = make_bundle(
            "validator",
            VALIDATOR,
            self.site.chain.chain_id,
            [read_key_file("validator", VALIDATOR_FILE, content, what=VALIDATOR)],
        )
        key_backup_store.store_bundle(self.repository(stores, journal), "eu-west", bundle, previous=None, since={})

    # --- the chain

    def advance(self) -> int:
        """Make the blocks that are due, signed by every host that can; the height."""
        with self.locked("chain"):
            path = self.state / "height"
            last = int(path.read_text()) if path.exists() else FIRST_BLOCK
            halted = (self.state / "halted").exists() and self.site.node(STANDBY) not in self.able()
            now = last if halted else self._due()
            if now > last:
                for node in self.able():
                    self._sign(node, last + 1, now)
                _put(path, str(now).encode())
            return max(now, last)

    def _due(self) -> int:
        age_s = time.time() - float((self.state / "began").read_text())
        return FIRST_BLOCK + int(age_s * BLOCKS_PER_S)

    def able(self) -> list[Node]:
        """Hosts that sign with the validator's key: running, with its key, and a signer disk under its own name."""
        address = self.site.node(VALIDATOR).address
        hosts = [self.site.node(name) for name in (VALIDATOR, STANDBY)]
        return [
            node
            for node in hosts
            if self.unit(node.unit) == "running"
            and not self.is_dark(node.zone)
            and (node.home / "data" / FILE_NAME).exists()
            and address_on(node.home) == address
        ]

    def _sign(self, node: Node, first: int, last: int) -> None:
        own = read_sign_state(node.home / "data" / FILE_NAME)
        first = max(first, own.height + 1)
        if first <= last:
            write_sign_state(node.home / "data" / FILE_NAME, SignState(Height(last), 0, 3))
            with (self.state / "signed").open("a") as file:
                file.write(f"{first} {last} {node.name}\n")

    def signed(self) -> list[tuple[int, int, str]]:
        """First and last height, and the host; spans that follow one another are one."""
        path = self.state / "signed"
        text = path.read_text() if path.exists() else ""
        length, spans = _SIGNED.get(path, (0, []))
        for first, last, host in (line.split() for line in text[length:].splitlines()):
            if spans and spans[-1][2] == host and spans[-1][1] + 1 == int(first):
                first = str(spans.pop()[0])  # noqa: PLW2901 (it goes on)
            spans.append((int(first), int(last), host))
        _SIGNED[path] = (len(text), spans)
        return spans

    def signers_of_height(self, height: int) -> list[str]:
        return [host for first, last, host in self.signed() if first <= height <= last]

    # --- units

    def is_dark(self, zone: str) -> bool:
        """Its hosts answer nobody."""
        return (self.state / f"dark-{zone}").exists() or self.is_lost(zone[:-3])

    def darken(self, zone: str, *, dead: bool) -> None:
        """Kill a zone, or cut it off alive."""
        self.advance()
        (self.state / f"dark-{zone}").touch()
        if dead:
            (self.state / f"dead-{zone}").touch()

    def set_unit(self, name: str, state: str) -> None:
        self.advance()  # by those who can sign until now
        super().set_unit(name, state)

    def _check(self, zone: str) -> None:
        if self.is_dark(zone):
            raise UnavailableError(f"the agent of {zone} does not answer", remedy="Wait.")

    def status(self, unit: str, zone: str) -> Any:
        self._check(zone)
        return self._status(unit)

    def _act(self, unit: str, zone: str, state: str) -> Any:
        self._check(zone)
        super()._act(unit, zone, state)
        return self._status(unit)

    def _status(self, unit: str) -> UnitStatus:
        state = self.unit(unit)
        running = state == "running"
        desired = "running" if running else "stopped"
        at = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
        return UnitStatus(unit, "running" if running else "stopped", 7 if running else None, at, None, desired)

    def opened(self, stores: Mapping[str, Any], journal: Any) -> OpenSite:
        made = super().opened(stores, journal)
        vars(made)["keys"] = self.repository(stores, journal)
        made.rpc = lambda node, **_: KeyNode(self, node)  # type: ignore[method-assign,assignment]
        return made


class KeyNode(MadeUpNode):
    """A node of that chain."""

    _world: KeyWorld

    def status(self) -> Any:
        world, node = self._world, self._node
        if world.unit(node.unit) != "running" or world.is_dark(node.zone) or not (node.home / "data").exists():
            raise UnavailableError(f"{self.name} is silent", remedy="Wait.")
        height = world.advance()
        return SimpleNamespace(
            chain_id=world.site.chain.chain_id, latest_height=height, catching_up=False, node_id=self.name,
            latest_block_hash=hashlib.sha256(f"block {height}".encode()).digest(), validator_address=b"",
        )  # fmt: skip

    def commit(self, height: int) -> Any:
        signatures = []
        for node in self._world.site.nodes:
            if node.is_validator:
                flag, address = (Flag.COMMIT, bytes.fromhex(node.address)) if self._took_part(node, height) else GONE
                signatures.append(SimpleNamespace(flag=flag, address=address))
        header = SimpleNamespace(app_hash=hashlib.sha256(f"app {height}".encode()).digest(), height=height)
        return SimpleNamespace(header=header, commit=SimpleNamespace(signatures=signatures, height=height, round=0))

    def _took_part(self, validator: Node, height: int) -> bool:
        if validator.name == VALIDATOR:
            return bool(self._world.signers_of_height(height))
        return self._world.unit(validator.unit) == "running" and not self._world.is_dark(validator.zone)

    def net_info(self) -> Any:
        """Nodes that run where nothing is dark; and one whose connection outlived the rule against it."""
        world = self._world
        nodes = [
            node
            for node in world.site.nodes
            if (world.state / f"peer-{node.name}").exists()
            or (world.unit(node.unit) == "running" and not world.is_dark(node.zone))
        ]
        return SimpleNamespace(peers=[SimpleNamespace(moniker=node.name) for node in nodes])

    def consensus_state(self) -> Any:
        self.status()
        return SimpleNamespace(votes_of=lambda _: (), votes=())

    def block(self, height: int) -> Any:
        """With evidence when two hosts signed it."""
        if len(set(self._world.signers_of_height(height))) < 2:
            return super().block(height)
        address = bytes.fromhex(self._world.site.node(VALIDATOR).address)
        evidence = SimpleNamespace(addresses=(address,), kind="two votes", height=height)
        return SimpleNamespace(evidence=(evidence,))
