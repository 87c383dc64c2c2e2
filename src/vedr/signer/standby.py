"""A signer that waits: it serves its node, and takes the key over when that asks for the first signature.

A node that starts needs its signer at once, and wants signatures only when it has caught up with the chain.  So the
standby's node can boot, connect and sync while the old signer still signs, and a planned hand-over costs one block at
most.

Guarantees: nothing is taken over for a message of another chain, nor for a node that lags behind what the registers
show; a failure that a later try can't mend ends it for good.  Leaves out: taking over (`tenure`), signing (`service`).
"""

import threading
from collections.abc import Callable
from typing import Final

from vedr.chain.register import Content
from vedr.errors import UnavailableError, VedrError
from vedr.signer.messages import Request, Signable, SignRequest
from vedr.signer.rules import NotSignedError, Reason
from vedr.signer.service import Answers, Signer

MAX_LAG_BLOCKS: Final = 1  # the old signer can have signed for the next height while this node still votes on the last

Claim = Callable[[Signable], Signer]
"""Takes the key over, so that this message can be signed.

Raises:
    NotSignedError, UnavailableError: not now; the next request tries again.
    VedrError: never.
"""


class Standby:
    """In front of a `Signer` that does not exist yet.  Threads may share it."""

    def __init__(self, answers: Answers, claim: Claim) -> None:
        self._answers = answers
        self._claim = claim
        self._turn = threading.Lock()
        self._signer: Signer | None = None
        self._ended = threading.Event()
        self.failure: VedrError | None = None

    @property
    def superseded(self) -> threading.Event:
        """Set when it signs no more, for good; `failure` says why where it never began."""
        return self._ended if self._signer is None else self._signer.superseded

    def answer(self, request: Request) -> bytes:
        """The answer to send; what is refused is answered as such."""
        if not isinstance(request, SignRequest):
            return self._answers.answer(request)
        try:
            signer = self._begun(request)
        except NotSignedError as error:
            return self._answers.refuse(request.message, error)
        return signer.answer(request)

    def _begun(self, request: SignRequest) -> Signer:
        with self._turn:
            if self._signer is None:
                self._answers.check_chain(request.chain_id)
                self._signer = self._taken_over(request.message)
            return self._signer

    def _taken_over(self, message: Signable) -> Signer:
        if self.failure is not None:
            raise NotSignedError(Reason.NOT_HELD, self.failure.message)
        try:
            return self._claim(message)
        except NotSignedError:
            raise
        except UnavailableError as error:
            raise NotSignedError(Reason.REGISTERS_UNAVAILABLE, error.message) from error
        except VedrError as error:
            self.failure = error
            self._ended.set()
            raise NotSignedError(Reason.NOT_HELD, error.message) from error


def check_is_near(message: Signable, shown: Content) -> None:
    """NotSignedError when the node that asks is so far behind that it could only be refused."""
    if message.height + MAX_LAG_BLOCKS < shown.position.height:
        raise NotSignedError(
            Reason.NOT_HELD,
            f"the node asks at height {message.height}, the key has signed at {shown.position.height}: it lags behind",
        )
