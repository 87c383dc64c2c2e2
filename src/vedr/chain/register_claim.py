"""One holder's claim on a sign-state register: which call each region needs next, and what its answers mean.

A state machine without clock, threads or network.  Whoever drives it asks `next_call` for each region, makes the call,
and reports the answer by one of the `on_…` methods; answers may come in any order, late, or never.  The rules and why
they suffice: vedr.chain.register.

Guarantees: `is_held` only after a majority shows this claim with a position that covers what each of them showed
before; `is_durable` only after a majority shows the present position, by calls that were under way at one moment, or
shows it again after a majority did.  A region has at most one call in flight.  The
sign-bytes of what was taken over are a majority's, or this host's, or harmless whoever wrote them; or there are none.
A region that shows less than it showed before was put back: it has forgotten who passed this claim, and counts for
nothing, as one that lost its object.  So does, for a take-over, one whose holder has its registers in other regions.
Leaves out: when to ask again a region whose answer was lost, and when to give up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from vedr.chain.register import (
    NOT_KNOWN,
    Content,
    Epoch,
    Position,
    StaleEpochError,
    Validator,
    check_claim,
    decode,
    encode,
    join,
    places_in,
)
from vedr.errors import CorruptError, InvalidInputError, RefusedError
from vedr.ports import Tagged

ABSENT: Final = "has no register"
_ELSEWHERE: Final = "{}, whose registers are in other regions or buckets than the site's file names"
_PUT_BACK: Final = "was put back: it shows {}, and has shown {}"


@dataclass(frozen=True, slots=True)
class Read:
    """Read the region's object."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Replace the content tagged `expected`, None for none."""

    data: bytes
    expected: str | None


class Conversation(Protocol):
    """What a driver of regions needs: a state machine like `Claim`."""

    def next_call(self, region: str) -> Read | Swap | None:
        """The call to make now; None when there is nothing to do.  It is in flight until an answer is reported."""

    def on_read(self, region: str, found: Tagged | None) -> None:
        """The answer to Read."""

    def on_swapped(self, region: str, tag: str) -> None:
        """The Swap was made."""

    def on_refused(self, region: str) -> None:
        """The Swap was refused: something else is there by now."""

    def on_lost(self, region: str, why: str) -> None:
        """No answer: whether the call had an effect is not known."""


@dataclass(slots=True)
class _View:
    """What is known of one region."""

    content: Content | None = None
    newest: Content | None = None  # of all that it ever showed
    elsewhere: Content | None = None  # what it shows, of a holder with other regions
    tag: str | None = None
    is_read: bool = False
    in_flight: Read | Swap | None = None
    swapping: Content | None = None
    is_fillable: bool = False  # it was empty or damaged when the claim was made
    problem: str = ""
    asked: int = 0  # when the call in flight was begun, in calls and answers of the claim
    began: int = 0  # of the call that showed the content
    ended: int = 0

    def forget(self) -> None:
        self.is_read, self.in_flight, self.swapping = False, None, None

    def show(self, content: Content) -> None:
        """Take it in, unless it is less than what was there before."""
        before = self.newest
        if before and (content.epoch < before.epoch or not content.position.covers(before.position)):
            self.content, self.problem = None, _PUT_BACK.format(content, before)
        else:
            self.content = self.newest = content


