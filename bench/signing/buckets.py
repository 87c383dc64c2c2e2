"""The regions' buckets as remote signers meet them, and what hands do to a register's object there.

A tag is the content's, as S3's is: who puts an old content back brings its tag back too, and a write that was derived
from it long ago fits again.

What is excluded, and nothing more (docs/signing-safety.md, "Registers that are put back"): a region whose object was
put back, emptied or exchanged, so that it shows less than it did (the *loss*), gives its content to nobody and takes
writes from nobody who had not seen more there, as long as fewer than a majority of the regions have what it lost.  It
shows its emptiness, or damage, to everybody.  Whoever had seen more there is answered as ever: noticing it is their
part, and is what is tested.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.signing.rules import read_token, write_token
from vedr.chain.register import NEVER_SIGNED, Content, Epoch, Validator
from vedr.chain.register_claim import Read, Swap
from vedr.errors import CorruptError
from vedr.ports import Tagged

VALIDATOR: Final = Validator("simulated-1", "AB" * 20)
FOUNDING: Final = write_token(VALIDATOR, Content(Epoch(0), "", NEVER_SIGNED))


def covers(content: Content | None, other: Content) -> bool:
    """Whether all that `other` forbids is forbidden here."""
    return content is not None and content.epoch >= other.epoch and content.position.covers(other.position)


@dataclass(slots=True)
class Kept:
    """An object in one region's bucket, and every content that it ever had, the oldest first."""

    held: Tagged | None = None
    past: list[bytes] = field(default_factory=list)

    def swap(self, call: Swap, *, compares: bool) -> str | None:
        """The new tag; None when something else is there."""
        if compares and (self.held.tag if self.held else None) != call.expected:
            return None
        self.held = _tagged(call.data)
        self.past.append(call.data)
        return self.held.tag

    def put(self, data: bytes | None) -> None:
        """A hand puts this there, or removes what is there (None), without looking."""
        self.held = None if data is None else _tagged(data)


@dataclass(slots=True)
class Region(Kept):
    """A register's object in one region, with what hands took from there and a majority may lack."""

    is_down: bool = False
    losses: list[Content] = field(default_factory=list)

    @property
    def shown(self) -> Content | None:
        """What a reader understands; None where there is nothing, or damage."""
        try:
            return read_token(VALIDATOR, self.held.data, where="a region") if self.held else None
        except CorruptError:
            return None

    def put(self, data: bytes | None) -> None:
        before = self.shown
        Kept.put(self, data)
        if before is not None and not covers(self.shown, before):
            self.losses.append(before)


def founded() -> Region:
    """A region as a register's founding leaves it."""
    return Region(_tagged(FOUNDING), [FOUNDING])


@dataclass(slots=True)
class Buckets:
    """All regions.  `excludes` is off only to show that what is excluded would be found."""

    regions: Mapping[str, Region]
    excludes: bool = True

    def answer(
        self, name: str, call: Read | Swap, seen: Content | None, *, compares: bool
    ) -> tuple[Tagged | str | None] | None:
        """What the region answers; None where that is excluded.

        Args:
            name: The region.
            call: What it is asked.
            seen: The most that it ever showed to whoever asks; None also where nobody waits for the answer any more.
            compares: Whether it compares before it swaps.
        """
        region = self.regions[name]
        if region.losses and self.excludes and self._is_withheld(region, call, seen):
            return None
        return (region.swap(call, compares=compares) if isinstance(call, Swap) else region.held,)

    def _is_withheld(self, region: Region, call: Read | Swap, seen: Content | None) -> bool:
        region.losses = [loss for loss in region.losses if not self._is_known(region, loss)]
        shown = region.shown
        if not region.losses or (shown is None and isinstance(call, Read)):
            return False
        return seen is None or covers(shown, seen)

    def _is_known(self, region: Region, loss: Content) -> bool:
        """Whether the region has again what it lost, or a majority has it."""
        having = sum(covers(one.shown, loss) for one in self.regions.values())
        return covers(region.shown, loss) or having > len(self.regions) // 2


def _tagged(data: bytes) -> Tagged:
    return Tagged(data, data.decode())
