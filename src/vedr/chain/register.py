"""The replicated sign-state register of one validator key: who may sign, and the last thing that was signed.

One small object in every region, `sign-state/<chain id>/<address>.json`, holds (epoch, holder, height, round, step,
digest): the holder of the newest epoch, and the last height, round and step that it was about to sign, with the
SHA-256 of that message and, where they are known, its sign-bytes.  Format: docs/formats/sign-state-register.md.

The rules, decided here and in `vedr.chain.register_claim` (values in, values out; `vedr.chain.register_holding` calls
the regions):
    1. Every write replaces exactly the content that it was derived from (compare and swap, in each region).
    2. A region only goes up: its epoch never falls, its position never falls, and one position never changes its
       digest, except to "" (taken, by what is not known) when copies disagree.
    3. Take-over: read a majority, write (new epoch, holder, highest position seen) to a majority.  What a region shows
       when its swap is refused is read and joined first, so that the position taken over covers what every region of
       that majority showed.  A region that shows a newer epoch, or this one with another holder, is not written.
    4. Advance: write (own epoch, holder, new position) to every region, done at a majority.  Then, and not before, the
       message may be signed and released.  Never to a lower position; never to the same one with another digest.
    5. An answer that was lost: that region is read before it is written again.
    6. A holder names the regions that its registers are in.  For a take-over a region counts for nothing whose holder
       names others, but for the one of vedr.chain.register_move.

Why no position is released with two messages.  Let a majority Q have held position p with digest d under epoch e, so
that d could be released, and let a majority T have accepted a take-over with a later epoch.  Q and T share a region r.
    - r took p before the take-over.  The take-over's swap in r was derived from content that covers p (rules 1 and 2),
      so the new holder starts at p or above it; at p itself it knows d, or "", and releases nothing but d there.
    - r took p after the take-over.  Then the holder of e replaced content of a later epoch, which rules 3 and 4 forbid;
      and a swap that it had derived before fails, however late it arrives (rule 1).
So once a take-over has its majority, an earlier holder never has one again.  It learns so from the regions that show
the newer epoch, and stops for good when they leave it no majority (StaleEpochError).  Of two that race for one epoch at
most one has a majority, for they share a region, and that shows one of them.  Under one epoch there is one process; and
should two go by one name all the same, a region takes one digest for a position, and only one of theirs has a majority.

What the sign-bytes are for: d may have been released to somebody or to nobody, and the key can sign nothing else at p.
Where nobody received it, no round that needs this vote ends.  So the new holder signs the same bytes and sends them: it
releases d at p, as it may (Ed25519 gives the same signature again).  They take no part in what is decided here: which
position covers which is said by height, round, step and digest alone, and bytes that don't have the digest are damage.
They only travel: `join` of one position with itself keeps them where either side has them.

What rule 6 is for: two majorities share a region only if they are of the same regions.  With one of three replaced in
the site's file, a host that has the old file yet finds its majority in us-east and ap-south, one with the new file in
eu-west and sa-east, and each releases what it likes.

Guarantees: the above, while no region forgets what it confirmed.  A region that lost its object, holds bytes that
can't be read, or was put back below what it had shown to this process, counts for nothing, and gets content again only
from a take-over that won its majority without it, or that did not see it before.
Leaves out: whose turn it is to take over (the promotion protocol), and what a region forgot that nobody can notice.
One region that was put back, or lies, is enough for two signatures where, at the same time, another one has not heard
of the newest take-over or position: these two are a majority.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NewType

from vedr.chain.sign_state import MAX_STEP, Hrs
from vedr.errors import ConflictError, CorruptError, InvalidInputError
from vedr.inventory import Height
from vedr.ports import ObjectKey
from vedr.signature import Json, canonical_json, summed_json

Epoch = NewType("Epoch", int)
"""Grows with every take-over; 0 is the register's founding, which nobody holds."""

