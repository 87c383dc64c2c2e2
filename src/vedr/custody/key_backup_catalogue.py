"""The signed catalogue of key backups: what there is, told without any passphrase (docs/formats/key-backup.md).

    <origin>/keys/b/<id>/<generation>-<hash>.vedrkey    envelope, create-only
    <origin>/keys/b/break_glass-<hash>.py               decrypter of one file, create-only
    <origin>/keys/c/<id>/<generation>.json              signed entry, written last: the commit point
    <origin>/keys/x/<fingerprint>.json                  signed revocation of a key

A backup wrapped under another passphrase is a new generation of the same backup.  An envelope that no entry names was
never committed; its hash is in its key, so that it stands in nobody's way.

Guarantees: bytes in, checked values out; an entry is believed only when a trusted key signed it under the very key that
it was found at; nothing secret can be in one.
Leaves out: whether the envelope is there and opens (key_backup_store).  Pure: no input or output.
"""

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType

from vedr.backup.documents import Reader, broken, rfc3339
from vedr.backup.layout import from_stamp, stamp
from vedr.custody.key_material import ALGORITHMS, KINDS, Algorithm, Identity, KeyKind
from vedr.errors import InvalidInputError
from vedr.ports import ObjectKey
from vedr.signature import Json, Signer, open_document

FORMAT: Final = "vedr-key-backup/1"
REVOCATION_FORMAT: Final = "vedr-key-revocation/1"
BackupId = NewType("BackupId", str)
"""`<UTC yyyymmddThhmmssZ>-<kind>-<owner>`: sorts by time."""

