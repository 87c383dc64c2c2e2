"""What take-overs on the lab came to: how each is drawn, what signers' logs and the chain say afterwards, the report.

Guarantees: pure.  A line of a log that cannot be read counts as a problem, unless it is the last of all.
Leaves out: the lab (bench.takeovers).
"""

import json
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from vedr.chain.sign_state import Hrs
from vedr.errors import NotFoundError

Way = Literal["signer killed", "node killed", "signer frozen", "node frozen", "zone cut", "planned"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
GOING_HOME: Final = 0.3  # of the take-overs from a standby; they are planned, as a failback is
PRECOMMIT: Final = 3


@dataclass(frozen=True, slots=True)
class Seat:
    """A place where a validator's key may be used: a signer, and the node that it signs for."""

    signer: str
    validator: str
    node: str
    zone: str

    @property
    def is_home(self) -> bool:
        return self.node == self.validator


@dataclass(frozen=True, slots=True)
class Case:
    """One take-over that is to be."""

    validator: str
    way: Way
    old: Seat
    new: Seat


def draw(
    chance: random.Random, seats: Sequence[Seat], holders: Mapping[str, str], signing_zones: Sequence[str]
) -> Case:
    """The next one.

    A standby serves one validator at a time.  What is lost leaves the chain its majority: a zone is cut only when
    nobody else signs in it.

    Args:
        chance: Draws.
        seats: All of them.
        holders: The signer that holds each validator's key now.
        signing_zones: The zone of every validator's present signer, also of those that sign from files.

    Raises:
        NotFoundError: no key can go anywhere.
    """
    able = {name: _possible(name, seats, holders, signing_zones) for name in sorted(holders)}
    if not any(able.values()):
        raise NotFoundError("no standby is free", remedy="Give the lab's validators more standbys.")
    cases = able[chance.choice([name for name, cases in able.items() if cases])]
    home, away = [case for case in cases if case.new.is_home], [case for case in cases if not case.new.is_home]
    if home and (not away or chance.random() < GOING_HOME):
        return home[0]
    way = chance.choice(sorted({case.way for case in away}))
    return chance.choice([case for case in away if case.way == way])


def _possible(
    validator: str, seats: Sequence[Seat], holders: Mapping[str, str], signing_zones: Sequence[str]
) -> list[Case]:
    by_name = {seat.signer: seat for seat in seats}
    old, busy = by_name[holders[validator]], {by_name[holder].node for holder in holders.values()}
    others = [seat for seat in seats if seat.validator == validator and seat != old]
    home = [Case(validator, "planned", old, seat) for seat in others if seat.is_home]
    away = [
        Case(validator, way, old, seat)
        for seat in others
        if not seat.is_home and seat.node not in busy
        for way in WAYS
        if way != "zone cut" or (seat.zone != old.zone and signing_zones.count(old.zone) == 1)
    ]
    return home + away


# --- what the signers say


@dataclass(frozen=True, slots=True)
class Signed:
    """One signature that a signer gave out, as its log tells it before it leaves."""

    validator: str
    signer: str
    hrs: Hrs
    digest: str


def read_log(seat: Seat, data: bytes) -> tuple[list[Signed], list[str]]:
    """The signatures in a signer's log, and its lines that can't be read."""
    signed, problems = [], []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.startswith(b"{"):
            continue  # what people are told
        try:
            facts = json.loads(line)
            if facts["event"] == "signed":
                signed.append(Signed(seat.validator, seat.signer, hrs_of(facts["hrs"]), str(facts["digest"])))
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # else it was killed while it wrote, before anything left
                problems.append(f"{seat.signer}: line {number} of its log can't be read")
    return signed, problems


def hrs_of(text: str) -> Hrs:
    """ValueError unless it is height/round/step."""
    height, round_, step = map(int, text.split("/"))
    return (height, round_, step)


def named(hrs: Hrs) -> str:
    return "/".join(map(str, hrs))


def signed_twice(signed: Iterable[Signed]) -> list[str]:
    """Heights, rounds and steps that a validator's signers signed for two contents."""
    contents: defaultdict[tuple[str, Hrs], dict[str, str]] = defaultdict(dict)
    for one in signed:
        contents[one.validator, one.hrs].setdefault(one.digest, one.signer)
    return [
        f"{validator} signed {named(hrs)} for {len(found)} contents, by {', '.join(sorted(set(found.values())))}"
        for (validator, hrs), found in sorted(contents.items())
        if len(found) > 1
    ]


def signed_after(signed: Iterable[Signed], position: Hrs) -> list[str]:
    """What a signer that was passed at this position signed above it."""
    return [
        f"{one.signer} signed {named(one.hrs)} after the key had gone on at {named(position)}"
        for one in signed
        if one.hrs > position
    ]


def untold(on_chain: Iterable[tuple[str, int, int]], signed: Iterable[Signed]) -> list[str]:
    """Precommits on the chain (validator, height, round) that no signer's log tells: another one was at work."""
    told = {(one.validator, one.hrs) for one in signed}
    return [
        f"block {height} has a precommit of {validator} in round {round_} that no signer's log tells"
        for validator, height, round_ in on_chain
        if (validator, (height, round_, PRECOMMIT)) not in told
    ]


# --- what it came to


@dataclass(frozen=True, slots=True)
class TakeOver:
    """One that was done.

    `named_s`: until the registers named the standby; `signing_s`: until a block held a signature of it; both from the
    fault, or the order.  `missed`: blocks without the validator's signature between.  `refused_by_itself`: the old
    signer, alive again, ended without being asked to.
    """

    case: Case
    named_s: float
    signing_s: float
    missed: int
    refused_by_itself: bool


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def report(done: Sequence[TakeOver], problems: Sequence[str], *, seed: int, blocks: int, acknowledged: int) -> str:
    """Markdown."""
    validators = {one.case.validator for one in done}
    lines = [
        f"{len(done)} take-overs of {len(validators)} validators, seed {seed}, over {blocks} blocks;",
        f"{acknowledged} transactions were acknowledged meanwhile.",
        "",
        "| Way | Take-overs | Named, s: p50, p99 | Signing, s: p50, p99 | Blocks missed: p50, most | Refused alone |",
        "|---|---|---|---|---|---|",
    ]
    for way in (*WAYS, ""):
        chosen = [one for one in done if way in ("", one.case.way)]
        if chosen:
            lines.append(_row(way or "all", chosen))
    lines += [
        "",
        "*Refused alone*: the old signer, alive again, ended of itself; the others were not asked to sign.",
        "",
    ]
    if problems:
        return "\n".join([*lines, *(f"- {problem}" for problem in problems)])
    lines.append(
        "No evidence in any block, no height, round and step with two signed contents, nothing signed by a signer"
    )
    lines.append("after the key had gone on, no signature on the chain that no signer's log tells.")
    return "\n".join(lines)


def _row(way: str, done: Sequence[TakeOver]) -> str:
    missed = [one.missed for one in done]
    cells = (
        way,
        str(len(done)),
        _seconds([one.named_s for one in done]),
        _seconds([one.signing_s for one in done]),
        f"{statistics.median(missed):g} / {max(missed)}",
        f"{sum(one.refused_by_itself for one in done)}",
    )
    return "| " + " | ".join(cells) + " |"


def _seconds(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f}"


def expected_nodes(nodes: Iterable[tuple[str, bool]], seats: Iterable[Seat], holders: Mapping[str, str]) -> set[str]:
    """Nodes (name, is a validator) that ought to be in sync: all but validators whose key is used elsewhere."""
    elsewhere = {seat.validator for seat in seats if seat.is_home and holders[seat.validator] != seat.signer}
    return {name for name, is_validator in nodes if not is_validator or name not in elsewhere}
