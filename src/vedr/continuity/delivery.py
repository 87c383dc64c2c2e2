"""Telling every channel at once, within a deadline, and saying truly what came of it.

Guarantees: `notify` returns within its deadline whatever the channels do, and never raises for one of them: each gives
one `Delivery`; a channel that does not answer delays no other; what is reported names no secret.
Leaves out: the record (tasks.notifying puts deliveries into the ledger), and delivery later on: what failed is told in
the ledger and at the terminal, nobody sends it again.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.continuity.message import Message
from vedr.errors import UnavailableError, VedrError

ATTEMPTS: Final = 3
PAUSE_S: Final = (
    0.3  # before an attempt after one that failed at once; what a channel asks for counts when it is longer
)
_MIN_ATTEMPT_S: Final = 0.2  # with less left, another attempt is not worth beginning
_GRACE_S: Final = 0.1  # channels are told of a deadline that is earlier by this much than the one for `notify`


class ThrottledError(UnavailableError):
    """The channel wants to be left alone for a while."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, remedy="Nothing is lost but this message; send less often.")
        self.retry_after_s = retry_after_s


class Channel(Protocol):
    """One way to tell people."""

    @property
    def name(self) -> str:
        """As the site's file has it."""

    @property
    def kind(self) -> str:
        """Which service."""

    def send(self, message: Message, *, timeout_s: float) -> None:
        """Return when the service said that it has it.

        Raises:
            UnavailableError: no answer, or not now; the service may have it nevertheless.
            VedrError: it said no, or cannot be asked; trying again does not help.
            No message of an error holds a secret.
        """


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of telling one channel; `reason` is empty when it was delivered."""

    channel: str
    kind: str
    state: Literal["delivered", "failed"]
    reason: str
    attempts: int
    took_ms: int

    def __str__(self) -> str:
        return f"{self.channel} ({self.kind}): {self.state}" + (f": {self.reason}" if self.reason else "")


def notify(
    addressed: Sequence[tuple[Channel, Message]],
    *,
    deadline_s: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Delivery, ...]:
    """Give each channel its message, side by side; what came of each, in the given order."""
    began_s = monotonic()
    until_s = began_s + deadline_s
    done: queue.SimpleQueue[tuple[int, Delivery]] = queue.SimpleQueue()

    def tell(index: int, channel: Channel, message: Message) -> None:
        done.put((index, _deliver(channel, message, until_s - _GRACE_S, monotonic, sleep)))

    for index, (channel, message) in enumerate(addressed):
        # a daemon: a channel that hangs must not keep the process from ending either
        threading.Thread(target=tell, args=(index, channel, message), name=f"tell-{channel.name}", daemon=True).start()
    found: dict[int, Delivery] = {}
    while len(found) < len(addressed) and (left_s := until_s - monotonic()) > 0:
        try:
            index, delivery = done.get(timeout=left_s)
        except queue.Empty:
            break
        found[index] = delivery
    took_ms = round((monotonic() - began_s) * 1000)
    return tuple(
        found.get(index) or _unanswered(channel, deadline_s, took_ms) for index, (channel, _) in enumerate(addressed)
    )


def _unanswered(channel: Channel, deadline_s: float, took_ms: int) -> Delivery:
    why = f"no answer within {deadline_s:g} s; it may have arrived"
    return Delivery(channel.name, channel.kind, "failed", why, 1, took_ms)


def _deliver(
    channel: Channel,
    message: Message,
    until_s: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> Delivery:
    began_s = monotonic()
    attempts, reason = 0, ""
    while attempts < ATTEMPTS:
        attempts += 1
        try:
            channel.send(message, timeout_s=max(until_s - monotonic(), _MIN_ATTEMPT_S))
        except UnavailableError as error:
            reason = error.message
            pause_s = max(PAUSE_S, error.retry_after_s if isinstance(error, ThrottledError) else 0)
            if monotonic() + pause_s + _MIN_ATTEMPT_S > until_s:
                break
            if attempts < ATTEMPTS:
                sleep(pause_s)
        except VedrError as error:
            reason = error.message
            break
        except Exception as error:  # noqa: BLE001 - telling somebody must never end a runbook
            reason = f"{type(error).__name__} in the adapter"  # its text may hold what nobody vouched for
            break
        else:
            reason = ""
            break
    state: Literal["delivered", "failed"] = "failed" if reason else "delivered"
    return Delivery(channel.name, channel.kind, state, reason, attempts, round((monotonic() - began_s) * 1000))
