"""One schedule with remote signers: processes that take the register over from one another, over regions that fail.

The claim's decisions are the program's own (`vedr.chain.register_claim`); calls to regions are answered at once, late,
or never, and take effect before, after, or long after their answer is given up; one that took effect may be told as
refused.  Nothing fences a process here but the register: old ones are frozen, cut off and wake up at will.  Holders
also finish what the register says was begun, by themselves or by another: the recorded message, released at any time
while its position is durable under their claim.

In half of the schedules hands reach into buckets: they put objects back, remove them, or exchange them for another
region's or another validator's (`bench.signing.buckets`, which also says what of it is excluded).
"""

# ruff: noqa: S101 - the state is this file's own

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from bench.signing.buckets import VALIDATOR, Buckets, Region, covers, founded
from bench.signing.oracle import Oracle
from bench.signing.rules import ALIEN, read_token
from vedr.chain.register import NEVER_SIGNED, Content, Position, StaleEpochError
from vedr.chain.register_claim import Claim, Read, Swap
from vedr.chain.sign_state import Hrs
from vedr.errors import CorruptError, RefusedError
from vedr.inventory import Height
from vedr.ports import Tagged

REGIONS: Final = ("us-east", "eu-west", "ap-south")
STEPS: Final = 260
LATE: Final = 0.05
FINISHING: Final = 0.2
HANDS: Final = (0, 0, 0, 1, 2, 5)  # how often one reaches into a bucket
REFUSED: Final = 0.3  # of the swaps that took effect and whose answer is lost
OUTAGE: Final = 0.6
STRETCHING: Final = (0.0, 0.05, 0.2)  # of the steps, in schedules with hands
KINDS: Final = (
    "any",
    "recent",
    "before a take-over",
    "before a take-over",
    "emptied",
    "another region's",
    "another validator's",
)
RECENT: Final = 6  # contents among which a hand that undoes something finds its own
_DIGESTS: Final = tuple(f"{block:064x}" for block in range(1, 4))
T = TypeVar("T")
Answer = tuple[()] | tuple[Tagged | str | None]


@functools.lru_cache(maxsize=8192)
def _position(height: int, round_: int, step: int, block: int) -> Position:
    return Position(Height(height), round_, step, _DIGESTS[block])


@dataclass(slots=True)
class SignerProcess:
    """A remote signer: what it wants to sign, and what it has not let out yet."""

    host: str
    claim: Claim
    wanted: tuple[Hrs, int] | None = None
    ready: tuple[Hrs, int] | None = None  # durable, on its way out
    answers: list[tuple[str, Read | Swap, Answer | None]] = field(default_factory=list)  # that did not arrive yet
    is_frozen: bool = False
    seen: dict[str, Content] = field(default_factory=dict)  # the most that each region ever showed to it


