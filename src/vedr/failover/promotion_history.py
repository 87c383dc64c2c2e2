"""What earlier processes recorded about a key, as far as a floor rests on it.

The disks of fenced hosts tell the last signature of a halted chain only if they are the disks that the signer wrote.
One that was lost, and rebuilt from an old backup since, reads just as well.  It is found out by what was recorded:

    - The host that signed last has to show the highest state of all: its own is the newest.
    - What it showed to an earlier fence, or was armed with, may not be above what it shows now.
    - It may not have been without a disk at an earlier fence, after it had been armed.

Guarantees: pure; evidence that can't be understood is refused, never skipped.
Leaves out: a disk that was replaced before anybody looked, with a state that is above all that is known elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vedr.chain.fence import FenceProof
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.inventory import Height
from vedr.signature import Json

_REMEDY = "Read the run's record (vedr ledger show); until it is understood, nothing may rest on it."


@dataclass(frozen=True, slots=True)
class History:
    """What was recorded, of all runs that moved this key.

    Args:
        last_signer: The host that may have signed last: the one last about to be started, else the key's own.
        known: States that are known to have been reached, or promised, whatever disks say now.
        is_lost: Whether the last signer's state was found unknown since it may have signed.
    """

    last_signer: str
    known: tuple[SignState, ...]
    is_lost: bool

    def check_final(self, proof: FenceProof, final: SignState) -> None:
        """What fenced disks say is the last signature.

        Args:
            proof: The fence.
            final: The highest state on the fenced disks.

        Raises:
            NotFoundError: the disk of the last signer was lost at an earlier fence: another one is there now.
            RefusedError: it shows less than is known to have been reached.
        """
        if self.is_lost:
            raise NotFoundError(
                f"{self.last_signer} was fenced without its disk: the one that it has now is another",
                remedy="Bring back the disk that it signed from.",
            )
        own = next((one.final for one in proof.fences if one.host == self.last_signer), None)
        if own is None or own.hrs < max(state.hrs for state in (final, *self.known)):
            raise RefusedError(
                f"{self.last_signer} signed last, and its disk says {own}, less than is known to have been reached",
                remedy="Its disk was replaced or rolled back: bring back the one that it signed from.",
            )


def read_history(home: str, recorded: Iterable[tuple[StageName, Evidence]]) -> History:
    """Sum up what was recorded.

    Args:
        home: The host that the key belongs to.
        recorded: Stages and their evidence, of every earlier process that worked on this key, the oldest first.

    Raises:
        CorruptError: evidence that can't be understood.
    """
    last_signer, known, is_lost = home, list[SignState](), False
    for stage, evidence in sorted(recorded, key=lambda one: _number(one[1], "epoch")):
        if stage == "fenced":
            finals = _finals(evidence)
            known += [state for state in finals.values() if state is not None]
            is_lost = is_lost or (last_signer in finals and finals[last_signer] is None)
        elif stage == "arming":
            last_signer, is_lost = _text(evidence, "host"), False
            known.append(state_of(_text(evidence, "floor")))
    return History(last_signer, tuple(known), is_lost)


def state_of(text: str) -> SignState:
    """`height/round/step`, as evidence has it; CorruptError when it is not that."""
    try:
        height, round_, step = map(int, text.split("/"))
    except ValueError:
        raise CorruptError(f"recorded state {text[:60]!r} is no height/round/step", remedy=_REMEDY) from None
    return SignState(Height(height), round_, step)


def _finals(evidence: Evidence) -> dict[str, SignState | None]:
    found: dict[str, SignState | None] = {}
    hosts = evidence.get("hosts")
    for one in hosts if isinstance(hosts, list) else [None]:
        match one:
            case {"host": str(host), "final": str(final)}:
                found[host] = state_of(final)
            case {"host": str(host), "final": None}:
                found[host] = None
            case _:
                raise CorruptError(f"recorded fence of {str(one)[:60]} can't be understood", remedy=_REMEDY)
    return found


def _text(evidence: Evidence, member: str) -> str:
    value: Json = evidence.get(member)
    if not isinstance(value, str):
        raise CorruptError(f"recorded {member} {str(value)[:60]!r} is no text", remedy=_REMEDY)
    return value


def _number(evidence: Evidence, member: str) -> int:
    value: Json = evidence.get(member)
    if type(value) is not int:
        raise CorruptError(f"recorded {member} {str(value)[:60]!r} is no number", remedy=_REMEDY)
    return value