@dataclass(frozen=True, slots=True)
class RegionState:
    """One region, for people."""

    region: str
    content: Content | None
    is_current: bool
    problem: str
    is_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the site's regions, which one take-over may cross: vedr.chain.register_move.

    `was_in` tells where the registers were, by `name_of_places`; `incoming` are regions that were seen to be empty.
    """

    was_in: str
    incoming: frozenset[str]


class Claim:
    """The claim of (epoch, holder); not thread-safe."""

    def __init__(
        self,
        validator: Validator,
        regions: Sequence[str],
        *,
        epoch: int,
        holder: str,
        at_least: Position,
        is_harmless: Callable[[bytes], bool] = lambda _: False,
        change: Change | None = None,
    ) -> None:
        check_claim(epoch, holder)
        self._places: Final = {"", places_in(holder), change.was_in if change else ""} if places_in(holder) else None
        self._is_harmless = is_harmless
        self._validator: Final = validator
        self._epoch, self._holder = Epoch(epoch), holder
        incoming = change.incoming if change else ()
        self._views = {region: _View(is_fillable=region in incoming) for region in regions}
        self._majority: Final = len(self._views) // 2 + 1
        self._at_least = self._known = at_least
        self._shown: dict[str, Position] = {}
        self._target: Content | None = None
        self._is_held = False
        self._now = 0  # counts calls and answers
        self._all_shown: int | None = None  # when a majority showed the position, though not at one moment
        self._passed: dict[str, Content] = {}
        self._is_lost = False

    # --- what came of it

    @property
    def is_held(self) -> bool:
        """Whether the take-over has its majority; stays so."""
        return self._is_held

    @property
    def is_lost(self) -> bool:
        """Whether another holder has made a majority impossible; stays so."""
        return self._is_lost

    @property
    def is_durable(self) -> bool:
        """Whether a majority shows the present position under this claim, and did so at one moment or twice."""
        return self._is_held and self._is_shown_together()

    @property
    def position(self) -> Position:
        """What was taken over, or the newest that was asked for since."""
        return self._target.position if self._target else self._known

    @property
    def is_unfounded(self) -> bool:
        """Whether so many regions answered and showed no register that there is nothing to take over."""
        empty = sum(view.is_read and view.content is None for view in self._views.values())
        return not self._is_held and len(self._views) - empty < self._majority

    @property
    def readable(self) -> int:
        """How many regions have shown content."""
        return sum(view.content is not None for view in self._views.values())

    def regions(self) -> tuple[RegionState, ...]:
        """What each region showed last."""
        return tuple(
            RegionState(
                name,
                view.content,
                view.content is not None and view.content == self._target,
                view.problem,
                view.elsewhere is not None,
            )
            for name, view in self._views.items()
        )

    def stale(self) -> StaleEpochError:
        """Why the claim is lost, to be raised."""
        newest = max(self._passed.values(), key=lambda content: content.epoch)
        return StaleEpochError(
            f"the register of {self._validator.address} on {self._validator.chain_id} is at {newest} in "
            f"{', '.join(sorted(self._passed))}; epoch {self._epoch} of {self._holder} has passed",
            remedy="This process must not sign any more.  Another may take over with a higher epoch, by the promotion "
            "protocol only.",
        )

    # --- what is wanted

    def advance(self, position: Position) -> None:
        """Want this position; idempotent.

        Raises:
            StaleEpochError: the claim is lost.
            RefusedError: the position is below, or beside, the newest that was asked for; or the claim is not held.
        """
        if self._is_lost:
            raise self.stale()
        if self._target is None or not self._is_held:
            raise RefusedError("a register is advanced by its holder only", remedy="Take it over first.")
        if position.digest == NOT_KNOWN:
            raise InvalidInputError(f"{position} without a digest", remedy="Give the SHA-256 of the sign-bytes.")
        present = self._target.position
        if position == present:
            return
        if position.hrs <= present.hrs:
            what = "another message" if position.hrs == present.hrs else "lower"
            raise RefusedError(
                f"{position} is refused ({what}): the key of {self._validator.address} has gone to {present}",
                remedy="Nothing needs doing if the node is replaying; otherwise look for a second node.",
            )
        self._target = Content(self._epoch, self._holder, position)
        self._all_shown = None

    # --- the conversation

    def next_call(self, region: str) -> Read | Swap | None:
        """See Conversation."""
        view = self._views[region]
        if self._is_lost or region in self._passed or view.in_flight is not None:
            return None
        call: Read | Swap | None = None
        if not view.is_read:
            call = Read()
        elif self._target is not None and self._may_write(view, self._target):
            call = Swap(encode(self._validator, self._target), view.tag)
            view.swapping = self._target
        view.in_flight, view.asked = call, self._tick()
        return call

    def on_read(self, region: str, found: Tagged | None) -> None:
        """See Conversation."""
        view = self._views[region]
        view.forget()
        view.began, view.ended = view.asked, self._tick()
        view.is_read, view.tag, view.content, view.elsewhere = True, found.tag if found else None, None, None
        view.problem = "" if found else ABSENT
        try:
            if found:
                view.show(decode(self._validator, found.data, where=region))
        except CorruptError as error:
            view.problem = error.message
        if view.content is not None and not self._is_held and self._is_elsewhere(view.content):
            view.elsewhere, view.content, view.is_fillable = view.content, None, False
            view.problem = _ELSEWHERE.format(view.elsewhere)
        elif view.content is None:
            view.is_fillable = view.is_fillable or not self._is_held
        else:
            view.is_fillable = False
            self._judge(region, view.content)
        self._look_again()

    def on_swapped(self, region: str, tag: str) -> None:
        """See Conversation."""
        view = self._views[region]
        view.content = view.newest = view.swapping
        view.elsewhere = None
        view.tag, view.problem = tag, ""
        view.forget()
        view.began, view.ended = view.asked, self._tick()
        view.is_read, view.is_fillable = True, False
        self._is_held = self._is_held or self._confirmed() >= self._majority
        self._look_again()

    def on_refused(self, region: str) -> None:
        """See Conversation."""
        self._views[region].forget()

    def on_lost(self, region: str, why: str) -> None:
        """See Conversation."""
        self._views[region].forget()
        self._views[region].problem = why

    # --- decisions

    def _judge(self, region: str, content: Content) -> None:
        """What a region's content means for the claim."""
        ours = (content.epoch, content.holder) == (self._epoch, self._holder)
        if content.epoch > self._epoch or (content.epoch == self._epoch and not ours):
            self._pass(region, content)
        elif self._is_held:
            if ours and not self.position.covers(content.position):  # another process goes by this name
                self._pass(region, content)
        else:
            if not ours:
                self._shown[region] = content.position
            self._known = join(self._known, content.position)
            if self.readable >= self._majority:
                self._target = Content(self._epoch, self._holder, self._vouched(self._known))
                self._is_held = self._confirmed() >= self._majority  # a take-over that is repeated

    def _vouched(self, position: Position) -> Position:
        """Without the sign-bytes, unless this host or a majority of the regions has them, or anybody may choose them.

        A new holder signs them (vedr.signer.finishing), and whoever writes to one bucket can put a higher position
        there with a vote of theirs: they can bind the key to it, but must not have it signed.
        """
        own = position == self._at_least and position.sign_bytes == self._at_least.sign_bytes
        shown = sum(one == position and one.sign_bytes == position.sign_bytes for one in self._shown.values())
        if own or shown >= self._majority or self._is_harmless(position.sign_bytes):
            return position
        return replace(position, sign_bytes=b"")

    def _pass(self, region: str, content: Content) -> None:
        self._passed[region] = content
        early = self._target is None  # nothing was written yet: leave the register as it is
        self._is_lost = early or len(self._views) - len(self._passed) < self._majority

    def _is_elsewhere(self, content: Content) -> bool:
        return self._places is not None and content.places not in self._places

    def _may_write(self, view: _View, target: Content) -> bool:
        if (other := view.elsewhere) is not None:
            return self._is_held and other.epoch < target.epoch and target.position.covers(other.position)
        if view.content is None:
            return view.is_fillable and self._is_held
        return view.content != target and target.position.covers(view.content.position)

    def _confirmed(self) -> int:
        return len(self._current())

    def _current(self) -> list[_View]:
        return [view for view in self._views.values() if view.content is not None and view.content == self._target]

    def _is_shown_together(self) -> bool:
        """What a region confirmed a while ago may have been passed since, and another region been put back to fit.

        Calls that were under way at one moment leave no while between them.  Where there was one, a majority has to
        show the position again: a successor that wrote before the hand came is seen there, in the region that was not
        put back.
        """
        current = self._current()
        at_once = max((sum(one.began <= view.began < one.ended for one in current) for view in current), default=0)
        again = sum(view.began > self._all_shown for view in current) if self._all_shown is not None else 0
        return max(at_once, again) >= self._majority

    def _look_again(self) -> None:
        """Have the regions that show the position read again, where they did not show it together."""
        if not self._is_held or self._confirmed() < self._majority or self._is_shown_together():
            return
        if self._all_shown is None:
            self._all_shown = self._now
        for view in self._current():
            if view.in_flight is None and view.began <= self._all_shown:
                view.is_read = False

    def _tick(self) -> int:
        self._now += 1
        return self._now