class RegisterSchedule:
    """A seed's life."""

    def __init__(self, seed: int, off: frozenset[str] = frozenset(), log: list[str] | None = None) -> None:
        self.chance = random.Random(seed)
        self.draw, self.bits = self.chance.random, self.chance.getrandbits
        self.finishing = random.Random(~seed)  # of its own: seeds of before give the same schedules, and more releases
        self.reaching = random.Random(f"hands of {seed}")  # the same
        self.off, self.log = off, log
        self.regions = {name: founded() for name in REGIONS}
        self.buckets = Buckets(self.regions, excludes="put-back-unseen" not in off)
        self.processes: list[SignerProcess] = []
        self.late: list[tuple[str, Swap]] = []
        self.oracle = Oracle()
        self.now = 0
        self.tip = 1
        self.promoted = 0
        self.refused: dict[str, int] = {}

    def run(self) -> Oracle:
        """Play it; the oracle says whether something was signed twice."""
        chance, random_draw = self.chance, self.draw
        faults = chance.choice((0.0, 0.1, 0.3))
        taking_over = chance.choice((0.01, 0.03))
        hands = set(self.reaching.sample(range(STEPS), self.reaching.choice(HANDS)))
        stretching = self.reaching.choice(STRETCHING) if hands else 0.0
        self.take_over("a")
        for self.now in range(STEPS):
            if self.now in hands:
                self.reach_in()
            draw = random_draw()
            if draw < taking_over:
                self.take_over(chance.choice("abc"))
            elif draw < 0.05:
                self.break_something()
            elif draw < 0.30:
                self.ask_somebody()
            elif self.reaching.random() < stretching:
                self.stretch()
            else:
                self.work_on(1, faults)
            self.finish_something()
            if self.oracle.broken:
                break
        return self.oracle

    def ask_somebody(self) -> None:
        """A node asks its signer."""
        self._ask(self._pick(self.processes))

    def finish_something(self) -> None:
        """Now and then a signer releases what its register says was begun, whoever began it."""
        if self.finishing.random() < FINISHING:
            self.finish(self.finishing.choice(self.processes))

    def work_on(self, calls: int, faults: float) -> None:
        """Some calls to regions, and now and then one that was given up long ago."""
        for _ in range(calls):
            if self.late and self.draw() < LATE:
                self.deliver(self._below(len(self.late)))
            else:
                self.work(self._pick(self.processes), self._pick(REGIONS), faults)

    def deliver(self, number: int) -> None:
        """A call that was given up takes its effect, if it still fits."""
        region, call = self.late.pop(number)
        self._effect(None, region, call)

    def stretch(self) -> None:
        """A process works undisturbed for a while with the regions that it reaches: not all reach the same ones."""
        chance = self.reaching
        process, reached = chance.choice(self.processes), chance.sample(REGIONS, chance.choice((1, 2, 2, 3)))
        for _ in range(chance.choice((4, 8, 16))):
            for region in reached:
                self.work(process, region)
            self._ask(process)

    def _pick(self, among: Sequence[T]) -> T:
        return among[self._below(len(among))]

    def _below(self, limit: int) -> int:
        """As `random.Random` draws it, without three calls between."""
        width, bits = limit.bit_length(), self.bits
        drawn = bits(width)
        while drawn >= limit:
            drawn = bits(width)
        return drawn

    def take_over(self, host: str) -> None:
        """A process begins, with an epoch above those it happens to see; two may choose the same."""
        seen = 0
        for region in self.regions.values():
            if region.held and not region.is_down and self.chance.random() < 0.7:
                seen = max(seen, region.shown.epoch if region.shown else 0)
        self.claim(host, seen + 1)

    def claim(self, host: str, epoch: int) -> SignerProcess:
        """A process that claims this epoch."""
        holder = f"{host}/{len(self.processes)}"
        process = SignerProcess(host, Claim(VALIDATOR, REGIONS, epoch=epoch, holder=holder, at_least=NEVER_SIGNED))
        self.processes.append(process)
        self._say(f"{host} claims epoch {epoch} as process {len(self.processes) - 1}")
        return process

    def break_something(self) -> None:
        chance = self.chance
        kind = chance.randrange(4)
        if kind == 0:
            region = self.regions[chance.choice(REGIONS)]
            region.is_down = not region.is_down
        elif kind == 1:
            process = chance.choice(self.processes)
            process.is_frozen = not process.is_frozen
        elif kind == 2:
            self.tip += 1
        elif len(self.processes) > 1:  # kill -9: what it had sent is on its way still
            process = self.processes.pop(chance.randrange(len(self.processes)))
            self.late += [
                (region, call) for region, call, answer in process.answers if isinstance(call, Swap) and answer is None
            ]

    def reach_in(self) -> None:
        """A hand changes a region's object: restores a bucket, undoes a version, empties it, copies into it.

        Often where it matters most: one of the other regions goes out of reach then, and all else answers again.
        """
        chance, name = self.reaching, self.reaching.choice(REGIONS)
        region = self.regions[name]
        if chance.random() < OUTAGE:
            out = chance.choice([other for other in REGIONS if other != name])
            for other in REGIONS:
                self.regions[other].is_down = other == out
        kind = chance.choice(KINDS)
        region.put(self._put_there(kind, region))
        self._say(f"a hand changes what {name} claims: {kind}")

    def _put_there(self, kind: str, region: Region) -> bytes | None:
        chance, past = self.reaching, region.past
        if kind == "another validator's":
            return ALIEN
        if kind == "another region's":
            past = self.regions[chance.choice(REGIONS)].past[-RECENT:]
        elif kind == "recent":
            past = past[-RECENT:]
        elif kind == "before a take-over":
            epochs = [read_token(VALIDATOR, data, where="the past").epoch for data in past]
            first = epochs.index(chance.choice(epochs))
            past = past[max(0, first - RECENT) : first] or past
        return None if kind == "emptied" else chance.choice(past)

    # --- a signer

    def _ask(self, process: SignerProcess) -> None:
        """The node wants a signature."""
        if process.is_frozen:
            return
        if process.ready is not None:
            self._release(process)
            return
        claim, below = process.claim, self._below
        if not claim.is_held or claim.is_lost:
            return
        hrs = (self.tip + below(2), below(2), 1 + below(3))
        if self.draw() < 0.6:  # what comes next there, which is what a second signer is about to sign too
            height, round_, step = claim.position.hrs
            hrs = (height, round_, step + 1) if height and step < 3 else (max(height + 1, self.tip), 0, 1)
        self.want(process, hrs, below(len(_DIGESTS)))

    def want(self, process: SignerProcess, hrs: Hrs, block: int) -> None:
        """Its node wants a signature for this block, there."""
        try:
            process.claim.advance(_position(*hrs, block))
        except (RefusedError, StaleEpochError) as error:
            self.refused[type(error).__name__] = self.refused.get(type(error).__name__, 0) + 1
            return
        process.wanted = (hrs, block)
        self._check_durable(process)

    def _check_durable(self, process: SignerProcess) -> None:
        if process.wanted is not None and process.claim.is_durable:
            process.ready, process.wanted = process.wanted, None
            if self.draw() < 0.7:
                self._release(process)

    def finish(self, process: SignerProcess) -> None:
        """As vedr.signer.service.Signer.finish: durable under this claim, a vote, and its content is known."""
        claim = process.claim
        if process.is_frozen or not claim.is_durable or claim.is_lost:
            return
        position = claim.position
        if position.step > 1 and position.digest in _DIGESTS:
            block = _DIGESTS.index(position.digest)
            if self.log is not None:
                self._say(f"{process.host} finishes {position.hrs} for block {block}")
            self.oracle.release(process.host, position.hrs, block, self.now)

    def _release(self, process: SignerProcess) -> None:
        assert process.ready is not None
        (hrs, block), process.ready = process.ready, None
        self.promoted += 1
        if self.log is not None:
            self._say(f"{process.host} releases {hrs} for block {block}")
        self.oracle.release(process.host, hrs, block, self.now)

    # --- its calls

    def work(self, process: SignerProcess, region: str, faults: float = 0.0) -> None:
        """One call of this process to this region, or the answer to the one before."""
        if process.is_frozen:
            return
        for index, (where, sent, answer) in enumerate(process.answers):
            if where == region:
                del process.answers[index]
                self._answer(process, region, sent, self._effect(process, region, sent) if answer is None else answer)
                return
        call = process.claim.next_call(region)
        if call is not None:
            self._send(process, region, call, faults)

    def _send(self, process: SignerProcess, region: str, call: Read | Swap, faults: float) -> None:
        """A call, and what becomes of it."""
        fate = self.draw()
        if self.regions[region].is_down or fate < faults * 0.3:  # no effect
            process.claim.on_lost(region, "down")
        elif fate < faults * 0.6:  # effect, and its answer is lost, or is that of a try after the one that took effect
            self._effect(process, region, call)
            if isinstance(call, Swap) and self.reaching.random() < REFUSED:
                process.claim.on_refused(region)
            else:
                process.claim.on_lost(region, "answer lost")
        elif fate < faults * 0.8 and isinstance(call, Swap):  # given up, and has its effect later
            self.late.append((region, call))
            process.claim.on_lost(region, "late")
        elif fate < faults:  # its effect is made, the answer comes later
            process.answers.append((region, call, self._effect(process, region, call)))
        elif fate < faults * 1.2:  # on its way
            process.answers.append((region, call, None))
        else:
            self._answer(process, region, call, self._effect(process, region, call))

    def _effect(self, process: SignerProcess | None, region: str, call: Read | Swap) -> Answer:
        """What the region answers, a tuple of one; an empty one for none.  `process` None: it was given up."""
        seen = process.seen.get(region) if process else None
        answer = self.buckets.answer(region, call, seen, compares="register-cas" not in self.off)
        return () if answer is None else answer

    def _answer(self, process: SignerProcess, region: str, call: Read | Swap, answer: Answer) -> None:
        claim = process.claim
        match answer:
            case ():
                claim.on_lost(region, "withheld")
            case (Tagged() as found,):
                _see(process, region, found.data)
                claim.on_read(region, found)
            case (str(tag),) if isinstance(call, Swap):
                _see(process, region, call.data)
                claim.on_swapped(region, tag)
            case _ if isinstance(call, Read):
                claim.on_read(region, None)
            case _:
                claim.on_refused(region)
        self._check_durable(process)

    def _say(self, text: str) -> None:
        if self.log is not None:
            shown = {name: region.held.data.decode() if region.held else "" for name, region in self.regions.items()}
            self.log.append(f"{self.now:4}  {text}  {shown if 'claims' in text else ''}")


def _see(process: SignerProcess, region: str, data: bytes) -> None:
    try:
        shown = read_token(VALIDATOR, data, where=region)
    except CorruptError:
        return
    before = process.seen.get(region)
    if before is None or covers(shown, before):
        process.seen[region] = shown
