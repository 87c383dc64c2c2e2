"""Appointments: which signer, by name, is to hold a validator's key.

A standby's service unit is fixed: it can't be told at each start whether to take the key over.  So whoever decides, a
runbook or an operator, writes the signer's name into a small object in every region,
`signer-appointment/<chain id>/<address>.json`, and `vedr signer run --when-appointed` acts on it when it starts.
Format: docs/formats/signer-appointment.md.

An appointment is NOT the safety: it is an order, and signs nothing.  That two signers never sign with one key is the
sign-state register's epoch (vedr.chain.register), whatever appointments say or somebody writes there.

Guarantees: an appointment that was made is in a majority of the regions, and who looks finds it until another is made
or tried; of two made at once at most one succeeds.  One that failed half-way may be found all the same, until the next.
Leaves out: who may appoint (a run's lease on the signer), and that the appointed one begins.
"""

import datetime as dt
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vedr.chain.register import MAX_INT64, Validator
from vedr.chain.register_claim import Read, Swap
from vedr.chain.register_regions import Regions
from vedr.errors import ConflictError, CorruptError, InvalidInputError, UnavailableError
from vedr.ledger import RunId, parse_run_id
from vedr.ports import ObjectKey, Registers, Tagged
from vedr.signature import Json, summed_json

FORMAT: Final = "vedr-signer-appointment/1"
ROOT: Final = "signer-appointment"
NOBODY: Final = "nobody"
"""Appointed when a key must never sign again (RB-DR-005): no signer has this name."""
MAX_BYTES: Final = 2048  # the longest that is written has under 500
APPOINT_DEADLINE_S: Final = 8.0
LOOK_DEADLINE_S: Final = 5.0

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")  # no "/": in the register it ends the name
_TEXTS: Final = {"format", "chain", "address", "name", "run_id", "at", "sum"}
_DAMAGED: Final = "Find out who wrote it, and appoint again: that replaces it."


@dataclass(frozen=True, slots=True)
class Appointment:
    """Who is to hold the key.

    Attributes:
        seq: Grows with every appointment of this validator's signer.
        name: The signer's `--name`.
        run_id: The run that appointed it.
        at: When, UTC, by that run's clock; for people.
    """

    seq: int
    name: str
    run_id: RunId
    at: dt.datetime

    def __post_init__(self) -> None:
        parse_run_id(self.run_id)
        if not 1 <= self.seq <= MAX_INT64 or not _NAME.fullmatch(self.name) or self.at.utcoffset() != dt.timedelta(0):
            raise InvalidInputError(
                f"no appointment: number {self.seq}, name {self.name[:70]!r}, at {self.at.isoformat()}",
                remedy="A number from 1; a name of up to 64 letters, digits and . _ : @ -; a time in UTC.",
            )

    def __str__(self) -> str:
        return f"{self.name} (appointment {self.seq}, by {self.run_id} at {self.at.isoformat(timespec='seconds')})"


def key_of(validator: Validator) -> ObjectKey:
    """Where it is in every region: not below `sign-state/`, which only signers may write."""
    return ObjectKey(f"{ROOT}/{validator.chain_id}/{validator.address}.json")


def encode(validator: Validator, appointment: Appointment) -> bytes:
    """The object's bytes, canonical."""
    return summed_json(
        {
            "format": FORMAT,
            "chain": validator.chain_id,
            "address": validator.address,
            "seq": appointment.seq,
            "name": appointment.name,
            "run_id": appointment.run_id,
            "at": appointment.at.isoformat(timespec="microseconds"),
        }
    )


def decode(validator: Validator, data: bytes, *, where: str) -> Appointment:
    """What the bytes say; CorruptError unless they are exactly what `encode` writes for this validator."""
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{where}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_DAMAGED)
    try:
        appointment = _appointment(json.loads(data))
        whole = appointment is not None and encode(validator, appointment) == data
    except (ValueError, RecursionError, InvalidInputError):
        raise CorruptError(f"{where}: not an appointment", remedy=_DAMAGED) from None
    if appointment is None or not whole:
        raise CorruptError(
            f"{where}: not the appointment of {validator.address}'s signer on {validator.chain_id}", remedy=_DAMAGED
        )
    return appointment


