"""Key files are moved last, one after the other, and one that can't be moved holds up nothing else.

Guarantees: a key that stayed is an error at the end of its run, which stays open: nothing says "completed" of a plan
that was not carried out.
Leaves out: the move itself (tasks.key_files).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tasks.failover_orders import Failback, RegionFailover, ZoneFailover
from tasks.key_files import move_key_file
from vedr.errors import (
    DeadlineError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.failover.relocation import Relocation
from vedr.failover.relocation_key_files import KeyMove
from vedr.runbook.run import Run

STAYS = (DeadlineError, NoSpaceError, NotFoundError, RefusedError, UnavailableError, VerificationFailedError)
"""Of one key; a conflict is of the whole run, which another process has."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was moved of a plan, and the keys that were not, each with its error."""

    found: Relocation
    stayed: tuple[tuple[KeyMove, VedrError], ...]

    def check(self) -> None:
        """RefusedError naming every key that was not moved; the rest of the run is done and verified."""
        if self.stayed:
            raise self._refusal(f"all else of {self.found.domain} is done, but not")

    @contextmanager
    def named(self) -> Iterator[None]:
        """An error of what verifies the rest names the keys that stayed as well: they may be why."""
        try:
            yield
        except VerificationFailedError as error:
            if self.stayed:
                raise self._refusal(f"{error.message}; and not moved is") from error
            raise

    def _refusal(self, beginning: str) -> RefusedError:
        said = "; ".join(f"the key file of {move.validator}: {error.message}" for move, error in self.stayed)
        return RefusedError(
            f"{beginning} {said}",
            remedy=f"{self.stayed[0][1].remedy}  Then go on with this run by its id: what is done stays done.",
        )


def move_key_files(run: Run[ZoneFailover] | Run[RegionFailover] | Run[Failback], found: Relocation) -> Done:
    """Each by its step; the plan with those that were moved."""
    moved: list[KeyMove] = []
    stayed: list[tuple[KeyMove, VedrError]] = []
    for move in found.key_moves:
        try:
            run.step(move_key_file.named(move.validator), move)
            moved.append(move)
        except STAYS as error:
            stayed.append((move, error))
    return Done(replace(found, key_moves=tuple(moved)), tuple(stayed))
