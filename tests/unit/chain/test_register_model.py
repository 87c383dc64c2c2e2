"""The register under fire: late, lost and reordered messages, crashes, partitions, races, one region that forgets.

The world below plays the claims of several processes against three regions, one message at a time.  What it checks:
no position is ever released with two messages, a region never goes down, and a claim that is held covers all that was
released before.  To show that it would notice, it is also run with rules switched off.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain import register_claim
from vedr.chain.register import NEVER_SIGNED, NOBODY, Content, Epoch, Position, Validator, decode, encode
from vedr.chain.register_claim import Claim, Read, Swap
from vedr.errors import ConflictError, RefusedError
from vedr.inventory import Height
from vedr.ports import Tagged

REGIONS = ("us-east", "eu-west", "ap-south")
VALIDATOR = Validator("chain-1", "AB" * 20)
DIGESTS = {name: name * 64 for name in "ab"}


class BrokenPromiseError(AssertionError):
    """What must never happen."""


@dataclass(slots=True)
class Message:
    """A call on its way; `answer` once it has arrived."""

    call: Read | Swap
    answer: Any = None
    has_arrived: bool = False


@dataclass(slots=True)
class Process:
    claim: Claim
    epoch: int
    messages: dict[str, Message] = field(default_factory=dict)
    was_held: bool = False


class World:
    """Processes, regions, and everything between them."""

    def __init__(
        self, make_claim: Callable[..., Claim] = Claim, *, compares: bool = True, watches: bool = True
    ) -> None:
        self.regions = {region: MemoryRegisters(region) for region in REGIONS}
        self.make_claim = make_claim
        self.compares = compares
        self.watches = watches  # whether a region that goes down is reported, or only what comes of it
        self.processes: list[Process] = []
        self.late: list[tuple[str, Swap]] = []
        self.released: dict[tuple[int, int, int], tuple[str, int]] = {}
        self.newest_epoch = 0
        self.forgetful = False
        founding = encode(VALIDATOR, Content(Epoch(0), NOBODY, NEVER_SIGNED))
        for registers in self.regions.values():
            registers.swap(VALIDATOR.key, founding, expected=None)

    def start(self, *, higher: int, same_name: bool = False) -> None:
        """A process begins to take over; `higher` 0 races for the newest epoch."""
        epoch = max(1, self.newest_epoch + higher)
        self.newest_epoch = max(self.newest_epoch, epoch)
        holder = f"p{epoch}" if same_name else f"p{len(self.processes)}@{epoch}"
        claim = self.make_claim(VALIDATOR, REGIONS, epoch=epoch, holder=holder, at_least=NEVER_SIGNED)
        self.processes.append(Process(claim, epoch))

    def begin(self, process: Process, region: str) -> bool:
        if region in process.messages or (call := process.claim.next_call(region)) is None:
            return False
        process.messages[region] = Message(call)
        return True

    def arrive(self, process: Process, region: str) -> None:
        message = process.messages.get(region)
        if message and not message.has_arrived:
            message.answer = self._serve(region, message.call)
            message.has_arrived = True

    def answer(self, process: Process, region: str) -> None:
        message = process.messages.get(region)
        if not message or not message.has_arrived:
            return
        del process.messages[region]
        if isinstance(message.call, Read):
            process.claim.on_read(region, message.answer)
        elif message.answer is None:
            process.claim.on_refused(region)
        else:
            process.claim.on_swapped(region, message.answer)
        self.look_at(process)

    def lose(self, process: Process, region: str) -> None:
        """The caller gives up; what has not arrived may do so at any time."""
        if message := process.messages.pop(region, None):
            if isinstance(message.call, Swap) and not message.has_arrived:
                self.late.append((region, message.call))
            process.claim.on_lost(region, "timed out")

    def crash(self, process: Process) -> None:
        for region in REGIONS:
            self.lose(process, region)
        self.processes.remove(process)

    def deliver_late(self, number: int) -> None:
        if self.late:
            region, swap = self.late.pop(number % len(self.late))
            self._serve(region, swap)

    def exchange(self, process: Process, regions: tuple[str, ...]) -> None:
        """A stretch without faults, with the regions that are in reach."""
        is_busy = True
        while is_busy:
            is_busy = False
            for region in regions:
                is_busy |= self.begin(process, region)
                self.arrive(process, region)
                self.answer(process, region)

    def advance(self, process: Process, step: int, digest: str) -> None:
        if not process.claim.is_held:
            return
        present = process.claim.position
        total = max(0, present.height * 2 + present.round + step)
        try:
            process.claim.advance(Position(Height(total // 2), total % 2, 1, DIGESTS[digest]))
        except (RefusedError, ConflictError):
            return
        self.look_at(process)

    def forget(self, region: str, *, damaged: bool) -> None:
        """One region loses its object, or its content, once."""
        if not self.forgetful:
            self.forgetful = True
            if damaged:
                self.regions[region].overwrite(VALIDATOR.key, b"?")
            else:
                self.regions[region].wipe(VALIDATOR.key)

    def look_at(self, process: Process) -> None:
        """Release what may be released, and check that it may."""
        claim = process.claim
        if claim.is_held and not process.was_held:
            process.was_held = True
            for (height, round_, step), (digest, epoch) in self.released.items():
                if epoch < process.epoch and not claim.position.covers(Position(Height(height), round_, step, digest)):
                    raise BrokenPromiseError(f"took over at {claim.position}, released was {height}/{round_}/{step}")
        if claim.is_durable and claim.position.digest:
            digest, _ = self.released.setdefault(claim.position.hrs, (claim.position.digest, process.epoch))
            if digest != claim.position.digest:
                raise BrokenPromiseError(
                    f"{claim.position} was released with {digest[0]} and {claim.position.digest[0]}"
                )

    def _serve(self, region: str, call: Read | Swap) -> Tagged | str | None:
        registers = self.regions[region]
        if isinstance(call, Read):
            return registers.read(VALIDATOR.key)
        before = registers.read(VALIDATOR.key)
        if not self.compares:
            registers.overwrite(VALIDATOR.key, call.data)
            after = registers.read(VALIDATOR.key)
            return after.tag if after else None
        try:
            tag = registers.swap(VALIDATOR.key, call.data, expected=call.expected)
        except ConflictError:
            return None
        if self.watches and before is not None and before.data != b"?":
            _check_upward(before.data, call.data)
        return tag


def _check_upward(before: bytes, after: bytes) -> None:
    lower, higher = (decode(VALIDATOR, data, where="a region") for data in (before, after))
    if lower.epoch > higher.epoch or not higher.position.covers(lower.position):
        raise BrokenPromiseError(f"a region went from {lower} to {higher}")


# --- Hypothesis


WHO, WHERE = st.integers(0, 7), st.sampled_from(REGIONS)
REACH = st.sampled_from([REGIONS, REGIONS[:2], REGIONS[1:], (REGIONS[0], REGIONS[2]), REGIONS[:1]])


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin_world(self) -> None:
        self.world = World()
        self.world.start(higher=1)

    def process(self, who: int) -> Process:
        if not self.world.processes:
            self.world.start(higher=1)
        return self.world.processes[who % len(self.world.processes)]

    @rule(higher=st.integers(0, 2), same_name=st.booleans())
    def start(self, higher: int, same_name: bool) -> None:
        self.world.start(higher=higher, same_name=same_name)

    @rule(who=WHO, region=WHERE)
    def begin(self, who: int, region: str) -> None:
        self.world.begin(self.process(who), region)

    @rule(who=WHO, region=WHERE)
    def arrive(self, who: int, region: str) -> None:
        self.world.arrive(self.process(who), region)

    @rule(who=WHO, region=WHERE)
    def answer(self, who: int, region: str) -> None:
        self.world.answer(self.process(who), region)

    @rule(who=WHO, region=WHERE)
    def lose(self, who: int, region: str) -> None:
        self.world.lose(self.process(who), region)

    @rule(who=WHO, regions=REACH)
    def exchange(self, who: int, regions: tuple[str, ...]) -> None:
        self.world.exchange(self.process(who), regions)

    @rule(who=WHO, step=st.integers(-1, 2), digest=st.sampled_from("ab"))
    def advance(self, who: int, step: int, digest: str) -> None:
        self.world.advance(self.process(who), step, digest)

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        self.world.crash(self.process(who))

    @rule(number=st.integers(0, 20))
    def deliver_late(self, number: int) -> None:
        self.world.deliver_late(number)

    @rule(region=WHERE, damaged=st.booleans())
    def forget(self, region: str, damaged: bool) -> None:
        self.world.forget(region, damaged=damaged)


TestRegister = Machine.TestCase
TestRegister.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


# --- the same world, played by a seed, with and without each rule


MOVES = {
    "begin": 3.0,
    "arrive": 3,
    "answer": 3,
    "lose": 2,
    "exchange": 4,
    "advance": 6,
    "crash": 0.2,
    "late": 1,
    "forget": 0.3,
}


def play(seed: int, make_claim: Callable[..., Claim] = Claim, *, steps: int = 120, **switches: bool) -> World:
    chance = random.Random(seed)
    world = World(make_claim, **switches)
    for move in chance.choices(list(MOVES), list(MOVES.values()), k=steps):
        if not world.processes or chance.random() < 0.06:
            world.start(higher=chance.choice((0, 1, 1, 2)), same_name=chance.random() < 0.3)
        make_move(world, move, chance)
    return world


def make_move(world: World, move: str, chance: random.Random) -> None:
    process, region = chance.choice(world.processes[-3:]), chance.choice(REGIONS)
    match move:
        case "begin":
            world.begin(process, region)
        case "arrive":
            world.arrive(process, region)
        case "answer":
            world.answer(process, region)
        case "lose":
            world.lose(process, region)
        case "exchange":
            world.exchange(process, chance.choice((REGIONS, REGIONS[:2], REGIONS[1:], (REGIONS[0], REGIONS[2]))))
        case "advance":
            world.advance(process, chance.choice((-1, 0, 1, 1, 2)), chance.choice("ab"))
        case "crash":
            world.crash(process)
        case "late":
            world.deliver_late(chance.randrange(20))
        case _:
            world.forget(region, damaged=chance.random() < 0.5)


def find_failure(schedules: int, make_claim: Callable[..., Claim] = Claim, **switches: bool) -> str:
    """What the first seed that breaks a promise says."""
    for seed in range(schedules):
        try:
            play(seed, make_claim, **switches)
        except BrokenPromiseError as error:
            return str(error)
    return ""


def test_hundreds_of_schedules_release_much_and_nothing_twice() -> None:
    released = [len(play(seed).released) for seed in range(120)]
    assert sum(released) > 200


class BelievesAMinority(Claim):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._majority = 1  # type: ignore[misc]


class TakesLostForDone(Claim):
    """Does not look again either, which would find it out."""

    def _is_shown_together(self) -> bool:
        return self._confirmed() >= self._majority

    def on_lost(self, region: str, why: str) -> None:
        if self._views[region].swapping is not None:
            self.on_swapped(region, "unknown")
        else:
            super().on_lost(region, why)


@pytest.mark.parametrize("broken", [BelievesAMinority, TakesLostForDone])
def test_without_this_rule_a_position_is_released_twice_or_not_taken_over(broken: type[Claim]) -> None:
    assert "released" in find_failure(1000, broken, watches=False)


def test_without_comparison_a_position_is_released_twice_or_not_taken_over() -> None:
    assert "released" in find_failure(1000, compares=False)


class IgnoresNewerEpochs(Claim):
    def _pass(self, region: str, content: Content) -> None:
        pass


class WritesOverWhatIsHigher(Claim):
    def _may_write(self, view: Any, target: Content) -> bool:
        return bool(view.content is not None and view.content != target)


class HeedsNeither(IgnoresNewerEpochs, WritesOverWhatIsHigher):
    pass


@pytest.mark.parametrize("broken", [IgnoresNewerEpochs, WritesOverWhatIsHigher])
def test_without_this_rule_a_region_goes_down_and_the_other_rule_still_holds(broken: type[Claim]) -> None:
    assert "a region went from" in find_failure(1000, broken)
    assert find_failure(60, broken, watches=False) == ""


def test_where_neither_epochs_nor_positions_are_heeded_a_position_is_released_twice() -> None:
    assert "released" in find_failure(1000, HeedsNeither, watches=False)


# --- two rules that chance seldom needs, played move by move


class FillsWhatWasForgotten(Claim):
    def _may_write(self, view: Any, target: Content) -> bool:
        return self._is_held if view.content is None else super()._may_write(view, target)


def play_a_region_that_forgot_a_take_over(make_claim: Callable[..., Claim]) -> World:
    world = World(make_claim)
    world.start(higher=1)
    world.exchange(world.processes[0], REGIONS)
    world.start(higher=1)
    old, new = world.processes
    world.exchange(new, ("eu-west", "ap-south"))
    world.advance(new, 2, "a")
    world.exchange(new, ("eu-west", "ap-south"))
    world.forget("eu-west", damaged=False)
    world.advance(old, 2, "b")
    world.exchange(old, ("us-east", "eu-west"))
    return world


def test_an_old_holder_gains_nothing_from_a_region_that_forgot_who_took_over() -> None:
    assert len(play_a_region_that_forgot_a_take_over(Claim).released) == 1
    with pytest.raises(BrokenPromiseError):
        play_a_region_that_forgot_a_take_over(FillsWhatWasForgotten)


def play_copies_that_disagree() -> World:
    """us-east shows a message that was never released, under a newer epoch than the one that was released elsewhere."""
    world = World()
    world.start(higher=1)
    first = world.processes[0]
    world.exchange(first, REGIONS)
    world.advance(first, 2, "a")
    world.begin(first, "us-east")
    world.arrive(first, "us-east")
    world.crash(first)
    world.start(higher=1)
    second = world.processes[0]
    world.exchange(second, ("eu-west", "ap-south"))
    world.start(higher=1)
    third = world.processes[1]
    for region in ("us-east", "eu-west"):
        world.begin(third, region)
        world.arrive(third, region)
        world.answer(third, region)
    world.begin(third, "us-east")
    world.arrive(third, "us-east")
    world.crash(third)
    world.advance(second, 2, "b")
    world.exchange(second, ("eu-west", "ap-south"))
    world.start(higher=1)
    world.exchange(world.processes[1], ("us-east", "eu-west"))
    return world


def test_where_copies_disagree_nothing_is_signed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = play_copies_that_disagree()
    last = world.processes[1].claim
    assert world.released == {(1, 0, 1): (DIGESTS["b"], 2)}
    assert (last.is_held, last.position) == (True, Position(Height(1), 0, 1))
    for digest in "ab":
        with pytest.raises(RefusedError, match="another message"):
            last.advance(Position(Height(1), 0, 1, DIGESTS[digest]))
    monkeypatch.setattr(register_claim, "join", lambda known, shown: shown if shown.hrs > known.hrs else known)
    assert not play_copies_that_disagree().processes[1].claim.is_held  # what a region shows beside it is never replaced