def _appointment(found: Json) -> Appointment | None:
    if not isinstance(found, dict) or set(found) != _TEXTS | {"seq"}:
        return None
    seq, texts = found["seq"], {name: value for name, value in found.items() if isinstance(value, str)}
    if type(seq) is not int or set(texts) != _TEXTS:
        return None
    return Appointment(seq, texts["name"], RunId(texts["run_id"]), dt.datetime.fromisoformat(texts["at"]))


def appoint(
    registers: Mapping[str, Registers],
    validator: Validator,
    name: str,
    *,
    run_id: RunId,
    at: dt.datetime,
    deadline_s: float = APPOINT_DEADLINE_S,
) -> Appointment:
    """Let the signer of this name have the validator's key; safe to repeat by the same run, also after an error.

    Args:
        registers: The site's regions.
        validator: Whose key it is.
        name: The signer's `--name`.
        run_id: The run that appoints.
        at: Now.
        deadline_s: The longest to wait.

    Returns:
        The one that now holds: the earlier one where this run had appointed this signer already.

    Raises:
        ConflictError: another appointment was made at the same time.
        UnavailableError: no majority of the regions answers; some may show it already.
    """
    until = time.monotonic() + deadline_s
    poll = Poll(validator, tuple(registers))
    with Regions(poll, key_of(validator), registers) as regions:
        regions.wait_for(lambda: poll.has_asked_all and poll.is_answered, deadline_s=deadline_s)
        with regions.changing():
            poll.propose(name, run_id, at)
        regions.wait_for(lambda: poll.is_settled, deadline_s=max(0.0, until - time.monotonic()))
        with regions.looking():
            return poll.made()


def appointed(
    registers: Mapping[str, Registers], validator: Validator, *, deadline_s: float = LOOK_DEADLINE_S
) -> Appointment | None:
    """Who is to hold the validator's key; None where nobody was ever appointed.  Writes nothing.

    Raises:
        ConflictError: of two appointments made at once it can't be told which one was made.
        UnavailableError: no majority of the regions answers with something that can be read.
    """
    poll = Poll(validator, tuple(registers))
    with Regions(poll, key_of(validator), registers) as regions:
        regions.wait_for(lambda: poll.is_agreed or (poll.has_asked_all and poll.is_answered), deadline_s=deadline_s)
        with regions.looking():
            return poll.current()


@dataclass(slots=True)
class _View:
    """What is known of one region."""

    shown: Appointment | None = None
    tag: str | None = None
    is_known: bool = False
    is_in_flight: bool = False
    has_failed: bool = False  # at least once: it is not waited for when the others have settled
    problem: str = "has not answered yet"

    def forget(self) -> None:
        self.is_known = self.is_in_flight = False


