"""The envelope: a payload under a fresh data key, and the data key under each secret that may open it.

    sealed = seal(payload, slots=[PassphraseSeal(...), RecoverySeal(...)], meta={...}, created=now)
    opened = open_sealed(sealed, PassphraseOpener(...))

Guarantees: a payload is given out only after every byte of the envelope was verified; limits are checked before a key
is derived; re-wrapping changes who can open it and leaves core and payload as they are, byte for byte.
Leaves out: files (`envelope_files`), what `meta` means, and hiding the payload's size or the metadata.

Format: docs/formats/envelope.md.  `break_glass` is a second reader that shares no code with this one.
"""

import hmac
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vedr.custody.envelope_format import (
    ENVELOPE_ID_BYTES,
    KEY_BYTES,
    MAC_BYTES,
    MAGIC,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MIN_CHUNK_BYTES,
    PREAMBLE,
    TAG_BYTES,
    VERSION,
    Core,
    EnvelopeError,
    Header,
    Refusal,
    parse_header,
    parse_preamble,
    plain_meta,
)
from vedr.custody.envelope_slots import Entropy, Opener, Seal, unwrap_key, wrap_key
from vedr.errors import ConflictError, InvalidInputError
from vedr.signature import Json

CHUNK_BYTES: Final = 1024 * 1024
KEYS_CONTEXT: Final = b"vedr envelope v1 keys"
PREFIX_BYTES: Final = 7  # of a chunk's nonce; then a counter of 4 and the last flag of 1


