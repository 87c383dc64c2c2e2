"""CometBFT's privval messages: what a validator's node asks of its signer, and the answers.

Guarantees: `read_request` gives a request whose every value is in range, or a CorruptError; answers are byte for byte
those of CometBFT v0.38.  Leaves out: whether anything may be signed (`rules`), and what is signed (`canonical`).

Sources: cometbft v0.38 proto/tendermint/{privval,types,crypto}/*.proto, privval/msgs.go.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, TypeAlias

from vedr.chain.block import ADDRESS_BYTES, HASH_BYTES, BlockId
from vedr.chain.encoding import bytes_field, message_field, timestamp, varint_field
from vedr.chain.sign_state import Hrs
from vedr.signer.protobuf import GO_ZERO_TIME_NS, INT32_MAX, UINT32_MAX, Message, wrong

MAX_MESSAGE_BYTES: Final = 10 * 1024  # privval's maxRemoteSignerMsgSize, the length before it not counted
MAX_EXTENSION_BYTES: Final = MAX_MESSAGE_BYTES - 1024  # what leaves room for the answer, which adds two signatures
NO_BLOCK: Final = BlockId(b"", 0, b"")


class MessageType(IntEnum):
    """tendermint.types.SignedMsgType."""

    PREVOTE = 1
    PRECOMMIT = 2
    PROPOSAL = 32


_STEP: Final = {MessageType.PROPOSAL: 1, MessageType.PREVOTE: 2, MessageType.PRECOMMIT: 3}  # privval/file.go


@dataclass(frozen=True, slots=True)
class Vote:
    """A prevote or precommit; the block id is empty when the vote is nil."""

    type: MessageType
    height: int
    round: int
    block_id: BlockId
    time_ns: int
    validator_address: bytes = b""
    validator_index: int = 0
    signature: bytes = b""
    extension: bytes = b""
    extension_signature: bytes = b""

    @property
    def hrs(self) -> Hrs:
        return (self.height, self.round, _STEP[self.type])

    @property
    def is_nil(self) -> bool:
        """Whether it is for no block."""
        return self.block_id == NO_BLOCK

    @property
    def takes_extension(self) -> bool:
        """Whether CometBFT wants an extension signed with it, be it empty: precommits for a block."""
        return self.type is MessageType.PRECOMMIT and not self.is_nil

    @property
    def kind(self) -> str:
        return self.type.name.lower()

    def signed(self, signature: bytes, time_ns: int) -> "Vote":
        return replace(self, signature=signature, time_ns=time_ns)

    def encode(self) -> bytes:
        return (
            varint_field(1, self.type)
            + varint_field(2, self.height)
            + varint_field(3, self.round)
            + message_field(4, self.block_id.encode())
            + message_field(5, timestamp(self.time_ns))
            + bytes_field(6, self.validator_address)
            + varint_field(7, self.validator_index)
            + bytes_field(8, self.signature)
            + bytes_field(9, self.extension)
            + bytes_field(10, self.extension_signature)
        )

    @classmethod
    def read(cls, message: Message) -> "Vote":
        type_number = message.unsigned(1, high=UINT32_MAX)
        if type_number not in (MessageType.PREVOTE, MessageType.PRECOMMIT):
            raise wrong(f"{message.what}.1: {type_number} is no kind of vote")
        vote = cls(
            type=MessageType(type_number),
            height=message.signed(2),
            round=message.signed(3, high=INT32_MAX),
            block_id=read_block_id(message.message(4)),
            time_ns=message.time_ns(5),
            validator_address=message.octets(6, 0, ADDRESS_BYTES),
            validator_index=message.signed(7, low=-1, high=INT32_MAX),
            extension=message.octets(9),
        )
        if len(vote.extension) > MAX_EXTENSION_BYTES:
            raise wrong(f"{message.what}.9: {len(vote.extension)} bytes, more than {MAX_EXTENSION_BYTES}")
        return vote


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed block; `pol_round` is -1 when no earlier round had a proof of lock."""

    height: int
    round: int
    pol_round: int
    block_id: BlockId
    time_ns: int
    signature: bytes = b""

    @property
    def hrs(self) -> Hrs:
        return (self.height, self.round, _STEP[MessageType.PROPOSAL])

    @property
    def kind(self) -> str:
        return "proposal"

    def signed(self, signature: bytes, time_ns: int) -> "Proposal":
        return replace(self, signature=signature, time_ns=time_ns)

    def encode(self) -> bytes:
        return _encode_proposal(MessageType.PROPOSAL, self)

    @classmethod
    def read(cls, message: Message) -> "Proposal":
        type_number = message.unsigned(1, high=UINT32_MAX)
        if type_number != MessageType.PROPOSAL:
            raise wrong(f"{message.what}.1: {type_number} is no proposal")
        return cls(
            height=message.signed(2),
            round=message.signed(3, high=INT32_MAX),
            pol_round=message.signed(4, low=-1, high=INT32_MAX),
            block_id=read_block_id(message.message(5)),
            time_ns=message.time_ns(6),
        )