FORMAT: Final = "vedr-sign-state-register/1"
ROOT: Final = "sign-state"
MAX_BYTES: Final = 2048  # the longest that is written has under 1,100
MAX_SIGN_BYTES: Final = 256  # CometBFT's longest, a proposal of a chain with the longest id, has 183
MAX_INT64: Final = 2**63 - 1
MAX_INT32: Final = 2**31 - 1
NOBODY: Final = ""
NOT_KNOWN: Final = ""

_ADDRESS: Final = re.compile(r"^[0-9A-F]{40}$")
_CHAIN: Final = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,49}$")
_HOLDER: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/#@-]{0,127}$")
_DIGEST: Final = re.compile(r"^[0-9a-f]{64}$")
_PLACES: Final = re.compile(r"/[^/@]*@([0-9]+-[0-9a-f]{12})$")
_NUMBERS: Final = {"epoch": MAX_INT64, "height": MAX_INT64, "round": MAX_INT32, "step": MAX_STEP}
_TEXTS: Final = {"format", "chain", "address", "holder", "digest", "sum"}
_SIGN_BYTES: Final = "sign_bytes"  # since version 1 was first written; absent where they are not known
_DAMAGED: Final = (
    "Keep the bucket's versions and find out who wrote it; the next take-over writes the region again from the others."
)


class StaleEpochError(ConflictError):
    """The register passed to another holder: this process must never sign with its epoch again."""


@dataclass(frozen=True, slots=True)
class Validator:
    """Whose register it is."""

    chain_id: str
    address: str

    def __post_init__(self) -> None:
        if not _CHAIN.fullmatch(self.chain_id) or not _ADDRESS.fullmatch(self.address):
            raise InvalidInputError(
                f"no register for chain {self.chain_id!r}, address {self.address!r}",
                remedy="Give the chain's id and the consensus address, 40 upper-case hexadecimal digits.",
            )

    @property
    def key(self) -> ObjectKey:
        """Where its register is in every region."""
        return ObjectKey(f"{ROOT}/{self.chain_id}/{self.address}.json")


@dataclass(frozen=True, slots=True)
class Position:
    """How far the key has signed: height, round, step, and the SHA-256 of the sign-bytes there, in hexadecimal.

    The digest `NOT_KNOWN` stands for any message: nothing may be signed at that position any more.  The sign-bytes are
    there where they are known; two positions are equal whether or not they are.
    """

    height: Height
    round: int
    step: int
    digest: str = NOT_KNOWN
    sign_bytes: bytes = field(default=b"", compare=False)

    def __post_init__(self) -> None:
        ranges = ((self.height, MAX_INT64), (self.round, MAX_INT32), (self.step, MAX_STEP))
        if any(not 0 <= value <= high for value, high in ranges) or not (
            self.digest == NOT_KNOWN or _DIGEST.fullmatch(self.digest)
        ):
            raise InvalidInputError(
                f"no position: {self.height}/{self.round}/{self.step} {self.digest[:70]!r}",
                remedy="Height 0 to 2^63-1, round 0 to 2^31-1, step 0 to 3, digest 64 lower-case hexadecimal digits.",
            )
        if self.sign_bytes and not self._are_of_the_digest():
            raise InvalidInputError(
                f"{len(self.sign_bytes)} sign-bytes at {self} are not those of its digest",
                remedy=f"Give at most {MAX_SIGN_BYTES} bytes and their SHA-256, or the digest alone.",
            )

    def _are_of_the_digest(self) -> bool:
        return len(self.sign_bytes) <= MAX_SIGN_BYTES and hashlib.sha256(self.sign_bytes).hexdigest() == self.digest

    @property
    def hrs(self) -> Hrs:
        return (self.height, self.round, self.step)

    def __str__(self) -> str:
        return f"{self.height}/{self.round}/{self.step}"

    def covers(self, other: "Position") -> bool:
        """Whether all that `other` forbids is forbidden here."""
        return self.hrs > other.hrs or (self.hrs == other.hrs and self.digest in (other.digest, NOT_KNOWN))


NEVER_SIGNED: Final = Position(Height(0), 0, 0)


