"""The sign-state register, used: found it, look at it, take it over, and advance it before each signature.

Guarantees: what vedr.chain.register proves, of calls to real regions; `take_over` and `advance` return when a majority
is durable and wait for no region beyond it; what slower regions miss is sent to them in the background.
Leaves out: the floor that a first take-over needs (vedr.chain.floor), and who may take over (the promotion protocol).
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from vedr.chain.register import NEVER_SIGNED, NOBODY, Content, Epoch, Position, Validator
from vedr.chain.register_claim import ABSENT, Change, Claim
from vedr.chain.register_regions import Regions
from vedr.chain.register_survey import Seen, Survey
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
)
from vedr.ports import Registers

TAKE_OVER_DEADLINE_S: Final = 8.0  # under the 10 s in which a standby is to sign
ADVANCE_DEADLINE_S: Final = 2.5  # CometBFT gives a remote signer 3 s
LOOK_DEADLINE_S: Final = 5.0
SHORTEST_GRACE_S: Final = 0.2  # for the regions beyond a majority that agrees, in a glance
LONGEST_GRACE_S: Final = 1.0  # the same where that majority took long, or does not agree
MIN_REGIONS: Final = 3  # fewer have no majority that survives a loss


class SignStateRegister:
    """One validator's register.  Holds no connection of its own."""

    def __init__(self, registers: Mapping[str, Registers], validator: Validator) -> None:
        if len(registers) < MIN_REGIONS:
            raise InvalidInputError(
                f"a register in {len(registers)} regions survives the loss of none",
                remedy=f"Give it {MIN_REGIONS} regions.",
            )
        self._registers = dict(registers)
        self.validator: Final = validator

    def look(self, *, deadline_s: float = LOOK_DEADLINE_S) -> Seen:
        """What every region shows; those that do not answer in time are among the problems.  Writes nothing.

        A dead region costs the whole deadline: it is asked again and again.  For what a majority decides: `glance`.
        """
        return self._survey(None, deadline_s)

    def glance(self, *, deadline_s: float = LOOK_DEADLINE_S, monotonic: Callable[[], float] = time.monotonic) -> Seen:
        """What a majority of the regions shows, and of the others what they answer meanwhile.  Writes nothing.

        1. Wait for a majority with readable content: it shares a region with every majority that took an epoch or a
           position, so that its newest covers whatever is held or may have been released.
        2. Give the rest a grace: until each has answered or failed once, and twice as long as the majority took, from
           SHORTEST_GRACE_S to LONGEST_GRACE_S; the longest where the majority does not agree.

        Not for what needs every region: founding, checks that report on each, and an epoch that nothing but a single
        try may be made with, for a region that was left out can show a newer one of a take-over that failed.
        """
        began = monotonic()
        survey = Survey(self.validator, tuple(self._registers))
        with Regions(survey, self.validator.key, self._registers, only_asks=True) as regions:
            if regions.wait_for(lambda: survey.is_decided, deadline_s=deadline_s):  # (1)
                took_s = monotonic() - began
                with regions.looking():
                    shortest_s = SHORTEST_GRACE_S if survey.is_agreed else LONGEST_GRACE_S
                grace_s = min(max(shortest_s, 2 * took_s), LONGEST_GRACE_S, max(0.0, deadline_s - took_s))
                regions.wait_for(lambda: survey.is_heard, deadline_s=grace_s)  # (2)
            with regions.looking():
                return survey.seen

    def found(self, position: Position, *, deadline_s: float = LOOK_DEADLINE_S) -> None:
        """Make the register, once in a key's life, in every region; safe to repeat with the same position.

        Args:
            position: At least everything that the key has signed: `NEVER_SIGNED` for a new key, else its floor.
            deadline_s: The longest to wait.

        Raises:
            ConflictError: a region has another register of this key.
            UnavailableError: a region does not answer or holds bytes that can't be read; every one is needed.
        """
        founding = Content(Epoch(0), NOBODY, position)
        seen = self._survey(founding, deadline_s)
        others = {region: content for region, content in seen.contents.items() if content != founding}
        if others:
            raise ConflictError(
                f"the register of {self.validator.address} exists: "
                + ", ".join(f"{region} at {content}" for region, content in sorted(others.items())),
                remedy="Take it over; a register is founded once in a key's life.",
            )
        if seen.problems:
            raise UnavailableError(
                f"the register of {self.validator.address} is not founded everywhere: "
                + "; ".join(f"{region}: {problem}" for region, problem in sorted(seen.problems.items())),
                remedy="Every region is needed, this once.  Restore them, and found it again with the same position.",
            )

    def take_over(
        self,
        epoch: int,
        holder: str,
        *,
        at_least: Position = NEVER_SIGNED,
        is_harmless: Callable[[bytes], bool] = lambda _: False,
        change: Change | None = None,
        deadline_s: float = TAKE_OVER_DEADLINE_S,
    ) -> "Holding":
        """Become the only one who can advance it.

        Args:
            epoch: Higher than any before; the lease's.
            holder: Names this process and no other: host, pid and something random.
            at_least: A floor from elsewhere; the position taken over covers it.
            is_harmless: Which sign-bytes may be signed though no majority showed them: those that do no harm whoever
                wrote them there.
            change: The change of the site's regions that it may cross; only for vedr.chain.register_move.
            deadline_s: The longest to wait for a majority.

        Raises:
            StaleEpochError: regions show this epoch or a newer one with another holder.  Try again with
                `look().next_epoch`, if the promotion protocol still allows it.
            RefusedError: a majority of the regions is of a holder whose registers are in other regions.
            NotFoundError: no region has a register: `found` it first.
            CorruptError: a majority of the regions has lost its register, or holds bytes that can't be read.
            UnavailableError: no majority within the deadline.  It may be held in a minority; a repetition by this same
                process may use the same epoch, any other takes a higher one.
        """
        claim = Claim(
            self.validator,
            tuple(self._registers),
            epoch=epoch,
            holder=holder,
            at_least=at_least,
            is_harmless=is_harmless,
            change=change,
        )
        regions = Regions(claim, self.validator.key, self._registers)
        regions.wait_for(lambda: claim.is_held or claim.is_lost or claim.is_unfounded, deadline_s=deadline_s)
        with regions.looking():
            if claim.is_held:
                return Holding(claim, regions)
            failure = claim.stale() if claim.is_lost else self._not_taken(claim, deadline_s)
        regions.close()
        raise failure

    def _survey(self, founding: Content | None, deadline_s: float) -> Seen:
        survey = Survey(self.validator, tuple(self._registers), founding)
        with Regions(survey, self.validator.key, self._registers, only_asks=founding is None) as regions:
            regions.wait_for(lambda: survey.is_done, deadline_s=deadline_s)
            with regions.looking():
                return survey.seen

    def _not_taken(self, claim: Claim, deadline_s: float) -> VedrError:
        what = f"the sign-state register of {self.validator.address} on {self.validator.chain_id}"
        states = claim.regions()
        shown = "; ".join(f"{state.region}: {state.problem or state.content or 'no answer yet'}" for state in states)
        if not claim.is_unfounded:
            return UnavailableError(
                f"{what}: no majority of the regions took it within {deadline_s:g} s: {shown}",
                remedy="Restore the connection to these regions' stores, then take over again.",
            )
        if any(state.is_elsewhere for state in states):
            return RefusedError(
                f"{what} is kept elsewhere: {shown}",
                remedy="Give every host of the site the same file.  Where its regions were changed: vedr signer "
                "regions --was OLD-FILE.",
            )
        if all(state.problem == ABSENT for state in states if state.content is None) and not claim.readable:
            return NotFoundError(f"{what} does not exist", remedy="Found it with the key's floor.")
        return CorruptError(
            f"{what} is lost in a majority of the regions: {shown}",
            remedy="Bring back the newest versions that the buckets keep; until then no floor is known from here.",
        )


