"""What may be signed after what: CometBFT's own rules (FilePV), as one pure function.

Guarantees: a height, round and step is signed for one content only, and never after a higher one.  Of two messages at
one height, round and step that differ in their timestamp alone, the first one's timestamp and signature are given
again.  Leaves out: making it durable, which `service` does before anything is signed.

Beside FilePV: where a signer fell between advancing the registers and signing, or another one did, the same content
may be signed again, since Ed25519 gives the same signature; any other is refused.  Where only the digest is known, as
in registers of before sign-bytes were kept, a message with another timestamp is refused too.  Both can cost a vote,
never a double sign; `finishing` sends what was recorded, so that the round goes on.

Source: cometbft v0.38 privval/file.go, CheckHRS, signVote, signProposal.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from vedr.chain.register import MAX_SIGN_BYTES, Position
from vedr.chain.sign_state import Hrs, SignState
from vedr.errors import CorruptError, RefusedError
from vedr.inventory import Height
from vedr.signer.canonical import read, without_time
from vedr.signer.messages import Signable, Vote

_PARTS: Final = ("height", "round", "step")


class Reason(StrEnum):
    """Why a signature was not given, as metrics and logs name it."""

    HEIGHT_REGRESSION = "height_regression"
    ROUND_REGRESSION = "round_regression"
    STEP_REGRESSION = "step_regression"
    CONFLICTING_DATA = "conflicting_data"
    BELOW_FLOOR = "below_floor"
    UNEXPECTED_EXTENSION = "unexpected_extension"
    OTHER_CHAIN = "other_chain"
    NOT_HELD = "not_held"
    SUPERSEDED = "superseded"
    REGISTERS_UNAVAILABLE = "registers_unavailable"
    KEY_UNAVAILABLE = "key_unavailable"
    STATE_NOT_WRITTEN = "state_not_written"
    WRONG_SIGNATURE = "wrong_signature"


class NotSignedError(RefusedError):
    """A signature that was not given; `reason` is one of few, for counting."""

    def __init__(self, reason: Reason, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest thing that the key has signed, or was about to sign, or must not sign below.

    `digest` is the SHA-256 of the sign-bytes, empty for a mere floor.  Sign-bytes and signature are there when this
    host knows them.
    """

    height: int
    round: int
    step: int
    digest: bytes = b""
    sign_bytes: bytes = b""
    signature: bytes = b""

    @property
    def hrs(self) -> Hrs:
        return (self.height, self.round, self.step)

    def __str__(self) -> str:
        return f"{self.height}/{self.round}/{self.step}"

    @property
    def position(self) -> Position:
        """As the registers hold it: with the sign-bytes, so that another signer can finish what this one began."""
        kept = self.sign_bytes if len(self.sign_bytes) <= MAX_SIGN_BYTES else b""  # longer ones are no message's
        return Position(Height(self.height), self.round, self.step, self.digest.hex(), kept)

    @classmethod
    def of_position(cls, position: Position, chain_id: str) -> "Mark":
        """What the registers say; where they know no digest, a mere floor.

        Sign-bytes that are not those of a message of this chain, there, are left out: the digest alone binds.
        """
        mark = cls(*position.hrs, bytes.fromhex(position.digest), position.sign_bytes)
        return mark if mark.message(chain_id) is not None else replace(mark, sign_bytes=b"")

    def message(self, chain_id: str) -> Signable | None:
        """What was signed, or was about to be, at this height, round and step; None where it is not known."""
        try:
            found = read(self.sign_bytes, chain_id)
        except CorruptError:
            return None
        return found if found.hrs == self.hrs else None

    @classmethod
    def of(cls, hrs: Hrs, sign_bytes: bytes, signature: bytes = b"") -> "Mark":
        return cls(*hrs, hashlib.sha256(sign_bytes).digest(), sign_bytes, signature)

    @classmethod
    def of_file(cls, state: SignState) -> "Mark":
        """What a sign-state file says."""
        if not state.sign_bytes:
            return cls(*state.hrs)
        return cls.of(state.hrs, state.sign_bytes, state.signature)

    def to_file(self) -> SignState:
        return SignState(Height(self.height), self.round, self.step, self.signature, self.sign_bytes)


def highest(marks: list[Mark]) -> Mark:
    """The highest; at equal height, round and step the one that knows most.

    Raises:
        RefusedError: two are equal but of different content: the key has signed twice, or two signers ran.
    """
    top = max(marks, key=lambda mark: (mark.hrs, bool(mark.digest), bool(mark.sign_bytes), bool(mark.signature)))
    for mark in marks:
        if mark.hrs == top.hrs and mark.digest not in (b"", top.digest):
            raise RefusedError(
                f"two sign states at {top} are of different content: the key may have signed twice",
                remedy="Keep every copy of this signer stopped and raise a key-compromise incident.",
            )
    return top


@dataclass(frozen=True, slots=True)
class Sign:
    """Nothing stands against signing the mark's bytes, once the mark is durable; they bear this timestamp."""

    mark: Mark
    time_ns: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """This was signed before: the mark's signature again, over the timestamp of then."""

    mark: Mark
    time_ns: int


Verdict: TypeAlias = Sign | Repeat


def judge(last: Mark, message: Signable, sign_bytes: bytes) -> Verdict:
    """Whether a message may be signed after the last one.

    Args:
        last: The highest mark that is known anywhere.
        message: What is asked for.
        sign_bytes: Its canonical form.

    Raises:
        NotSignedError: a rule forbids it.
    """
    if isinstance(message, Vote) and message.extension and not message.takes_extension:
        raise NotSignedError(Reason.UNEXPECTED_EXTENSION, "vote extensions are only allowed in precommits for a block")
    asked = Mark.of(message.hrs, sign_bytes)
    if asked.hrs > last.hrs:
        return Sign(asked, message.time_ns)
    if asked.hrs < last.hrs:
        raise _regression(last, asked)
    if not last.digest:
        raise NotSignedError(Reason.BELOW_FLOOR, f"{asked} is at the floor, which may have been signed before")
    if (then_ns := _time_of_same_content(last, asked)) is not None:
        return Repeat(last, then_ns) if last.signature else Sign(last, then_ns)
    if last.digest == asked.digest:
        return Sign(asked, message.time_ns)
    raise NotSignedError(
        Reason.CONFLICTING_DATA,
        f"conflicting data: {asked} was signed, or about to be, for another content",
        remedy="The node asks for two things at once: find out whether two nodes use this signer.",
    )


def _time_of_same_content(last: Mark, asked: Mark) -> int | None:
    """The timestamp of the last one when it is known and differs in nothing else."""
    try:
        then, then_ns = without_time(last.sign_bytes, last.step)
    except CorruptError:
        return None  # not known to this host: only its digest speaks
    now, _ = without_time(asked.sign_bytes, asked.step)
    return then_ns if then == now else None


def _regression(last: Mark, asked: Mark) -> NotSignedError:
    differing = next(i for i in range(3) if asked.hrs[i] != last.hrs[i])
    reason = (Reason.HEIGHT_REGRESSION, Reason.ROUND_REGRESSION, Reason.STEP_REGRESSION)[differing]
    return NotSignedError(reason, f"{_PARTS[differing]} regression: asked for {asked}, the last signed was {last}")