@dataclass(frozen=True, slots=True)
class Opened:
    """A whole, verified envelope."""

    header: Header
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the data key expands to."""

    payload: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    prefix: bytes = field(repr=False)


def seal(
    payload: bytes,
    *,
    slots: Sequence[Seal],
    meta: Mapping[str, Json],
    created: datetime,
    entropy: Entropy = secrets.token_bytes,
    chunk_bytes: int = CHUNK_BYTES,
) -> bytes:
    """The envelope's bytes.

    Args:
        payload: What to keep.
        slots: Who may open it, 1 to 8.
        meta: In clear, bound to the payload: no floats, no secrets.
        created: Time of sealing, zone given; seconds are kept.
        entropy: Source of randomness (HPKE draws its own ephemeral key).
        chunk_bytes: 1 KiB to 4 MiB.

    Raises:
        InvalidInputError: a slot, the metadata or the chunk size is out of its limits.
    """
    target = BytesIO()
    seal_stream(
        BytesIO(payload),
        target,
        size=len(payload),
        slots=slots,
        meta=meta,
        created=created,
        entropy=entropy,
        chunk_bytes=chunk_bytes,
    )
    return target.getvalue()


def open_sealed(data: bytes, opener: Opener) -> Opened:
    """Payload and header, all of it verified.

    Raises:
        EnvelopeError: not an envelope, or not as it was sealed.
        WrongSecretError: no slot opens with this secret.
        NoSpaceError: a slot asks for more memory than this machine has.
    """
    target = BytesIO()
    header = open_stream(BytesIO(data), target, opener, whole_bytes=len(data))
    return Opened(header, target.getvalue())


def inspect(data: bytes) -> Header:
    """What the header claims; only opening proves it.  EnvelopeError when it is no envelope or not of its length."""
    return read_header(BytesIO(data), whole_bytes=len(data))[0]


def rewrap(
    data: bytes,
    opener: Opener,
    *,
    add: Sequence[Seal] = (),
    keep: Collection[str] = (),
    entropy: Entropy = secrets.token_bytes,
) -> bytes:
    """The same core and payload under other slots; as `rewrap_stream`."""
    target = BytesIO()
    rewrap_stream(BytesIO(data), target, opener, whole_bytes=len(data), add=add, keep=keep, entropy=entropy)
    return target.getvalue()


def seal_stream(
    source: BinaryIO,
    target: BinaryIO,
    *,
    size: int,
    slots: Sequence[Seal],
    meta: Mapping[str, Json],
    created: datetime,
    entropy: Entropy,
    chunk_bytes: int,
) -> Header:
    """`seal` from a stream of exactly `size` bytes.  ConflictError when it gives fewer or more."""
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or size > MAX_CHUNKS * chunk_bytes:
        raise InvalidInputError(
            f"{size} bytes in chunks of {chunk_bytes} are out of range",
            remedy=f"Take chunks of {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES} bytes, at most {MAX_CHUNKS} of them.",
        )
    if created.tzinfo is None:
        raise InvalidInputError("the time of sealing has no zone", remedy="Give it in UTC.")
    core = Core(
        envelope_id=entropy(ENVELOPE_ID_BYTES).hex(),
        created=created.astimezone(UTC).replace(microsecond=0),
        size=size,
        chunk_bytes=chunk_bytes,
        meta=plain_meta(meta),
    )
    data_key = entropy(KEY_BYTES)
    header = Header(core, wrap_key(data_key, slots, core, entropy))
    keys = _expand(data_key, core)
    _write_header(target, header, keys)
    cipher, digest = AESGCM(keys.payload), header.core.digest
    for nonce, length in _chunks(core, keys):
        chunk = source.read(length)
        if len(chunk) != length:
            raise _changed()
        target.write(cipher.encrypt(nonce, chunk, digest))
    if source.read(1):
        raise _changed()
    return header


def open_stream(source: BinaryIO, target: BinaryIO, opener: Opener, *, whole_bytes: int) -> Header:
    """Decrypt into `target`, which holds nothing to be trusted until this returns; errors as `open_sealed`."""
    header, raw, mac = read_header(source, whole_bytes=whole_bytes)
    keys = _proven(header, raw, mac, opener)
    cipher, digest = AESGCM(keys.payload), header.core.digest
    for nonce, length in _chunks(header.core, keys):
        try:
            target.write(cipher.decrypt(nonce, source.read(length + TAG_BYTES), digest))
        except InvalidTag:
            raise EnvelopeError(Refusal.ALTERED_CHUNK) from None
    return header


def rewrap_stream(
    source: BinaryIO,
    target: BinaryIO,
    opener: Opener,
    *,
    whole_bytes: int,
    add: Sequence[Seal],
    keep: Collection[str],
    entropy: Entropy,
) -> Header:
    """Copy with other slots; the payload is copied unread, so open the copy before the original goes.

    Args:
        source: An envelope of `whole_bytes`.
        target: Where the copy goes.
        opener: Opens the envelope as it is.
        whole_bytes: The source's length.
        add: New slots, after those kept.
        keep: Ids of present slots that stay as they are; all others go.
        entropy: Source of randomness.

    Raises:
        InvalidInputError: an id is not there, or no slot would be left.
        EnvelopeError, WrongSecretError, NoSpaceError: as `open_sealed`, but for chunks.
    """
    header, raw, mac = read_header(source, whole_bytes=whole_bytes)
    kept = tuple(slot for slot in header.slots if slot.slot_id in set(keep))
    if len(kept) != len(set(keep)):
        raise InvalidInputError("a slot to keep is not in the envelope", remedy="Inspect it: its slots have ids.")
    data_key = unwrap_key(header.slots, opener, header.core)
    keys = _proven_key(data_key, header, raw, mac)
    rewrapped = Header(header.core, kept + wrap_key(data_key, add, header.core, entropy))
    _write_header(target, rewrapped, keys)
    for _, length in _chunks(header.core, keys):
        chunk = source.read(length + TAG_BYTES)
        if len(chunk) != length + TAG_BYTES:
            raise EnvelopeError(Refusal.TRUNCATED)
        target.write(chunk)
    return rewrapped


def read_header(source: BinaryIO, *, whole_bytes: int) -> tuple[Header, bytes, bytes]:
    """Header, the bytes that its MAC covers, the MAC; the stream then stands at the first chunk."""
    preamble = source.read(PREAMBLE.size)
    length = parse_preamble(preamble)
    document = source.read(length)
    mac = source.read(MAC_BYTES)
    if len(document) < length or len(mac) < MAC_BYTES:
        raise EnvelopeError(Refusal.TRUNCATED)
    header = parse_header(document)
    expected = PREAMBLE.size + length + MAC_BYTES + header.core.sealed_bytes
    if whole_bytes != expected:
        raise EnvelopeError(Refusal.TRUNCATED if whole_bytes < expected else Refusal.TRAILING)
    return header, preamble + document, mac


def _proven(header: Header, raw: bytes, mac: bytes, opener: Opener) -> _Keys:
    return _proven_key(unwrap_key(header.slots, opener, header.core), header, raw, mac)


def _proven_key(data_key: bytes, header: Header, raw: bytes, mac: bytes) -> _Keys:
    """The MAC commits to the data key and to every slot, also those that were not opened."""
    keys = _expand(data_key, header.core)
    if not hmac.compare_digest(hmac.digest(keys.mac, raw, "sha256"), mac):
        raise EnvelopeError(Refusal.ALTERED_HEADER)
    return keys


def _expand(data_key: bytes, core: Core) -> _Keys:
    length = 2 * KEY_BYTES + PREFIX_BYTES
    raw = HKDF(algorithm=SHA256(), length=length, salt=bytes.fromhex(core.envelope_id), info=KEYS_CONTEXT).derive(
        data_key
    )
    return _Keys(payload=raw[:KEY_BYTES], mac=raw[KEY_BYTES : 2 * KEY_BYTES], prefix=raw[2 * KEY_BYTES :])


def _chunks(core: Core, keys: _Keys) -> Iterator[tuple[bytes, int]]:
    """Nonce and length of plaintext of each chunk; the flag on the last makes a cut at a chunk's edge fail."""
    for index in range(core.chunks):
        last = index == core.chunks - 1
        length = core.size - index * core.chunk_bytes if last else core.chunk_bytes
        yield keys.prefix + index.to_bytes(4, "big") + bytes([last]), length


def _write_header(target: BinaryIO, header: Header, keys: _Keys) -> None:
    document = header.to_json()
    try:
        parse_preamble(PREAMBLE.pack(MAGIC, VERSION, len(document)))
        parse_header(document)
    except EnvelopeError as error:  # a writer must not write what its reader refuses
        raise InvalidInputError(
            f"such an envelope would be refused: {error.refusal.value}",
            remedy="Change its slots, references or metadata.",
        ) from None
    raw = PREAMBLE.pack(MAGIC, VERSION, len(document)) + document
    target.write(raw + hmac.digest(keys.mac, raw, "sha256"))


def _changed() -> ConflictError:
    return ConflictError("the payload changed while it was sealed", remedy="Seal a copy that nothing writes to.")
