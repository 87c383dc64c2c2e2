"""Watching a validator that just began to sign on another host: is anybody else signing with its key?

1. Evidence in a block that accuses the validator.
2. A signature in a commit that lies above all that was possible before the fence and below the floor.
3. A signature, in a commit or among the votes of the height being decided, that the standby's own state does not
   account for.  FilePV and the remote signer store before they sign, so a state that is read after the signature was
   seen must be at or above it.

Guarantees: any of these ends the watch with `SecondSignerError`; a watch that could not look does not end well.
Leaves out: stopping the standby, which `promotion` does at once.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vedr.chain.block import Flag
from vedr.chain.rpc import ChainRpc
from vedr.chain.sign_state import Hrs, SignState
from vedr.errors import DeadlineError, UnavailableError, VerificationFailedError
from vedr.inventory import Height

MIN_SIGNED_BLOCKS: Final = 10
_POLL_S: Final = 0.2
_PRECOMMIT: Final = 3


class SecondSignerError(VerificationFailedError):
    """Somebody else signs with the validator's key, or did."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What is watched.

    `floor`: what the standby began with; `excused`: the highest signature that may be older than the fence; `own_state`
    reads the standby's sign-state, now.
    """

    who: str
    address: bytes
    floor: Hrs
    excused: Hrs
    own_state: Callable[[], SignState]


@dataclass(frozen=True, slots=True)
class Span:
    """The blocks that were watched and how many of them the standby signed."""

    first: Height
    last: Height
    signed: int


def watch_blocks(
    watching: Watching,
    observers: Sequence[ChainRpc],
    *,
    after: Height,
    blocks: int,
    deadline_s: float,
    still_ours: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Span:
    """Look at every block above `after`, and at the votes, until the standby signed that many.

    Args:
        watching: What is watched.
        observers: Nodes other than the standby; those that don't answer are passed over.
        after: The last block that needs no look.
        blocks: How many blocks the standby has to sign.
        deadline_s: The longest that this may take.
        still_ours: Raises when another run took the key over; asked before each look.
        sleep: Waits between looks.
        monotonic: What the deadline is measured with.

    Raises:
        SecondSignerError: see the module's text.
        DeadlineError: it did not sign that many: it is not in the set, not in sync, or the chain stands.
    """
    until = monotonic() + deadline_s
    last, signed = after, 0
    while signed < blocks:
        still_ours()
        seen = last
        for observer in observers:
            with contextlib.suppress(UnavailableError):
                _check_votes(watching, observer)
                while observer.status().latest_height > last + 1:
                    signed += _check_block(watching, observer, Height(last + 1))
                    last = Height(last + 1)
        if signed < blocks and monotonic() >= until:
            raise DeadlineError(
                f"{watching.who} signed {signed} of {blocks} blocks in {deadline_s:g} s; watched to block {last}",
                remedy="See whether it is in sync and in the set, then resume: the watch goes on.",
            )
        if last == seen:
            sleep(_POLL_S)
    return Span(Height(after + 1), last, signed)


def _check_block(watching: Watching, observer: ChainRpc, height: Height) -> bool:
    """Whether the validator signed this block; (1), (2), (3)."""
    for evidence in observer.block(height).evidence:
        if watching.address in evidence.addresses:
            raise _second(watching, f"block {height} holds {evidence.kind} of height {evidence.height} against it")
    commit = observer.commit(height).commit
    flags = [sig.flag for sig in commit.signatures if sig.address == watching.address]
    if not flags:
        return False
    _check_signature(watching, (height, commit.round, _PRECOMMIT), f"block {height}")
    return Flag.COMMIT in flags


def _check_votes(watching: Watching, observer: ChainRpc) -> None:
    """(2), (3)."""
    for vote in observer.consensus_state().votes_of(watching.address):
        _check_signature(watching, (vote.height, vote.round, vote.step), f"a vote that {observer.name} holds")


def _check_signature(watching: Watching, signed: Hrs, where: str) -> None:
    if signed <= watching.excused:
        return
    name = "/".join(map(str, signed))
    if signed <= watching.floor:
        raise _second(watching, f"{where} holds its signature {name}, which is not above the floor {watching.floor}")
    own = watching.own_state()
    if signed > own.hrs:
        raise _second(watching, f"{where} holds its signature {name}, but the standby signed up to {own} only")


def _second(watching: Watching, what: str) -> SecondSignerError:
    return SecondSignerError(
        f"{watching.who} ({watching.address.hex().upper()}): {what}: another signer with this key is or was alive",
        remedy="Start none of its signers.  Run RB-DR-005 (key compromise) and find the other one.",
    )
