"""The controllers' lease: one of them acts, the one that holds the newest epoch of their book in a majority of regions.

The runs' leases (vedr.runbook.lease) live as long as a run's ledger grows, which for a process that runs for months
would be an entry every ten seconds, kept for ever.  This lease is the common book itself (controller_book has the
rules): a holder renews it by writing the next beat, others take it when they have seen no new beat for `lease_s`.

Guarantees: what `write` returned is in a majority of the regions, and nobody whose epoch has passed gets there; a
process that does not reach a majority neither claims nor writes; waiting is measured by this process's own monotonic
clock, so that no two clocks are ever compared.
Leaves out: stopping what a holder began before it lost the lease; starts are recorded before they are made, and each
is safe to repeat or is not repeated (vedr.failover.controller_loop).
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.controller_book import NOBODY, Copy, Outage, Page, check_holder, decode, encode, key_of, newest
from vedr.ports import Registers, Tagged
from vedr.signature import Signer

T = TypeVar("T")
Opener = Callable[[bytes], Copy]
_REMEMBERED: Final = 16  # books that were opened
_ATTEMPTS: Final = 3  # of one region's read and swap, when others write there at the same moment
ABSENT: Final = "has no book"


class StaleTenureError(ConflictError):
    """Another controller has the lease: nothing may be begun under the old epoch."""


class Spread(Protocol):
    """Makes one call for each region; a region whose call failed has the error."""

    def __call__(self, call: Callable[[str], T], regions: Iterable[str], /) -> dict[str, T | VedrError]:
        """Return when all have ended."""


def one_by_one(call: Callable[[str], T], regions: Iterable[str], /) -> dict[str, T | VedrError]:
    """In this thread, in order."""
    return {region: _caught(call, region) for region in regions}


class AtOnce:
    """A thread a region, kept; close it when done."""

    def __init__(self, regions: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=max(1, regions), thread_name_prefix="controller")

    def __call__(self, call: Callable[[str], T], regions: Iterable[str], /) -> dict[str, T | VedrError]:
        futures = {region: self._pool.submit(_caught, call, region) for region in regions}
        return {region: future.result() for region, future in futures.items()}

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _caught(call: Callable[[str], T], region: str) -> T | VedrError:
    try:
        return call(region)
    except VedrError as error:
        return error


@dataclass(frozen=True, slots=True)
class Seen:
    """What the regions show: a copy each, or why not."""

    copies: Mapping[str, Copy]
    problems: Mapping[str, str]

    @property
    def is_majority(self) -> bool:
        return len(self.copies) > len(self.problems)

    @property
    def is_new(self) -> bool:
        """Whether every region has answered, and none has ever had a book."""
        return not self.copies and set(self.problems.values()) == {ABSENT}

    @property
    def page(self) -> Page:
        return newest(copy.page for copy in self.copies.values())

    @property
    def top(self) -> int:
        """The newest epoch that was promised, if only by one region."""
        return max((copy.promised for copy in self.copies.values()), default=0)

    @property
    def leader(self) -> tuple[int, str]:
        """The epoch that a majority has promised, and to whom: nobody while that is unsettled, or after a release."""
        promises = Counter((copy.promised, copy.holder) for copy in self.copies.values())
        (epoch, holder), count = max(promises.items(), key=lambda item: item[1], default=((0, NOBODY), 0))
        is_settled = 2 * count > len(self.copies) + len(self.problems)
        return (epoch, NOBODY if self.page.is_released else holder) if is_settled else (self.top, NOBODY)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where this process stands after a round: its page counts only while `is_held`."""

    is_held: bool
    epoch: int
    holder: str
    page: Page
    problem: str = ""