def _encode_proposal(type_number: int, proposal: Proposal) -> bytes:
    return (
        varint_field(1, type_number)
        + varint_field(2, proposal.height)
        + varint_field(3, proposal.round)
        + varint_field(4, proposal.pol_round)
        + message_field(5, proposal.block_id.encode())
        + message_field(6, timestamp(proposal.time_ns))
        + bytes_field(7, proposal.signature)
    )


def read_block_id(message: Message) -> BlockId:
    """A BlockID, or a CanonicalBlockID, which has the same fields; `NO_BLOCK` when it is empty."""
    parts = message.message(2)
    return BlockId(
        hash=message.octets(1, 0, HASH_BYTES),
        parts_total=parts.unsigned(1, high=UINT32_MAX),
        parts_hash=parts.octets(2, 0, HASH_BYTES),
    )


Signable: TypeAlias = Vote | Proposal


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Is the signer there?"""


@dataclass(frozen=True, slots=True)
class PublicKeyRequest:
    """Which key signs for this chain?"""

    chain_id: str


@dataclass(frozen=True, slots=True)
class SignRequest:
    """Sign this for this chain."""

    chain_id: str
    message: Signable


Request: TypeAlias = PingRequest | PublicKeyRequest | SignRequest


class _Number(IntEnum):
    """Fields of tendermint.privval.Message, of which it has one."""

    PUBLIC_KEY_REQUEST = 1
    PUBLIC_KEY_RESPONSE = 2
    VOTE_REQUEST = 3
    VOTE_RESPONSE = 4
    PROPOSAL_REQUEST = 5
    PROPOSAL_RESPONSE = 6
    PING_REQUEST = 7
    PING_RESPONSE = 8


def read_request(data: bytes) -> Request:
    """The request in one message, its length already taken off."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise wrong(f"request: {len(data)} bytes, more than {MAX_MESSAGE_BYTES}")
    message = Message.parse(data, what="request")
    chosen = sorted(number for number in message.fields if number <= _Number.PING_RESPONSE)
    if len(chosen) != 1:
        raise wrong(f"request: {len(chosen)} messages in one, not 1")
    body = message.message(chosen[0])
    match chosen[0]:
        case _Number.PING_REQUEST:
            return PingRequest()
        case _Number.PUBLIC_KEY_REQUEST:
            return PublicKeyRequest(body.text(1))
        case _Number.VOTE_REQUEST:
            return SignRequest(body.text(2), Vote.read(body.message(1)))
        case _Number.PROPOSAL_REQUEST:
            return SignRequest(body.text(2), Proposal.read(body.message(1)))
        case other:
            raise wrong(f"request: message {other} is no request")


def ping_response() -> bytes:
    return message_field(_Number.PING_RESPONSE, b"")


def public_key_response(key: bytes) -> bytes:
    """With a raw Ed25519 key."""
    return message_field(_Number.PUBLIC_KEY_RESPONSE, message_field(1, message_field(1, key)))


def public_key_error(code: int, description: str) -> bytes:
    return message_field(_Number.PUBLIC_KEY_RESPONSE, message_field(1, b"") + _error(code, description))


def signed_response(message: Signable) -> bytes:
    """With the message as it was signed, which may have another timestamp than the one asked for."""
    number = _Number.VOTE_RESPONSE if isinstance(message, Vote) else _Number.PROPOSAL_RESPONSE
    return message_field(number, message_field(1, message.encode()))


def signing_error(message: Signable, code: int, description: str) -> bytes:
    """That it was not signed: with an empty message, as Go's zero value is written."""
    if isinstance(message, Vote):
        empty = message_field(4, NO_BLOCK.encode()) + message_field(5, timestamp(GO_ZERO_TIME_NS))
        return message_field(_Number.VOTE_RESPONSE, message_field(1, empty) + _error(code, description))
    empty = _encode_proposal(0, Proposal(0, 0, 0, NO_BLOCK, GO_ZERO_TIME_NS))
    return message_field(_Number.PROPOSAL_RESPONSE, message_field(1, empty) + _error(code, description))


def _error(code: int, description: str) -> bytes:
    return message_field(2, varint_field(1, code) + bytes_field(2, description.encode()))
