"""Stored objects: content to bytes and back (docs/formats/object.md).

A stored object is a 12-byte header, then the content compressed with zstd (or as it is where that does not pay), then
encrypted with AES-256-GCM where the site says so.

Large content is moved through memory that is used again: on a virtual machine the first touch of fresh pages costs more
than encrypting what goes there.

Guarantees: `open_object` returns content only when it hashes to the name it was asked for, whatever the bytes were.
A nonce is never used for two different messages, not even by a machine whose random numbers repeat for other content.
Leaves out: hiding sizes and the number of objects.
"""

import hashlib
import hmac
import mmap
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vedr.backup.layout import ObjectName
from vedr.errors import CorruptError, InvalidInputError

MAGIC: Final = b"vedr"
VERSION: Final = 1
COMPRESSED: Final = 0x01
ENCRYPTED: Final = 0x02
HEADER: Final = struct.Struct(">4sBBHI")  # magic, version, flags, reserved 0, length of the content in bytes
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
PART_BYTES: Final = 16 * 1024 * 1024
MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024  # what a header may claim: bounds the memory that a forged one can take
MAX_STORED_BYTES: Final = HEADER.size + NONCE_BYTES + TAG_BYTES + MAX_CONTENT_BYTES
NONCE_SALT_BYTES: Final = 32
PARAMETERS: Final = zstandard.ZstdCompressionParameters(
    window_log=19, chain_log=15, hash_log=15, search_log=1, min_match=7, target_length=10,
    strategy=zstandard.STRATEGY_FAST, write_content_size=True, write_checksum=False,
)  # fmt: skip
"""Tables are dense: keys and offsets repeat, the rest does not.  Long matches found in a table of 128 KiB, which stays
in the CPU's own cache, gave twice the speed of level -1 at a better ratio (docs/decisions/sealing-cost.md)."""
PAGED_FROM_BYTES: Final = 64 * 1024
SAMPLE_BYTES: Final = 64 * 1024
WORTH_IT: Final = 0.97  # store as it is unless this much smaller: restoring is then a plain copy

EncryptionMode = Literal["none", "aes-256-gcm"]

Room = Callable[[int], memoryview]
"""Gives a place for that many bytes, which the result then stands in."""