class Poll:
    """The conversation (vedr.chain.register_claim.Conversation) that asks every region, and writes what is proposed.

    A region is written, by compare and swap, where it shows a lower number, nothing, or damage; and the same number of
    another one, once a majority has decided against that.
    """

    def __init__(self, validator: Validator, regions: Sequence[str]) -> None:
        self._validator: Final = validator
        self._views = {region: _View() for region in regions}
        self._majority: Final = len(self._views) // 2 + 1
        self._wanted: Appointment | None = None

    # --- looking

    @property
    def has_asked_all(self) -> bool:
        """Whether every region has answered, or failed to."""
        return all(view.is_known or view.has_failed for view in self._views.values())

    @property
    def is_answered(self) -> bool:
        """Whether a majority has answered, be it with damage."""
        return len(self._known()) >= self._majority

    @property
    def is_readable(self) -> bool:
        """Whether a majority has answered with something that can be read."""
        return len(self._shown()) >= self._majority

    @property
    def is_agreed(self) -> bool:
        """Whether a majority shows the same appointment; that it shows none does not tell what the others show."""
        return any(one is not None and self._is_of_majority(one) for one in self._shown())

    def current(self) -> Appointment | None:
        """What a majority shows; where none does, or it shows nobody, the highest number.  Errors as of `appointed`.

        Regions that lost their object must not bring back a signer whose key was revoked.
        """
        if not self.is_readable:
            raise self._unavailable("shows")
        return self._newest()

    # --- appointing

    def propose(self, name: str, run_id: RunId, at: dt.datetime) -> None:
        """Want this from now on; UnavailableError unless a majority has answered."""
        if not self.is_answered:
            raise self._unavailable("shows")
        try:
            newest = self._newest()
        except ConflictError:
            newest = None
        if newest is not None and (newest.name, newest.run_id) == (name, run_id):
            self._wanted = newest
            return
        seq = max((one.seq for one in self._shown() if one is not None), default=0) + 1
        self._wanted = Appointment(seq, name, run_id, at.astimezone(dt.UTC))

    @property
    def is_settled(self) -> bool:
        """Whether what is wanted is wherever it could be put, or can't win any more."""
        if self._is_passed:
            return True
        return self._is_of_majority(self._wanted) and all(
            view.has_failed or (view.is_known and not self._lacks(view)) for view in self._views.values()
        )

    def made(self) -> Appointment:
        """What was wanted, once a majority shows it.  Errors as of `appoint`."""
        if self._wanted is not None and self._is_of_majority(self._wanted):
            return self._wanted
        if self._is_passed:
            others = {str(one) for one in self._shown() if one is not None and one != self._wanted}
            raise ConflictError(
                f"another one was appointed at the same time: {', '.join(sorted(others))}",
                remedy="Find out who is to hold the key, then appoint that one.",
            )
        raise self._unavailable("took")

    # --- the conversation

    def next_call(self, region: str) -> Read | Swap | None:
        """See Conversation."""
        view = self._views[region]
        if view.is_in_flight:
            return None
        if not view.is_known:
            view.is_in_flight = True
            return Read()
        if self._wanted is None or not self._lacks(view):
            return None
        view.is_in_flight = True
        return Swap(encode(self._validator, self._wanted), view.tag)

    def on_read(self, region: str, found: Tagged | None) -> None:
        """See Conversation."""
        view = self._views[region]
        view.forget()
        view.is_known, view.tag, view.shown, view.problem = True, found.tag if found else None, None, ""
        try:
            view.shown = decode(self._validator, found.data, where=region) if found else None
        except CorruptError as error:
            view.problem = error.message

    def on_swapped(self, region: str, tag: str) -> None:
        """See Conversation."""
        view = self._views[region]
        view.forget()
        view.is_known, view.tag, view.shown, view.problem = True, tag, self._wanted, ""

    def on_refused(self, region: str) -> None:
        """See Conversation."""
        self._views[region].forget()

    def on_lost(self, region: str, why: str) -> None:
        """See Conversation."""
        view = self._views[region]
        view.forget()
        view.has_failed, view.problem = True, why

    # --- leaves

    def _known(self) -> list[_View]:
        return [view for view in self._views.values() if view.is_known]

    def _shown(self) -> list[Appointment | None]:
        return [view.shown for view in self._known() if not view.problem]

    def _is_of_majority(self, one: Appointment | None) -> bool:
        return self._shown().count(one) >= self._majority

    def _newest(self) -> Appointment | None:
        shown = self._shown()
        for one in shown:
            if one is not None and self._is_of_majority(one):
                return one
        top = max((one.seq for one in shown if one is not None), default=0)
        newest = {one for one in shown if one is not None and one.seq == top}
        if len(newest) > 1:
            raise ConflictError(
                f"who is to sign for {self._validator.address} was decided twice at once: "
                + ", ".join(sorted(map(str, newest))),
                remedy="Appoint again the one that is meant.",
            )
        return newest.pop() if newest else None

    def _lacks(self, view: _View) -> bool:
        wanted = self._wanted
        if wanted is None or view.shown == wanted:
            return False
        seq = view.shown.seq if view.shown else 0
        return seq < wanted.seq or (seq == wanted.seq and self._is_of_majority(wanted))

    @property
    def _is_passed(self) -> bool:
        """Whether too many regions show another one that is not lower."""
        against = [view for view in self._known() if view.shown != self._wanted and not self._lacks(view)]
        return len(self._views) - len(against) < self._majority

    def _unavailable(self, what: str) -> UnavailableError:
        shown = "; ".join(
            f"{region}: {view.problem or view.shown or 'nobody is appointed'}" for region, view in self._views.items()
        )
        return UnavailableError(
            f"no majority of the regions {what} who is to sign for {self._validator.address}: {shown}",
            remedy="Restore the connection to these regions' stores; what is damaged, a new appointment replaces.",
        )
