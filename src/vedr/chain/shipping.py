"""Shipped sign states: copies of file-based validators' `priv_validator_state.json` in every region, only ever upward.

`sign-state/<chain id>/<address>-shipped.json` holds the last state that the validator's own file showed, with its
signature and sign-bytes, so that the file can be written again as it was.  Format: docs/formats/shipped-sign-state.md.

It is another object than the register (`vedr.chain.register`), because it promises less: the register is written before
a signature is released, a shipped copy after it.  Between the two lies the lag, in which a vote can be out that no copy
shows.  So a copy raises a floor and never makes one: with the old disk gone and the chain halted, two people have to
accept that window (vedr.chain.floor).

Guarantees: a region's copy is only replaced by a higher one; a file that goes back, or shows another message at the
same height, round and step, is reported and not shipped.
Leaves out: clocks and calls (`vedr.chain.shipping_watch`); who may sign.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from vedr.chain.register import ROOT, Validator
from vedr.chain.register_claim import ABSENT, Read, Swap
from vedr.chain.sign_state import MAX_STEP, SignState
from vedr.chain.wire import INT32_MAX, INT64_MAX
from vedr.errors import CorruptError
from vedr.inventory import Height
from vedr.ports import ObjectKey, Tagged
from vedr.signature import Json, summed_json

FORMAT: Final = "vedr-shipped-sign-state/1"
MAX_BYTES: Final = 16 * 1024  # FilePV's file has under 1 KiB
US_PER_S: Final = 1_000_000
LAG_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_DAMAGED: Final = "Keep the bucket's versions and find out who wrote it; the shipper replaces it with the file's state."
_NUMBERS: Final = {"changed_us": INT64_MAX, "height": INT64_MAX, "round": INT32_MAX, "step": MAX_STEP}
_TEXTS: Final = {"format", "chain", "address", "source", "signature", "signbytes", "sum"}


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one copy says: which node's file showed the state, and when that was written (its host's clock)."""

    source: str
    changed_us: int
    state: SignState


def key_of(validator: Validator) -> ObjectKey:
    """Where the copy is in every region."""
    return ObjectKey(f"{ROOT}/{validator.chain_id}/{validator.address}-shipped.json")


def encode(validator: Validator, shipped: Shipped) -> bytes:
    """The object's bytes, canonical."""
    state = shipped.state
    return summed_json(
        {
            "format": FORMAT,
            "chain": validator.chain_id,
            "address": validator.address,
            "source": shipped.source,
            "changed_us": shipped.changed_us,
            "height": state.height,
            "round": state.round,
            "step": state.step,
            "signature": base64.b64encode(state.signature).decode(),
            "signbytes": state.sign_bytes.hex(),
        }
    )


def decode(validator: Validator, data: bytes, *, where: str) -> Shipped:
    """What the bytes say; CorruptError unless they are exactly what `encode` writes for this validator."""
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{where}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_DAMAGED)
    try:
        shipped = _shipped(json.loads(data))
        whole = shipped is not None and encode(validator, shipped) == data
    except (ValueError, RecursionError):
        raise CorruptError(f"{where}: not a shipped sign state", remedy=_DAMAGED) from None
    if shipped is None or not whole:
        raise CorruptError(
            f"{where}: not the shipped sign state of {validator.address} on {validator.chain_id}", remedy=_DAMAGED
        )
    return shipped


def _shipped(found: Json) -> Shipped | None:
    if not isinstance(found, dict) or set(found) != _TEXTS | set(_NUMBERS):
        return None
    numbers = {
        name: value
        for name, value in found.items()
        if type(value) is int and name in _NUMBERS and 0 <= value <= _NUMBERS[name]
    }
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    if set(numbers) != set(_NUMBERS) or set(texts) != _TEXTS:
        return None
    signature = binascii.a2b_base64(texts["signature"], strict_mode=True)
    sign_bytes = bytes.fromhex(texts["signbytes"])
    state = SignState(Height(numbers["height"]), numbers["round"], numbers["step"], signature, sign_bytes)
    return Shipped(texts["source"], numbers["changed_us"], state)


def differ(first: SignState, second: SignState) -> bool:
    """Whether they are of different messages at one height, round and step: the key has signed twice."""
    messages = {first.sign_bytes, second.sign_bytes} - {b""}
    return first.hrs == second.hrs and len(messages) > 1


@dataclass(slots=True)
class _View:
    """What is known of one region."""

    shipped: Shipped | None = None
    tag: str | None = None
    is_read: bool = False
    in_flight: Read | Swap | None = None
    swapping: Shipped | None = None
    problem: str = "has not answered yet"

    def forget(self) -> None:
        self.is_read, self.in_flight, self.swapping = False, None, None


