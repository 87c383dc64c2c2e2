"""Is this zone or region really lost?  The judgement behind RB-DR-002 and RB-DR-003.

Three sources that fail apart are asked about everything that should serve there: the thing itself (RPC, HTTP), its
host's supervisor, and the nodes elsewhere that should have it as a peer.

Guarantees: an outage needs more than half of the services gone, as the thing itself and at least one other source say;
what only this process cannot reach is not called lost.
Leaves out: gathering; and fencing: lost here means that users are not served, not that nothing can sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vedr.chain.quorum import Domain
from vedr.errors import NotFoundError, RefusedError, VerificationFailedError
from vedr.ports import UnitState


@dataclass(frozen=True, slots=True)
class Sight:
    """One thing that should serve in the domain, and what was seen of it.

    `unit` is None when its supervisor does not answer; `peers` is None for what is no chain node, and where nobody
    outside could be asked; else how many nodes outside have it as a peer.
    """

    name: str
    kind: str
    answers: bool
    unit: UnitState | None
    peers: int | None

    @property
    def is_gone(self) -> bool:
        """Silent, and not only to us."""
        return not self.answers and (self.unit != "running" or self.peers == 0)

    def __str__(self) -> str:
        unit = "supervisor silent" if self.unit is None else f"unit {self.unit}"
        peers = "" if self.peers is None else f", peer of {self.peers}"
        return f"{self.name}: {'answers' if self.answers else 'silent'}, {unit}{peers}"


@dataclass(frozen=True, slots=True)
class Outage:
    """A confirmed loss."""

    domain: str
    gone: tuple[str, ...]
    total: int
    finding: str


def judge(domain: Domain, sights: Sequence[Sight]) -> Outage:
    """Confirm the loss, or refuse.

    Raises:
        NotFoundError: nothing is expected to serve there.
        RefusedError: half of it or more serves: there is nothing to fail over from.
        VerificationFailedError: most is silent to this process, but other sources see it at work.
    """
    if not sights:
        raise NotFoundError(f"nothing serves in {domain}", remedy="Check its name: vedr site show.")
    silent = [sight for sight in sights if not sight.answers]
    gone = [sight for sight in sights if sight.is_gone]
    if not _is_most(silent, sights):
        raise RefusedError(
            f"{domain} serves: {len(sights) - len(silent)} of {len(sights)} answer"
            + (f"; silent: {', '.join(sight.name for sight in silent)}" if silent else ""),
            remedy="Nothing was changed, and this incident is closed.  When it is lost again, order it anew, without "
            "--incident.  Single nodes: RB-DR-001; to empty a healthy zone or region: --mode planned.",
        )
    if not _is_most(gone, sights):
        at_work = [str(sight) for sight in silent if not sight.is_gone]
        raise VerificationFailedError(
            f"{domain} is silent to this process only: {'; '.join(at_work)}",
            remedy="Run it from another region, or find out what is between here and there.",
        )
    return Outage(
        str(domain),
        tuple(sight.name for sight in gone),
        len(sights),
        f"{len(gone)} of {len(sights)} services are gone: {'; '.join(map(str, gone))}",
    )


def _is_most(some: Sequence[Sight], of: Sequence[Sight]) -> bool:
    return 2 * len(some) > len(of)
