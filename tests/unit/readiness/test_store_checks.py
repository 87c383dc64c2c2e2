"""Checks of shipped sign states, buckets, registers and the topology, on a made chain."""

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from held_registers import all_agree
from network_world import LENGTH, NOW, POLICY, REGIONS, Net

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.chain.register import NEVER_SIGNED, Content, Epoch, Position, Validator
from vedr.chain.register import encode as encode_register
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.rpc import ChainRpc
from vedr.chain.shipping import Shipped, encode, key_of
from vedr.chain.sign_state import SignState
from vedr.errors import UnavailableError
from vedr.failover.key_holders import KeyHolders
from vedr.inventory import Height, Node, Site
from vedr.ports import DOCUMENT_BYTES, ObjectKey, ObjectStore
from vedr.readiness import stores
from vedr.readiness.finding import Verdict
from vedr.readiness.sign_states import sign_states
from vedr.readiness.soundness import topology
from vedr.runbook.journal import Journal

# --- sign states


@dataclass
class Signing:
    """Registers and shipped copies of the five validators."""

    net: Net
    registers: dict[str, MemoryRegisters] = field(default_factory=lambda: {r: MemoryRegisters(r) for r in REGIONS})

    def ship(self, height: int, *, to: tuple[str, ...] = REGIONS, besides: tuple[str, ...] = ()) -> None:
        for node in self.net.site.nodes:
            if node.is_validator and node.name not in besides:
                who = Validator(self.net.site.chain.chain_id, node.address)
                state = SignState(Height(height), 0, 3, b"sig", b"msg")
                for region in to:
                    key, one = key_of(who), self.registers[region]
                    before = one.read(key)
                    one.swap(key, encode(who, Shipped(node.name, 1, state)), expected=before.tag if before else None)

    def hold(self, name: str, height: int) -> None:
        address = next(node.address for node in self.net.site.nodes if node.name == name)
        register = SignStateRegister(self.registers, Validator(self.net.site.chain.chain_id, address))
        register.found(NEVER_SIGNED)
        holding = register.take_over(1, f"{name}/1", at_least=Position(Height(height), 0, 3))
        assert all_agree(register)
        holding.close(wait_s=5)

    def look(self) -> Verdict:
        return sign_states(self.net.site, self.net.rpc, self.registers, POLICY)


@pytest.fixture
def signing(net: Net) -> Signing:
    return Signing(net)


def test_shipped_states_near_the_tip_pass(signing: Signing) -> None:
    signing.ship(LENGTH)
    verdict = signing.look()
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize(("behind", "status"), [(9, "passed"), (12, "warning"), (29, "warning")])
def test_lag_is_told(signing: Signing, behind: int, status: str) -> None:
    signing.ship(LENGTH - behind)
    assert signing.look().status == status


def test_a_lag_beyond_the_limit_fails(signing: Signing) -> None:
    signing.ship(1)
    policy = POLICY.model_copy(update={"sign_state_max_blocks": 20})
    assert sign_states(signing.net.site, signing.net.rpc, signing.registers, policy).status == "failed"


def test_a_state_in_a_minority_of_the_regions_fails(signing: Signing) -> None:
    signing.ship(LENGTH, to=("us-east",))
    verdict = signing.look()
    assert verdict.status == "failed"
    assert "no majority" in verdict.observed
    signing.ship(LENGTH, to=("eu-west",))
    assert signing.look().status == "warning"


def test_a_validator_with_neither_copy_nor_register_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    verdict = signing.look()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("val3: ")


def test_copies_that_stay_behind_in_a_majority_of_the_regions_do_not_pass_by_the_one_that_does_not(
    signing: Signing,
) -> None:
    """With that one region and the host, what was signed last would be gone."""
    policy = POLICY.model_copy(update={"sign_state_max_blocks": 20})
    signing.ship(1)
    signing.ship(LENGTH, to=("us-east",))
    verdict = sign_states(signing.net.site, signing.net.rpc, signing.registers, policy)
    assert (verdict.status, "a majority's shipped copies 29 blocks behind" in verdict.observed) == ("failed", True)
    assert signing.look().status == "warning"
    signing.ship(LENGTH, to=("eu-west",))
    assert signing.look().status == "passed"


def test_no_lag_is_told_by_nodes_that_are_far_behind_or_of_another_chain(signing: Signing) -> None:
    signing.ship(1)
    nodes = list(signing.net.nodes.values())
    for node in nodes:
        node.tip, node.behind = 2, True
    with pytest.raises(UnavailableError, match="no node in sync"):
        signing.look()
    nodes[0].behind, nodes[0].chain_id = False, "other-1"
    with pytest.raises(UnavailableError, match="no node in sync"):
        signing.look()
    nodes[0].chain_id, policy = "made-1", POLICY.model_copy(update={"sign_state_max_blocks": 20})
    signing.ship(LENGTH)
    verdict = sign_states(signing.net.site, signing.net.rpc, signing.registers, policy)
    assert (verdict.status, "28 blocks ahead of what the nodes show" in verdict.observed) == ("failed", True)


