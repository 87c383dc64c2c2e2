"""What users are sent to: endpoints, the weights that each name gives them, and the port that backends fulfil.

A *name* is what users ask for (`api`, `rpc`, `rpc-us-east`, a VirtualService); an *endpoint* is what it can lead to (a
gateway, or all gateways of a zone or region); a *weight* is the endpoint's part of the name's users.  Weights of a name
add up to 100 where vedr wrote them; 0 means that nobody is sent there.

Guarantees: plain values that survive being recorded in a ledger.
Leaves out: deciding (`traffic_plan`), carrying out on several backends (`traffic_steering`), and every protocol.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from vedr.errors import ConflictError, CorruptError, RefusedError
from vedr.signature import Json, canonical_json

TOTAL_WEIGHT: Final = 100
GUARD_NAME: Final = "_vedr-traffic"
"""Where a backend keeps the epoch and digest of the last plan: a TXT record of this name, or an annotation."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a name can lead to, in one region; it serves while any of its gateways does."""

    name: str
    region: str
    gateways: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backend:
    """Something that sends users somewhere.

    `name` is unique in the site; `endpoints` are all that any of its names can lead to; `is_weighted`: it can send one
    endpoint more users than another, else each weight is all or nothing; `has_ttl`: its answers are cached; `region`:
    it is lost with that region.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    is_weighted: bool
    has_ttl: bool = True
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Who serves a name.

    `strangers`: targets that no endpoint of the site has; `ttl_s`: None where the backend knows none.
    """

    weights: dict[str, int]
    ttl_s: int | None
    strangers: tuple[str, ...] = ()

    @property
    def serving(self) -> frozenset[str]:
        """The endpoints that users are sent to."""
        return frozenset(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True, slots=True)
class Guard:
    """Which plan was carried out last, under which epoch."""

    epoch: int
    plan: str

    def __str__(self) -> str:
        return f"vedr-traffic/1 epoch={self.epoch} plan={self.plan}"


@dataclass(frozen=True, slots=True)
class Picture:
    """What a backend serves now, as it says itself.  `tag` names just this content."""

    backend: str
    names: dict[str, Share]
    guard: Guard | None
    tag: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a backend is to serve, if it still serves what `expected` names.

    `names` holds the names that the plan is about; all others are left as they are.
    """

    backend: str
    expected: str
    names: dict[str, Share]
    guard: Guard


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server tells users of one name.

    `complete`: it lists everybody who is served; else it is a sample, as weighted answers are.  With a `problem`
    nothing is known; `silent`: since it gave no answer at all, so that users get none from it either.
    """

    server: str
    name: str
    endpoints: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    ttl_s: int | None = None
    complete: bool = True
    problem: str = ""
    silent: bool = False


class Traffic(Protocol):
    """One backend that sends users somewhere.

    Every method raises only errors of `vedr.errors`; UnavailableError may be retried, all others may not.
    """

    @property
    def backend(self) -> Backend:
        """What it is; asks nobody."""

    def picture(self) -> Picture:
        """What it serves now, read from where it would be written."""

    def shift(self, change: Change) -> bool:
        """Serve what is asked for; whether anything had to be written.

        Atomicity: all names or none, and only over the content that was expected, where the backend can do that
        (docs/traffic.md says which).  Idempotent: the same change again, also after an answer that was lost, is quiet.

        Raises:
            ConflictError: it serves something else by now, or an epoch above the change's was there.
            UnavailableError: not known whether it was written: shift again.
            RefusedError: it does not take our credentials, or the change is not one that it can carry out.
        """

    def answers(self, names: Collection[str]) -> tuple[Answer, ...]:
        """What users get, for each name from each server, asked apart from `shift` and `picture`.

        A server that does not answer is an Answer with its problem, not an error.
        """


def tag_of(names: Mapping[str, Share], guard: Guard | None) -> str:
    """A digest of the content, for backends that have no version of their own."""
    return digest([share_document(names), str(guard)])


def share_document(names: Mapping[str, Share]) -> Json:
    """Names and shares as JSON."""
    return {
        name: {"weights": dict(share.weights), "ttl_s": share.ttl_s, "strangers": list(share.strangers)}
        for name, share in names.items()
    }


def digest(document: Json) -> str:
    """16 hexadecimal digits that stand for a document: enough to tell plans apart, not to prove them."""
    return hashlib.sha256(canonical_json(document)).hexdigest()[:16]


_GUARD: Final = re.compile(r"vedr-traffic/1 epoch=(\d{1,18}) plan=([0-9a-f]{16})")


def parse_guard(text: str) -> Guard:
    """What `str(guard)` wrote; CorruptError when it is something else."""
    match = _GUARD.fullmatch(text)
    if match is None:
        raise CorruptError(
            f"{GUARD_NAME} holds {text!r}, which vedr did not write", remedy="Find out who did, then remove it."
        )
    return Guard(int(match[1]), match[2])


def check_serves(change: Change) -> None:
    """RefusedError when some name would be served by nobody."""
    if empty := [name for name, share in change.names.items() if not share.serving]:
        raise RefusedError(
            f"{change.backend}: {', '.join(empty)} would be served by nobody",
            remedy="Plan anew, with proofs of health.",
        )


def check_guard(now: Picture, change: Change) -> None:
    """ConflictError when a plan of a later epoch was carried out there."""
    if now.guard is not None and now.guard.epoch > change.guard.epoch:
        raise ConflictError(
            f"{now.backend}: traffic has passed to epoch {now.guard.epoch}, this plan is of {change.guard.epoch}",
            remedy="Another run moves traffic now: leave it to that run.",
        )


def check_basis(now: Picture, change: Change, what: str) -> None:
    """ConflictError when `what` is not as it was when the plan was made; for writes, not for a change that stands."""
    if now.tag != change.expected:
        raise ConflictError(
            f"{what} is not what the plan was made from",
            remedy="Somebody else changed it: look at it, and plan anew.",
        )


def already_serves(now: Picture, change: Change, *, is_weighted: bool) -> bool:
    """Whether this very change was carried out, and still stands."""
    return now.guard == change.guard and all(
        is_as_wanted(now.names[name], share, is_weighted=is_weighted) for name, share in change.names.items()
    )


def is_as_wanted(now: Share, wanted: Share, *, is_weighted: bool) -> bool:
    """Without weights, it matters only who is there."""
    alike = now.weights == wanted.weights if is_weighted else now.serving == wanted.serving
    return alike and now.ttl_s in (None, wanted.ttl_s) and not now.strangers
