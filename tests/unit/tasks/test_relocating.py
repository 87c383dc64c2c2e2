"""Keys moved to standbys: several at once, one that fails beside the others, and nothing twice when it is repeated.

The registers, the appointments and how a signer begins are the real ones; hosts and nodes are stood in for.
"""

import contextlib
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import relocating, signing
from tasks.relocating import promote, put_in_charge
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.appointment import appointed
from vedr.chain.register import NEVER_SIGNED, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import DeadlineError, UnavailableError, VerificationFailedError
from vedr.failover.relocation import Move, signer_named
from vedr.ledger import RunId
from vedr.runbook.order import Order
from vedr.runbook.steps import Context
from vedr.signer.tenure import Terms, begin, holder_of, terms_when_appointed

REGIONS = ("us-east", "eu-west", "ap-south")
BOTH_S = 20.0


class KilledError(BaseException):
    """The process ends here, as far as anybody who looks afterwards can tell."""


class World:
    """Two validators whose signers are lost with their region, and a standby for each beside a full node elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.registers = {name: MemoryRegisters(name) for name in REGIONS}
        self.validators = [self._node(folder, f"validator-{n}", f"{n:040X}", "us-east-1a") for n in range(2)]
        self.standbys = [self._node(folder, f"full-{n}", "", "eu-west-1a") for n in range(2)]
        self.spares = [self._node(folder, f"spare-{n}", "", "ap-south-1a") for n in range(2)]
        pairs = list(zip(self.validators, self.standbys, strict=True))
        spare_pairs = list(zip(self.validators, self.spares, strict=True))
        self.signers = [
            *(self._signer(f"{one.name}-home", one, one) for one in self.validators),
            *(self._signer(f"{one.name}-standby", one, node) for one, node in pairs),
            *(self._signer(f"{one.name}-spare", one, node) for one, node in spare_pairs),
        ]
        self.moves = tuple(
            Move(
                one.name,
                10,
                f"{one.name}-home",
                f"{one.name}-standby",
                node.name,
                node.zone,
                "eu-west",
                others=(f"{one.name}-spare",),
            )
            for one, node in pairs
        )
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.killed_at: set[str] = set()  # the run's own process, when it is about to stop one of these
        self.at_once = threading.Barrier(1)
        self.broken: set[str] = set()  # their hosts are silent
        self.unasked: dict[str, int] = {}  # by signer: how often its node is refused its first signature
        self.down: set[str] = set()  # units that were stopped
        self.syncing: set[str] = set()  # nodes that catch up
        self.tokenless: set[str] = set()  # they end by themselves
        for one in self.validators:
            register = self.register(one)
            register.found(NEVER_SIGNED)
            register.take_over(1, holder_of(f"{one.name}-home", 1)).close()

    @staticmethod
    def _node(folder: Path, name: str, address: str, zone: str) -> Any:
        home = folder / name
        (home / "config").mkdir(parents=True)
        (home / "config" / "config.toml").write_text('priv_validator_laddr = ""\n')
        return SimpleNamespace(
            name=name, address=address, zone=zone, unit=name, home=home, is_validator=bool(address), region=zone[:7]
        )

    @staticmethod
    def _signer(name: str, validator: Any, node: Any) -> Any:
        return SimpleNamespace(name=name, validator=validator.name, node=node.name, unit=name, listen=f"unix://{name}")

    def register(self, validator: Any) -> SignStateRegister:
        return SignStateRegister(self.registers, self.subject(validator))

    def subject(self, validator: Any) -> Validator:
        return Validator("chain-1", validator.address)

    # --- the fleet

    def start(self, unit: str, zone: str) -> Any:
        self.started.append(unit)
        self.down.discard(unit)
        if unit in self.broken:
            raise UnavailableError(f"{unit} in {zone} does not answer", remedy="Wait.")
        for signer in self.signers:
            if signer.name in self.unasked:
                self._asks(signer, unit)
            elif signer.unit == unit and unit not in self.tokenless:
                self.at_once.wait(BOTH_S)
                self._begins(signer)
        return SimpleNamespace(state="running")

    def status(self, unit: str, zone: str) -> Any:
        del zone
        state = "failed" if unit in self.tokenless else "stopped" if unit in self.down else "running"
        return SimpleNamespace(state=state)

    def stop(self, unit: str, zone: str) -> Any:
        if unit in self.killed_at:
            raise KilledError
        self.stopped.append(unit)
        if zone == "us-east-1a":
            raise UnavailableError(f"{unit} in {zone} does not answer", remedy="Wait.")
        self.down.add(unit)
        return SimpleNamespace(state="stopped")

    def _asks(self, signer: Any, unit: str) -> None:
        """Once after its node has come up: the signer that waits takes the key over, or is refused."""
        if signer.node == unit and self.unasked[signer.name]:
            self.unasked[signer.name] -= 1
        elif signer.node == unit:
            self._begins(signer)

    def _begins(self, signer: Any) -> None:
        """As the unit does: by its appointment, unless it holds the key already."""
        validator = next(one for one in self.validators if one.name == signer.validator)
        register = self.register(validator)
        newest = register.glance().newest
        assert newest
        if not newest.is_held_by(signer.name):
            order = appointed(self.registers, self.subject(validator))
            terms = terms_when_appointed(Terms(signer.name, take_over=False, planned=False, watch_s=0), order)
            begin(register, terms, holder=holder_of(signer.name, 2), own=None).holding.close()

    def opened(self) -> Any:
        nodes = [*self.validators, *self.standbys, *self.spares]
        site = SimpleNamespace(
            chain=SimpleNamespace(chain_id="chain-1"),
            nodes=nodes,
            signers=self.signers,
            node=lambda name: next(node for node in nodes if node.name == name),
            signers_of=lambda name: [signer for signer in self.signers if signer.validator == name],
        )
        fleet = SimpleNamespace(start=self.start, stop=self.stop, status=self.status)
        return SimpleNamespace(
            site=site, fleet=fleet, registers=self.registers, files=SimpleNamespace(home=lambda node: node.home)
        )

    @staticmethod
    def waits(node: Any) -> str:
        """The address at which the node waits for a signer."""
        text = (node.home / "config" / "config.toml").read_text()
        return str(tomllib.loads(text)["priv_validator_laddr"])

    def holders(self) -> list[str]:
        shown = [self.register(one).glance().newest for one in self.validators]
        return [content.holder.partition("/")[0] for content in shown if content]

    def epochs(self) -> list[int]:
        return [self.register(one).glance().next_epoch - 1 for one in self.validators]


@pytest.fixture
def fleet_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)

    @contextlib.contextmanager
    def open_world(_: object) -> Iterator[Any]:
        yield world.opened()

    monkeypatch.setattr(relocating, "open_site", open_world)
    for module in (signing, relocating):
        monkeypatch.setattr(module, "ask", lambda _, nodes: [node for node in nodes if node.name not in world.down])
    monkeypatch.setattr(relocating, "in_sync", lambda seen: [node for node in seen if node.name not in world.syncing])
    return world


def context() -> Any:
    return Context(Order(), "", RunId("inc-20260214-120000-aaaa"), 1, 1, resuming=False, say=lambda _: None)


def test_the_keys_of_a_lost_region_are_moved_at_once_and_a_dead_store_is_not_waited_for(fleet_of_two: World) -> None:
    fleet_of_two.registers["us-east"].faults.down = True
    fleet_of_two.at_once = threading.Barrier(2)
    done = promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.holders() == ["validator-0-standby", "validator-1-standby"]
    assert [one.validator for one in done] == ["validator-0", "validator-1"]
    assert all(one.took_ms < BOTH_S * 1000 / 2 for one in done)


def test_a_standby_whose_token_is_gone_is_left_for_the_next_and_a_repetition_goes_on_with_that(
    fleet_of_two: World,
) -> None:
    fleet_of_two.tokenless = {"validator-0-standby"}
    done = promote.fn(context(), fleet_of_two.moves)
    assert [one.signer for one in done] == ["validator-0-spare", "validator-1-standby"]
    assert fleet_of_two.holders() == ["validator-0-spare", "validator-1-standby"]
    assert fleet_of_two.waits(fleet_of_two.standbys[0]) == ""
    assert fleet_of_two.waits(fleet_of_two.spares[0]) == "unix://validator-0-spare"
    fleet_of_two.tokenless = set()
    assert [one.signer for one in promote.fn(context(), fleet_of_two.moves)] == [one.signer for one in done]
    assert fleet_of_two.epochs() == [2, 2]


def test_when_no_standby_signs_the_last_one_s_fault_is_told_and_a_repetition_begins_there(fleet_of_two: World) -> None:
    fleet_of_two.tokenless = {"validator-0-standby", "validator-0-spare"}
    with pytest.raises(VerificationFailedError, match="validator-0-spare ends by itself"):
        promote.fn(context(), fleet_of_two.moves)
    fleet_of_two.tokenless = set()
    promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.holders() == ["validator-0-spare", "validator-1-standby"]


def test_a_node_that_was_to_be_restarted_when_its_run_was_killed_is_restarted_by_the_next(fleet_of_two: World) -> None:
    """Its configuration must not say that it waits for the signer while it still runs with the old one."""
    fleet_of_two.killed_at = {"full-0"}
    with pytest.raises(KilledError):
        promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.waits(fleet_of_two.standbys[0]) == ""
    fleet_of_two.killed_at = set()
    promote.fn(context(), fleet_of_two.moves)
    assert "full-0" in fleet_of_two.stopped
    assert fleet_of_two.waits(fleet_of_two.standbys[0]) == "unix://validator-0-standby"


def test_without_a_majority_no_other_standby_is_appointed(fleet_of_two: World) -> None:
    for name in REGIONS[:2]:
        fleet_of_two.registers[name].faults.down = True
    with pytest.raises(UnavailableError, match="no majority"):
        promote.fn(context(), fleet_of_two.moves[:1])
    assert not fleet_of_two.started


def test_a_key_that_cannot_be_moved_holds_up_no_other_and_a_repetition_takes_nothing_twice(
    fleet_of_two: World,
) -> None:
    fleet_of_two.broken = {"validator-0-standby", "validator-0-spare"}
    with pytest.raises(UnavailableError, match="validator-0-spare"):
        promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.holders() == ["validator-0-home", "validator-1-standby"]
    fleet_of_two.broken = set()
    promote.fn(context(), fleet_of_two.moves)
    promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.holders() == ["validator-0-spare", "validator-1-standby"]
    assert fleet_of_two.epochs() == [2, 2]


def test_what_no_retry_can_help_is_raised_before_what_one_may(fleet_of_two: World) -> None:
    fleet_of_two.broken = {"validator-0-standby", "validator-0-spare"}
    for node in (fleet_of_two.standbys[1], fleet_of_two.spares[1]):
        (node.home / "config" / "config.toml").unlink()
    with pytest.raises(Exception, match=r"validator-0-spare.*; .*config.toml") as caught:
        promote.fn(context(), fleet_of_two.moves)
    assert type(caught.value).__name__ == "NotFoundError"


def test_a_node_that_was_refused_its_first_signature_is_restarted_and_asks_anew(
    fleet_of_two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a halted chain no round ends, and the node would wait for ever: no resume of the run would help either."""
    monkeypatch.setattr(relocating, "ASK_ANEW_S", 0.2)
    fleet_of_two.unasked = {"validator-0-standby": 1}
    for store in list(fleet_of_two.registers.values())[:1]:
        store.faults.down = True
    done = promote.fn(context(), fleet_of_two.moves)
    assert fleet_of_two.holders() == ["validator-0-standby", "validator-1-standby"]
    assert [one.signer for one in done] == fleet_of_two.holders()
    assert [fleet_of_two.stopped.count(f"full-{number}") for number in range(2)] == [2, 1]  # once for its configuration


def test_a_node_that_catches_up_is_left_to_it(fleet_of_two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocating, "ASK_ANEW_S", 0.0)
    fleet_of_two.unasked, fleet_of_two.syncing = {"validator-0-standby": 1}, {"full-0"}
    standby = signer_named(fleet_of_two.opened().site, "validator-0-standby")
    with pytest.raises(DeadlineError, match="was not asked for a signature"):
        put_in_charge(context(), fleet_of_two.opened(), standby, hold_limit_s=0.5)
    assert fleet_of_two.stopped.count("full-0") == 1