def test_a_register_counts_in_place_of_copies_while_somebody_holds_it(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    signing.hold("val3", LENGTH)
    assert signing.look().status == "passed"


def test_a_register_that_stays_behind_in_one_region_is_warned_of(signing: Signing) -> None:
    """Its bucket was put back from a copy: whoever holds the register writes it no more, and two regions are left."""
    signing.ship(LENGTH, besides=("val3",))
    signing.hold("val3", LENGTH)
    who = Validator("made-1", next(node.address for node in signing.net.site.nodes if node.name == "val3"))
    old = Content(Epoch(1), "val3/1", Position(Height(LENGTH - POLICY.sign_state_warn_blocks), 0, 3))
    signing.registers["eu-west"].overwrite(who.key, encode_register(who, old))
    assert signing.look().status == "passed"
    older = replace(old, position=replace(old.position, height=Height(old.position.height - 1)))
    signing.registers["eu-west"].overwrite(who.key, encode_register(who, older))
    verdict = signing.look()
    assert (verdict.status, "val3: its register stays behind (eu-west: at" in verdict.observed) == ("warning", True)
    assert "delete the object there and restart the signer of val3" in verdict.remedy


def test_a_register_that_nobody_holds_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    address = next(node.address for node in signing.net.site.nodes if node.name == "val3")
    SignStateRegister(signing.registers, Validator("made-1", address)).found(NEVER_SIGNED)
    verdict = signing.look()
    assert (verdict.status, "nobody holds" in verdict.observed) == ("failed", True)


def test_a_register_in_a_minority_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    signing.hold("val3", LENGTH)
    for region in REGIONS[:2]:
        contents = signing.registers[region]._contents
        for key in [key for key in contents if not key.endswith("-shipped.json")]:
            del contents[key]
    verdict = signing.look()
    assert (verdict.status, "its register is in no majority" in verdict.observed) == ("failed", True)


def test_damaged_copies_in_a_majority_fail(signing: Signing) -> None:
    signing.ship(LENGTH)
    for region in REGIONS[:2]:
        for key in list(signing.registers[region]._contents):
            signing.registers[region]._contents[key] = b"rot"
    assert signing.look().status in ("failed", "could not run")


def test_without_the_chains_height_no_lag_is_told(signing: Signing) -> None:
    signing.ship(LENGTH)
    for node in signing.net.nodes.values():
        node.down = True
    with pytest.raises(UnavailableError):
        signing.look()


# --- buckets


@dataclass
class Buckets:
    stores: dict[str, Any] = field(default_factory=lambda: {r: MemoryStore(r) for r in REGIONS})
    registers: dict[str, Any] = field(default_factory=lambda: {r: MemoryRegisters(r) for r in REGIONS})

    def look(self, site: Site) -> Verdict:
        return stores.bucket_read_write(site, self.stores, self.registers, secrets.token_bytes(16), NOW)


class Careless(MemoryStore):
    """Overwrites what exists."""

    def create(self, key: ObjectKey, data: bytes) -> Any:
        return self.overwrite(key, data)


class Garbling(MemoryStore):
    """Gives other bytes than it took."""

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        return super().get(key, version=version, limit_bytes=limit_bytes) + b"!"


class Clinging(MemoryStore):
    """Removes nothing: a lock that the site does not know of."""

    def __init__(self, region: str) -> None:
        super().__init__(region, clock=lambda: NOW, locked_for=dt.timedelta(days=1))


def _down(region: str) -> ObjectStore:
    store = MemoryStore(region)
    store.faults.down = True
    return store


def test_buckets_that_take_and_give_pass_and_are_left_empty(net: Net) -> None:
    buckets = Buckets()
    assert buckets.look(net.site).status == "passed"
    assert not [found for store in buckets.stores.values() for found in store.list("")]


@pytest.mark.parametrize(
    ("make", "status"), [(Careless, "failed"), (Garbling, "failed"), (Clinging, "failed"), (_down, "could not run")]
)
def test_one_bucket_that_does_not_keep_its_word_is_found(net: Net, make: Callable[[str], Any], status: str) -> None:
    buckets = Buckets()
    buckets.stores["eu-west"] = make("eu-west")
    verdict = buckets.look(net.site)
    assert verdict.status == status
    assert verdict.observed.startswith("eu-west: ")


class Careless2(MemoryRegisters):
    """Swaps whatever is there."""

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:  # noqa: ARG002
        found = self.read(key)
        return super().swap(key, data, expected=found.tag if found else None)


def test_registers_that_take_a_stale_writer_are_found(net: Net) -> None:
    buckets = Buckets()
    assert buckets.look(net.site).status == "passed"
    buckets.registers["eu-west"] = Careless2("eu-west")
    verdict = buckets.look(net.site)
    assert (verdict.status, "a stale writer could swap" in verdict.observed) == ("failed", True)
    buckets.registers["eu-west"].faults.down = True
    assert buckets.look(net.site).status == "could not run"


# --- topology


def test_the_audits_critical_findings_fail_the_check(net: Net) -> None:
    class Opened:
        site = net.site
        registers: dict[str, Any] = {}  # noqa: RUF012
        key_holders = KeyHolders((), cast("Journal", None))

        @staticmethod
        def rpc(node: Node) -> ChainRpc:
            return net.rpc(node)

        @staticmethod
        def witnesses() -> tuple[Node, ...]:
            return tuple(node for node in net.site.nodes if not node.is_validator)

    verdict = topology(Opened(), lambda: NOW)
    assert verdict.status == "failed"  # 2/2/1 without standbys: the loss of us-east halts the chain
    assert "us-east" in verdict.observed
    assert verdict.remedy