_ID: Final = re.compile(r"(\d{8}T\d{6}Z)-(validator|node|provider)-([a-z0-9][a-z0-9-]{0,62})")
_ENTRY: Final = re.compile(r"/keys/c/([^/]+)/(\d{4})\.json$")
_HEX: Final = re.compile(r"([0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key of a backup: its public half, and since when vedr knows it."""

    path: str
    algorithm: Algorithm
    public_key: str
    address: str
    since: dt.datetime

    @property
    def fingerprint(self) -> str:
        return Identity(self.algorithm, self.public_key, self.address).fingerprint


@dataclass(frozen=True, slots=True)
class Replaced:
    """A key that its owner had before, and when it was first seen to be gone."""

    key: KeyRecord
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class Backup:
    """A catalogue entry.

    `replaced` holds the keys that the owner had before, carried on from entry to entry.
    `reference` and `recovery_public_key` are the slots that can open it; `sign_state` is text evidence of what a
    validator had signed by then, as height/round/step, and no file that could be put back.
    """

    id: BackupId
    generation: int
    origin: str
    kind: KeyKind
    owner: str
    chain_id: str
    created_at: dt.datetime
    keys: tuple[KeyRecord, ...]
    replaced: tuple[Replaced, ...]
    sha256: str
    size_bytes: int
    reference: str
    recovery_public_key: str
    decrypter: str
    sign_state: str

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(key.fingerprint for key in self.keys)


@dataclass(frozen=True, slots=True)
class ParsedId:
    created_at: dt.datetime
    kind: KeyKind
    owner: str


@dataclass(frozen=True, slots=True)
class Revocation:
    """A key that may never be used again, and why."""

    fingerprint: str
    kind: KeyKind
    owner: str
    at: dt.datetime
    incident: str
    reason: str


def backup_id(kind: KeyKind, owner: str, created_at: dt.datetime) -> BackupId:
    return BackupId(f"{stamp(created_at)}-{kind}-{owner}")


def parse_id(text: str) -> ParsedId:
    """The id's parts; InvalidInputError when it is none."""
    match = _ID.fullmatch(text)
    try:
        if match is not None:
            return ParsedId(from_stamp(match[1]), _kind(match[2]), match[3])
    except ValueError:
        pass  # said below
    raise InvalidInputError(
        f"{text!r} is not the id of a key backup",
        remedy="Ids look like 20261122T020000Z-validator-validator-us-east-0: vedr keys list.",
    )


def envelope_key(backup: Backup) -> ObjectKey:
    name = f"{backup.generation:04d}-{backup.sha256[:16]}.vedrkey"
    return ObjectKey(f"{backup.origin}/keys/b/{backup.id}/{name}")


def entry_key(origin: str, backup: BackupId, generation: int) -> ObjectKey:
    return ObjectKey(f"{origin}/keys/c/{backup}/{generation:04d}.json")


def decrypter_key(origin: str, sha256: str) -> ObjectKey:
    return ObjectKey(f"{origin}/keys/b/break_glass-{sha256[:16]}.py")


def revocation_key(origin: str, fingerprint: str) -> ObjectKey:
    return ObjectKey(f"{origin}/keys/x/{fingerprint}.json")


def parse_entry_key(key: ObjectKey) -> tuple[BackupId, int] | None:
    """Backup and generation of an entry's key; None for keys that are no entry's."""
    match = _ENTRY.search(key)
    if match is None:
        return None
    try:
        parse_id(match[1])
    except InvalidInputError:
        return None
    return BackupId(match[1]), int(match[2])


def seal_entry(backup: Backup, signer: Signer) -> bytes:
    """The signed document."""
    keys: list[Json] = [[*_row(key)] for key in backup.keys]
    replaced: list[Json] = [[*_row(one.key), rfc3339(one.until)] for one in backup.replaced]
    return signer.seal_document(
        {
            "format": FORMAT,
            "id": backup.id,
            "generation": backup.generation,
            "origin": backup.origin,
            "kind": backup.kind,
            "owner": backup.owner,
            "chain_id": backup.chain_id,
            "created_at": rfc3339(backup.created_at),
            "keys": keys,
            "replaced": replaced,
            "sha256": backup.sha256,
            "size_bytes": backup.size_bytes,
            "reference": backup.reference,
            "recovery_public_key": backup.recovery_public_key,
            "decrypter": backup.decrypter,
            "sign_state": backup.sign_state,
        }
    )


def open_entry(stored: bytes, trusted: Iterable[str], *, origin: str, backup: BackupId, generation: int) -> Backup:
    """The entry of exactly this backup and generation.

    Raises:
        CorruptError: not an entry, or another one than was asked for.
        VerificationFailedError: no trusted key signed it.
    """
    what = f"catalogue entry {backup}"
    reader = Reader(open_document(stored, trusted, what=what), what)
    reader.expect("format", FORMAT)
    reader.expect("origin", origin)
    reader.expect("id", backup)
    reader.expect("generation", generation)
    parsed = parse_id(backup)
    reader.expect("kind", parsed.kind)
    reader.expect("owner", parsed.owner)
    if reader.moment("created_at") != parsed.created_at:
        raise broken(what, "its time is not its id's")
    return Backup(
        id=backup,
        generation=generation,
        origin=origin,
        kind=parsed.kind,
        owner=parsed.owner,
        chain_id=reader.text("chain_id"),
        created_at=parsed.created_at,
        keys=tuple(_record(row.row(5), what) for row in reader.rows("keys")),
        replaced=tuple(Replaced(_record(row.row(6), what), _moment(row, 5, what)) for row in reader.rows("replaced")),
        sha256=reader.hex256("sha256"),
        size_bytes=reader.count("size_bytes"),
        reference=reader.text("reference"),
        recovery_public_key=reader.hex256("recovery_public_key"),
        decrypter=reader.text("decrypter"),
        sign_state=reader.text("sign_state"),
    )


def seal_revocation(revocation: Revocation, signer: Signer) -> bytes:
    return signer.seal_document(
        {
            "format": REVOCATION_FORMAT,
            "fingerprint": revocation.fingerprint,
            "kind": revocation.kind,
            "owner": revocation.owner,
            "at": rfc3339(revocation.at),
            "incident": revocation.incident,
            "reason": revocation.reason,
        }
    )


def open_revocation(stored: bytes, trusted: Iterable[str], *, fingerprint: str) -> Revocation:
    """Errors as `open_entry`."""
    what = f"revocation of {fingerprint[:16]}"
    reader = Reader(open_document(stored, trusted, what=what), what)
    reader.expect("format", REVOCATION_FORMAT)
    reader.expect("fingerprint", fingerprint)
    return Revocation(
        fingerprint=fingerprint,
        kind=reader.choice("kind", KINDS),
        owner=reader.text("owner"),
        at=reader.moment("at"),
        incident=reader.text("incident"),
        reason=reader.text("reason"),
    )


def _record(row: Reader, what: str) -> KeyRecord:
    path, public_key = row.path(0), row.text(2)
    if not _HEX.fullmatch(public_key):
        raise broken(what, "one of its keys has no hexadecimal public key")
    algorithm = next((known for known in ALGORITHMS if known == row.text(1)), None)
    if algorithm is None:
        raise broken(what, "one of its keys is of an unknown algorithm")
    return KeyRecord(path, algorithm, public_key, row.text(3), _moment(row, 4, what))


def _row(key: KeyRecord) -> tuple[Json, ...]:
    return (key.path, key.algorithm, key.public_key, key.address, rfc3339(key.since))


def _moment(row: Reader, column: int, what: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(row.text(column), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise broken(what, "one of its keys has no time") from None


def _kind(text: str) -> KeyKind:
    return next(kind for kind in KINDS if kind == text)
