"""The envelope's layout: what stands where, and what is refused before any key is derived.

    magic and version | length | canonical JSON {core, slots} | HMAC-SHA256 | chunks

docs/formats/envelope.md has it byte for byte.

Guarantees: `parse_header` accepts exactly the bytes that `Header.to_json` writes, each number within its limits: a
forged header costs no more than the worst permitted key derivation for each of its slots.  Every refusal is an
`EnvelopeError` of constant text: no input, and so no secret, is ever in it.
Leaves out: whether any of it is true; until an envelope is opened its header is a claim (`envelope`).
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final, NoReturn, TypeAlias

from vedr.errors import CorruptError, InvalidInputError
from vedr.signature import Json, canonical_json

MAGIC: Final = b"vedrenv"
VERSION: Final = 1
PREAMBLE: Final = struct.Struct(">7sBI")  # magic, version, length of the JSON in bytes
MAC_BYTES: Final = 32
CIPHER: Final = "aes-256-gcm"
KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
ENVELOPE_ID_BYTES: Final = 16
SLOT_ID_BYTES: Final = 8
PUBLIC_KEY_BYTES: Final = 32
WRAPPED_KEY_BYTES: Final = KEY_BYTES + TAG_BYTES
HPKE_BYTES: Final = PUBLIC_KEY_BYTES + WRAPPED_KEY_BYTES  # encapsulated key, then ciphertext

MAX_HEADER_BYTES: Final = 64 * 1024  # a header of eight slots and rich metadata takes under 4 KiB
MAX_SLOTS: Final = 8  # each costs a reader up to one key derivation
MAX_REFERENCE_CHARS: Final = 512
MIN_CHUNK_BYTES: Final = 1024
MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024  # what a reader holds in memory
MAX_CHUNKS: Final = 2**20  # 1 TiB in chunks of 1 MiB

ARGON2_T: Final = range(3, 10 + 1)  # passes
ARGON2_M_KIB: Final = range(64 * 1024, 2 * 1024 * 1024 + 1)  # 64 MiB to 2 GiB
ARGON2_P: Final = range(1, 16 + 1)  # lanes

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_OTHER_COPY: Final = "Use another region's copy; the file is damaged or was altered."


class Refusal(StrEnum):
    """Why bytes are refused; the text is the whole message, so that nothing read can be in it."""

    EMPTY = "it is empty"
    BAD_MAGIC = "it does not begin as an envelope does"
    OTHER_VERSION = "it is of another version than 1"
    OVERSIZED_HEADER = "its header is longer than 64 KiB"
    TRUNCATED = "it ends before its header says"
    TRAILING = "bytes follow its last chunk"
    NOT_JSON = "its header is not JSON"
    DUPLICATE = "a member occurs twice in its header"
    NOT_CANONICAL = "its header is not in canonical form"
    UNKNOWN_FIELD = "its header lacks a field or has one that version 1 does not know"
    BAD_FIELD = "a field of its header is not of its type, length or range"
    OTHER_CIPHER = "its cipher is another than aes-256-gcm"
    BAD_COST = "its Argon2id parameters are out of range (t 3 to 10, m 64 MiB to 2 GiB, p 1 to 16)"
    BAD_CHUNKS = "its size or chunk size is out of range"
    BAD_SLOTS = "it has no slot, more than 8, or two of one id"
    ALTERED_HEADER = "its header was changed after it was sealed: a slot removed, added, moved or edited"
    ALTERED_CHUNK = "a chunk was changed, removed or moved after it was sealed"


class EnvelopeError(CorruptError):
    """These bytes are no envelope, or not as they were sealed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"envelope: {refusal.value}", remedy=_OTHER_COPY)
        self.refusal: Final = refusal


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id parameters: passes, memory in KiB, lanes."""

    t: int
    m_kib: int
    p: int

    @property
    def in_range(self) -> bool:
        return self.t in ARGON2_T and self.m_kib in ARGON2_M_KIB and self.p in ARGON2_P


RFC_9106_SECOND: Final = Cost(t=3, m_kib=64 * 1024, p=4)  # RFC 9106 section 4, second recommended option


@dataclass(frozen=True, slots=True)
class PassphraseSlot:
    """The data key under a passphrase; `reference` names where the passphrase is kept, never what it is."""

    slot_id: str
    reference: str | None
    cost: Cost
    salt: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    sealed: bytes = field(repr=False, default=b"")

    def bound(self) -> dict[str, Json]:
        """All but the sealed key: what it is bound to, with the core."""
        return {
            "id": self.slot_id,
            "kind": "passphrase",
            "m_kib": self.cost.m_kib,
            "nonce": self.nonce.hex(),
            "p": self.cost.p,
            "reference": self.reference,
            "salt": self.salt.hex(),
            "t": self.cost.t,
        }


@dataclass(frozen=True, slots=True)
class RecoverySlot:
    """The data key under a public key (HPKE: X25519, HKDF-SHA256, AES-256-GCM)."""

    slot_id: str
    public_key: bytes
    sealed: bytes = field(repr=False, default=b"")

    def bound(self) -> dict[str, Json]:
        """All but the sealed key: what it is bound to, with the core."""
        return {"id": self.slot_id, "kind": "recovery", "public_key": self.public_key.hex()}


Slot: TypeAlias = PassphraseSlot | RecoverySlot


@dataclass(frozen=True, slots=True)
class Core:
    """What never changes after sealing.  `meta` is the caller's, who checks it."""

    envelope_id: str
    created: datetime
    size: int
    chunk_bytes: int
    meta: Mapping[str, Json]

    def payload(self) -> dict[str, Json]:
        return {
            "chunk_bytes": self.chunk_bytes,
            "cipher": CIPHER,
            "created": self.created.strftime(_TIME),
            "id": self.envelope_id,
            "meta": dict(self.meta),
            "size": self.size,
        }

    @property
    def digest(self) -> bytes:
        """SHA-256 of the core's canonical form: what every chunk is bound to."""
        return sha256(canonical_json(self.payload())).digest()

    @property
    def chunks(self) -> int:
        """At least one: an empty payload is one empty chunk, so that its end is authentic as well."""
        return max(1, math.ceil(self.size / self.chunk_bytes))

    @property
    def sealed_bytes(self) -> int:
        return self.size + self.chunks * TAG_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """Core and slots, in their order."""

    core: Core
    slots: tuple[Slot, ...]

    def to_json(self) -> bytes:
        slots: list[Json] = [{**slot.bound(), "sealed": slot.sealed.hex()} for slot in self.slots]
        return canonical_json({"core": self.core.payload(), "slots": slots})