def fresh_room(length_bytes: int) -> memoryview:
    """A large one begins at a page and takes memory only as far as it is used, which a bytearray does not."""
    if length_bytes < PAGED_FROM_BYTES:
        return memoryview(bytearray(length_bytes))
    return memoryview(mmap.mmap(-1, length_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


@dataclass(frozen=True, slots=True)
class _Keys:
    message: bytes = field(repr=False)
    name: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    id: bytes
    """Tells keys apart, and nothing about them."""


class Codec:
    """Names, seals and opens objects.  Safe to use from many threads; each keeps its own zstd contexts."""

    def __init__(self, key: bytes | None = None) -> None:
        """With the site's 32-byte key, encrypting; without, not."""
        if key is not None and len(key) != KEY_BYTES:
            raise InvalidInputError(
                f"the encryption key has {len(key)} bytes, not {KEY_BYTES}", remedy="Make one: openssl rand -hex 32."
            )
        self._keys = (
            None if key is None else _Keys(*(_derive(key, purpose) for purpose in ("message", "name", "nonce", "id")))
        )
        self._cipher = None if self._keys is None else AESGCM(self._keys.message)
        self._contexts = threading.local()

    @property
    def encryption(self) -> EncryptionMode:
        return "none" if self._keys is None else "aes-256-gcm"

    @property
    def key_id(self) -> str | None:
        """Which key this is, for manifests to say: what another key sealed can't be opened.  None without one."""
        return None if self._keys is None else self._keys.id[:KEY_ID_BYTES].hex()

    def name(self, digest: bytes) -> ObjectName:
        """The name of content with this SHA-256; keyed where encrypted, so that names confirm nothing to a reader."""
        if self._keys is None:
            return ObjectName(digest.hex())
        return ObjectName(hmac.digest(self._keys.name, digest, "sha256").hex())

    def seal(self, name: ObjectName, content: bytes | memoryview, room: Room = fresh_room) -> memoryview:
        """The bytes to store under `name`, which must be this content's."""
        body = self._compressed(content)
        flags = COMPRESSED if body is not None else 0
        message: bytes | memoryview = content if body is None else body
        if self._keys is None or self._cipher is None:
            sealed = room(HEADER.size + len(message))
            HEADER.pack_into(sealed, 0, MAGIC, VERSION, flags, 0, len(content))
            sealed[HEADER.size :] = message
            return sealed
        header = HEADER.pack(MAGIC, VERSION, flags | ENCRYPTED, 0, len(content))
        raw_name = bytes.fromhex(name)
        salt = os.urandom(NONCE_SALT_BYTES)
        nonce = hmac.digest(self._keys.nonce, raw_name + header + salt, "sha256")[:NONCE_BYTES]
        begins = HEADER.size + NONCE_BYTES
        sealed = room(begins + len(message) + TAG_BYTES)
        sealed[:begins] = header + nonce
        self._cipher.encrypt_into(nonce, message, header + raw_name, sealed[begins:])
        return sealed

    def open_object(self, name: ObjectName, stored: bytes | memoryview, room: Room = fresh_room) -> bytes | memoryview:
        """The content that `name` promises; it may stand in `stored`, or in what `room` gave when it was asked last.

        Raises:
            CorruptError: these bytes are not that.
        """
        content = self._content(name, memoryview(stored), room)
        if self.name(hashlib.sha256(content).digest()) != name:
            raise _corrupt(name, "its content has another hash")
        return content

    def _content(self, name: ObjectName, stored: memoryview, room: Room) -> bytes | memoryview:
        if len(stored) < HEADER.size:
            raise _corrupt(name, f"only {len(stored)} bytes")
        magic, version, flags, reserved, length = HEADER.unpack_from(stored)
        if magic != MAGIC or version != VERSION or reserved or flags & ~(COMPRESSED | ENCRYPTED):
            raise _corrupt(name, "its header is not of version 1")
        if length > MAX_CONTENT_BYTES:
            raise _corrupt(name, f"it claims {length} bytes of content")
        if bool(flags & ENCRYPTED) != (self._keys is not None):
            raise _corrupt(name, "encrypted or not, against the site's setting")
        if flags & ENCRYPTED:
            body: bytes | memoryview = self._decrypted(name, stored, room)
        else:
            body = stored[HEADER.size :]
        if flags & COMPRESSED:
            body = self._decompressed(name, body, length, room)
        if len(body) != length:
            raise _corrupt(name, f"{len(body)} bytes of content against {length} in its header")
        return body

    def _decrypted(self, name: ObjectName, stored: memoryview, room: Room) -> memoryview:
        assert self._cipher is not None  # noqa: S101 (the caller compared the flag with our keys)
        header, message = bytes(stored[: HEADER.size]), stored[HEADER.size :]
        length = len(message) - NONCE_BYTES - TAG_BYTES
        if length < 0:
            raise _corrupt(name, "too short for its encryption")
        nonce, sealed = bytes(message[:NONCE_BYTES]), message[NONCE_BYTES:]
        body = room(length)
        try:
            self._cipher.decrypt_into(nonce, sealed, header + bytes.fromhex(name), body)
        except InvalidTag as error:
            raise _corrupt(name, "it does not decrypt under the site's key") from error
        return body

    def _decompressed(self, name: ObjectName, body: bytes | memoryview, length: int, room: Room) -> bytes | memoryview:
        try:
            if zstandard.frame_content_size(body) != length:  # what decompress() would allocate unseen
                raise _corrupt(name, f"its frame does not hold the {length} bytes that its header says")
            if self._keys is None:  # bytes after the frame: only this call sees them, and nothing authenticates them
                return self._decompressor.decompress(body, max_output_size=length, allow_extra_data=False)
            return _read_frame(self._decompressor, body, room(length))
        except zstandard.ZstdError as error:
            raise _corrupt(name, "it does not decompress") from error

    def _compressed(self, content: bytes | memoryview) -> bytes | None:
        """None where it does not pay; dense content is recognised by a sample before much is spent on it."""
        view = memoryview(content)
        if len(view) > 8 * SAMPLE_BYTES:
            middle = len(view) // 2
            sample = view[middle : middle + SAMPLE_BYTES]
            if len(self._compressor.compress(sample)) > WORTH_IT * SAMPLE_BYTES:
                first = view[:SAMPLE_BYTES]
                if len(self._compressor.compress(first)) > WORTH_IT * SAMPLE_BYTES:
                    return None
        body = self._compressor.compress(view)
        return body if len(body) < WORTH_IT * len(view) else None

    @property
    def _compressor(self) -> zstandard.ZstdCompressor:
        context: zstandard.ZstdCompressor | None = getattr(self._contexts, "compressor", None)
        if context is None:
            context = zstandard.ZstdCompressor(compression_params=PARAMETERS)
            self._contexts.compressor = context
        return context

    @property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        context: zstandard.ZstdDecompressor | None = getattr(self._contexts, "decompressor", None)
        if context is None:
            context = zstandard.ZstdDecompressor()
            self._contexts.decompressor = context
        return context


def _read_frame(context: zstandard.ZstdDecompressor, frame: bytes | memoryview, into: memoryview) -> memoryview:
    """The part of `into` that the frame filled; in one pass, as zstd sees room for all of it."""
    filled = 0
    with context.stream_reader(frame) as reader:
        while filled < len(into) and (got := reader.readinto(into[filled:])):
            filled += got
    return into[:filled]


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"vedr object {purpose} v1".encode()).derive(key)


def _corrupt(name: ObjectName, why: str) -> CorruptError:
    return CorruptError(f"object {name[:16]}…: {why}", remedy="Use another region's copy.")