def join(first: Position, second: Position) -> Position:
    """The lowest position that covers both; with the sign-bytes that either has of it."""
    if first == second:
        return first if first.sign_bytes else second
    if first.covers(second):
        return first
    return second if second.covers(first) else replace(first, digest=NOT_KNOWN, sign_bytes=b"")


@dataclass(frozen=True, slots=True)
class Content:
    """What a region shows."""

    epoch: Epoch
    holder: str
    position: Position

    def is_held_by(self, name: str) -> bool:
        """Whether the holder is a process of the signer of this name (`vedr signer run --name`)."""
        return self.holder.startswith(f"{name}/")

    def __str__(self) -> str:
        return f"{self.position} under epoch {self.epoch} of {self.holder or 'nobody'}"

    @property
    def places(self) -> str:
        """As `places_in` of its holder."""
        return places_in(self.holder)


def name_of_places(buckets: Mapping[str, str]) -> str:
    """How a holder names where its registers are: by how many regions there are, and a digest of them.

    Args:
        buckets: The register's bucket, by region.  Not the endpoint, which may differ from host to host.
    """
    return f"{len(buckets)}-{hashlib.sha256(canonical_json(dict(buckets))).hexdigest()[:12]}"


def places_in(holder: str) -> str:
    """Where a holder's registers are, by `name_of_places`; "" for one that does not tell, as before it was named."""
    found = _PLACES.search(holder)
    return found[1] if found else ""


def check_claim(epoch: int, holder: str) -> None:
    """InvalidInputError unless it can stand in a register."""
    if not 1 <= epoch <= MAX_INT64 or not _HOLDER.fullmatch(holder):
        raise InvalidInputError(
            f"epoch {epoch} of holder {holder[:130]!r} cannot be claimed",
            remedy="An epoch from 1; a name of up to 128 letters, digits and . _ : / # @ -, new for each process.",
        )


def encode(validator: Validator, content: Content) -> bytes:
    """The object's bytes: canonical JSON, so that one content has one form."""
    position = content.position
    document: dict[str, Json] = {
        "format": FORMAT,
        "chain": validator.chain_id,
        "address": validator.address,
        "epoch": content.epoch,
        "holder": content.holder,
        "height": position.height,
        "round": position.round,
        "step": position.step,
        "digest": position.digest,
    }
    if position.sign_bytes:
        document[_SIGN_BYTES] = base64.b64encode(position.sign_bytes).decode()
    return summed_json(document)


def decode(validator: Validator, data: bytes, *, where: str) -> Content:
    """What the bytes say; CorruptError unless they are exactly what `encode` writes for this validator."""
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{where}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_DAMAGED)
    try:
        content = _content(json.loads(data))
        whole = content is not None and encode(validator, content) == data
    except (ValueError, RecursionError, InvalidInputError):
        raise CorruptError(f"{where}: not a sign-state register", remedy=_DAMAGED) from None
    if content is None or not whole:
        raise CorruptError(
            f"{where}: not the sign-state register of {validator.address} on {validator.chain_id}", remedy=_DAMAGED
        )
    return content


def _content(found: Json) -> Content | None:
    if not isinstance(found, dict) or set(found) - {_SIGN_BYTES} != _TEXTS | set(_NUMBERS):
        return None
    numbers = {name: value for name, value in found.items() if type(value) is int and name in _NUMBERS}
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    if set(numbers) != set(_NUMBERS) or len(numbers) + len(texts) != len(found):
        return None
    if not 0 <= numbers["epoch"] <= MAX_INT64:
        return None
    if not (_HOLDER.fullmatch(texts["holder"]) if numbers["epoch"] else texts["holder"] == NOBODY):
        return None
    sign_bytes = base64.b64decode(texts.get(_SIGN_BYTES, ""), validate=True)
    position = Position(Height(numbers["height"]), numbers["round"], numbers["step"], texts["digest"], sign_bytes)
    return Content(Epoch(numbers["epoch"]), texts["holder"], position)