@dataclass(slots=True)
class Lags:
    """Durations from the file's change until a majority of the regions held it, by upper bound in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LAG_BUCKETS_S) + 1))
    sum_us: int = 0
    last_us: int = 0

    def add(self, lag_us: int) -> None:
        number = sum(lag_us > bound_s * US_PER_S for bound_s in LAG_BUCKETS_S)
        self.counts[number] += 1
        self.sum_us += lag_us
        self.last_us = lag_us


class Shipment:
    """The conversation (vedr.chain.register_claim.Conversation) that ships one validator's newest state.

    Args:
        validator: Whose state it is.
        regions: Where to.
        now_us: The clock that the file's time is compared with, microseconds since 1970.
    """

    def __init__(self, validator: Validator, regions: Sequence[str], *, now_us: Callable[[], int]) -> None:
        self._validator: Final = validator
        self._views = {region: _View() for region in regions}
        self._majority: Final = len(self._views) // 2 + 1
        self._now_us = now_us
        self._file: Shipped | None = None
        self._newest: Shipped | None = None
        self._behind_since_us: int | None = None
        self._is_first = True
        self.lags: Final = Lags()

    # --- what is wanted, and what came of it

    def offer(self, shipped: Shipped) -> None:
        """The file says this now; only what is higher than anything it said before is shipped."""
        self._file = shipped
        if self._newest is None or shipped.state.hrs > self._newest.state.hrs:
            self._is_first = self._newest is None
            self._newest = shipped
            if self._behind_since_us is None:
                self._behind_since_us = self._now_us() if self._is_first else shipped.changed_us
            self._settle()

    @property
    def newest(self) -> Shipped | None:
        """The highest state that the file has shown."""
        return self._newest

    @property
    def is_durable(self) -> bool:
        """Whether a majority of the regions holds the newest state, or a higher one."""
        newest = self._newest
        holding = [view for view in self._views.values() if newest and _holds(view, newest.state)]
        return len(holding) >= self._majority

    @property
    def behind_us(self) -> int:
        """For how long a change of the file has waited for its majority; 0 when none does."""
        return 0 if self._behind_since_us is None else max(0, self._now_us() - self._behind_since_us)

    def copies(self) -> dict[str, Shipped | None]:
        """What each region showed last."""
        return {region: view.shipped for region, view in self._views.items()}

    def problems(self) -> dict[str, str]:
        """Regions that have no copy that can be read, or do not answer at present."""
        return {region: view.problem for region, view in self._views.items() if view.problem}

    @property
    def is_looked_at(self) -> bool:
        """Whether every region has answered."""
        return all(view.is_read for view in self._views.values())

    def alarms(self) -> tuple[str, ...]:
        """What must not be: one sentence each, empty when all is well."""
        if self._file is None or self._newest is None:
            return ()
        file, newest, found = self._file.state, self._newest.state, []
        if file.hrs < newest.hrs:
            found.append(f"the file went back from {newest} to {file}, which is not shipped: stop the validator")
        elif differ(file, newest):
            found.append(f"the file shows two messages at {file}: the key has signed twice; stop the validator")
        for region, copy in self.copies().items():
            if copy and copy.state.hrs > newest.hrs:
                found.append(
                    f"{region} holds {copy.state} from {copy.source}, above the file's {newest}: the file is old, or "
                    "the key signs elsewhere; stop the validator"
                )
            elif copy and differ(copy.state, newest):
                found.append(
                    f"{region} holds another message at {newest}, from {copy.source}: the key has signed twice; stop "
                    "the validator"
                )
        return tuple(found)

    # --- the conversation

    def next_call(self, region: str) -> Read | Swap | None:
        """See Conversation."""
        view, newest = self._views[region], self._newest
        if view.in_flight is None:
            if not view.is_read:
                view.in_flight = Read()
                return view.in_flight
            if newest is not None and not _holds(view, newest.state):
                view.in_flight, view.swapping = Swap(encode(self._validator, newest), view.tag), newest
                return view.in_flight
        return None

    def on_read(self, region: str, found: Tagged | None) -> None:
        """See Conversation."""
        view = self._views[region]
        view.forget()
        view.is_read, view.tag, view.shipped = True, found.tag if found else None, None
        try:
            view.shipped = decode(self._validator, found.data, where=region) if found else None
            view.problem = "" if found else ABSENT
        except CorruptError as error:
            view.problem = error.message
        self._settle()

    def on_swapped(self, region: str, tag: str) -> None:
        """See Conversation."""
        view = self._views[region]
        view.shipped, view.tag, view.problem = view.swapping, tag, ""
        view.forget()
        view.is_read = True
        self._settle()

    def on_refused(self, region: str) -> None:
        """See Conversation."""
        self._views[region].forget()

    def on_lost(self, region: str, why: str) -> None:
        """See Conversation."""
        self._views[region].forget()
        self._views[region].problem = why

    def _settle(self) -> None:
        """Note the lag at the moment when a majority has the newest state; what was there at the start has none."""
        if self._newest is not None and self._behind_since_us is not None and self.is_durable:
            if not self._is_first:
                self.lags.add(max(0, self._now_us() - self._newest.changed_us))
            self._behind_since_us = None


def _holds(view: _View, state: SignState) -> bool:
    return view.shipped is not None and view.shipped.state.hrs >= state.hrs
