"""What a consensus key signs: the canonical forms of votes, proposals and vote extensions.

Guarantees: byte for byte CometBFT v0.38's sign-bytes; `without_time` tells two messages apart exactly when they
differ in more than their timestamp; `read` takes what `sign_bytes` writes and nothing else.
Leaves out: whether it may be signed.

Sources: cometbft v0.38 types/{canonical,vote,proposal}.go, privval/file.go.
"""

from typing import Final

from vedr.chain.block import BlockId
from vedr.chain.encoding import (
    bytes_field,
    delimited,
    message_field,
    sfixed64_field,
    timestamp,
    varint_field,
)
from vedr.errors import CorruptError
from vedr.signer.messages import NO_BLOCK, MessageType, Proposal, Signable, Vote, read_block_id
from vedr.signer.protobuf import INT32_MAX, UINT32_MAX, Message, read_uvarint, wrong

_PROPOSAL_STEP: Final = 1
_VOTE_TIME: Final = 5  # CanonicalVote.timestamp
_PROPOSAL_TIME: Final = 6  # CanonicalProposal.timestamp


def sign_bytes(message: Signable, chain_id: str) -> bytes:
    """The canonical message, its length before it."""
    return delimited(_vote(message, chain_id) if isinstance(message, Vote) else _proposal(message, chain_id))


def _vote(vote: Vote, chain_id: str) -> bytes:
    return (
        varint_field(1, vote.type)
        + sfixed64_field(2, vote.height)
        + sfixed64_field(3, vote.round)
        + _block_id(4, vote.block_id)
        + message_field(5, timestamp(vote.time_ns))
        + bytes_field(6, chain_id.encode())
    )


def _proposal(proposal: Proposal, chain_id: str) -> bytes:
    return (
        varint_field(1, MessageType.PROPOSAL)
        + sfixed64_field(2, proposal.height)
        + sfixed64_field(3, proposal.round)
        + varint_field(4, proposal.pol_round)
        + _block_id(5, proposal.block_id)
        + message_field(6, timestamp(proposal.time_ns))
        + bytes_field(7, chain_id.encode())
    )


def _block_id(number: int, block_id: BlockId) -> bytes:
    """Left out when it is empty, as in a vote for nil."""
    return b"" if block_id == NO_BLOCK else message_field(number, block_id.encode())


def extension_sign_bytes(vote: Vote, chain_id: str) -> bytes:
    """The canonical vote extension, its length before it.

    It begins with field 1 as bytes, or with field 2: never as a vote or proposal does, so that it can't pass for one.
    """
    return delimited(
        bytes_field(1, vote.extension)
        + sfixed64_field(2, vote.height)
        + sfixed64_field(3, vote.round)
        + bytes_field(4, chain_id.encode())
    )


def read(signed: bytes, chain_id: str) -> Signable:
    """The message that has these sign-bytes on this chain; what they don't tell (address, signature, …) is empty.

    Raises:
        CorruptError: no message has exactly these.
    """
    message = _parse(signed)
    kind = message.unsigned(1, high=UINT32_MAX)
    if kind not in tuple(MessageType):
        raise wrong(f"sign-bytes: {kind} is no kind of message")
    found = _read_proposal(message) if kind == MessageType.PROPOSAL else _read_vote(MessageType(kind), message)
    if sign_bytes(found, chain_id) != signed:
        raise wrong(f"sign-bytes: not as chain {chain_id} writes them")
    return found


def is_nil_vote(signed: bytes, *, chain_id: str) -> bool:
    """Whether these are the sign-bytes of a vote for no block, which commits nothing whoever wanted it signed."""
    try:
        found = read(signed, chain_id)
    except CorruptError:
        return False
    return isinstance(found, Vote) and found.is_nil


def _read_vote(kind: MessageType, message: Message) -> Vote:
    return Vote(
        kind,
        height=message.sfixed64(2),
        round=message.sfixed64(3, high=INT32_MAX),
        block_id=read_block_id(message.message(4)),
        time_ns=message.time_ns(_VOTE_TIME),
    )


def _read_proposal(message: Message) -> Proposal:
    return Proposal(
        height=message.sfixed64(2),
        round=message.sfixed64(3, high=INT32_MAX),
        pol_round=message.signed(4, low=-1, high=INT32_MAX),
        block_id=read_block_id(message.message(5)),
        time_ns=message.time_ns(_PROPOSAL_TIME),
    )


def without_time(signed: bytes, step: int) -> tuple[dict[int, tuple[int, int | bytes]], int]:
    """The fields of canonical sign-bytes except the timestamp, and that, in nanoseconds since 1970.

    Raises:
        CorruptError: these are no sign-bytes.
    """
    message = _parse(signed)
    number = _PROPOSAL_TIME if step == _PROPOSAL_STEP else _VOTE_TIME
    rest = {field: value for field, value in message.fields.items() if field != number}
    return rest, message.time_ns(number)


def _parse(signed: bytes) -> Message:
    size, start = read_uvarint(signed, 0, what="sign-bytes")
    if size != len(signed) - start:
        raise wrong(f"sign-bytes: {size} bytes announced, {len(signed) - start} there")
    return Message.parse(signed[start:], what="sign-bytes")
