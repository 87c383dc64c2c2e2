"""The backups that VirtEngine's provider daemon makes of its own keys (KeyBackupManager, version 1): read, checked,
converted.

Guarantees: a key is only given out when its private and public half agree; everything that is wrong with a file is a
finding, and a file with findings is never called good; limits are checked before the key derivation runs; errors and
findings show no content.
Leaves out: mending.  What the daemon did not write into its backup is lost with the daemon.

What is known to be wrong with these files (read in pkg/provider_daemon/backup.go of virtengine/virtengine, 2026):

| Finding | Cause |
|---|---|
| no private key | the daemon fills in labels and public keys, and leaves the private key out |
| share holds the whole backup | its "Shamir split" copies the whole backup into every share and changes one byte |
| expired | a year after it was made its own restore refuses it |
| wrong checksum | SHA-256 of the plaintext, which authenticated encryption makes a sign of a faulty writer |
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vedr.custody.key_material import (
    KeyFile,
    broken,
    decode_base64,
    load_private,
    pem_of,
    public_agrees,
    read_key_file,
    strict_object,
)
from vedr.errors import CorruptError, NoSpaceError, VerificationFailedError
from vedr.signature import Json

VERSION: Final = 1
MAX_FILE_BYTES: Final = 4 * 1024 * 1024  # a thousand RSA keys
MAX_KEYS: Final = 10_000
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
MIN_MEMORY_KIB: Final = 64 * 1024  # RFC 9106's second recommendation, which the daemon uses
MAX_MEMORY_KIB: Final = 2 * 1024 * 1024
MIN_TIME, MAX_TIME, MAX_THREADS = 3, 10, 16
SHARE_OVERHEAD_BYTES: Final = SALT_BYTES + NONCE_BYTES + TAG_BYTES
_MEMBERS: Final = frozenset(
    {"version", "created_at", "expires_at", "algorithm", "key_derivation", "salt", "nonce", "ciphertext", "checksum"}
)
_OPTIONAL: Final = frozenset({"metadata", "recovery_shares"})
_SHARE_MEMBERS: Final = frozenset(
    {"index", "share", "threshold", "total_shares", "created_at", "expires_at", "share_checksum"}
)
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Defect(StrEnum):
    """What can be wrong with a daemon's backup."""

    EXPIRED = "expired"
    NO_KEYS = "no keys"
    NO_PRIVATE_KEY = "no private key"
    MISMATCH = "private and public key disagree"
    UNKNOWN_KEY = "not a key of its algorithm"
    DUPLICATE = "label used twice"
    WRONG_CHECKSUM = "wrong checksum"
    WRONG_COUNT = "another number of keys than its metadata says"
    WHOLE_IN_SHARE = "share holds the whole backup"
    BAD_SHARE = "not a share that opens"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `label` names the key, empty for the file as a whole."""

    defect: Defect
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label}: {self.defect}" if self.label else str(self.defect)


@dataclass(frozen=True, slots=True)
class Derivation:
    """Argon2id's cost, within limits."""

    time: int
    memory_kib: int
    threads: int


@dataclass(frozen=True, slots=True)
class DaemonBackup:
    """A backup as written: nothing of it is proven before it opens."""

    what: str
    created_at: dt.datetime
    expires_at: dt.datetime
    derivation: Derivation
    salt: bytes
    nonce: bytes
    ciphertext: bytes
    checksum: str
    key_count: int | None


@dataclass(frozen=True, slots=True)
class Imported:
    """Keys that prove themselves, as files that can be restored, and all that is wrong with the backup."""

    keys: tuple[KeyFile, ...]
    findings: tuple[Finding, ...]
    made_at: tuple[dt.datetime, ...] = field(default=())
    """When each key was made, by the daemon's word."""

    @property
    def good(self) -> bool:
        return not self.findings


def is_share(data: bytes) -> bool:
    """Whether this is one of the daemon's recovery shares rather than a backup."""
    try:
        return "share" in strict_object(data, what="file")
    except CorruptError:
        return False


