"""Headers, commits and validator sets of CometBFT v0.38, with the hashes and sign-bytes that bind them.

Guarantees: `Header.hash`, `ValidatorSet.hash` and `Commit.sign_bytes` give what CometBFT computes; parsing refuses
values of a wrong shape.  Leaves out: whether anything is true, which `verification` decides.

Sources: cometbft/types/{block,validator_set,canonical}.go, proto/tendermint/types/{types,canonical}.proto.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vedr.chain import encoding
from vedr.chain.encoding import bytes_field, message_field, sfixed64_field, varint_field
from vedr.chain.wire import Value
from vedr.inventory import Height

HASH_BYTES: Final = 32
ADDRESS_BYTES: Final = 20
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_VALIDATORS: Final = 10_000  # types.MaxVotesCount: more can never be in a commit
MAX_TOTAL_POWER: Final = ((1 << 63) - 1) // 8  # types.MaxTotalVotingPower
_PRECOMMIT: Final = 2  # tendermint.types.SignedMsgType
_ED25519_TYPE: Final = "tendermint/PubKeyEd25519"


@dataclass(frozen=True, slots=True)
class BlockId:
    """What validators sign: a header's hash and the root of the block's parts."""

    hash: bytes
    parts_total: int
    parts_hash: bytes

    @classmethod
    def parse(cls, value: Value) -> "BlockId":
        parts = value["parts"]
        return cls(
            hash=value["hash"].hexadecimal(0, HASH_BYTES),
            parts_total=parts["total"].int32(),
            parts_hash=parts["hash"].hexadecimal(0, HASH_BYTES),
        )

    def encode(self) -> bytes:
        """Both BlockID and CanonicalBlockID: they have the same fields."""
        parts = varint_field(1, self.parts_total) + bytes_field(2, self.parts_hash)
        return bytes_field(1, self.hash) + message_field(2, parts)


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header; `time_ns` is nanoseconds since 1970."""

    block_version: int
    app_version: int
    chain_id: str
    height: Height
    time_ns: int
    last_block_id: BlockId
    last_commit_hash: bytes
    data_hash: bytes
    validators_hash: bytes
    next_validators_hash: bytes
    consensus_hash: bytes
    app_hash: bytes
    last_results_hash: bytes
    evidence_hash: bytes
    proposer_address: bytes

    @classmethod
    def parse(cls, value: Value) -> "Header":
        version = value["version"]
        app_version = version["app"]
        return cls(
            block_version=version["block"].int64(),
            app_version=app_version.int64() if app_version.present() else 0,
            chain_id=value["chain_id"].text(),
            height=Height(value["height"].int64(low=1)),
            time_ns=value["time"].time_ns(),
            last_block_id=BlockId.parse(value["last_block_id"]),
            last_commit_hash=value["last_commit_hash"].hexadecimal(0, HASH_BYTES),
            data_hash=value["data_hash"].hexadecimal(0, HASH_BYTES),
            validators_hash=value["validators_hash"].hexadecimal(HASH_BYTES),
            next_validators_hash=value["next_validators_hash"].hexadecimal(HASH_BYTES),
            consensus_hash=value["consensus_hash"].hexadecimal(0, HASH_BYTES),
            app_hash=value["app_hash"].hexadecimal(),
            last_results_hash=value["last_results_hash"].hexadecimal(0, HASH_BYTES),
            evidence_hash=value["evidence_hash"].hexadecimal(0, HASH_BYTES),
            proposer_address=value["proposer_address"].hexadecimal(ADDRESS_BYTES),
        )

    def hash(self) -> bytes:
        """Merkle root of the fourteen fields, each encoded alone."""
        return encoding.merkle_root(
            (
                varint_field(1, self.block_version) + varint_field(2, self.app_version),
                bytes_field(1, self.chain_id.encode()),
                varint_field(1, self.height),
                encoding.timestamp(self.time_ns),
                self.last_block_id.encode(),
                bytes_field(1, self.last_commit_hash),
                bytes_field(1, self.data_hash),
                bytes_field(1, self.validators_hash),
                bytes_field(1, self.next_validators_hash),
                bytes_field(1, self.consensus_hash),
                bytes_field(1, self.app_hash),
                bytes_field(1, self.last_results_hash),
                bytes_field(1, self.evidence_hash),
                bytes_field(1, self.proposer_address),
            )
        )


