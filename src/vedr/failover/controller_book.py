"""The controllers' common book: who holds their lease, and what was done about each outage.

One signed object in every region's registers, `controller/<site>/book.json`.  It is a replicated register as Paxos has
it: `promised` is the newest claim that the region has seen, `page` the newest content that it was given, each with the
epoch that it is of.  Rules, kept by vedr.failover.controller_lease:
    1. Every write replaces exactly the content that it was derived from (compare and swap, in each region).
    2. A region is written only under an epoch above its promise, or by the very holder of that promise.
    3. Claim: promise a new epoch to a majority, leaving each region's page as it is; then take the newest page that
       any of these showed.  A page that was in a majority before is among them.
    4. Write: a page under the own epoch to every region, done at a majority.
So a holder whose epoch has passed never has a majority again, and what a majority held is never lost.

Guarantees: the form; `newest` is a total order of pages.  Leaves out: calls and clocks.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from vedr.chain.quorum import Domain
from vedr.errors import CorruptError, VerificationFailedError
from vedr.ports import ObjectKey
from vedr.signature import Json, Signer, open_document

FORMAT: Final = "vedr-controller-book/1"
ROOT: Final = "controller"
MAX_BYTES: Final = 256 * 1024  # an outage has about 600 bytes, and there is one a zone and region
NOBODY: Final = ""

OutageState = Literal["open", "proposed", "starting", "started", "failed", "closed"]
"""`starting`: recorded before anything is called, and until it is known what came of it."""
Way = Literal["", "prefect", "plain"]

_KINDS: Final = ("zone", "region")
_HOLDER: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._:/#@-]{0,127})?$")
_DAMAGED: Final = "Find out who wrote it: only controllers of this site write there.  The next claim replaces it."


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage of one place, and what was done about it.  The newest of each place is kept, also when closed.

    `id` names it for ever: an action is taken once for an id.  `opened_at`: when the controllers agreed; the RTO clock
    starts there.  `acted_at`: of the newest action on this place, also of an earlier outage: the cool-down counts from
    it.  `epoch`: of the holder that wrote `state`.  `way` and `reference`: how it was started, and as what.
    """

    id: str
    domain: Domain
    first_failed_at: dt.datetime
    opened_at: dt.datetime
    state: OutageState
    changed_at: dt.datetime
    epoch: int
    way: Way = ""
    reference: str = ""
    note: str = ""
    acted_at: dt.datetime | None = None

    @property
    def is_open(self) -> bool:
        return self.state != "closed"


@dataclass(frozen=True, slots=True)
class Page:
    """The book's content, written under an epoch as its `beat`-th."""

    epoch: int = 0
    beat: int = 0
    outages: Mapping[Domain, Outage] = field(default_factory=dict)
    is_released: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.beat


@dataclass(frozen=True, slots=True)
class Copy:
    """One region's object."""

    promised: int
    holder: str
    page: Page


def key_of(site: str) -> ObjectKey:
    return ObjectKey(f"{ROOT}/{site}/book.json")


def newest(pages: Iterable[Page]) -> Page:
    """The page that was written last."""
    return max(pages, key=lambda page: page.order, default=Page())


def encode(site: str, copy: Copy, signer: Signer) -> bytes:
    """The object's bytes."""
    page = copy.page
    return signer.seal_document(
        {
            "format": FORMAT,
            "site": site,
            "promised": copy.promised,
            "holder": copy.holder,
            "epoch": page.epoch,
            "beat": page.beat,
            "released": page.is_released,
            "outages": [_outage_json(outage) for outage in page.outages.values()],
        }
    )


def decode(site: str, data: bytes, trusted: Iterable[str]) -> Copy:
    """What the bytes say; VerificationFailedError unless a trusted key signed them as this site's book."""
    what = "the controllers' book"
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{what}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_DAMAGED)
    signed = open_document(data, trusted, what=what)
    match signed:
        case {
            "format": "vedr-controller-book/1",
            "site": str(of_site),
            "promised": int(promised),
            "holder": str(holder),
            "epoch": int(epoch),
            "beat": int(beat),
            "released": bool(is_released),
            "outages": list(listed),
        } if of_site == site and _HOLDER.fullmatch(holder) and 0 <= epoch <= promised and beat >= 0:
            outages = [parse_outage(item, what) for item in listed]
            return Copy(promised, holder, Page(epoch, beat, {one.domain: one for one in outages}, is_released))
        case _:
            raise CorruptError(f"{what}: not a book of site {site}", remedy=_DAMAGED)


def _outage_json(outage: Outage) -> Json:
    return {
        "id": outage.id,
        "kind": outage.domain.kind,
        "name": outage.domain.name,
        "first_failed_at": time_text(outage.first_failed_at),
        "opened_at": time_text(outage.opened_at),
        "state": outage.state,
        "changed_at": time_text(outage.changed_at),
        "epoch": outage.epoch,
        "way": outage.way,
        "reference": outage.reference,
        "note": outage.note,
        "acted_at": None if outage.acted_at is None else time_text(outage.acted_at),
    }


def parse_outage(item: Json, what: str) -> Outage:
    """The outage that the JSON describes; CorruptError when it is none."""
    match item:
        case {
            "id": str(id_),
            "kind": "zone" | "region" as kind,
            "name": str(name),
            "first_failed_at": str(first_failed_at),
            "opened_at": str(opened_at),
            "state": str(state),
            "changed_at": str(changed_at),
            "epoch": int(epoch),
            "way": str(way),
            "reference": str(reference),
            "note": str(note),
            "acted_at": (str() | None) as acted_at,
        } if state in get_args(OutageState) and way in get_args(Way):
            return Outage(
                id=id_,
                domain=Domain(kind, name),
                first_failed_at=parse_time(first_failed_at, what),
                opened_at=parse_time(opened_at, what),
                state=state,  # type: ignore[arg-type]  # checked above
                changed_at=parse_time(changed_at, what),
                epoch=epoch,
                way=way,  # type: ignore[arg-type]  # checked above
                reference=reference,
                note=note,
                acted_at=None if acted_at is None else parse_time(acted_at, what),
            )
        case _:
            raise CorruptError(f"{what}: not an outage", remedy=_DAMAGED)


def time_text(time: dt.datetime) -> str:
    """As documents of the controllers hold it."""
    return time.astimezone(dt.UTC).isoformat(timespec="microseconds")


def parse_time(text: str, what: str) -> dt.datetime:
    """Its inverse; CorruptError for anything else."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CorruptError(f"{what}: {text!r} is no time", remedy=_DAMAGED) from None
    if time.tzinfo is None:
        raise CorruptError(f"{what}: {text!r} names no zone", remedy=_DAMAGED)
    return time.astimezone(dt.UTC)


def check_holder(holder: str) -> None:
    """VerificationFailedError for a name that no book can hold."""
    if not holder or not _HOLDER.fullmatch(holder):
        raise VerificationFailedError(
            f"{holder!r} cannot hold the lease", remedy="Name it like us-east/host/4711#9f3c."
        )
