"""A key backup: the key files of one owner as a bundle, sealed in an envelope, opened again and compared
(docs/formats/key-backup.md).

Guarantees: an opened backup is the one that its signed catalogue entry describes, file by file and public key by public
key; every key in it agrees with itself; a sign-state is never in it, so that restoring a backup can never bring an old
one back.
Leaves out: where backups are kept (key_backup_store) and putting keys back on a host (key_backup_restore).
"""

import base64
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vedr.backup.documents import is_inside
from vedr.custody.envelope import open_sealed, seal
from vedr.custody.envelope_slots import Opener, Seal
from vedr.custody.key_backup_catalogue import Backup, BackupId, KeyRecord, Replaced
from vedr.custody.key_material import KINDS, KeyFile, KeyKind, broken, decode_base64, read_key_file, strict_object
from vedr.errors import InvalidInputError, VerificationFailedError
from vedr.signature import Json, canonical_json

BUNDLE_FORMAT: Final = "vedr-key-bundle/1"
MAX_FILES: Final = 1000
FORBIDDEN: Final = "priv_validator_state.json"
"""Restored, an old one lets a validator sign twice: no bundle may hold a file of this name."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """All key files of one kind that one owner has."""

    kind: KeyKind
    owner: str
    chain_id: str
    files: tuple[KeyFile, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(file.identity.fingerprint for file in self.files)


def make_bundle(kind: KeyKind, owner: str, chain_id: str, files: Sequence[KeyFile]) -> Bundle:
    """Checked; InvalidInputError for no file, two of one path, or one that may not be in it."""
    paths = [file.path for file in files]
    if not 0 < len(paths) <= MAX_FILES or len(set(paths)) != len(paths):
        raise InvalidInputError(
            f"{owner}: a key backup of {len(paths)} files, {len(set(paths))} of them different",
            remedy=f"A backup holds 1 to {MAX_FILES} files of different paths.",
        )
    for file in files:
        if file.kind != kind or not is_inside(file.path) or file.path.endswith(FORBIDDEN):
            raise InvalidInputError(f"{owner}: {file.path!r} is no {kind} key file", remedy="Leave it out.")
    return Bundle(kind, owner, chain_id, tuple(files))


def seal_bundle(bundle: Bundle, backup: BackupId, *, origin: str, slots: Sequence[Seal], created: dt.datetime) -> bytes:
    """The envelope.  What stands in clear in it is public: owner, kind, chain and fingerprints."""
    fingerprints: list[Json] = [*bundle.fingerprints]
    meta: dict[str, Json] = {
        "format": BUNDLE_FORMAT,
        "backup": backup,
        "origin": origin,
        "kind": bundle.kind,
        "owner": bundle.owner,
        "chain_id": bundle.chain_id,
        "fingerprints": fingerprints,
    }
    return seal(_encode(bundle), slots=slots, meta=meta, created=created)


def open_bundle(sealed: bytes, opener: Opener, backup: Backup) -> Bundle:
    """Open, and compare with the catalogue entry.

    Raises:
        EnvelopeError, WrongSecretError, NoSpaceError: as vedr.custody.envelope.open_sealed.
        VerificationFailedError: it opens and is not what the entry says.
        CorruptError: what it holds is no bundle, or a key in it does not agree with itself.
    """
    what = f"key backup {backup.id}"
    if hashlib.sha256(sealed).hexdigest() != backup.sha256:
        raise broken(what, "its envelope has another hash than its signed entry says")
    opened = open_sealed(sealed, opener)
    bundle = _decode(opened.payload, what)
    fingerprints: list[Json] = [*bundle.fingerprints]
    meta = opened.header.core.meta
    known = {key.fingerprint: key.since for key in backup.keys}
    agrees = (
        (bundle.kind, bundle.owner, bundle.chain_id) == (backup.kind, backup.owner, backup.chain_id)
        and records(bundle.files, known, backup.created_at) == backup.keys
        and meta.get("backup") == backup.id
        and meta.get("fingerprints") == fingerprints
    )
    if not agrees:
        raise VerificationFailedError(
            f"{what}: what is in it is not what its signed entry says (owner, chain or public keys differ)",
            remedy="Use another backup, and find out who wrote this one.",
        )
    return bundle


def records(
    files: Iterable[KeyFile], since: Mapping[str, dt.datetime], otherwise: dt.datetime
) -> tuple[KeyRecord, ...]:
    """What the catalogue tells of these files; `since`: first sight of each fingerprint, `otherwise` if unknown."""
    return tuple(
        KeyRecord(
            path=file.path,
            algorithm=file.identity.algorithm,
            public_key=file.identity.public_key,
            address=file.identity.address,
            since=since.get(file.identity.fingerprint, otherwise),
        )
        for file in files
    )


def history(
    files: Sequence[KeyFile], previous: Backup | None, since: Mapping[str, dt.datetime], now: dt.datetime
) -> tuple[tuple[KeyRecord, ...], tuple[Replaced, ...]]:
    """Keys in use and keys replaced, carried on from the owner's previous entry; `since` is for keys new to it.

    What is dated later than `now` was seen now at the latest: a file's time, or an earlier clock, was wrong.
    """
    before = () if previous is None else previous.keys
    gone = () if previous is None else previous.replaced
    known = {key.fingerprint: key.since for key in (*(one.key for one in gone), *before)}
    first = {fingerprint: min(at, now) for fingerprint, at in {**since, **known}.items()}
    keys = records(files, first, now)
    present = {key.fingerprint for key in keys}
    replaced = [replace(one, until=min(one.until, now)) for one in gone if one.key.fingerprint not in present]
    replaced += [Replaced(key, now) for key in before if key.fingerprint not in present]
    return keys, tuple(replaced)


def compare_live(files: Sequence[KeyFile], bundle: Bundle) -> None:
    """VerificationFailedError when the backup holds other public keys than the owner has now."""
    live = {(file.path, file.identity.fingerprint) for file in files}
    stored = {(file.path, file.identity.fingerprint) for file in bundle.files}
    if live != stored:
        differing = ", ".join(sorted({path for path, _ in live ^ stored}))
        raise VerificationFailedError(
            f"{bundle.owner}: the backup and the live keys differ in {differing}",
            remedy="Back up again: vedr keys backup.",
        )


def _encode(bundle: Bundle) -> bytes:
    files: list[Json] = [
        {"path": file.path, "content": base64.b64encode(file.content).decode()} for file in bundle.files
    ]
    return canonical_json(
        {
            "format": BUNDLE_FORMAT,
            "kind": bundle.kind,
            "owner": bundle.owner,
            "chain_id": bundle.chain_id,
            "files": files,
        }
    )


def _decode(payload: bytes, what: str) -> Bundle:
    document = strict_object(payload, what=what)
    kind = next((known for known in KINDS if known == document.get("kind")), None)
    owner, chain_id, listed = (document.get(member) for member in ("owner", "chain_id", "files"))
    if (
        set(document) != {"format", "kind", "owner", "chain_id", "files"}
        or document["format"] != BUNDLE_FORMAT
        or kind is None
        or not isinstance(owner, str)
        or not isinstance(chain_id, str)
        or not isinstance(listed, list)
    ):
        raise broken(what, f"what is in it is no {BUNDLE_FORMAT}")
    files = [_file(value, kind, what) for value in listed]
    try:
        return make_bundle(kind, owner, chain_id, files)
    except InvalidInputError as error:
        raise broken(what, error.message) from None


def _file(value: Json, kind: KeyKind, what: str) -> KeyFile:
    if not isinstance(value, dict) or set(value) != {"path", "content"} or not isinstance(value["path"], str):
        raise broken(what, "one of its files is none")
    content = decode_base64(value["content"], what=what, member="content")
    return read_key_file(kind, value["path"], content, what=what)