def read_backup(data: bytes, *, what: str) -> DaemonBackup:
    """Parse and check the limits; CorruptError for anything that is not version 1."""
    document = _object(data, _MEMBERS, _OPTIONAL, what)
    if document["version"] != VERSION or isinstance(document["version"], bool):
        raise broken(what, f"not version {VERSION} of the daemon's backups")
    if document["algorithm"] != "AES-256-GCM":
        raise broken(what, "its algorithm is not AES-256-GCM")
    salt, nonce = (_bytes(document, member, what) for member in ("salt", "nonce"))
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise broken(what, "salt or nonce of another length")
    return DaemonBackup(
        what=what,
        created_at=_moment(document["created_at"], "created_at", what),
        expires_at=_moment(document["expires_at"], "expires_at", what),
        derivation=_derivation(document["key_derivation"], what),
        salt=salt,
        nonce=nonce,
        ciphertext=_bytes(document, "ciphertext", what),
        checksum=_text(document["checksum"], "checksum", what),
        key_count=_key_count(document.get("metadata"), what),
    )


def open_backup(backup: DaemonBackup, passphrase: bytes, *, now: dt.datetime) -> Imported:
    """Decrypt, check every key, convert the good ones.

    Raises:
        VerificationFailedError: the passphrase is wrong or the file was changed; which of them, nobody can tell.
        CorruptError: what it decrypts to is no list of keys.
    """
    plaintext = _decrypted(backup, passphrase)
    findings = [Finding(Defect.EXPIRED)] if now > backup.expires_at else []
    if not hmac.compare_digest(hashlib.sha256(plaintext).hexdigest().encode(), backup.checksum.encode()):
        findings.append(Finding(Defect.WRONG_CHECKSUM))
    entries = _entries(plaintext, backup.what)
    if not entries:
        findings.append(Finding(Defect.NO_KEYS))
    if backup.key_count not in (None, len(entries)):
        findings.append(Finding(Defect.WRONG_COUNT))
    keys: dict[str, KeyFile] = {}
    made: list[dt.datetime] = []
    for entry in entries:
        converted = Finding(Defect.DUPLICATE, entry.label) if entry.label in keys else _converted(entry, backup.what)
        if isinstance(converted, Finding):
            findings.append(converted)
        else:
            keys[entry.label] = converted
            made.append(entry.created_at)
    return Imported(tuple(keys.values()), tuple(findings), tuple(made))


def check_share(data: bytes, passphrase: bytes | None, *, now: dt.datetime, what: str) -> tuple[Finding, ...]:
    """What is wrong with a recovery share; with its passphrase also what is in it.

    Every share that the daemon makes is as long as the backup itself, because it is the backup: without a passphrase
    that is not proven, so a share that can't be opened is a finding as well.
    """
    document = _object(data, _SHARE_MEMBERS, frozenset(), what)
    share = _bytes(document, "share", what)
    index = document["index"]
    if not isinstance(index, int) or isinstance(index, bool) or not 0 < index < 256:  # noqa: PLR2004 (a byte)
        raise broken(what, "its index is not 1 to 255")
    findings = [Finding(Defect.EXPIRED)] if now > _moment(document["expires_at"], "expires_at", what) else []
    if passphrase is None or len(share) <= SHARE_OVERHEAD_BYTES:
        return (*findings, Finding(Defect.BAD_SHARE))
    key = _derive(passphrase, share[:SALT_BYTES], Derivation(MIN_TIME, MIN_MEMORY_KIB, 4))
    try:
        opened = AESGCM(key).decrypt(
            share[SALT_BYTES : SALT_BYTES + NONCE_BYTES], share[SALT_BYTES + NONCE_BYTES :], None
        )
    except InvalidTag:
        return (*findings, Finding(Defect.BAD_SHARE))
    with contextlib.suppress(CorruptError):
        read_backup(bytes([opened[0] ^ index]) + opened[1:], what=what)
        return (*findings, Finding(Defect.WHOLE_IN_SHARE))
    return (*findings, Finding(Defect.BAD_SHARE))


@dataclass(frozen=True, slots=True)
class _Entry:
    label: str
    algorithm: str
    private_key: bytes = field(repr=False)
    public_key: bytes
    created_at: dt.datetime


def _converted(entry: _Entry, what: str) -> KeyFile | Finding:
    if not entry.private_key:
        return Finding(Defect.NO_PRIVATE_KEY, entry.label)
    try:
        key = load_private(entry.algorithm, entry.private_key, what=what)
    except CorruptError:
        return Finding(Defect.UNKNOWN_KEY, entry.label)
    if not public_agrees(key, entry.public_key):
        return Finding(Defect.MISMATCH, entry.label)
    return read_key_file("provider", f"keys/{entry.label}.pem", pem_of(key), what=what)


