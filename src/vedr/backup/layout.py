"""Where things stand in a bucket, and what time makes of them (docs/formats/store.md).

    <origin>/<kind>/e/<epoch>/o/<hh>/<object name>    content, create-only
    <origin>/<kind>/p/<snapshot id>.json              signed placement: this bucket holds all of it
    <origin>/<kind>/m/<snapshot id>.json              signed manifest, written last: the commit point
    <origin>/<kind>/v/<snapshot id>/<time>-<depth>.json    signed verification record

Guarantees: names sort by time; every key parses back to what made it.  Pure: no input or output.
"""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final, Literal, NewType, get_args

from vedr.errors import InvalidInputError
from vedr.inventory import Height
from vedr.ports import ObjectKey

Kind = Literal["state", "provider", "config"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

SnapshotId = NewType("SnapshotId", str)
"""`<UTC yyyymmddThhmmssZ>-<source name>-<height>`, 0 for the height of what has none."""

ObjectName = NewType("ObjectName", str)
"""64 lower-case hexadecimal digits: the SHA-256 of the content, keyed where the site encrypts."""

Epoch = NewType("Epoch", int)
"""The day, counted from 1970-01-01, that the epoch begins with: its meaning survives a change of `epoch_days`."""

DAY: Final = dt.timedelta(days=1)
WRITER_MARGIN: Final = dt.timedelta(hours=24)  # the longest that a backup may run on past its epoch's end
PRUNE_SLACK: Final = dt.timedelta(hours=1)  # clocks that disagree, and a commit that was under way at the margin's end

_ID = re.compile(r"^(\d{8}T\d{6}Z)-([a-z0-9][a-z0-9-]*)-(\d+)$")
_EPOCH_OF = re.compile(r"/e/(\d{5})/o/[0-9a-f]{2}/([0-9a-f]{64})$")
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Source:
    """What is backed up: a node, a provider daemon, or a region's configuration."""

    origin: str
    kind: Kind
    name: str

    @property
    def prefix(self) -> str:
        return f"{self.origin}/{self.kind}"

    def __str__(self) -> str:
        return f"{self.origin}/{self.kind}/{self.name}"


def stamp(moment: dt.datetime) -> str:
    """`20261122T221453Z`."""
    return moment.astimezone(dt.UTC).strftime(_STAMP)


def from_stamp(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, _STAMP).replace(tzinfo=dt.UTC)


def snapshot_id(source: Source, created_at: dt.datetime, height: Height) -> SnapshotId:
    return SnapshotId(f"{stamp(created_at)}-{source.name}-{height}")


@dataclass(frozen=True, slots=True)
class ParsedId:
    created_at: dt.datetime
    name: str
    height: Height


def parse_id(text: str) -> ParsedId:
    """The id's parts; InvalidInputError when it is none."""
    match = _ID.match(text)
    if match is None:
        raise InvalidInputError(
            f"{text!r} is not a snapshot id", remedy="Ids look like 20261122T221453Z-full-us-east-0-1234."
        )
    try:
        return ParsedId(from_stamp(match[1]), match[2], Height(int(match[3])))
    except ValueError as error:
        raise InvalidInputError(f"{text!r} holds no valid time", remedy="Copy the id from the list.") from error


def epoch_at(moment: dt.datetime, epoch_days: int) -> Epoch:
    day = int(moment.timestamp()) // 86400
    return Epoch(day - day % epoch_days)


def closes_at(epoch: Epoch, epoch_days: int) -> dt.datetime:
    """From then on no writer may commit into the epoch."""
    return dt.datetime.fromtimestamp(0, dt.UTC) + (epoch + epoch_days) * DAY + WRITER_MARGIN


def epoch_prefix(source: Source, epoch: Epoch) -> str:
    return f"{source.prefix}/e/{epoch:05d}/o/"


def object_key(source: Source, epoch: Epoch, name: ObjectName) -> ObjectKey:
    return ObjectKey(f"{epoch_prefix(source, epoch)}{name[:2]}/{name}")


def parse_object_key(key: ObjectKey) -> tuple[Epoch, ObjectName] | None:
    """None for keys that are no object's: those are never touched."""
    match = _EPOCH_OF.search(key)
    return (Epoch(int(match[1])), ObjectName(match[2])) if match else None


def manifest_key(source: Source, snapshot: SnapshotId) -> ObjectKey:
    return ObjectKey(f"{source.prefix}/m/{snapshot}.json")


def placement_key(source: Source, snapshot: SnapshotId) -> ObjectKey:
    return ObjectKey(f"{source.prefix}/p/{snapshot}.json")


def verification_key(source: Source, snapshot: SnapshotId, at: dt.datetime, depth: int) -> ObjectKey:
    return ObjectKey(f"{source.prefix}/v/{snapshot}/{stamp(at)}-{depth}.json")


def document_id(key: ObjectKey) -> SnapshotId | None:
    """The snapshot that a manifest's, placement's or verification's key belongs to."""
    parts = key.split("/")
    if len(parts) < 4 or not key.endswith(".json"):  # noqa: PLR2004 (origin, kind, letter, id)
        return None
    candidate = parts[3].removesuffix(".json")
    return SnapshotId(candidate) if _ID.match(candidate) else None