class Flag(IntEnum):
    """What a validator did at a height, as the commit tells it."""

    ABSENT = 1
    COMMIT = 2
    NIL = 3


@dataclass(frozen=True, slots=True)
class CommitSig:
    """One validator's part in a commit; address and signature are empty when absent."""

    flag: Flag
    address: bytes
    time_ns: int
    signature: bytes

    @classmethod
    def parse(cls, value: Value) -> "CommitSig":
        flag = Flag(value["block_id_flag"].int32(low=1, high=3))
        absent = flag is Flag.ABSENT
        return cls(
            flag=flag,
            address=value["validator_address"].hexadecimal(0 if absent else ADDRESS_BYTES),
            time_ns=value["timestamp"].time_ns(),
            signature=value["signature"].base64(0 if absent else SIGNATURE_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """Precommits for a block, one entry a validator in the set's order."""

    height: Height
    round: int
    block_id: BlockId
    signatures: tuple[CommitSig, ...]

    @classmethod
    def parse(cls, value: Value) -> "Commit":
        signatures = tuple(CommitSig.parse(item) for item in value["signatures"].items())
        if not 0 < len(signatures) <= MAX_VALIDATORS:
            raise value["signatures"].wrong(f"1 to {MAX_VALIDATORS} signatures")
        return cls(
            height=Height(value["height"].int64(low=1)),
            round=value["round"].int32(),
            block_id=BlockId.parse(value["block_id"]),
            signatures=signatures,
        )

    def sign_bytes(self, chain_id: str, index: int) -> bytes:
        """What the validator at `index` signed, for a flag of COMMIT: the canonical precommit, length before it."""
        return encoding.delimited(
            varint_field(1, _PRECOMMIT)
            + sfixed64_field(2, self.height)
            + sfixed64_field(3, self.round)
            + message_field(4, self.block_id.encode())
            + message_field(5, encoding.timestamp(self.signatures[index].time_ns))
            + bytes_field(6, chain_id.encode())
        )


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """A header with the commit that is said to confirm it."""

    header: Header
    commit: Commit

    @classmethod
    def parse(cls, value: Value) -> "SignedHeader":
        return cls(Header.parse(value["header"]), Commit.parse(value["commit"]))


@dataclass(frozen=True, slots=True)
class Validator:
    """A member of the set; only Ed25519 keys, as every Cosmos chain uses."""

    key: bytes
    power: int

    @classmethod
    def parse(cls, value: Value, *, power: str = "voting_power") -> "Validator":
        key = value["pub_key"]
        if key["type"].text() != _ED25519_TYPE:
            raise key["type"].wrong(_ED25519_TYPE)
        return cls(key=key["value"].base64(KEY_BYTES), power=value[power].int64(low=1, high=MAX_TOTAL_POWER))

    @property
    def address(self) -> bytes:
        return hashlib.sha256(self.key).digest()[:ADDRESS_BYTES]

    def encode(self) -> bytes:
        """SimpleValidator, the leaf of the set's hash."""
        return message_field(1, bytes_field(1, self.key)) + varint_field(2, self.power)


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """Validators in CometBFT's order: power descending, then address."""

    validators: tuple[Validator, ...]

    @classmethod
    def ordered(cls, validators: tuple[Validator, ...]) -> "ValidatorSet":
        """In whatever order they come (genesis lists them freely)."""
        return cls(tuple(sorted(validators, key=lambda v: (-v.power, v.address))))

    def hash(self) -> bytes:
        return encoding.merkle_root([validator.encode() for validator in self.validators])

    @property
    def total_power(self) -> int:
        return sum(validator.power for validator in self.validators)

    def by_address(self) -> dict[bytes, Validator]:
        return {validator.address: validator for validator in self.validators}
