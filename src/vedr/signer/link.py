"""A lasting link to one node: dial, answer, dial again, for ever.

The node listens and the signer dials (`priv_validator_laddr`).  A node that starts waits three seconds for its signer
and ends without, so no pause between attempts is longer than one.

Guarantees: whatever the node sends, or a stranger in its place, this goes on: the connection is closed and dialled
again; only `stop`, or that the signer was superseded, ends it.  Leaves out: sockets, which `dial` opens.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

from vedr.errors import CorruptError, UnavailableError, VedrError
from vedr.signer.messages import MAX_MESSAGE_BYTES, Request, read_request
from vedr.signer.metrics import Metrics
from vedr.signer.service import Log
from vedr.signer.stream import Stream, receive_message, send_message

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0  # under the 3 s that a starting node waits (privval/socket_listeners.go)

Dial = Callable[[], AbstractContextManager[Stream]]
"""Opens a connection, authenticated where it can be; closed with its block.  Raises only errors of ours."""


class Answering(Protocol):
    """A signer: vedr.signer.service.Signer, or vedr.signer.standby.Standby."""

    @property
    def superseded(self) -> threading.Event:
        """Set when it signs no more, for good."""

    def answer(self, request: Request) -> bytes:
        """The answer to send."""


class Link:
    """Keeps one node served, in the thread that calls `run`."""

    def __init__(self, name: str, dial: Dial, signer: Answering, *, metrics: Metrics, log: Log) -> None:
        self._name = name
        self._dial = dial
        self._signer = signer
        self._metrics = metrics
        self._log = log
        self._stopping = threading.Event()
        self._said = ("", "")

    def stop(self) -> None:
        """Let `run` return soon: at the latest when the node has been silent for the stream's time limit."""
        self._stopping.set()

    def run(self) -> None:
        """Serve until stopped or superseded."""
        failures = 0
        while not self._over():
            answered = self._one_connection()
            failures = 0 if answered else failures + 1
            self._stopping.wait(pause_s(failures))

    def _over(self) -> bool:
        return self._stopping.is_set() or self._signer.superseded.is_set()

    def _one_connection(self) -> int:
        """How many requests were answered before it ended."""
        answered = 0
        try:
            with self._dial() as stream, self._counted():
                self._log("connected", {"node": self._name})
                self._said = ("connected", "")
                while not self._over():
                    request = read_request(receive_message(stream, limit_bytes=MAX_MESSAGE_BYTES))
                    send_message(stream, self._signer.answer(request))
                    answered += 1
        except UnavailableError as error:
            self._say("disconnected", error)
        except CorruptError as error:
            self._say("not_understood", error)
        except VedrError as error:
            self._say("not_trusted", error)
        return answered

    def _say(self, event: str, error: VedrError) -> None:
        """Once, however often the next attempts fail alike."""
        if (event, error.message) != self._said:
            self._log(event, {"node": self._name, "message": error.message})
        self._said = (event, error.message)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._metrics.connected(1)
        try:
            yield
        finally:
            self._metrics.connected(-1)


def pause_s(failures: int) -> float:
    """How long to wait after so many fruitless attempts in a row: doubling, with jitter, never above a second."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, keeps no secret)
