"""Looking at a register without claiming it, and founding it: what every region shows, and what is missing.

Guarantees: a founding writes only where nothing is, and only after every region has shown that it has nothing else.
Leaves out: as vedr.chain.register_claim, clocks and calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vedr.chain.register import Content, Epoch, Validator, decode, encode, join
from vedr.chain.register_claim import ABSENT, Read, Swap
from vedr.errors import CorruptError
from vedr.ports import Tagged

_NO_ANSWER: Final = "does not answer"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the regions show, at one moment each.

    `contents` has the regions with a readable register, `problems` what the others lack.
    """

    contents: Mapping[str, Content]
    problems: Mapping[str, str]

    @property
    def is_majority(self) -> bool:
        """Whether enough regions show content to be sure of the position."""
        return len(self.contents) > len(self.problems)

    @property
    def newest(self) -> Content | None:
        """The newest epoch seen, with its holder, and a position that covers all seen."""
        if not self.contents:
            return None
        top = max(self.contents.values(), key=lambda content: content.epoch)
        position = top.position
        for content in self.contents.values():
            position = join(position, content.position)
        return Content(top.epoch, top.holder, position)

    @property
    def next_epoch(self) -> Epoch:
        """An epoch that no region that answered has seen."""
        return Epoch(self.newest.epoch + 1 if self.newest else 1)


class Survey:
    """The conversation that reads every region, and creates what `founding` says where nothing is."""

    def __init__(self, validator: Validator, regions: Sequence[str], founding: Content | None = None) -> None:
        self._validator = validator
        self._founding = founding
        self._unread = set(regions)
        self._busy: dict[str, Content | None] = {}  # what is being created there; None: it is being read
        self._contents: dict[str, Content] = {}
        self._problems = dict.fromkeys(regions, _NO_ANSWER)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return not self._unread and not self._busy and not (self._may_found() and self._problems)

    @property
    def is_decided(self) -> bool:
        """Whether a majority shows a register: whatever a majority ever confirmed is covered by what they show."""
        return len(self._contents) > len(self._problems)

    @property
    def is_agreed(self) -> bool:
        """Whether those that answered name one epoch and holder."""
        return len({(content.epoch, content.holder) for content in self._contents.values()}) == 1

    @property
    def is_heard(self) -> bool:
        """Whether every region has answered, or failed to, at least once."""
        return _NO_ANSWER not in self._problems.values()

    @property
    def seen(self) -> Seen:
        return Seen(dict(self._contents), dict(self._problems))

    def next_call(self, region: str) -> Read | Swap | None:
        """See Conversation."""
        if region in self._busy:
            return None
        if region in self._unread:
            self._busy[region] = None
            return Read()
        if self._founding and self._may_found() and region in self._problems:
            self._busy[region] = self._founding
            return Swap(encode(self._validator, self._founding), None)
        return None

    def on_read(self, region: str, found: Tagged | None) -> None:
        """See Conversation."""
        self._busy.pop(region, None)
        self._unread.discard(region)
        try:
            if found is None:
                self._problems[region] = ABSENT
            else:
                self._show(region, decode(self._validator, found.data, where=region))
        except CorruptError as error:
            self._problems[region] = error.message

    def on_swapped(self, region: str, _tag: str) -> None:
        """See Conversation."""
        if created := self._busy.pop(region, None):
            self._show(region, created)

    def on_refused(self, region: str) -> None:
        """See Conversation."""
        self._busy.pop(region, None)
        self._unread.add(region)

    def on_lost(self, region: str, why: str) -> None:
        """See Conversation."""
        self.on_refused(region)
        self._problems[region] = why

    def _show(self, region: str, content: Content) -> None:
        self._contents[region] = content
        self._problems.pop(region, None)

    def _may_found(self) -> bool:
        return (
            self._founding is not None
            and not self._unread
            and all(content == self._founding for content in self._contents.values())
            and all(problem == ABSENT for problem in self._problems.values())
        )
