"""Beginning to sign: the registers taken over under a new epoch, and the mark from which this process goes on.

Each process takes an epoch of its own, also one that only restarts, so that whoever held the key before is refused
from then on.  Whether to take over is judged here, to keep two healthy signers from chasing each other; safety does
not rest on that judgement but on the registers.

Guarantees: what is signed from here on is above everything that a majority of the regions, the floor and this host's
own file know of, or the very same message.  Leaves out: serving (`service`), and founding a register.
"""

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vedr.chain.appointment import Appointment
from vedr.chain.register import NEVER_SIGNED, NOBODY, Content, Epoch, StaleEpochError, join
from vedr.chain.register_holding import TAKE_OVER_DEADLINE_S, Holding, SignStateRegister
from vedr.chain.sign_state import read_sign_state
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.signer.canonical import is_nil_vote
from vedr.signer.rules import Mark, highest

LOOK_EVERY_S: Final = 0.25
LOOK_DEADLINE_S: Final = 1.0  # for one look at all regions; a dead one is not waited for longer


@dataclass(frozen=True, slots=True)
class Terms:
    """How a signer means to begin.

    Attributes:
        name: The signer's, the same after a restart and different from its standby's: `us-east-1a`.
        take_over: Whether it may take the key from a signer of another name.
        planned: Whether it may do so from one that is alive: a hand-over.
        watch_s: How long the other is watched for signs of life, unless planned; some blocks' time.
    """

    name: str
    take_over: bool
    planned: bool
    watch_s: float


@dataclass(frozen=True, slots=True)
class Tenure:
    """The registers held, the epoch, and the mark to begin from.

    `left_out`: sign-bytes of that mark which a minority of the regions showed.  They are not signed on its word, and
    are written over; people may know whether they are the key's (docs/decisions/recorded-votes.md).
    """

    holding: Holding
    epoch: int
    last: Mark
    left_out: bytes = b""


