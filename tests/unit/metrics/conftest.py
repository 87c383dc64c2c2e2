"""A whole site in memory: made nodes, registers, buckets with snapshots, a ledger; each part breaks at will."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from beside import beside
from held_registers import all_agree

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.backup.layout import Kind, Source
from vedr.backup.repository import Repository
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.chain.register import NEVER_SIGNED, Position, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.rpc import ChainRpc
from vedr.custody.escrow import Epoch
from vedr.custody.key_material import KeyKind
from vedr.failover.key_holders import KeyHolders
from vedr.inventory import Height, Node, Site
from vedr.readiness.ports import Ports
from vedr.reports.metrics import Sample
from vedr.runbook.journal import Journal

UNIT = Path(__file__).parents[1]
chainmaker = beside("chainmaker", UNIT / "chain" / "chainmaker.py")
topology_world = beside("topology_world", UNIT / "readiness" / "topology_world.py")
beside("ledger_world", UNIT / "runbook" / "world.py")
beside("report_world", UNIT / "reports" / "report_world.py")

LENGTH = 12
FIVE = dict.fromkeys(range(1, 6), 10)
CHAIN = chainmaker.make_chain(LENGTH, lambda _height: FIVE)
TIP_S = CHAIN[LENGTH].header.time_ns / 10**9
PROVIDER = {
    "name": "provider-0", "region": "us-east", "zone": "us-east-1a", "home": "/p", "unit": "p", "url": "http://p",
}  # fmt: skip


@dataclass
class Fleet:
    """A site's parts; `clock` moves all of them."""

    site: Site
    nodes: dict[str, Any]
    registers: dict[str, MemoryRegisters]
    world: Any
    journals: list[Journal] = field(default_factory=list)
    passphrases: Mapping[KeyKind, dt.datetime] = field(default_factory=dict)

    # --- vedr.readiness.ports.OpenedSite

    @property
    def stores(self) -> Any:
        return self.world.stores

    @property
    def repository(self) -> Repository:
        return cast("Repository", self.world.repository)

    @property
    def keys(self) -> Any:
        raise AssertionError("no key is asked for here")

    @property
    def journal(self) -> Journal:
        if not self.journals:
            signer = self.repository.signer
            self.journals.append(
                Journal(self.stores, site="test", signer=signer, trusted=[signer.public_hex], clock=self.world.clock)
            )
        return self.journals[0]

    @property
    def key_holders(self) -> KeyHolders:
        return KeyHolders((), self.journal)

    def rpc(self, node: Node) -> ChainRpc:
        return cast("ChainRpc", self.nodes[node.name])

    def witnesses(self) -> tuple[Node, ...]:
        return tuple(node for node in self.site.nodes if not node.is_validator)

    def light_client(self) -> Any:
        raise AssertionError("no light client is needed here")

    # --- what tests do

    @property
    def ports(self) -> Ports:
        return Ports(self, cast("Any", None), cast("Any", None), cast("Any", self), self.world.clock)

    def passphrase_made(self, kind: KeyKind, _epoch: Epoch) -> dt.datetime:
        return self.passphrases[kind]

    def take(self, origin: str, kind: Kind = "state", name: str = "") -> str:
        """A snapshot in every region that answers; its id."""
        source = Source(origin, kind, name or f"full-{origin}-1a")
        made = create(self.repository, source, read_tree(self.world.data), self.world.facts(100), min_regions=2)
        return str(made.id)

    def take_all(self) -> None:
        for region in self.site.regions:
            self.take(region)
            self.take(region, "config", region)
        self.take("us-east", "provider", "provider-0")

    def sign(self, height: int) -> None:
        """Every validator's register, held, at that height."""
        for node in self.site.nodes:
            if node.is_validator:
                register = SignStateRegister(self.registers, Validator(self.site.chain.chain_id, node.address))
                register.found(NEVER_SIGNED)
                with register.take_over(1, f"signer-{node.name}") as holding:
                    holding.advance(Position(Height(height), 0, 3, "ab" * 32))
                    assert all_agree(register)


@pytest.fixture
def fleet(make_world: Any) -> Iterator[Fleet]:
    world = make_world()
    world.fill(tables=1, table_bytes=20_000)
    world.clock.now = dt.datetime.fromtimestamp(TIP_S + 2, dt.UTC)
    site = topology_world.make_site(extra={"providers": [PROVIDER]})
    nodes = {node.name: chainmaker.MadeNode(node.name, CHAIN) for node in site.nodes}
    made = Fleet(site, nodes, {region: MemoryRegisters(region) for region in site.regions}, world)
    yield made
    for journal in made.journals:
        journal.close()


Values = Callable[..., dict[tuple[str, ...], float]]


@pytest.fixture
def values() -> Callable[[Any], dict[str, dict[tuple[str, ...], float]]]:
    """What was collected, by family and labels."""

    def by_family(samples: Any) -> dict[str, dict[tuple[str, ...], float]]:
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for sample in samples:
            assert isinstance(sample, Sample)
            assert sample.labels not in found.setdefault(sample.family, {}), f"{sample} comes twice"
            found[sample.family][sample.labels] = sample.value
        return found

    return by_family
