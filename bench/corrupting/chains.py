"""What stands for the chain: trust anchors, the genesis file, sign-state registers, shipped sign states, appointments.

The looks are what the light client starts from, `vedr sign-state show` with a take-over, what a floor is made from, and
what a signer asks when it starts.  Registers, shipped states and appointments carry no signature, because a signer
writes them before every vote: their safety is that a majority of the regions holds them.  So damage that leaves them
readable is done to a minority, and to more only what can't be read or is of another validator.

Leaves out: readable, lower content in a majority of the regions (docs/signing-safety.md: who can write to a majority of
the buckets); a position that is higher than it was forbids more, never less, and counts as `harmless` here.
"""

import datetime as dt
import hashlib
import json
import random
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from bench.corrupting.damage import Around, Damage, damage
from bench.corrupting.shelf import REGIONS, RegisterShelf, some_regions
from bench.corrupting.trial import Case, FalsePass, Verdict, require_remedy, tried
from vedr.chain import appointment, shipping
from vedr.chain.appointment import Appointment, appointed
from vedr.chain.block import BlockId, Header
from vedr.chain.register import Content, Epoch, Position, Validator, decode, encode
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.shipping import Shipped
from vedr.chain.shipping_watch import look_at_copies
from vedr.chain.sign_state import SignState
from vedr.chain.trust import TrustStore, read_genesis
from vedr.chain.wire import to_rfc3339
from vedr.errors import CorruptError, VedrError
from vedr.inventory import Chain, Height
from vedr.ledger import RunId
from vedr.ports import ObjectKey

CHAIN_ID: Final = "chain-1"
VALIDATOR: Final = Validator(CHAIN_ID, "AB" * 20)
STRANGER: Final = Validator(CHAIN_ID, "CD" * 20)
DEADLINE_S: Final = 2.0
NOT_READABLE: Final = ("bit flip", "byte run", "rolled back", "JSON edit", "JSON layout", "extension")
"""Kinds that can leave something readable, so that they are only done to a minority."""


def header(height: int, chance: random.Random, chain_id: str = CHAIN_ID) -> Header:
    """A header of made-up hashes: the store's own check is that a header hashes to what stands beside it."""
    hashes = [chance.randbytes(32) for _ in range(9)]
    return Header(
        block_version=11, app_version=1, chain_id=chain_id, height=Height(height),
        time_ns=1_790_000_000_000_000_000 + height, last_block_id=BlockId(hashes[0], 1, hashes[1]),
        last_commit_hash=hashes[2], data_hash=hashes[3], validators_hash=hashes[4], next_validators_hash=hashes[5],
        consensus_hash=hashes[6], app_hash=hashes[7], last_results_hash=hashes[8], evidence_hash=hashes[0],
        proposer_address=chance.randbytes(20),
    )  # fmt: skip


class TrustAnchors:
    """The file of verified headers, and the genesis file whose hash the site pins."""

    name = "trust anchors"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trust"
        chance = random.Random("trust")
        headers = [header(height, chance) for height in range(10, 90, 10)]
        self._store = TrustStore(self._folder, CHAIN_ID)
        self._store.remember(*headers[:4])
        older = self._store.path.read_bytes()
        self._store.remember(*headers)
        foreign = TrustStore(folder / "trust-of-another", "chain-2")
        foreign.remember(*[header(height, chance, "chain-2") for height in (10, 20)])
        self._genesis = self._folder / "genesis.json"
        self._genesis.write_bytes(_genesis(chance, CHAIN_ID))
        self._chain = _chain(self._genesis)
        self._known = dict(self._store.load())
        self._files = {path: path.read_bytes() for path in (self._store.path, self._genesis)}
        self._around = {
            self._store.path: Around([self._files[self._genesis]], [older], [foreign.path.read_bytes()]),
            self._genesis: Around([older], [], [_genesis(chance, "chain-2")]),
        }
        shutil.rmtree(foreign.path.parent)

    def case(self, chance: random.Random) -> Case:
        path = chance.choices(list(self._files), weights=(3, 1))[0]
        # A store that is gone is begun anew from the site's anchor, which is chosen by people.
        without = ("missing",) if path == self._store.path else ()
        hurt = damage(self._files[path], chance, self._around[path], without=without)
        path.unlink()
        if hurt.data is not None:
            path.write_bytes(hurt.data)
        return Case(hurt.kind, path.name, lambda: self._look(path))

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look(self, path: Path) -> Verdict:
        try:
            if path == self._genesis:
                read_genesis(self._chain)
                raise FalsePass("another genesis passes for the pinned one")
            loaded = self._store.load()
        finally:
            path.unlink(missing_ok=True)
            path.write_bytes(self._files[path])
        for height, one in loaded.items():
            if self._known.get(height) != one:
                raise FalsePass(f"header {height} counts as verified, and never was")
        return "harmless"  # headers that were verified, perhaps fewer: the missing ones are verified again