def parse_preamble(preamble: bytes) -> int:
    """The length of the JSON that follows, in bytes, from the first 12 bytes (or fewer, where there are no more)."""
    if not preamble:
        raise EnvelopeError(Refusal.EMPTY)
    if preamble[: len(MAGIC)] != MAGIC[: len(preamble)]:
        raise EnvelopeError(Refusal.BAD_MAGIC)
    if len(preamble) > len(MAGIC) and preamble[len(MAGIC)] != VERSION:
        raise EnvelopeError(Refusal.OTHER_VERSION)
    if len(preamble) < PREAMBLE.size:
        raise EnvelopeError(Refusal.TRUNCATED)
    length: int = PREAMBLE.unpack(preamble)[2]
    if length > MAX_HEADER_BYTES:
        raise EnvelopeError(Refusal.OVERSIZED_HEADER)
    return length


def parse_header(data: bytes) -> Header:
    """Strict: canonical form, every field known and within its limits."""
    try:
        document = json.loads(data, object_pairs_hook=_no_duplicates, parse_float=_not_whole, parse_constant=_not_whole)
        canonical = canonical_json(document) == data
    except (ValueError, RecursionError):
        raise EnvelopeError(Refusal.NOT_JSON) from None
    if not canonical:
        raise EnvelopeError(Refusal.NOT_CANONICAL)
    members = _members(document, {"core", "slots"})
    core = _core(members["core"])
    slots = members["slots"]
    if not isinstance(slots, list) or not 1 <= len(slots) <= MAX_SLOTS:
        raise EnvelopeError(Refusal.BAD_SLOTS)
    parsed = tuple(_slot(slot) for slot in slots)
    if len({slot.slot_id for slot in parsed}) != len(parsed):
        raise EnvelopeError(Refusal.BAD_SLOTS)
    return Header(core, parsed)


