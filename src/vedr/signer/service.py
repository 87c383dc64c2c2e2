"""The remote signer's core: requests in, answers out, and between them the order that makes double signing impossible.

The order for every new height, round and step:
    1. The rules allow it after the highest mark known (`rules`).
    2. The mark, with the digest of what will be signed, is durable in a majority of the regions' registers, under
       this signer's epoch.
    3. The key signs, and the signature verifies.
    4. Mark and signature are durable in this host's sign-state file.
    5. The answer goes out.
A crash between 2 and 3 leaves a mark without a signature: the same content may be signed later, no other.  A signer
that was stopped anywhere and wakes up after another took over is refused in step 2; if it had passed that, the other
one has begun from this mark.

A mark that was begun and not answered still binds the key, and its node does not ask again.  So that this costs no more
than a moment, `finish` signs exactly what the mark says, by steps 2 to 4, for `finishing` to send.

Guarantees: no signature leaves without steps 1 to 4; once a later epoch exists nothing is signed any more, for good.
Leaves out: connections (`link`), and how registers agree (`vedr.chain.register`).
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vedr.chain.register import Position
from vedr.chain.sign_state import write_sign_state
from vedr.errors import ConflictError, VedrError
from vedr.ports import SigningKey
from vedr.signature import Json
from vedr.signer import messages
from vedr.signer.canonical import extension_sign_bytes, sign_bytes
from vedr.signer.messages import PingRequest, PublicKeyRequest, Request, Signable, SignRequest, Vote
from vedr.signer.metrics import Metrics
from vedr.signer.rules import Mark, NotSignedError, Reason, Repeat, Sign, judge

Log = Callable[[str, Mapping[str, Json]], None]
"""Takes an event's name and its facts; never a secret."""

_ERROR_CODE: Final = 1  # any will do: CometBFT 0.38 shows it and acts on none


class Register(Protocol):
    """The sign state that the regions hold for this key: vedr.chain.register_holding.Holding."""

    def advance(self, position: Position) -> None:
        """Make the position durable in a majority of regions; again is quiet.

        Raises:
            ConflictError: a later epoch exists: this signer is superseded, for good.
            VedrError: no majority has it for certain (UnavailableError: it may be in some regions).
        """

    def has(self, position: Position) -> bool:
        """Whether a majority is known to hold it, so that `advance` would return at once; asks nobody."""


@dataclass(frozen=True, slots=True)
class Answers:
    """All that can be answered without a signature."""

    chain_id: str
    public_key: bytes
    metrics: Metrics
    log: Log

    def answer(self, request: PingRequest | PublicKeyRequest) -> bytes:
        """The answer to send."""
        if isinstance(request, PingRequest):
            return messages.ping_response()
        if request.chain_id == self.chain_id:
            return messages.public_key_response(self.public_key)
        self.metrics.refused(Reason.OTHER_CHAIN)
        self.log("refused", {"reason": Reason.OTHER_CHAIN, "asked_chain": request.chain_id[:64]})
        return messages.public_key_error(_ERROR_CODE, f"this signer is for chain {self.chain_id}")

    def check_chain(self, chain_id: str) -> None:
        """NotSignedError when it is another chain."""
        if chain_id != self.chain_id:
            raise NotSignedError(Reason.OTHER_CHAIN, f"this signer is for chain {self.chain_id}")

    def refuse(self, message: Signable, error: NotSignedError) -> bytes:
        """The answer that it was not signed, and why."""
        self.metrics.refused(error.reason)
        self.log("refused", {**facts_of(message), "reason": error.reason, "message": error.message})
        return messages.signing_error(message, _ERROR_CODE, error.message)


def facts_of(message: Signable) -> dict[str, Json]:
    """What log lines say of a message."""
    return {"kind": message.kind, "hrs": "/".join(map(str, message.hrs))}


