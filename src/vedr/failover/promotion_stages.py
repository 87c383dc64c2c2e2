"""The stages of a promotion, as values that can't be made out of order.

Each stage holds the one before, so whoever has a `KeyReady` has had a lease, a fence, a tip, quiet and a floor.  Only
`vedr.failover.promotion` makes them; a stage read back from a ledger is evidence (JSON) and never a stage again.

Guarantees: `evidence()` is plain JSON without floats or secrets, and names the lease's epoch.
Leaves out: doing anything.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Final, Literal, TypeAlias

from vedr.chain.fence import FencedTip, FenceProof, Halted, Quiet, SeenVotes
from vedr.chain.floor import Floor
from vedr.chain.sign_state import SignState
from vedr.errors import InvalidInputError, RefusedError
from vedr.failover.signer_disk import Ticket
from vedr.inventory import Height, Node
from vedr.ledger import RunId
from vedr.runbook.lease import Lease
from vedr.signature import Json

StageName = Literal[
    "locked",
    "fenced",
    "observed",
    "quieted",
    "halted",
    "floored",
    "key_ready",
    "arming",
    "armed",
    "second_signer",
    "watched",
]
Evidence: TypeAlias = Mapping[str, Json]
SEAL: Final = object()


def _sealed(seal: object, what: str) -> None:
    if seal is not SEAL:
        raise RefusedError(f"{what} is only made by doing it", remedy="Follow the promotion's order.")


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    `validator` is whose key moves, wherever it signs now; `standby` is the host that it moves to; `attempt` counts the
    processes that worked on this run (the ledger's epoch of its writer) and so tells a late one from the present one.
    """

    chain_id: str
    validator: Node
    standby: Node
    run_id: RunId
    attempt: int

    def __post_init__(self) -> None:
        if not self.validator.is_validator or self.attempt < 1:
            raise InvalidInputError(
                f"promotion of {self.validator.name} by attempt {self.attempt}: not a validator, or no attempt",
                remedy="Name the validator, and count attempts from 1.",
            )

    @property
    def subject(self) -> str:
        """What is leased: the key, not a host."""
        return f"signer/{self.validator.address.lower()}"


@dataclass(frozen=True, slots=True)
class Locked:
    """This run, and no other, may move the key."""

    order: Order
    lease: Lease
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a lock")

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.lease.epoch, self.order.attempt)

    def evidence(self) -> Evidence:
        return {"epoch": self.lease.epoch, "attempt": self.order.attempt, "subject": self.lease.subject}


@dataclass(frozen=True, slots=True)
class Fenced:
    """No host can sign with the key, the standby neither."""

    locked: Locked
    proof: FenceProof
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a fence of all hosts")

    def evidence(self) -> Evidence:
        return {
            "epoch": self.locked.lease.epoch,
            "at": self.proof.at.isoformat(),
            "hosts": [
                {
                    "host": one.host,
                    "method": one.method,
                    "facts": dict(one.facts),
                    "final": str(one.final) if one.final else None,
                }
                for one in self.proof.fences
            ],
        }


@dataclass(frozen=True, slots=True)
class Observed:
    """The chain's tip and the validator's votes, seen after the fence."""

    fenced: Fenced
    tip: FencedTip
    seen: SeenVotes
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "an observation")

    def evidence(self) -> Evidence:
        highest = "/".join(map(str, self.seen.highest)) if self.seen.highest else None
        return {
            "epoch": self.fenced.locked.lease.epoch,
            "tip": self.tip.height,
            "tip_from": list(self.tip.observers),
            "highest_vote": highest,
            "votes_from": list(self.seen.observers),
        }


@dataclass(frozen=True, slots=True)
class Quieted:
    """The chain moves, and the validator is silent in it."""

    observed: Observed
    quiet: Quiet
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "quiet")

    def evidence(self) -> Evidence:
        epoch = self.observed.fenced.locked.lease.epoch
        return {"epoch": epoch, "first": self.quiet.first, "last": self.quiet.last}


@dataclass(frozen=True, slots=True)
class HaltedEvidence:
    """The chain stands still, and no vote of the validator was added meanwhile."""

    observed: Observed
    halted: Halted
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a halt")

    def evidence(self) -> Evidence:
        epoch = self.observed.fenced.locked.lease.epoch
        return {"epoch": epoch, "tip": self.halted.tip.height, "still_ms": round(self.halted.still_s * 1000)}


Calm: TypeAlias = Quieted | HaltedEvidence


@dataclass(frozen=True, slots=True)
class Floored:
    """The lowest height, round and step that the standby may sign above."""

    calm: Calm
    floor: Floor
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a floor")

    def evidence(self) -> Evidence:
        epoch = self.calm.observed.fenced.locked.lease.epoch
        return {"epoch": epoch, "floor": str(self.floor.state), "reason": self.floor.reason}


@dataclass(frozen=True, slots=True)
class KeyReady:
    """The validator's own key, and no other, is on the standby."""

    floored: Floored
    public_key: bytes
    where: str
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a key")

    def evidence(self) -> Evidence:
        epoch = self.floored.calm.observed.fenced.locked.lease.epoch
        return {"epoch": epoch, "public_key": self.public_key.hex(), "where": self.where}


@dataclass(frozen=True, slots=True)
class Armed:
    """The standby runs with the key, above the floor.

    `excused` is the highest signature that may have been made before the fence; `tip` is where the watch begins.
    """

    locked: Locked
    floor: SignState
    excused: SignState
    tip: Height
    check_height: int
    started: str
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "an armed standby")

    def evidence(self) -> Evidence:
        return {
            "epoch": self.locked.lease.epoch,
            "attempt": self.locked.order.attempt,
            "host": self.locked.order.standby.name,
            "floor": str(self.floor),
            "excused": str(self.excused),
            "tip": self.tip,
            "double_sign_check_height": self.check_height,
            "started": self.started,
        }


@dataclass(frozen=True, slots=True)
class Watched:
    """The standby signed `signed` blocks up to `last`; nothing was signed by anybody else."""

    armed: Armed
    first: Height
    last: Height
    signed: int
    until: dt.datetime
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        _sealed(seal, "a watch")

    def evidence(self) -> Evidence:
        epoch = self.armed.locked.lease.epoch
        return {"epoch": epoch, "first": self.first, "last": self.last, "signed": self.signed}