class Holding:
    """The register, held by this process.  Thread-safe; close it when done."""

    def __init__(self, claim: Claim, regions: Regions) -> None:
        self._claim, self._regions = claim, regions
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def position(self) -> Position:
        """What was taken over, or the newest that was asked for since: nothing below it can be signed any more."""
        with self._regions.looking():
            return self._claim.position

    @property
    def is_lost(self) -> bool:
        """Whether another holder is known to have passed this one."""
        with self._regions.looking():
            return self._claim.is_lost

    def advance(self, position: Position, *, deadline_s: float = ADVANCE_DEADLINE_S) -> None:
        """Make the position durable in a majority; only then may its message be signed and released.

        Safe to repeat with the same position, also after UnavailableError.

        Raises:
            RefusedError: it is below the newest position that was asked for, or at it with another digest.
            StaleEpochError: another holder has passed this one; stop for good.
            UnavailableError: no majority within the deadline: release nothing.  The position counts as used: only the
                same message, or a higher position, can follow.
        """
        with self._one_at_a_time:
            with self._regions.changing():
                self._claim.advance(position)
            claim = self._claim
            self._regions.wait_for(lambda: claim.is_durable or claim.is_lost, deadline_s=deadline_s)
            with self._regions.looking():
                if claim.is_durable:
                    return
                if claim.is_lost:
                    raise claim.stale()
                shown = "; ".join(
                    f"{state.region}: {state.problem or state.content or 'no answer yet'}"
                    for state in claim.regions()
                    if not state.is_current
                )
            raise UnavailableError(
                f"{position} is not durable in a majority of the regions within {deadline_s:g} s: {shown}",
                remedy="Nothing was released.  Restore the connection to these regions' stores.",
            )

    def has(self, position: Position) -> bool:
        """Whether a majority is known to hold it under this claim, so that `advance` returns at once; asks nobody."""
        with self._regions.looking():
            return self._claim.is_durable and self._claim.position == position

    def wait_until_everywhere(self, *, deadline_s: float) -> bool:
        """Wait until the slow regions have caught up too; False when one has not."""
        claim = self._claim
        return self._regions.wait_for(lambda: all(state.is_current for state in claim.regions()), deadline_s=deadline_s)

    def close(self, *, wait_s: float = 0.0) -> None:
        """Send nothing more.  The register stays with this epoch until another takes it over."""
        self._regions.close(wait_s=wait_s)