class Signer:
    """One key of one chain.  Threads may share it; requests are answered one at a time."""

    def __init__(
        self,
        *,
        chain_id: str,
        key: SigningKey,
        register: Register,
        state_file: Path,
        last: Mark,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._key = key
        self._public_key = key.public_key
        self._answers = Answers(chain_id, key.public_key, metrics, log)
        self._register = register
        self._state_file = state_file
        self._last = last
        self._metrics = metrics
        self._log = log
        self._turn = threading.Lock()
        self._is_unheard = True  # the last mark's message may have reached nobody
        self.superseded: Final = threading.Event()

    def answer(self, request: Request) -> bytes:
        """The answer to send; what is refused is answered as such."""
        if isinstance(request, SignRequest):
            return self._answer_signing(request.chain_id, request.message)
        return self._answers.answer(request)

    def _answer_signing(self, chain_id: str, message: Signable) -> bytes:
        began = time.monotonic()
        try:
            with self._turn:
                signed = self._sign(chain_id, message)
                self._is_unheard = False
        except NotSignedError as error:
            return self._answers.refuse(message, error)
        self._tell(signed, time.monotonic() - began)
        return messages.signed_response(signed)

    def _tell(self, signed: Signable, took_s: float, **more: Json) -> None:
        self._metrics.signed(signed.kind, signed.hrs, took_s)
        digest = hashlib.sha256(sign_bytes(signed, self._answers.chain_id)).hexdigest()
        self._log("signed", {**facts_of(signed), "digest": digest, "took_us": int(took_s * 1e6), **more})

    def finish(self) -> Vote | None:
        """The vote that this key is bound to and that may have reached nobody, signed; None while there is none.

        Waits for no region: the mark has to be durable already.  What may be signed is what the mark says, byte for
        byte, and nothing else.

        Raises:
            NotSignedError: there is one, and it can't be signed now.
        """
        began = time.monotonic()
        with self._turn:
            last = self._last
            vote = last.message(self._answers.chain_id) if self._is_unheard else None
            if not isinstance(vote, Vote) or self.superseded.is_set() or not self._register.has(last.position):
                return None
            self._advance(last)  # (2)
            if last.signature:
                return vote.signed(last.signature, vote.time_ns)
            finished = vote.signed(self._sign_new(Sign(last, vote.time_ns)), vote.time_ns)
        self._tell(finished, time.monotonic() - began, recorded=True)
        return finished

    def heard(self, vote: Vote) -> None:
        """The network has this vote, or needs it no more: `finish` gives it no longer."""
        with self._turn:
            self._is_unheard = self._is_unheard and self._last.hrs != vote.hrs

    def _sign(self, chain_id: str, message: Signable) -> Signable:
        if self.superseded.is_set():
            raise _superseded()
        self._answers.check_chain(chain_id)
        verdict = judge(self._last, message, sign_bytes(message, chain_id))  # (1)
        self._advance(verdict.mark)  # (2); at once where it is durable already
        if isinstance(verdict, Repeat):
            signed = message.signed(verdict.mark.signature, verdict.time_ns)
        else:
            signed = message.signed(self._sign_new(verdict), verdict.time_ns)
        if isinstance(signed, Vote) and signed.takes_extension:
            return replace(signed, extension_signature=self._use_key(extension_sign_bytes(signed, chain_id)))
        return signed

    def _advance(self, mark: Mark) -> None:
        # Before anything is tried: should it fail half-way, no other content may be tried for this mark.
        self._last, self._is_unheard = mark, True
        try:
            self._register.advance(mark.position)
        except ConflictError as error:
            self.superseded.set()
            self._log("superseded", {"message": error.message})
            raise _superseded() from error
        except VedrError as error:
            raise NotSignedError(Reason.REGISTERS_UNAVAILABLE, error.message) from error

    def _sign_new(self, verdict: Sign) -> bytes:
        signature = self._use_key(verdict.mark.sign_bytes)  # (3)
        done = replace(verdict.mark, signature=signature)
        try:
            kept = write_sign_state(self._state_file, done.to_file())  # (4)
        except (OSError, VedrError) as error:
            raise NotSignedError(
                Reason.STATE_NOT_WRITTEN, f"the sign-state file cannot be written: {type(error).__name__}"
            ) from error
        if kept.hrs > done.hrs:  # it is never lowered: somebody else on this host went further with the key
            self._last = Mark.of_file(kept)
            raise NotSignedError(
                Reason.STATE_NOT_WRITTEN,
                f"the sign-state file says {kept}, above {done}: another process on this host signs with this key",
                remedy="Find it and stop it: a validator node with the key's file, or a second signer.",
            )
        self._last = done
        return signature

    def _use_key(self, data: bytes) -> bytes:
        try:
            signature = self._key.sign(data)
        except VedrError as error:
            raise NotSignedError(Reason.KEY_UNAVAILABLE, error.message) from error
        try:
            Ed25519PublicKey.from_public_bytes(self._public_key).verify(signature, data)
        except InvalidSignature:
            raise NotSignedError(Reason.WRONG_SIGNATURE, "the key gave a signature that does not verify") from None
        return signature


def _superseded() -> NotSignedError:
    return NotSignedError(Reason.SUPERSEDED, "another signer has taken over this key")
