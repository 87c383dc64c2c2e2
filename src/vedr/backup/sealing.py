"""Stored objects: content to bytes and back (docs/formats/object.md).

A stored object is a 12-byte header, then the content compressed with zstd (or as it is where that does not pay), then
encrypted with AES-256-GCM where the site says so.

Guarantees: `open_object` returns content only when it hashes to the name it was asked for, whatever the bytes were.
Equal content sealed by equal software gives equal bytes.  A nonce is never used for two different messages: it is
derived from the message itself, not from the content, which another zstd might compress differently.
Leaves out: hiding sizes and the number of objects.
"""

import hashlib
import hmac
import struct
import threading
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
PART_BYTES: Final = 16 * 1024 * 1024
MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024  # what a header may claim: bounds the memory that a forged one can take
LEVEL: Final = -1  # 408 MiB/s on two cores at a ratio of 1.21; level 3: 135 MiB/s at 1.25 (LSM tables are dense)
SAMPLE_BYTES: Final = 64 * 1024
WORTH_IT: Final = 0.97  # store as it is unless this much smaller: restoring is then a plain copy

EncryptionMode = Literal["none", "aes-256-gcm"]


@dataclass(frozen=True, slots=True)
class _Keys:
    message: bytes = field(repr=False)
    name: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


class Codec:
    """Names, seals and opens objects.  Safe to use from many threads; each keeps its own zstd contexts."""

    def __init__(self, key: bytes | None = None) -> None:
        """With the site's 32-byte key, encrypting; without, not."""
        if key is not None and len(key) != KEY_BYTES:
            raise InvalidInputError(
                f"the encryption key has {len(key)} bytes, not {KEY_BYTES}", remedy="Make one: openssl rand -hex 32."
            )
        self._keys = (
            None if key is None else _Keys(*(_derive(key, purpose) for purpose in ("message", "name", "nonce")))
        )
        self._cipher = None if self._keys is None else AESGCM(self._keys.message)
        self._contexts = threading.local()

    @property
    def encryption(self) -> EncryptionMode:
        return "none" if self._keys is None else "aes-256-gcm"

    def name(self, digest: bytes) -> ObjectName:
        """The name of content with this SHA-256; keyed where encrypted, so that names confirm nothing to a reader."""
        if self._keys is None:
            return ObjectName(digest.hex())
        return ObjectName(hmac.digest(self._keys.name, digest, "sha256").hex())

    def seal(self, name: ObjectName, content: bytes | memoryview) -> bytes:
        """The bytes to store under `name`, which must be this content's."""
        body = self._compressed(content)
        flags = COMPRESSED if body is not None else 0
        message: bytes | memoryview = content if body is None else body
        if self._keys is None or self._cipher is None:
            return b"".join((HEADER.pack(MAGIC, VERSION, flags, 0, len(content)), message))
        header = HEADER.pack(MAGIC, VERSION, flags | ENCRYPTED, 0, len(content))
        digest = hashlib.sha256(header)
        digest.update(message)
        nonce = hmac.digest(self._keys.nonce, digest.digest(), "sha256")[:NONCE_BYTES]
        return b"".join((header, nonce, self._cipher.encrypt(nonce, message, header + bytes.fromhex(name))))

    def open_object(self, name: ObjectName, stored: bytes) -> bytes | memoryview:
        """The content that `name` promises.

        Raises:
            CorruptError: these bytes are not that.
        """
        content = self._content(name, stored)
        if self.name(hashlib.sha256(content).digest()) != name:
            raise _corrupt(name, "its content has another hash")
        return content

    def _content(self, name: ObjectName, stored: bytes) -> bytes | memoryview:
        if len(stored) < HEADER.size:
            raise _corrupt(name, f"only {len(stored)} bytes")
        magic, version, flags, reserved, length = HEADER.unpack_from(stored)
        if magic != MAGIC or version != VERSION or reserved or flags & ~(COMPRESSED | ENCRYPTED):
            raise _corrupt(name, "its header is not of version 1")
        if length > MAX_CONTENT_BYTES:
            raise _corrupt(name, f"it claims {length} bytes of content")
        if bool(flags & ENCRYPTED) != (self._keys is not None):
            raise _corrupt(name, "encrypted or not, against the site's setting")
        message = memoryview(stored)[HEADER.size :]
        body: bytes | memoryview = (
            self._decrypted(name, stored[: HEADER.size], message) if flags & ENCRYPTED else message
        )
        if flags & COMPRESSED:
            body = self._decompressed(name, body, length)
        if len(body) != length:
            raise _corrupt(name, f"{len(body)} bytes of content against {length} in its header")
        return body

    def _decrypted(self, name: ObjectName, header: bytes, message: memoryview) -> bytes:
        assert self._cipher is not None  # noqa: S101 (the caller compared the flag with our keys)
        if len(message) < NONCE_BYTES + TAG_BYTES:
            raise _corrupt(name, "too short for its encryption")
        try:
            return self._cipher.decrypt(
                bytes(message[:NONCE_BYTES]), message[NONCE_BYTES:], header + bytes.fromhex(name)
            )
        except InvalidTag as error:
            raise _corrupt(name, "it does not decrypt under the site's key") from error

    def _decompressed(self, name: ObjectName, body: bytes | memoryview, length: int) -> bytes:
        try:
            if zstandard.frame_content_size(body) != length:  # what decompress() would allocate unseen
                raise _corrupt(name, f"its frame does not hold the {length} bytes that its header says")
            return self._decompressor.decompress(body, max_output_size=length, allow_extra_data=False)
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
            context = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True)
            self._contexts.compressor = context
        return context

    @property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        context: zstandard.ZstdDecompressor | None = getattr(self._contexts, "decompressor", None)
        if context is None:
            context = zstandard.ZstdDecompressor()
            self._contexts.decompressor = context
        return context


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"vedr object {purpose} v1".encode()).derive(key)


def _corrupt(name: ObjectName, why: str) -> CorruptError:
    return CorruptError(f"object {name[:16]}…: {why}", remedy="Use another region's copy, then heal this region.")