def _entries(plaintext: bytes, what: str) -> list[_Entry]:
    document = strict_object(plaintext, what=f"{what}, decrypted")
    listed = document.get("keys")
    if set(document) != {"keys", "timestamp", "source_fingerprint"} or not isinstance(listed, list | None):
        raise broken(what, "what it decrypts to is no list of keys")
    if len(listed or ()) > MAX_KEYS:
        raise broken(what, f"more than {MAX_KEYS} keys")
    return [_entry(value, what) for value in listed or ()]


def _entry(value: Json, what: str) -> _Entry:
    members = {"label", "algorithm", "private_key", "public_key", "created_at"}
    if not isinstance(value, dict) or not members <= set(value) <= members | {"metadata"}:
        raise broken(what, "one of its keys lacks a member, or has one more")
    label = _text(value["label"], "label", what)
    if not _LABEL.fullmatch(label):
        raise broken(what, "one of its keys has a label that is no file name")
    return _Entry(
        label=label,
        algorithm=_text(value["algorithm"], "algorithm", what),
        private_key=_bytes(value, "private_key", what),
        public_key=_bytes(value, "public_key", what),
        created_at=_moment(value["created_at"], "created_at", what),
    )


def _decrypted(backup: DaemonBackup, passphrase: bytes) -> bytes:
    key = _derive(passphrase, backup.salt, backup.derivation)
    try:
        return AESGCM(key).decrypt(backup.nonce, backup.ciphertext, None)
    except InvalidTag:
        raise VerificationFailedError(
            f"{backup.what}: the passphrase is wrong, or the file was changed",
            remedy="Check [custody] provider_passphrase; otherwise make the backup again on the provider's host.",
        ) from None


def _derive(passphrase: bytes, salt: bytes, cost: Derivation) -> bytes:
    try:
        return hash_secret_raw(
            secret=passphrase,
            salt=salt,
            time_cost=cost.time,
            memory_cost=cost.memory_kib,
            parallelism=cost.threads,
            hash_len=KEY_BYTES,
            type=Type.ID,
        )
    except HashingError as error:
        raise NoSpaceError(
            f"Argon2id needs {cost.memory_kib} KiB of memory", remedy="Run it where there is more memory."
        ) from error


def _derivation(value: Json, what: str) -> Derivation:
    members = {"algorithm", "time", "memory", "threads", "key_length"}
    if not isinstance(value, dict) or set(value) != members or value["algorithm"] != "argon2id":
        raise broken(what, "its key derivation is not argon2id")
    numbers = [value[member] for member in ("time", "memory", "threads", "key_length")]
    time, memory, threads, length = (n if isinstance(n, int) and not isinstance(n, bool) else -1 for n in numbers)
    if not (
        MIN_TIME <= time <= MAX_TIME
        and MIN_MEMORY_KIB <= memory <= MAX_MEMORY_KIB
        and 1 <= threads <= MAX_THREADS
        and length == KEY_BYTES
    ):
        raise broken(what, "its key derivation is outside of the limits")
    return Derivation(time, memory, threads)


def _key_count(metadata: Json, what: str) -> int | None:
    if metadata is None:
        return None
    count = metadata.get("key_count") if isinstance(metadata, dict) else None
    if not isinstance(count, int) or isinstance(count, bool):
        raise broken(what, "its metadata has no key_count")
    return count


def _object(data: bytes, members: frozenset[str], optional: frozenset[str], what: str) -> dict[str, Json]:
    if len(data) > MAX_FILE_BYTES:
        raise broken(what, f"{len(data)} bytes, more than {MAX_FILE_BYTES}")
    document = strict_object(data, what=what)
    if not members <= set(document) <= members | optional:
        raise broken(what, "not a file of the daemon's version 1: a member is missing or unknown")
    return document


def _bytes(document: dict[str, Json], member: str, what: str) -> bytes:
    """Go writes no bytes as null."""
    value = document[member]
    return b"" if value is None else decode_base64(value, what=what, member=member)


def _text(value: Json, member: str, what: str) -> str:
    if not isinstance(value, str):
        raise broken(what, f"member {member} is not text")
    return value


def _moment(value: Json, member: str, what: str) -> dt.datetime:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is not None:
            return dt.datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00")).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        pass  # said below
    raise broken(what, f"member {member} is not an RFC 3339 time")
