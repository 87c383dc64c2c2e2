"""The floor: the lowest height, round and step that a restored signer may sign.

Guarantees: a `Floor` is never lower than anything that the key may have signed, as far as the fence, the chain and the
votes of survivors tell; applying it never lowers the file.  Uncertain means refused, unless two people put their names
under the risk, written out.
Leaves out: where copies of the state come from.

Step 5 of the promotion protocol:
    - The signer's own final state is known (its disk survived the fence): that state is the floor, moving or halted.
      What survivors saw, and the copies that were shipped of it, must not be above it, or it was not final.
    - It is not known, the chain moves: W = max(tip after the fence + 1, last quiet height, surviving state); the floor
      is (W + 1, 0, 0).  The quiet height is there for nodes that were all behind when they told the tip.
    - It is not known, the chain is halted: refused.  A floor above the next height would halt the chain for ever, a
      lower one may sign twice.  Two people may take that risk: the floor is then the highest thing known.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Final

from vedr.chain.attestation import TwoPeople
from vedr.chain.fence import FencedTip, FenceProof, FinalState, Halted, Quiet, SeenVotes
from vedr.chain.sign_state import SignState, read_sign_state, write_sign_state
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.inventory import Height

_SEAL: Final = object()
_ROLLED_BACK: Final = (
    "The file was rolled back, or another signer ran: keep it stopped.  While the chain moves, the floor can be taken "
    "from the tip instead."
)


@dataclass(frozen=True, slots=True)
class Floor:
    """What the sign-state file must say at least before the signer starts.

    `replaces_corrupt`: the floor stands without the file, so that one that can't be read may be set aside.
    """

    proof: FenceProof
    state: SignState
    reason: str
    replaces_corrupt: bool
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise RefusedError("a floor is only made from a fence and observations", remedy="Follow the protocol.")


def floor_from_final_state(final: FinalState, seen: SeenVotes, copies: Sequence[SignState] = ()) -> Floor:
    """The signer goes on where it stopped.

    Args:
        final: What its disk says.
        seen: What survivors hold.
        copies: What the regions' shipped copies of its file say.

    Raises:
        RefusedError: survivors or copies hold something higher, so it was not final, or another fence is meant.
    """
    _same_fence(final.proof, seen.proof)
    shipped = max(copies, key=lambda copy: copy.hrs, default=None)
    if shipped is not None and shipped.hrs > final.state.hrs:
        raise RefusedError(
            f"{final.proof.node.name}: its disk says {final.state}, but {shipped} was shipped from it: the "
            "disk's state is not its last",
            remedy=_ROLLED_BACK,
        )
    if seen.highest is not None and seen.highest > final.state.hrs:
        raise RefusedError(
            f"{final.proof.node.name}: its disk says {final.state}, but survivors hold its vote "
            f"{'/'.join(map(str, seen.highest))}: the disk's state is not its last",
            remedy=_ROLLED_BACK,
        )
    reason = f"the signer's own final state {final.state}"
    return Floor(final.proof, final.state, reason, replaces_corrupt=False, seal=_SEAL)


def floor_while_moving(tip: FencedTip, quiet: Quiet, seen: SeenVotes, surviving: SignState | None = None) -> Floor:
    """Above everything that was possible when the fence closed.

    Args:
        tip: The height after the fence.
        quiet: That nobody has signed with this key since.
        seen: What survivors hold.
        surviving: A copy of the state, however old; only ever raises the floor.

    Raises:
        RefusedError: the observations belong to different fences.
    """
    _same_fence(tip.proof, quiet.proof)
    _same_fence(tip.proof, seen.proof)
    surviving_height = surviving.height if surviving else 0
    below = max(tip.height + 1, quiet.last, surviving_height, seen.highest[0] if seen.highest else 0)
    state = SignState(Height(below + 1), 0, 0)
    reason = f"tip after the fence {tip.height}, quiet to {quiet.last}"
    return Floor(tip.proof, state, reason, replaces_corrupt=True, seal=_SEAL)


def risk_of(halted: Halted, known: SignState) -> str:
    """The sentence that two people have to say for a floor without the signer's own final state."""
    return (
        f"We start {halted.proof.node.name} ({halted.proof.node.address}) on the chain halted at {halted.tip.height}, "
        f"with the floor {_known(halted.seen, known)}. Its last signature is not proven. If it signed anything higher, "
        "it signs twice: 5 % of the stake is slashed and the validator is removed for ever."
    )


def floor_by_two_people(halted: Halted, known: SignState, word: TwoPeople) -> Floor:
    """The highest thing known, on the word of two people who read the risk; for a halted chain only.

    Args:
        halted: That the chain stands, and what survivors hold.
        known: The highest copy of the state that was found.
        word: Two people's `risk_of` this very case.

    Raises:
        RefusedError: they said something else.
    """
    if word.says != risk_of(halted, known):
        raise RefusedError(
            f"{halted.proof.node.name}: the risk that {' and '.join(word.people)} accepted is not this one",
            remedy=f"Show them this: {risk_of(halted, known)}",
        )
    state = _known(halted.seen, known)
    reason = f"not proven, accepted by {' and '.join(word.people)}: {word.says}"
    return Floor(halted.proof, state, reason, replaces_corrupt=True, seal=_SEAL)


def _known(seen: SeenVotes, known: SignState) -> SignState:
    if seen.highest is not None and seen.highest > known.hrs:
        return SignState(Height(seen.highest[0]), *seen.highest[1:])
    return known


def refuse_while_halted(tip: FencedTip, seen: SeenVotes, surviving: SignState | None = None) -> RefusedError:
    """Why there is no floor for a halted chain without the signer's own final state; the caller raises it.

    Names the highest thing known, which is where people begin.
    """
    known = max([(0, 0, 0), *([seen.highest] if seen.highest else []), *([surviving.hrs] if surviving else [])])
    return RefusedError(
        f"{tip.proof.node.name}: the chain stands at {tip.height} and the signer's final state is not proven; the "
        f"highest known is {'/'.join(map(str, known))}",
        remedy="Find the old signer's disk or its shipped state.  Starting it on a guess can sign twice, for which the "
        "stake is slashed and the validator removed for ever.",
    )


def apply_floor(floor: Floor, path: Path) -> SignState:
    """Make the sign-state file say the floor, or leave it when it says more; gives what it now says.

    A file that can't be read is kept beside it, and only replaced by a floor that stands without it.  Safe to repeat.

    Raises:
        CorruptError: the file can't be read and the floor rests on it.
    """
    try:
        read_sign_state(path)
    except NotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except CorruptError:
        if not floor.replaces_corrupt:
            raise
        path.replace(path.with_name(f"{path.name}.unreadable-{floor.proof.at:%Y%m%dT%H%M%S%f}"))
    return write_sign_state(path, floor.state)


def holds(floor: Floor, state: SignState) -> bool:
    """Whether a signer with this state is at or above the floor."""
    return state.hrs >= floor.state.hrs


def _same_fence(first: FenceProof, second: FenceProof) -> None:
    if first != second:
        raise RefusedError(
            f"observations of two fences are mixed: {first.node.name} at {first.at.isoformat()}, "
            f"{second.node.name} at {second.at.isoformat()}",
            remedy="Observe again after the last fence.",
        )