def begin(
    register: SignStateRegister,
    terms: Terms,
    *,
    holder: str,
    own: Mark | None,
    floor: Mark | None = None,
    check: Callable[[Content], None] = lambda _: None,
    deadline_s: float = TAKE_OVER_DEADLINE_S,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Tenure:
    """Take the registers over.

    Args:
        register: The key's.
        terms: As the operator says.
        holder: This process's, from `holder_of`, and the same for each of its attempts: one that seemed to fail may
            have reached some regions, and must not stand in the way of the next.
        own: What this host's sign-state file says; None where it has none, as on a standby.
        floor: From the promotion protocol; never signed at or below.
        check: Raises, having seen what the registers show, where this is not the moment.
        deadline_s: The longest to wait for a majority to take the new epoch.
        sleep: Waits so many seconds.
        monotonic: A clock, in seconds.

    Raises:
        ConflictError: another signer holds the key, and a take-over was not asked for.
        RefusedError: it is alive, and the hand-over is not planned; or sign states contradict each other: what this
            host's file says was signed is not what the registers show there; or the registers are kept in other
            regions than this site's file names.
        NotFoundError: there is no register: found it.
        UnavailableError: no majority of the regions answers.
    """
    known = [mark for mark in (own, floor) if mark is not None]

    def judged() -> Content:
        newest = look(register)
        check(newest)
        highest([Mark.of_position(newest.position, register.validator.chain_id), *known])  # or they contradict
        if takes_over(newest, terms) and not terms.planned:
            until = monotonic() + terms.watch_s
            _check_silent(register, newest, is_over=lambda: monotonic() >= until, sleep=sleep)
        return newest

    at_least = NEVER_SIGNED
    for mark in known:
        at_least = join(at_least, mark.position)
    take_over = functools.partial(
        register.take_over,
        holder=holder,
        at_least=at_least,
        is_harmless=functools.partial(is_nil_vote, chain_id=register.validator.chain_id),
        deadline_s=deadline_s,
    )
    before = judged()
    try:
        holding = take_over(Epoch(before.epoch + 1))
    except StaleEpochError:  # a region that the look did not wait for has seen a take-over that failed, or somebody's
        before = judged()
        holding = take_over(Epoch(before.epoch + 1))
    # It covers all that is known, and what is known was seen to agree: none contradicts another here.
    last = highest([Mark.of_position(holding.position, register.validator.chain_id), *known])
    is_left_out = before.position == last.position and not last.sign_bytes
    return Tenure(holding, before.epoch + 1, last, before.position.sign_bytes if is_left_out else b"")


def look(register: SignStateRegister) -> Content:
    """The newest that a majority of the regions shows; NotFoundError or UnavailableError when there is none."""
    seen = register.glance(deadline_s=LOOK_DEADLINE_S)
    if seen.newest is not None and seen.is_majority:
        return seen.newest
    shown = "; ".join(f"{region}: {problem}" for region, problem in sorted(seen.problems.items()))
    address = register.validator.address
    if not seen.contents and all(problem == "has no register" for problem in seen.problems.values()):
        raise NotFoundError(
            f"{address} has no sign-state register", remedy="Found it, once in the key's life: vedr signer found."
        )
    raise UnavailableError(
        f"no majority of the regions shows the register of {address}: {shown}",
        remedy="Restore the connection to these regions' stores.",
    )


def holder_of(name: str, pid: int, *, places: str = "") -> str:
    """How a process of this signer is named in the registers: no other one ever is.

    Args:
        name: The signer's.
        pid: The process's.
        places: Where its registers are: vedr.chain.register.name_of_places.

    Raises:
        InvalidInputError: the name has a "/", which ends names there: `us` would take `us/standby` for itself.
    """
    if "/" in name:
        raise InvalidInputError(f"{name!r} is no signer's name", remedy="Use letters, digits and . _ : @ -.")
    return f"{name}/{pid}#{secrets.token_hex(4)}{f'@{places}' if places else ''}"


def takes_over(newest: Content, terms: Terms) -> bool:
    """Whether the key is another signer's so far; ConflictError when it is, and is to be left to that one."""
    if newest.holder == NOBODY or newest.is_held_by(terms.name):
        return False
    if not terms.take_over:
        raise ConflictError(
            f"the key is held by {newest.holder} (epoch {newest.epoch}, at {newest.position})",
            remedy="If it is lost, or is to hand over, begin with --take-over, or appoint this one.",
        )
    return True


def terms_when_appointed(terms: Terms, appointment: Appointment | None) -> Terms:
    """The appointed one takes the key over, also from a living holder; with nobody appointed the terms stay.

    Raises:
        ConflictError: another signer is appointed.
    """
    if appointment is None:
        return terms
    if appointment.name != terms.name:
        raise ConflictError(
            f"the key is to be held by {appointment}, not by {terms.name}",
            remedy=f"Leave it stopped.  To take the key back on purpose, appoint {terms.name}.",
        )
    return replace(terms, take_over=True, planned=True)


def _check_silent(
    register: SignStateRegister, newest: Content, *, is_over: Callable[[], bool], sleep: Callable[[float], None]
) -> None:
    """RefusedError when the holder signs while it is watched."""
    while not is_over():
        sleep(LOOK_EVERY_S)
        now = look(register)
        if _moved(now, newest):
            raise RefusedError(
                f"{now.holder} is alive: it went from {newest.position} to {now.position} while it was watched",
                remedy="Leave it the key.  To hand over on purpose, add --planned.",
            )


def _moved(now: Content, before: Content) -> bool:
    return now.epoch > before.epoch or now.position.hrs > before.position.hrs


def own_mark(state_file: Path) -> Mark | None:
    """What this host's sign-state file says; None where there is none.

    Raises:
        CorruptError: it can't be read.  The registers alone would do, but why it broke has to be known first.
    """
    try:
        return Mark.of_file(read_sign_state(state_file))
    except NotFoundError:
        return None
