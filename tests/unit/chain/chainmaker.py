"""A chain that tests make themselves: real keys, real signatures, any validator set at any height."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain.block import BlockId, Commit, CommitSig, Flag, Header, SignedHeader, Validator, ValidatorSet
from vedr.chain.encoding import NS_PER_S
from vedr.chain.rpc import MAX_HEADERS_A_CALL, Status
from vedr.chain.verification import LightBlock
from vedr.errors import NotFoundError, UnavailableError
from vedr.inventory import Height

CHAIN_ID = "made-1"
GENESIS_NS = 1_800_000_000 * NS_PER_S
GO_ZERO_TIME_NS = -62_135_596_800 * NS_PER_S


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def public(number: int) -> bytes:
    return key(number).public_key().public_bytes_raw()


def address(number: int) -> bytes:
    return Validator(public(number), 1).address


def members(powers: dict[int, int]) -> ValidatorSet:
    """A set from key numbers and powers."""
    return ValidatorSet.ordered(tuple(Validator(public(number), power) for number, power in powers.items()))


_NUMBERS = {public(number): number for number in range(1, 160)}


def sign(block_id: BlockId, height: int, validators: ValidatorSet, signers: Iterable[int], *, chain_id: str) -> Commit:
    """A commit in which the signers voted for the block and the others are absent."""
    chosen = frozenset(signers)
    time_ns = GENESIS_NS + (height + 1) * NS_PER_S
    entries = tuple(
        CommitSig(Flag.COMMIT, validator.address, time_ns, b"")
        if _NUMBERS[validator.key] in chosen
        else CommitSig(Flag.ABSENT, b"", GO_ZERO_TIME_NS, b"")
        for validator in validators.validators
    )
    commit = Commit(Height(height), 0, block_id, entries)
    signed = tuple(
        replace(sig, signature=key(_NUMBERS[validators.validators[index].key]).sign(commit.sign_bytes(chain_id, index)))
        if sig.flag is Flag.COMMIT
        else sig
        for index, sig in enumerate(entries)
    )
    return replace(commit, signatures=signed)


def make_chain(
    length: int,
    powers_at: Callable[[int], dict[int, int]],
    *,
    signers_at: Callable[[int], Iterable[int]] | None = None,
    chain_id: str = CHAIN_ID,
    flavour: bytes = b"",
) -> dict[int, LightBlock]:
    """Blocks 1 to length, a second apart; `flavour` changes every hash, as a fork would."""
    blocks: dict[int, LightBlock] = {}
    last = BlockId(b"", 0, b"")
    for height in range(1, length + 1):
        validators = members(powers_at(height))
        header = Header(
            block_version=11,
            app_version=1,
            chain_id=chain_id,
            height=Height(height),
            time_ns=GENESIS_NS + height * NS_PER_S,
            last_block_id=last,
            last_commit_hash=_digest(b"commit", height),
            data_hash=_digest(b"data", height),
            validators_hash=validators.hash(),
            next_validators_hash=members(powers_at(height + 1)).hash(),
            consensus_hash=_digest(b"consensus", 0),
            app_hash=_digest(b"app" + flavour, height),
            last_results_hash=_digest(b"results", height),
            evidence_hash=_digest(b"evidence", 0),
            proposer_address=validators.validators[0].address,
        )
        last = BlockId(header.hash(), 1, _digest(b"parts", height))
        signers = signers_at(height) if signers_at else powers_at(height)
        commit = sign(last, height, validators, signers, chain_id=chain_id)
        blocks[height] = LightBlock(SignedHeader(header, commit), validators)
    return blocks


def _digest(what: bytes, height: int) -> bytes:
    return hashlib.sha256(what + height.to_bytes(8, "big")).digest()


@dataclass
class MadeNode:
    """A node that serves made blocks; `HeaderSource`."""

    name: str
    blocks: dict[int, LightBlock]
    node_id: str = ""
    chain_id: str = CHAIN_ID
    down: bool = False
    tip: int | None = None
    calls: list[str] = field(default_factory=list)
    fault: Exception | None = None

    def _reach(self, call: str) -> None:
        self.calls.append(call)
        if self.fault is not None:
            raise self.fault
        if self.down:
            raise UnavailableError(f"{self.name}: connection refused")

    @property
    def height(self) -> int:
        return max(self.blocks) if self.tip is None else self.tip

    def status(self) -> Status:
        self._reach("status")
        header = self.blocks[self.height].header
        return Status(
            node_id=self.node_id or self.name,
            chain_id=self.chain_id,
            moniker=self.name,
            version="0.38.25",
            latest_height=header.height,
            latest_block_hash=header.hash(),
            latest_app_hash=header.app_hash,
            latest_time_ns=header.time_ns,
            earliest_height=Height(min(self.blocks)),
            catching_up=False,
            validator_address=b"",
            validator_power=0,
        )

    def commit(self, height: Height | None = None) -> SignedHeader:
        self._reach(f"commit {height}")
        return self._block(height or Height(self.height)).signed

    def validators(self, height: Height) -> ValidatorSet:
        self._reach(f"validators {height}")
        return self._block(height).validators

    def headers(self, low: Height, high: Height) -> tuple[Header, ...]:
        self._reach(f"headers {low} {high}")
        lowest = max(low, high - MAX_HEADERS_A_CALL + 1)
        return tuple(self._block(Height(height)).header for height in range(high, lowest - 1, -1))

    def _block(self, height: Height) -> LightBlock:
        if height > self.height or height not in self.blocks:
            raise NotFoundError(f"{self.name}: height {height} is not there")
        return self.blocks[height]


class FakeTime:
    """Time that passes only when somebody waits; `on_wait` makes things happen meanwhile."""

    def __init__(self, now_ns: int, on_wait: Sequence[Callable[[], None]] = ()) -> None:
        self.now_ns = now_ns
        self.slept_s = 0.0
        self._events = list(on_wait)

    def wall(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.now_ns += int(seconds * NS_PER_S)
        if self._events:
            self._events.pop(0)()
