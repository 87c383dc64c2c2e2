"""RB-DR-005 and a key that signs remotely: after the containment no signer of it signs, wherever it stands."""

from types import SimpleNamespace
from typing import Any

import pytest
from held_registers import position_of

from tasks.signing import deny_signers
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.appointment import NOBODY, appointed
from vedr.chain.register import NEVER_SIGNED, StaleEpochError, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import ConflictError, UnavailableError
from vedr.ledger import RunId
from vedr.signer.tenure import Terms, begin, holder_of

ADDRESS = "AB" * 20
SUBJECT = Validator("chain-1", ADDRESS)
RUN = RunId("inc-20260214-120000-aaaa")
HOME = Terms("home", take_over=False, planned=False, watch_s=0)


class World:
    """A site of three regions, with one validator whose signer's host does not answer."""

    def __init__(self) -> None:
        self.regions = {name: MemoryRegisters(name) for name in ("us-east", "eu-west", "ap-south")}
        self.register = SignStateRegister(self.regions, SUBJECT)
        self.register.found(NEVER_SIGNED)
        self.validator: Any = SimpleNamespace(name="validator-0", address=ADDRESS, zone="us-east-1a")
        site = SimpleNamespace(
            chain=SimpleNamespace(chain_id="chain-1"),
            signers_of=lambda _: [SimpleNamespace(unit="signer", node="validator-0")],
            node=lambda _: self.validator,
        )
        self.opened: Any = SimpleNamespace(site=site, registers=self.regions, fleet=SimpleNamespace(stop=self.silent))

    @staticmethod
    def silent(unit: str, zone: str) -> None:
        raise UnavailableError(f"{unit} in {zone} does not answer", remedy="Wait.")


def test_the_holder_s_next_signature_is_refused_and_no_unit_takes_the_key_back() -> None:
    world = World()
    tenure = begin(world.register, HOME, holder=holder_of("home", 1), own=None)
    tenure.holding.advance(position_of((5, 0, 2), b"vote"))
    deny_signers(world.opened, world.validator, RUN)
    with pytest.raises(StaleEpochError):
        tenure.holding.advance(position_of((5, 0, 3), b"next"))
    with pytest.raises(ConflictError):
        begin(world.register, HOME, holder=holder_of("home", 2), own=None)
    order = appointed(world.regions, SUBJECT)
    assert order is not None
    assert order.name == NOBODY
    newest = world.register.look().newest
    assert newest is not None
    assert newest.position.hrs >= (5, 0, 2)  # nothing of what it signed is forgotten; what was refused may show
    tenure.holding.close()


def test_without_a_majority_it_is_not_said_to_be_contained() -> None:
    world = World()
    for name in ("us-east", "eu-west"):
        world.regions[name].faults.down = True
    with pytest.raises(UnavailableError):
        deny_signers(world.opened, world.validator, RUN, deadline_s=0.2)
