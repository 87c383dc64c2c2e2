"""A validator's sign-state file: the last height, round and step that its key signed (CometBFT's FilePV).

Guarantees: what is read is whole and in range, or reading fails; what is written is durable, and never lower than what
was there.  Leaves out: which value is safe when the file is lost (`floor`).

Format: docs/formats/sign-state.md; cometbft v0.38 privval/file.go.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.durable import replace_file
from vedr.chain.wire import RawJson, Value
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.inventory import Height

FILE_NAME: Final = "priv_validator_state.json"
MAX_BYTES: Final = 64 * 1024  # FilePV writes under 1 KiB
MAX_STEP: Final = 3  # 1 propose, 2 prevote, 3 precommit; 0 nothing yet
_REQUIRED: Final = frozenset({"height", "round", "step"})
_OPTIONAL: Final = frozenset({"signature", "signbytes"})
_FAIL_CLOSED: Final = (
    "Keep the validator stopped; the runbook finds a safe floor from the fence, the chain and the votes."
)

Hrs = tuple[int, int, int]
"""Height, round, step; compared in this order."""


@dataclass(frozen=True, slots=True)
class SignState:
    """The last thing signed; a signature is kept so that the same message can be signed again after a crash."""

    height: Height
    round: int
    step: int
    signature: bytes = b""
    sign_bytes: bytes = b""

    @property
    def hrs(self) -> Hrs:
        return (self.height, self.round, self.step)

    def __str__(self) -> str:
        return f"{self.height}/{self.round}/{self.step}"

    def to_json(self) -> bytes:
        """As FilePV writes it: int64 in a string, signature in base64, sign-bytes in upper-case hexadecimal."""
        document: dict[str, str | int] = {"height": str(self.height), "round": self.round, "step": self.step}
        if self.signature:
            document["signature"] = base64.b64encode(self.signature).decode()
        if self.sign_bytes:
            document["signbytes"] = self.sign_bytes.hex().upper()
        return json.dumps(document, indent=2).encode() + b"\n"


def parse_sign_state(data: bytes, *, what: str) -> SignState:
    """Strict: every member known, every value in range, none twice.  CorruptError otherwise."""
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{what}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_FAIL_CLOSED)
    try:
        value = Value(json.loads(data, object_pairs_hook=_no_duplicates), what)
        members = value.members()
        if not _REQUIRED <= members <= _REQUIRED | _OPTIONAL:
            raise value.wrong(f"members {', '.join(sorted(_REQUIRED))} and at most {', '.join(sorted(_OPTIONAL))}")
        return SignState(
            height=Height(value["height"].int64()),
            round=value["round"].int32(),
            step=value["step"].int32(high=MAX_STEP),
            signature=value["signature"].base64() if "signature" in members else b"",
            sign_bytes=value["signbytes"].hexadecimal() if "signbytes" in members else b"",
        )
    except CorruptError as error:
        raise CorruptError(error.message, remedy=_FAIL_CLOSED) from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what}: not JSON", remedy=_FAIL_CLOSED) from error


def _no_duplicates(pairs: list[tuple[str, RawJson]]) -> dict[str, RawJson]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate member")
    return result


def read_sign_state(path: Path) -> SignState:
    """NotFoundError when there is no file, CorruptError when it can't be trusted."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no sign state", remedy=_FAIL_CLOSED) from error
    except OSError as error:
        raise CorruptError(f"{path}: {error.strerror}", remedy=_FAIL_CLOSED) from error
    return parse_sign_state(data, what=str(path))


def merge_upward(live: Path | None, other: Path | None) -> SignState:
    """The higher of two sign states; None where there is no such copy.  Reads only.

    Raises:
        RefusedError: there is neither, or both name one height, round and step but different messages.
        NotFoundError, CorruptError: a copy that was named can't be read; it is never taken as lower.
    """
    states = [read_sign_state(path) for path in (live, other) if path is not None]
    if not states:
        raise RefusedError("no sign state is left to merge", remedy=_FAIL_CLOSED)
    return highest(*states)


def highest(first: SignState, *others: SignState) -> SignState:
    """The maximum; at equal height, round and step the one with a signature.

    Raises:
        RefusedError: equal but for different messages: the key has signed twice, or two signers ran.
    """
    top = max((first, *others), key=lambda state: (state.hrs, bool(state.sign_bytes), bool(state.signature)))
    for state in (first, *others):
        if state.hrs == top.hrs and state.sign_bytes not in (b"", top.sign_bytes):
            raise RefusedError(
                f"two sign states at {top} are of different messages: the key may have signed twice",
                remedy="Keep every copy of this validator stopped and raise a key-compromise incident.",
            )
    return top


def write_sign_state(path: Path, state: SignState) -> SignState:
    """Make the file say `state`, durably, unless it says something higher; gives what it now says.

    Raises:
        CorruptError: the file that is there can't be read, or the state is out of range; the file is left as it is.
        RefusedError: as `highest`.
    """
    written = parse_sign_state(state.to_json(), what="new sign state")
    if path.exists():
        written = highest(read_sign_state(path), state)
    replace_file(path, written.to_json())
    return written
