"""What earlier processes recorded about a key, as far as a floor rests on it.

The disks of fenced hosts tell the last signature of a halted chain only if they are the disks that the signer wrote.
One that was lost, and rebuilt from an old backup since, reads just as well.  It is found out by what was recorded:

    - Who may have signed last: the host armed last, and each that was about to be since; at first the key's own.
    - None of these may have been without a disk at a fence since, nor show less than it showed to an earlier fence, or
      than it was about to be started with.
    - The highest state of all is one of theirs.

Guarantees: pure; evidence that can't be understood is refused, never skipped.
Leaves out: a disk that was replaced before anybody looked, with a state that is above all that is known elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vedr.chain.fence import FenceProof
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.inventory import Height
from vedr.signature import Json

_REPLACED = "Its disk was replaced or rolled back: bring back the one that it signed from."
_REMEDY = "Read the run's record (vedr ledger show); until it is understood, nothing may rest on it."


@dataclass(frozen=True, slots=True)
class History:
    """What was recorded, of all runs that moved this key.

    Args:
        signers: The hosts of which one signed last.
        shown: The highest state that a host showed to a fence, or was about to be started with, by host.
        lost: Those of the signers whose state was found unknown since they may have signed.
    """

    signers: frozenset[str]
    shown: Mapping[str, SignState]
    lost: frozenset[str]

    @property
    def known(self) -> tuple[SignState, ...]:
        """States that were reached, or promised, whatever disks say now."""
        return tuple(self.shown.values())

    def check_final(self, proof: FenceProof, final: SignState) -> None:
        """What fenced disks say is the last signature.

        Args:
            proof: The fence.
            final: The highest state on the fenced disks.

        Raises:
            NotFoundError: the disk of a host that may have signed last was lost: another one is there now.
            RefusedError: they show less than is known to have been reached.
        """
        if self.lost:
            raise NotFoundError(
                f"{', '.join(sorted(self.lost))} may have signed last, and was fenced without its disk: the one that "
                "it has now is another",
                remedy="Bring back the disk that it signed from.",
            )
        finals = {one.host: one.final for one in proof.fences}
        own = [self._own(host, finals.get(host)) for host in sorted(self.signers)]
        least = max(state.hrs for state in (final, *self.known))
        if max(state.hrs for state in own) < least:
            raise RefusedError(
                f"{', '.join(sorted(self.signers))} signed last, and shows less than "
                f"{'/'.join(map(str, least))}, which is known to have been reached",
                remedy=_REPLACED,
            )

    def _own(self, host: str, now: SignState | None) -> SignState:
        before = self.shown.get(host)
        if now is None or (before is not None and now.hrs < before.hrs):
            raise RefusedError(
                f"{host} may have signed last, and its disk says {now}, not what it has shown before ({before})",
                remedy=_REPLACED,
            )
        return now


def read_history(home: str, recorded: Iterable[tuple[StageName, Evidence]]) -> History:
    """Sum up what was recorded.

    Args:
        home: The host that the key belongs to.
        recorded: Stages and their evidence, of every earlier process that worked on this key, the oldest first.

    Raises:
        CorruptError: evidence that can't be understood.
    """
    signers, shown, lost = {home}, dict[str, SignState](), set[str]()

    def show(host: str, state: SignState) -> None:
        shown[host] = max(state, shown.get(host, state), key=lambda one: one.hrs)

    for stage, evidence in sorted(recorded, key=lambda one: _number(one[1], "epoch")):
        if stage == "fenced":
            for host, final in _finals(evidence).items():
                if final is not None:
                    show(host, final)
                elif host in signers:
                    lost.add(host)
        elif stage in ("arming", "armed"):
            host = _text(evidence, "host")
            show(host, state_of(_text(evidence, "floor")))
            signers = {host} if stage == "armed" else {*signers, host}
            lost = lost & signers - {host}
    return History(frozenset(signers), shown, frozenset(lost))


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
