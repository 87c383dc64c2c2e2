"""A signer with a key in memory and a register that can be told to fail."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain.block import BlockId
from vedr.chain.register import Position
from vedr.errors import VedrError
from vedr.signer.messages import MessageType, Proposal, SignRequest, Vote
from vedr.signer.metrics import Metrics
from vedr.signer.protobuf import Message
from vedr.signer.rules import Mark
from vedr.signer.service import Signer

CHAIN_ID = "vedr-test"
VECTORS = Path(__file__).parents[2] / "vectors"
BLOCK = BlockId(sha256(b"block").digest(), 1, sha256(b"parts").digest())
OTHER_BLOCK = BlockId(sha256(b"other").digest(), 1, sha256(b"parts").digest())
NIL = BlockId(b"", 0, b"")
NOON_NS = 1_700_000_000 * 10**9


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def prevote(height: int = 5, round_: int = 0, block: BlockId = BLOCK, time_ns: int = NOON_NS) -> Vote:
    return Vote(MessageType.PREVOTE, height, round_, block, time_ns, bytes(20), 1)


def precommit(
    height: int = 5, round_: int = 0, block: BlockId = BLOCK, time_ns: int = NOON_NS, extension: bytes = b""
) -> Vote:
    return Vote(MessageType.PRECOMMIT, height, round_, block, time_ns, bytes(20), 1, extension=extension)


def proposal(height: int = 5, round_: int = 0, block: BlockId = BLOCK, time_ns: int = NOON_NS) -> Proposal:
    return Proposal(height, round_, -1, block, time_ns)


@dataclass
class MemoryKey:
    """vedr.ports.SigningKey; `failure` is raised, `answer` is given instead."""

    private: Ed25519PrivateKey = field(default_factory=lambda: Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    failure: VedrError | None = None
    answer: bytes | None = None
    asked: int = 0

    @property
    def public_key(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.answer or self.private.sign(message)


@dataclass
class MemoryRegister:
    """Takes every mark, unless told to fail; `lost` fails after it took it."""

    failure: VedrError | None = None
    lost: VedrError | None = None
    marks: list[Position] = field(default_factory=list)

    def advance(self, position: Position) -> None:
        if self.failure is not None:
            raise self.failure
        self.marks.append(position)
        if self.lost is not None:
            raise self.lost

    def has(self, position: Position) -> bool:
        return self.failure is None and self.lost is None and position in self.marks


@dataclass
class World:
    state_file: Path
    last: Mark = field(default_factory=lambda: Mark(0, 0, 0))
    key: MemoryKey = field(default_factory=MemoryKey)
    register: MemoryRegister = field(default_factory=MemoryRegister)
    metrics: Metrics = field(default_factory=Metrics)
    logged: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signer = self.restart()

    def log(self, event: str, facts: Mapping[str, Any]) -> None:
        self.logged.append((event, json.loads(json.dumps(dict(facts)))))

    def restart(self, last: Mark | None = None) -> Signer:
        self.signer = Signer(
            chain_id=CHAIN_ID,
            key=self.key,
            register=self.register,
            state_file=self.state_file,
            last=last or self.last,
            metrics=self.metrics,
            log=self.log,
        )
        return self.signer

    def ask(self, message: Vote | Proposal, chain_id: str = CHAIN_ID) -> Message:
        """The answer's body: field 1 is the message, field 2 the error."""
        answer = Message.parse(self.signer.answer(SignRequest(chain_id, message)), what="answer")
        (number,) = answer.fields
        return answer.message(number)

    def signature(self, message: Vote | Proposal) -> bytes:
        """That was given."""
        body = self.ask(message)
        assert not body.has(2), body.message(2).text(2)
        return body.message(1).octets(8 if isinstance(message, Vote) else 7)

    def refusal(self, message: Vote | Proposal, chain_id: str = CHAIN_ID) -> str:
        """Why there was none; the message that comes with it is empty."""
        body = self.ask(message, chain_id)
        assert body.has(2), "it was signed"
        assert not body.message(1).has(8 if isinstance(message, Vote) else 7)
        return body.message(2).text(2)

    def count(self, series: str) -> float:
        for line in self.metrics.text().splitlines():
            if line.startswith(f"{series} "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no series {series}")
