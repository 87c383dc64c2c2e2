"""The record of a set of shares: who holds which, since when, and which public key they stand for; never a share.

Guarantees: what is read is strictly of version 1 and agrees with itself; errors show nothing of the input.  A record
may be signed (docs/formats/signed-document.md); a reader that names trusted keys takes no other.
Leaves out: whether the custodians still have their shares; `confirmed` says when each last showed it.

Format: docs/formats/share-record.md.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from vedr.custody.shares import MAX_COUNT, MIN_THRESHOLD, Fingerprint, Share
from vedr.errors import CorruptError, InvalidInputError, VerificationFailedError
from vedr.signature import Json, Signer, canonical_json, open_document

TYPE: Final = "vedr share record"
VERSION: Final = 1
MAX_BYTES: Final = 64 * 1024  # sixteen custodians take under 8 KiB
MAX_NAME_CHARS: Final = 64
SET_IDS: Final = range(2**15)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_MEMBERS: Final = {"created", "custodians", "public_key", "replaces", "set", "threshold", "type", "version"}
_CUSTODIAN: Final = {"confirmed", "fingerprint", "index", "name"}
_KEY: Final = re.compile("[0-9a-f]{64}")
_WHAT: Final = "share record"


class RecordRefusal(StrEnum):
    """Why a record is refused; the text is the whole message."""

    TOO_LONG = "it is longer than 64 KiB"
    NOT_JSON = "it is not JSON"
    NOT_CANONICAL = "it is not in canonical form"
    OTHER_TYPE = "it is no share record of version 1"
    FIELDS = "it lacks a field or has one that version 1 does not know"
    BAD_FIELD = "a field is not of its type, length or range"
    DISAGREES = "it does not agree with itself: count, threshold, indices, names or fingerprints"


class RecordError(CorruptError):
    """These bytes are no record of shares."""

    def __init__(self, refusal: RecordRefusal) -> None:
        super().__init__(f"{_WHAT}: {refusal.value}", remedy="Use another copy; every custodian and region has one.")
        self.refusal: Final = refusal


@dataclass(frozen=True, slots=True)
class Custodian:
    """Who holds which share; `confirmed` is when its words were last read back or verified."""

    name: str
    index: int
    fingerprint: Fingerprint
    confirmed: datetime

    def payload(self) -> dict[str, Json]:
        return {
            "confirmed": self.confirmed.strftime(_TIME),
            "fingerprint": self.fingerprint,
            "index": self.index,
            "name": self.name,
        }


@dataclass(frozen=True, slots=True)
class ShareRecord:
    """One set of shares.  `replaces` is the public key before it, None for the first."""

    public_key: bytes
    threshold: int
    set_id: int
    created: datetime
    custodians: tuple[Custodian, ...]
    replaces: bytes | None = None

    def payload(self) -> dict[str, Json]:
        return {
            "created": self.created.strftime(_TIME),
            "custodians": [custodian.payload() for custodian in self.custodians],
            "public_key": self.public_key.hex(),
            "replaces": None if self.replaces is None else self.replaces.hex(),
            "set": self.set_id,
            "threshold": self.threshold,
            "type": TYPE,
            "version": VERSION,
        }

    def age(self, now: datetime) -> timedelta:
        """Since the ceremony."""
        return now - self.created

    def unconfirmed_for(self, now: datetime) -> timedelta:
        """Since the custodian who was longest silent last showed a share."""
        return now - min(custodian.confirmed for custodian in self.custodians)

    def holder(self, share: Share) -> Custodian:
        """Whose share this is.  VerificationFailedError when it is nobody's here."""
        for custodian in self.custodians:
            if custodian.fingerprint == share.fingerprint:
                return custodian
        raise VerificationFailedError(
            "the share is valid, but not one of this record",
            remedy="Compare the date and set on its page with the record: it may be of an earlier ceremony.",
        )

    def confirmed(self, custodian: Custodian, now: datetime) -> "ShareRecord":
        """The record with that custodian's share seen now."""
        seen = tuple(replace(one, confirmed=now) if one == custodian else one for one in self.custodians)
        return replace(self, custodians=seen)


def new_record(
    shares: Sequence[Share], names: Sequence[str], *, public_key: bytes, now: datetime, replaces: bytes | None = None
) -> ShareRecord:
    """The record of shares just handed out, in the order of the custodians' names."""
    now = now.astimezone(UTC).replace(microsecond=0)
    check_names(names, len(shares))
    custodians = tuple(
        Custodian(name, share.index, share.fingerprint, now) for name, share in zip(names, shares, strict=True)
    )
    return ShareRecord(public_key, shares[0].threshold, shares[0].set_id, now, custodians, replaces)