def _genesis(chance: random.Random, chain_id: str) -> bytes:
    validators = [
        {
            "address": chance.randbytes(20).hex().upper(),
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "A" * 43 + "="},
            "power": "10",
            "name": "",
        }
    ]
    document = {
        "genesis_time": to_rfc3339(1_790_000_000_000_000_000),
        "chain_id": chain_id,
        "initial_height": "1",
        "validators": validators,
    }
    return json.dumps(document, indent=1).encode()


def _chain(genesis: Path) -> Chain:
    return Chain(
        chain_id=CHAIN_ID, block_time_s=1, start=("x",), start_isolated=("x",), inspect=("x",), genesis=genesis,
        genesis_sha256=hashlib.sha256(genesis.read_bytes()).hexdigest(),
    )  # fmt: skip


class _Replicated(ABC):
    """Something small that stands in every region's registers."""

    name = ""

    def __init__(self, key: ObjectKey, data: bytes, around: Around) -> None:
        self.key, self.data, self.around = key, data, around
        self.registers = {region: RegisterShelf(region) for region in REGIONS}

    def case(self, chance: random.Random) -> Case:
        for registers in self.registers.values():
            registers.spoil(self.key, self.data)
        regions = some_regions(chance)
        without = () if len(regions) == 1 else NOT_READABLE
        hurt = {region: damage(self.data, chance, self.around, without=without) for region in regions}
        for region, one in hurt.items():
            self.registers[region].spoil(self.key, one.data)
        kinds = sorted({one.kind for one in hurt.values()})
        where = ", ".join(f"{region} {one.kind}" for region, one in hurt.items())
        return Case(kinds[0] if len(kinds) == 1 else "several at once", where, lambda: self.look(hurt))

    @abstractmethod
    def look(self, hurt: dict[str, Damage]) -> Verdict:
        """What whoever reads it makes of copies with that damage."""

    def close(self) -> None:  # noqa: B027 (whoever holds something overrides it)
        """Nothing is held."""


class SignStateRegisters(_Replicated):
    """The replicated register: what it shows, and what a take-over starts from."""

    name = "register contents"

    def __init__(self, _: Path) -> None:
        self._content = Content(Epoch(7), "signer-a/host:1:x", Position(Height(1234), 1, 3, "ab" * 32))
        older = Content(Epoch(6), "signer-b/host:1:y", Position(Height(1000), 0, 2, "cd" * 32))
        around = Around(
            siblings=[encode(STRANGER, self._content)],
            older=[encode(VALIDATOR, older)],
            foreign=[encode(Validator("chain-2", VALIDATOR.address), self._content)],
        )
        super().__init__(VALIDATOR.key, encode(VALIDATOR, self._content), around)

    def look(self, hurt: dict[str, Damage]) -> Verdict:
        register = SignStateRegister(self.registers, VALIDATOR)
        seen = register.look(deadline_s=DEADLINE_S)
        newest = seen.newest
        if newest is not None and seen.is_majority and not newest.position.covers(self._content.position):
            raise FalsePass(f"the register shows {newest}, below {self._content}")
        unread = [region for region, one in hurt.items() if not _readable(one.data) and region not in seen.problems]
        if unread:
            raise FalsePass(f"{', '.join(unread)} holds what can't be read, and is not named")
        held = tried(lambda: register.take_over(seen.next_epoch, "signer-c/host:9:z", deadline_s=DEADLINE_S))
        if isinstance(held, VedrError):
            require_remedy(held)
            return "refused"
        with held:
            if not held.position.covers(self._content.position):
                raise FalsePass(f"a take-over starts at {held.position}, below {self._content.position}")
        return "healed" if seen.problems else "harmless"