class Tenure:
    """One process's part in the lease.  Not thread-safe.

    Args:
        site: Whose controllers these are.
        registers: Every region's.
        signer: Signs what is written.
        trusted: Public keys that are believed.
        holder: Names this one process, with something random in it.
        lease_s: After how long without a beat the lease is free.
        monotonic: This process's clock.
        spread: How regions are called.
    """

    def __init__(
        self,
        site: str,
        registers: Mapping[str, Registers],
        signer: Signer,
        trusted: Iterable[str],
        *,
        holder: str,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        spread: Spread = one_by_one,
    ) -> None:
        check_holder(holder)
        self.holder: Final = holder
        self._site, self._registers, self._signer = site, dict(registers), signer
        self._open = opener(site, trusted)
        self._key = key_of(site)
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._spread = spread
        self._majority: Final = len(self._registers) // 2 + 1
        self._epoch: int | None = None
        self._page = Page()
        self._sighting: tuple[int, tuple[int, int]] = (-1, (-1, -1))
        self._sighted_s = monotonic()
        self._written_s = monotonic() - lease_s

    # --- a round

    def look(self) -> Seen:
        """What every region shows; writes nothing."""
        return look(self._site, self._registers, self._open, self._spread)

    def keep(self) -> Standing:
        """Renew the lease, take it when it is free, or see who has it; never raises for regions that are away."""
        seen = self.look()
        if not seen.is_majority and not seen.is_new:
            without = "; ".join(f"{region}: {problem}" for region, problem in seen.problems.items())
            return Standing(is_held=False, epoch=self._epoch or 0, holder="", page=seen.page, problem=without)
        if self._epoch is None and self._is_free(seen):
            self._claim(seen.top + 1, founding=seen.is_new)
        if self._epoch is not None:
            try:
                self.write(self._page.outages)
            except StaleTenureError:
                self._epoch = None
                seen = self.look()
            except UnavailableError as error:
                return Standing(is_held=False, epoch=self._epoch, holder="", page=seen.page, problem=error.message)
            else:
                return Standing(is_held=True, epoch=self._epoch, holder=self.holder, page=self._page)
        epoch, holder = seen.leader
        return Standing(is_held=False, epoch=epoch, holder=holder, page=seen.page)

    def write(self, outages: Mapping[Domain, Outage]) -> Page:
        """Write the next page under the own epoch; returns when a majority has it.

        Raises:
            StaleTenureError: the lease has passed to another.
            UnavailableError: no majority answered; the page may be found by the next holder.
        """
        if self._epoch is None:
            raise StaleTenureError("this controller does not hold the lease", remedy="Leave it to the one that does.")
        began_s, before = self._monotonic(), self._page
        page = Page(self._epoch, before.beat + 1, dict(outages))
        try:
            self._put(page)
        except UnavailableError:
            self._page = replace(before, beat=page.beat)  # what nobody could rely on is not written again
            raise
        self._written_s = began_s
        return page

    @property
    def page(self) -> Page:
        """What this process wrote last, or took over; counts only while the lease is held."""
        return self._page

    @property
    def epoch(self) -> int:
        """The own epoch; 0 without the lease."""
        return self._epoch or 0

    @property
    def age_s(self) -> float:
        """Since the newest page that a majority took was begun: nobody else has the lease before `lease_s` of it."""
        return self._monotonic() - self._written_s

    def release(self) -> bool:
        """Let another have it at once; False when that could not be written."""
        if self._epoch is None:
            return True
        try:
            self._put(replace(self._page, beat=self._page.beat + 1, is_released=True))
        except (UnavailableError, StaleTenureError):
            return False
        finally:
            self._epoch = None
        return True

    # --- how

    def _is_free(self, seen: Seen) -> bool:
        sighting = (seen.top, seen.page.order)
        if sighting > self._sighting:
            self._sighting, self._sighted_s = sighting, self._monotonic()
        return seen.is_new or seen.page.is_released or self._monotonic() - self._sighted_s >= self._lease_s

    def _claim(self, epoch: int, *, founding: bool) -> None:
        """Rule 3: promises from a majority, then the newest page of those."""

        def promise(copy: Copy | None) -> Copy | None:
            if copy is None:
                return Copy(epoch, self.holder, Page()) if founding else None
            return replace(copy, promised=epoch, holder=self.holder) if copy.promised < epoch else None

        shown = self._update(promise)
        won = [copy for copy in shown.values() if (copy.promised, copy.holder) == (epoch, self.holder)]
        if len(won) >= self._majority:
            self._epoch = epoch
            self._page = replace(newest(copy.page for copy in won), epoch=epoch, beat=0, is_released=False)

    def _put(self, page: Page) -> None:
        """Rule 4."""
        self._page = page

        def is_open(copy: Copy) -> bool:
            return copy.promised < page.epoch or (copy.promised, copy.holder) == (page.epoch, self.holder)

        def turn(copy: Copy | None) -> Copy | None:
            return Copy(page.epoch, self.holder, page) if copy is None or is_open(copy) else None

        shown = self._update(turn)
        if sum(copy.page == page for copy in shown.values()) >= self._majority:
            return
        passed = [copy for copy in shown.values() if not is_open(copy)]
        if len(self._registers) - len(passed) < self._majority:
            self._epoch = None
            top = max(passed, key=lambda copy: copy.promised)
            raise StaleTenureError(
                f"the controllers' lease has passed to {top.holder} (epoch {top.promised}); {self.holder} had epoch"
                f" {page.epoch}",
                remedy="Nothing needs doing: that controller acts.",
            )
        raise UnavailableError(
            f"the controllers' book was taken by {sum(c.page == page for c in shown.values())} of"
            f" {len(self._registers)} regions, {self._majority} are needed",
            remedy="Restore the connection to one of the other regions' stores.",
        )

    def _update(self, change: Callable[[Copy | None], Copy | None]) -> dict[str, Copy]:
        """Change every region's copy (None given: it has none that can be read; None returned: leave it), and what
        each then shows; regions that did not answer are left out.
        """

        def one(region: str) -> Copy | None:
            registers = self._registers[region]
            for _ in range(_ATTEMPTS):
                found = registers.read(self._key)
                copy = self._decoded(found)
                wanted = change(copy)
                if wanted is None:
                    return copy
                try:
                    registers.swap(
                        self._key, encode(self._site, wanted, self._signer), expected=found.tag if found else None
                    )
                except ConflictError:
                    continue
                return wanted
            raise UnavailableError(f"{region}: others write the book all the time", remedy="Wait for the next round.")

        answers = self._spread(one, self._registers)
        return {region: answer for region, answer in answers.items() if isinstance(answer, Copy)}

    def _decoded(self, found: Tagged | None) -> Copy | None:
        """None when there is nothing to believe: it is replaced by the next page, and never counted."""
        try:
            return self._open(found.data) if found else None
        except VerificationFailedError:
            return None


def opener(site: str, trusted: Iterable[str]) -> Opener:
    """`controller_book.decode` for this site, with a memory: regions mostly hold the same bytes."""
    keys = tuple(trusted)
    return functools.lru_cache(maxsize=_REMEMBERED)(lambda data: decode(site, data, keys))


def look(site: str, registers: Mapping[str, Registers], opening: Opener, spread: Spread = one_by_one) -> Seen:
    """What every region shows of the book; writes nothing."""

    def read(region: str) -> Copy | None:
        found = registers[region].read(key_of(site))
        return opening(found.data) if found else None

    copies: dict[str, Copy] = {}
    problems: dict[str, str] = {}
    for region, answer in spread(read, registers).items():
        if isinstance(answer, VedrError):
            problems[region] = answer.message
        elif answer is None:
            problems[region] = ABSENT
        else:
            copies[region] = answer
    return Seen(copies, problems)