def check_names(names: Sequence[str], count: int) -> None:
    """InvalidInputError unless there are that many different, printable names of 1 to 64 characters."""
    if len(names) != count or len(set(names)) != count or not all(map(_is_name, names)):
        raise InvalidInputError(
            f"{count} shares need as many custodians with different names",
            remedy="Give --custodian once for each, 1 to 64 printable characters.",
        )


def seal_record(record: ShareRecord, signer: Signer | None = None) -> bytes:
    """The bytes to keep; signed when there is a signer."""
    if signer is None:
        return canonical_json(record.payload())
    return signer.seal_document(record.payload())


def open_record(data: bytes, *, trusted: Sequence[str] = ()) -> ShareRecord:
    """The record, strictly read.

    Args:
        data: The stored bytes, signed or not.
        trusted: Public keys in hexadecimal; with any, only a record signed by one of them is taken.

    Raises:
        RecordError: not such a record.
        CorruptError, VerificationFailedError: not signed by a trusted key, where one was asked for.
    """
    if len(data) > MAX_BYTES:
        raise RecordError(RecordRefusal.TOO_LONG)
    if trusted:
        return _record(open_document(data, trusted, what=_WHAT))
    try:
        document = json.loads(data, parse_float=_not_whole, parse_constant=_not_whole)
        canonical = canonical_json(document) == data
    except (ValueError, RecursionError):
        raise RecordError(RecordRefusal.NOT_JSON) from None
    if not canonical:  # two members of one name end here as well
        raise RecordError(RecordRefusal.NOT_CANONICAL)
    signed = isinstance(document, dict) and set(document) == {"signatures", "signed"}
    return _record(document["signed"] if signed else document)


def is_signed(data: bytes) -> bool:
    """Whether these bytes of an opened record carry a signature."""
    return "signed" in json.loads(data)


def _record(value: Json) -> ShareRecord:
    if not isinstance(value, dict) or value.get("type") != TYPE or canonical_json(value.get("version")) != b"1":
        raise RecordError(RecordRefusal.OTHER_TYPE)
    if set(value) != _MEMBERS or not isinstance(value["custodians"], list):
        raise RecordError(RecordRefusal.FIELDS)
    replaces = value["replaces"]
    record = ShareRecord(
        public_key=_key(value["public_key"]),
        threshold=_whole(value["threshold"], range(MIN_THRESHOLD, MAX_COUNT + 1)),
        set_id=_whole(value["set"], SET_IDS),
        created=_time(value["created"]),
        custodians=tuple(map(_custodian, value["custodians"])),
        replaces=None if replaces is None else _key(replaces),
    )
    people = record.custodians
    distinct = all(
        len(set(column)) == len(people)
        for column in (
            [one.name for one in people],
            [one.index for one in people],
            [one.fingerprint for one in people],
        )
    )
    if not distinct or not record.threshold <= len(people) <= MAX_COUNT:
        raise RecordError(RecordRefusal.DISAGREES)
    return record


def _custodian(value: Json) -> Custodian:
    if not isinstance(value, dict) or set(value) != _CUSTODIAN:
        raise RecordError(RecordRefusal.FIELDS)
    name = value["name"]
    if not isinstance(name, str) or not _is_name(name):
        raise RecordError(RecordRefusal.BAD_FIELD)
    return Custodian(
        name=name,
        index=_whole(value["index"], range(MAX_COUNT)),
        fingerprint=Fingerprint(_key(value["fingerprint"]).hex()),
        confirmed=_time(value["confirmed"]),
    )


def _is_name(name: str) -> bool:
    return 1 <= len(name) <= MAX_NAME_CHARS and name.isprintable() and name == name.strip()


def _key(value: Json) -> bytes:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise RecordError(RecordRefusal.BAD_FIELD)
    return bytes.fromhex(value)


def _whole(value: Json, allowed: range) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raise RecordError(RecordRefusal.BAD_FIELD)
    return value


def _time(value: Json) -> datetime:
    try:
        moment = datetime.strptime(value, _TIME).replace(tzinfo=UTC) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.strftime(_TIME) != value:
        raise RecordError(RecordRefusal.BAD_FIELD)
    return moment


def _not_whole(_text: str) -> Json:
    raise RecordError(RecordRefusal.NOT_JSON)