def plain_meta(meta: Mapping[str, Json]) -> dict[str, Json]:
    """A copy in the form that a reader would give.  InvalidInputError where that is not what was meant."""
    try:
        copy: dict[str, Json] = json.loads(canonical_json(dict(meta)))
        fits = copy == meta and _is_json(copy)
    except (TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise InvalidInputError(
            "the metadata are not plain JSON without floats", remedy="Give text, whole numbers, lists and objects."
        ) from None
    return copy


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return not isinstance(value, float)


def _core(value: Json) -> Core:
    members = _members(value, {"chunk_bytes", "cipher", "created", "id", "meta", "size"})
    meta = members["meta"]
    if members["cipher"] != CIPHER:
        raise EnvelopeError(Refusal.OTHER_CIPHER)
    if not isinstance(meta, dict):
        raise EnvelopeError(Refusal.BAD_FIELD)
    chunk_bytes = _whole(members["chunk_bytes"], range(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES + 1), Refusal.BAD_CHUNKS)
    size = _whole(members["size"], range(MAX_CHUNKS * chunk_bytes + 1), Refusal.BAD_CHUNKS)
    return Core(
        envelope_id=_hex(members["id"], ENVELOPE_ID_BYTES).hex(),
        created=_time(members["created"]),
        size=size,
        chunk_bytes=chunk_bytes,
        meta=meta,
    )


def _slot(value: Json) -> Slot:
    kind = value.get("kind") if isinstance(value, dict) else None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise EnvelopeError(Refusal.UNKNOWN_FIELD)
    return reader(value)


def _passphrase_slot(value: Json) -> PassphraseSlot:
    names = {"id", "kind", "m_kib", "nonce", "p", "reference", "salt", "sealed", "t"}
    members = _members(value, names)
    return PassphraseSlot(
        slot_id=_hex(members["id"], SLOT_ID_BYTES).hex(),
        reference=_reference(members["reference"]),
        cost=Cost(
            t=_whole(members["t"], ARGON2_T, Refusal.BAD_COST),
            m_kib=_whole(members["m_kib"], ARGON2_M_KIB, Refusal.BAD_COST),
            p=_whole(members["p"], ARGON2_P, Refusal.BAD_COST),
        ),
        salt=_hex(members["salt"], SALT_BYTES),
        nonce=_hex(members["nonce"], NONCE_BYTES),
        sealed=_hex(members["sealed"], WRAPPED_KEY_BYTES),
    )


def _recovery_slot(value: Json) -> RecoverySlot:
    members = _members(value, {"id", "kind", "public_key", "sealed"})
    return RecoverySlot(
        slot_id=_hex(members["id"], SLOT_ID_BYTES).hex(),
        public_key=_hex(members["public_key"], PUBLIC_KEY_BYTES),
        sealed=_hex(members["sealed"], HPKE_BYTES),
    )


_READERS: Final[Mapping[str, Callable[[Json], Slot]]] = {"passphrase": _passphrase_slot, "recovery": _recovery_slot}


def _members(value: Json, names: set[str]) -> dict[str, Json]:
    if not isinstance(value, dict) or set(value) != names:
        raise EnvelopeError(Refusal.UNKNOWN_FIELD)
    return value


def _whole(value: Json, allowed: range, refusal: Refusal) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raise EnvelopeError(refusal)
    return value


def _hex(value: Json, size_bytes: int) -> bytes:
    """Lower-case, of exactly this many bytes: one value has one spelling."""
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raise EnvelopeError(Refusal.BAD_FIELD) from None
    if len(raw) != size_bytes or raw.hex() != value:
        raise EnvelopeError(Refusal.BAD_FIELD)
    return raw


def _reference(value: Json) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_REFERENCE_CHARS or not value.isprintable():
        raise EnvelopeError(Refusal.BAD_FIELD)
    return value


def _time(value: Json) -> datetime:
    try:
        moment = datetime.strptime(value, _TIME).replace(tzinfo=UTC) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.strftime(_TIME) != value:
        raise EnvelopeError(Refusal.BAD_FIELD)
    return moment


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise EnvelopeError(Refusal.DUPLICATE)
    return result


def _not_whole(_text: str) -> NoReturn:
    raise EnvelopeError(Refusal.NOT_JSON)  # floats: their text differs between writers
