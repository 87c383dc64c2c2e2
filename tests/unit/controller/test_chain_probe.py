"""What a loss does to the chain is counted where keys are now, not where they have their home."""

import datetime as dt
import hashlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.probing import ChainProbe
from vedr.chain.block import Flag, Validator, ValidatorSet
from vedr.chain.quorum import Domain
from vedr.chain.register import NEVER_SIGNED
from vedr.chain.register import Validator as Subject
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import CorruptError, UnavailableError
from vedr.failover.controller import danger, impact_of
from vedr.failover.key_places import signing_hosts
from vedr.inventory import Node, Site, parse_site
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, Settings
from vedr.lab.site_file import _document
from vedr.lab.template import load_template
from vedr.signer.tenure import holder_of

TEMPLATE = Path(__file__).parents[3] / "deployments" / "sites" / "lab.toml"
NOW = dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)
US, EU = Domain("region", "us-east"), Domain("region", "eu-west")
MOVED = {
    "validator-us-east-0": "validator-us-east-0-at-fullnode-eu-west-0",
    "validator-us-east-1": "validator-us-east-1-at-fullnode-eu-west-1",
}


def key_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class World:
    """The lab's site on paper, its registers, and a chain of which everybody signs every block."""

    def __init__(self, folder: Path) -> None:
        (folder / "genesis.json").write_text("{}")
        made = Plan(Settings("lab", "10.77", 4200, "namespaces", folder, folder, folder), load_template(TEMPLATE))
        LabSecrets(folder).create_missing(made)
        validators = [node.name for node in made.nodes if node.role == "validator"]
        addresses = {name: hashlib.sha256(key_of(name)).digest()[:20].hex().upper() for name in validators}
        self.site: Site = parse_site(tomli_w.dumps(_document(made, addresses)), source="lab.toml")
        self.registers = {region: MemoryRegisters(region) for region in self.site.regions}
        self.key_files: Any = SimpleNamespace(look=dict)
        self.opened = Counter[str]()
        for node in self.site.nodes:
            for home in self.site.signers_of(node.name)[:1]:
                self.register(node).found(NEVER_SIGNED)
                self.register(node).take_over(1, holder_of(home.name, 1)).close()

    def register(self, node: Node) -> SignStateRegister:
        return SignStateRegister(self.registers, Subject(self.site.chain.chain_id, node.address))

    def move(self, validator: str, signer: str) -> None:
        register = self.register(self.site.node(validator))
        register.take_over(register.glance().next_epoch, holder_of(signer, 1)).close()

    def rpc(self, node: Node) -> Any:
        self.opened[node.name] += 1
        validators = [one for one in self.site.nodes if one.is_validator]
        signed = SimpleNamespace(
            header=SimpleNamespace(height=7, time_ns=round(NOW.timestamp()) * 10**9),
            commit=SimpleNamespace(
                signatures=[SimpleNamespace(flag=Flag.COMMIT, address=bytes.fromhex(v.address)) for v in validators]
            ),
        )
        return SimpleNamespace(
            status=lambda: SimpleNamespace(latest_height=7, chain_id=self.site.chain.chain_id),
            commit=lambda _height=None: signed,
            validators=lambda _: ValidatorSet(tuple(Validator(key_of(v.name), v.power) for v in validators)),
        )

    def probe(self) -> ChainProbe:
        return ChainProbe(
            self.site, self.rpc, lambda: signing_hosts(self.site, self.registers, self.key_files), lambda: NOW
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_loss_of_a_region_takes_the_keys_that_were_moved_there(world: World) -> None:
    for validator, signer in MOVED.items():
        world.move(validator, signer)
    chain = world.probe()()
    assert "10 of 50 voting power online, 34 needed: HALTED" in impact_of(chain, EU)
    assert "validator-us-east-0, validator-us-east-1 still signs, and fencing it would halt" in danger(chain, EU)


def test_a_lost_home_takes_no_key_along_that_was_moved_away_before(world: World) -> None:
    for validator, signer in MOVED.items():
        world.move(validator, signer)
    chain = world.probe()()
    assert "50 of 50 voting power online" in impact_of(chain, US)
    assert danger(chain, US) == ""  # a runbook that is to be started by itself is not held up by them


def test_a_key_file_stands_where_the_ledger_says_it_was_moved_to(world: World) -> None:
    world.key_files = SimpleNamespace(look=lambda: {"validator-eu-west-1": "fullnode-ap-south-0"})
    chain = world.probe()()
    assert chain.powers.by("region")[Domain("region", "ap-south")] == 20
    assert "30 of 50 voting power online, 34 needed: HALTED" in impact_of(chain, Domain("region", "ap-south"))


@pytest.mark.parametrize("error", [UnavailableError("no majority"), CorruptError("an entry is missing")])
def test_a_ledger_that_can_t_tell_where_a_key_file_is_tells_nothing_of_the_chain(
    world: World, error: Exception
) -> None:
    def silent() -> dict[str, str]:
        raise error

    world.key_files = SimpleNamespace(look=silent)
    with pytest.raises(UnavailableError, match="where validator-eu-west-1 sign now is not known"):
        world.probe()()


def test_registers_without_a_majority_tell_nothing_of_the_chain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedr.failover.key_places.REGISTER_DEADLINE_S", 0.2)
    for region in ("us-east", "ap-south"):
        world.registers[region].faults.down = True
    with pytest.raises(UnavailableError, match=r"where validator-eu-west-0, .* sign now is not known"):
        world.probe()()


def test_a_controller_that_asks_every_round_opens_each_connection_once(world: World) -> None:
    probe = world.probe()
    for _ in range(3):
        probe()
    assert set(world.opened.values()) == {1}
