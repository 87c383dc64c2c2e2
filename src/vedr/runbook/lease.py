"""Leases: at most one run acts on a node (a region, a key) at a time.

`lease/<subject>/<epoch, 8 digits>.json` names the run that holds the subject under that epoch; `…-released.json`
beside it ends it, and says so: a copy of the lease under that name is no release.  Both are write-once slots, so that
each epoch has one holder and epochs only grow.

A lease has no clock of its own: it lives as long as its run does, which the run's ledger shows (vedr.runbook.liveness).
Renewing by separate objects would be a second heartbeat that can disagree with the first.

Guarantees: one holder per epoch; a subject is taken over only from a run that is closed, paused or silent; the
earlier holder's next check is refused.  Leaves out: stopping an action that is already going on in a process that
hung; what it acts upon has to refuse stale epochs itself.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vedr.errors import ConflictError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.ledger import RunId
from vedr.ports import ObjectStore
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import await_quiet
from vedr.runbook.replicas import Slot
from vedr.signature import Json, open_document

ROOT: Final = "lease"
FORMAT: Final = "vedr-lease/1"
_SUBJECT: Final = re.compile(r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one run to act on a subject, until a later epoch exists."""

    subject: str
    epoch: int
    run_id: RunId


class Leases:
    """The leases of a site, in the same stores as its ledger."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def acquire(self, subject: str, run_id: RunId) -> Lease:
        """Get the subject for this run, or find that it has it already.

        Raises:
            ConflictError: another run that is at work holds it, or got it first.
        """
        if not _SUBJECT.fullmatch(subject):
            raise InvalidInputError(f"{subject!r} cannot be leased", remedy="Name it like node/validator-0.")
        held = self._newest(subject)
        if held and not self._is_released(held):
            if held.run_id == run_id:
                return held
            self._check_free(held)
        wanted = Lease(subject, held.epoch + 1 if held else 1, run_id)
        self._propose(wanted)
        return wanted

    def holder(self, subject: str) -> Lease | None:
        """The newest lease of it, released or not; None when nobody ever had it."""
        return self._newest(subject)

    def passed_to(self, subject: str, run_id: RunId) -> tuple[RunId, ...]:
        """The runs that had it after that one, newest first; none where that one never had it."""
        passed: list[RunId] = []
        for lease in self._from_newest(subject):
            if lease.run_id == run_id:
                return tuple(dict.fromkeys(passed))
            passed.append(lease.run_id)
        return ()

    def check(self, lease: Lease) -> None:
        """ConflictError when the subject has passed to another run; UnavailableError when that can't be told."""
        newest = self._newest(lease.subject, above=lease.epoch)
        if newest:
            raise ConflictError(
                f"{lease.subject} has passed to run {newest.run_id} (epoch {newest.epoch});"
                f" run {lease.run_id} held epoch {lease.epoch} and must not act on it any more",
                remedy="Leave it to that run, or wait until it is closed and resume this one.",
            )

    def release(self, lease: Lease) -> None:
        """Let others have it; safe to repeat."""
        self._journal.replicas.propose(_released(lease), self._document(lease, released=True), lambda _: True)

    def _check_free(self, held: Lease) -> None:
        try:
            entries = self._journal.read(held.run_id).entries
            if not entries:  # with a region silent and one that was late, a living run's first shows in one only
                entries = tuple(sealed.entry for sealed in self._journal.settled(held.run_id))
            if entries:
                await_quiet(self._journal, held.run_id, entries)
        except NotFoundError:
            return  # it died between its lease and its first entry
        except ConflictError as error:
            raise ConflictError(
                f"{held.subject} is held by run {held.run_id} (epoch {held.epoch}): {error.message}",
                remedy=f"Let it finish, or end it and close it: vedr abandon {held.run_id}.",
            ) from error

    def _newest(self, subject: str, *, above: int = 0) -> Lease | None:
        """The newest lease with an epoch above this one."""
        return next(self._from_newest(subject, above=above), None)

    def _from_newest(self, subject: str, *, above: int = 0) -> Iterator[Lease]:
        """The leases with an epoch above this one, newest first.

        An epoch that only a minority of regions hold, in bytes that nobody trusted signed, is as good as absent: one
        damaged region must not keep a node from being recovered.
        """
        place = re.compile(rf"^{ROOT}/{re.escape(subject)}/(\d{{8}})\.json$")

        def epochs(store: ObjectStore) -> set[int]:
            names = (place.match(found.key) for found in store.list(f"{ROOT}/{subject}/"))
            return {int(name[1]) for name in names if name}

        answers = self._journal.replicas.gather(epochs, what=f"read the lease of {subject}")
        for epoch in sorted(set().union(*answers.values()), reverse=True):
            if epoch > above and (held := self._settle(subject, epoch)):
                yield held

    def _settle(self, subject: str, epoch: int) -> Lease | None:
        try:
            data = self._journal.replicas.settle(
                _slot(subject, epoch), lambda data: self._open(data, subject, epoch) is not None
            )
        except NotFoundError:
            return None
        return self._open(data, subject, epoch)

    def _is_released(self, lease: Lease) -> bool:
        held = self._journal.replicas.copies(_released(lease)).main.values()
        return any(data and self._open(data, lease.subject, lease.epoch, released=True) == lease for data in held)

    def _propose(self, lease: Lease) -> None:
        subject, epoch = lease.subject, lease.epoch
        decided = self._journal.replicas.propose(
            _slot(subject, epoch), self._document(lease), lambda data: self._open(data, subject, epoch) is not None
        )
        holder = self._open(decided, subject, epoch)
        if holder != lease:
            raise ConflictError(
                f"{subject} was just taken by run {holder.run_id if holder else 'unknown'} (epoch {epoch})",
                remedy="Let that run finish.",
            )

    def _document(self, lease: Lease, *, released: bool = False) -> bytes:
        return self._journal.signer.seal_document(
            self._signed(lease.subject, lease.epoch, lease.run_id, released=released)
        )

    def _signed(self, subject: str, epoch: int, run: Json, *, released: bool) -> dict[str, Json]:
        place: dict[str, Json] = {"format": FORMAT, "site": self._journal.site, "subject": subject, "epoch": epoch}
        return {**place, "run": run, **({"released": True} if released else {})}

    def _open(self, data: bytes, subject: str, epoch: int, *, released: bool = False) -> Lease | None:
        try:
            signed = open_document(data, self._journal.trusted, what=f"lease {subject}/{epoch}")
        except VerificationFailedError:
            return None
        run = signed.get("run")
        fits = signed == self._signed(subject, epoch, run, released=released)
        return Lease(subject, epoch, RunId(run)) if fits and isinstance(run, str) else None


def _slot(subject: str, epoch: int) -> Slot:
    return Slot(f"{ROOT}/{subject}/{epoch:08d}")


def _released(lease: Lease) -> Slot:
    return Slot(f"{ROOT}/{lease.subject}/{lease.epoch:08d}-released")