def _readable(data: bytes | None) -> bool:
    try:
        decode(VALIDATOR, data or b"", where="here")
    except CorruptError:
        return False
    return True


class ShippedSignStates(_Replicated):
    """Copies of a file-based validator's sign state: what a floor is made from."""

    name = "shipped sign-state"

    def __init__(self, _: Path) -> None:
        self._shipped = Shipped("val-0", 1_790_000_000_000_000, _state(1234))
        older = Shipped("val-0", 1_780_000_000_000_000, _state(1000))
        around = Around(
            siblings=[shipping.encode(STRANGER, self._shipped)],
            older=[shipping.encode(VALIDATOR, older)],
            foreign=[shipping.encode(Validator("chain-2", VALIDATOR.address), self._shipped)],
        )
        super().__init__(shipping.key_of(VALIDATOR), shipping.encode(VALIDATOR, self._shipped), around)

    def look(self, hurt: dict[str, Damage]) -> Verdict:
        copies = look_at_copies(VALIDATOR, self.registers, deadline_s=DEADLINE_S)
        unnamed = [
            region for region in hurt if region not in copies.problems and copies.shipped[region] == self._shipped
        ]
        if unnamed:
            raise FalsePass(f"{', '.join(unnamed)} shows the original, and holds something else")
        highest = max((state.hrs for state in copies.states), default=(0, 0, 0))
        if copies.is_majority and highest < self._shipped.state.hrs:
            raise FalsePass(f"a majority shows {highest}, below {self._shipped.state}")
        return "healed" if copies.is_majority and copies.problems else self._minority(copies.is_majority)

    @staticmethod
    def _minority(is_majority: bool) -> Verdict:
        if is_majority:
            return "harmless"
        raise CorruptError("no majority shows a copy", remedy="A floor needs two people then.")


def _state(height: int) -> SignState:
    message = f"vote {height}".encode()
    return SignState(Height(height), 0, 3, hashlib.sha512(message).digest(), message)


class Appointments(_Replicated):
    """Who is to hold a validator's key."""

    name = "appointments"

    def __init__(self, _: Path) -> None:
        at = dt.datetime(2026, 11, 2, 12, 0, 0, 123456, tzinfo=dt.UTC)
        self._one = Appointment(5, "signer-a", RunId("inc-20261102-120000-abcd"), at)
        older = Appointment(4, "signer-b", RunId("inc-20261101-120000-abcd"), at)
        around = Around(
            siblings=[appointment.encode(STRANGER, self._one)],
            older=[appointment.encode(VALIDATOR, older)],
            foreign=[appointment.encode(Validator("chain-2", VALIDATOR.address), self._one)],
        )
        super().__init__(appointment.key_of(VALIDATOR), appointment.encode(VALIDATOR, self._one), around)

    def look(self, hurt: dict[str, Damage]) -> Verdict:
        found = appointed(self.registers, VALIDATOR, deadline_s=DEADLINE_S)
        if found is None and sum(one.data is None for one in hurt.values()) > 1:  # then nobody begins to sign
            raise CorruptError("a majority has no appointment any more", remedy="Appoint again.")
        if found != self._one:
            raise FalsePass(f"{found} is appointed, not {self._one}")
        return "healed"
