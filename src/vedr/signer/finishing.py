"""Finishing what was begun: the vote that the registers bind this key to, and that may have reached nobody.

A signer that is cut off or killed between the registers and its answer leaves a mark behind.  The key can sign nothing
else at that place, CometBFT never asks again in that round, and where a third of the power waits so, no round ends any
more.  So whoever holds the key next, or the same process once the registers answer again, signs exactly the recorded
bytes (`Signer.finish`) and brings the vote to the network (`publishing`), as long as its height is being decided.

Guarantees: signing is never delayed by more than the key's one call; nothing of the network is waited for under the
signer's lock; every try is logged and counted; it is tried again until the vote is known, is passed, or something later
was signed.  Leaves out: proposals, since a vote for one is enough to end a round.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from vedr.chain.sign_state import Hrs
from vedr.signature import Json
from vedr.signer.messages import Vote
from vedr.signer.metrics import Metrics
from vedr.signer.publishing import Outcome, Try
from vedr.signer.rules import NotSignedError
from vedr.signer.service import Log, facts_of

LOOK_EVERY_S: Final = 0.25  # for a mark whose request failed, which is rare
OWN_NODE_S: Final = 15.0  # as long it is left to the signer's own node, which takes it best (`publishing`)
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0

Publish = Callable[[Vote, bool, Callable[[], bool]], Try]
"""One try, by all nodes if the second says so, ended early when the third does: Publisher.publish."""


class Bound(Protocol):
    """A signer whose key may be bound to a vote that nobody received: vedr.signer.service.Signer."""

    @property
    def superseded(self) -> threading.Event:
        """Set when it signs no more, for good."""

    def finish(self) -> Vote | None:
        """That vote, signed; None while there is none.  NotSignedError when it can't be signed now."""

    def heard(self, vote: Vote) -> None:
        """It need not be given again."""


class Finishing:
    """Watches one signer, in a thread of its own."""

    def __init__(self, signer: Bound, publish: Publish, *, metrics: Metrics, log: Log) -> None:
        self._signer, self._publish = signer, publish
        self._metrics, self._log = metrics, log
        self._stopping = threading.Event()
        self._since: tuple[Hrs, float] = ((0, 0, 0), 0.0)  # what is being tried, and from when
        self._thread = threading.Thread(target=self._run, name="finishing", daemon=True)

    def start(self) -> None:
        """Begin, with what was taken over."""
        self._thread.start()

    def stop(self, *, wait_s: float = 1.0) -> None:
        """End soon; a call to a node that is under way is waited for up to `wait_s`."""
        self._stopping.set()
        self._thread.join(wait_s)

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._signer.superseded.is_set()

    def _run(self) -> None:
        failures = 0
        while not self._is_over():
            is_open = self._once()
            failures = failures + 1 if is_open else 0
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 8)) if failures else LOOK_EVERY_S
            self._stopping.wait(pause_s)

    def _once(self) -> bool:
        """One try, where there is something to try; whether it is to be tried again."""
        try:
            vote = self._signer.finish()
        except NotSignedError as error:
            self._tell("not_signed", {"reason": error.reason, "message": error.message})
            return True
        if vote is None:
            return False
        now = time.monotonic()
        if self._since[0] != vote.hrs:
            self._since = (vote.hrs, now)
        done = self._publish(vote, now - self._since[1] >= OWN_NODE_S, self._is_over)
        shown: dict[str, Json] = {**facts_of(vote), "node": done.node, "problems": list(done.problems)}
        if done.outcome.is_settled:
            self._signer.heard(vote)
        elif self._is_over():
            return False
        event = "published" if done.outcome is Outcome.PUBLISHED else "not_published"
        self._tell(done.outcome, shown, event=event)
        return not done.outcome.is_settled

    def _tell(self, outcome: str, facts: dict[str, Json], *, event: str = "not_published") -> None:
        self._metrics.tried(outcome)
        self._log(event, {**facts, "outcome": outcome})
