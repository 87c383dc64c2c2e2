"""`vedr.ports.SigningKey` from CometBFT's `priv_validator_key.json`.

Guarantees: the file is its owner's alone, and private key, public key and address agree, or nothing is opened; no error
and no representation shows any of the private key.
Leaves out: what may be signed (vedr.signer), and wiping memory, which Python can't promise.

Format: cometbft v0.38 privval/file.go (FilePVKey); Ed25519 only.
"""

import base64
import binascii
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.errors import CorruptError, NotFoundError, RefusedError, VerificationFailedError

MAX_BYTES: Final = 16 * 1024  # CometBFT writes under 400
SEED_BYTES: Final = 32
PRIVATE_BYTES: Final = 64  # the seed, then the public key
ADDRESS_BYTES: Final = 20
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PUBLIC_TYPE: Final = "tendermint/PubKeyEd25519"
_PRIVATE_TYPE: Final = "tendermint/PrivKeyEd25519"
_RESTORE: Final = "Restore the key from its backup: vedr keys restore.  A node without the file makes a new key."


class FileKey:
    """The key of such a file, read once; the file may go afterwards."""

    __slots__ = ("_key", "_public")

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            NotFoundError: no such file, or it can't be read.
            RefusedError: others than its owner may use it.
            CorruptError: not such a file.
            VerificationFailedError: private key, public key and address are not of one key.
        """
        self._key = parse_key_file(_read(path), what=str(path))
        self._public: Final = self._key.public_key().public_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(message)


def parse_key_file(data: bytes, *, what: str) -> Ed25519PrivateKey:
    """Strict: every member known, none twice; the errors as `FileKey` says."""
    if len(data) > MAX_BYTES:
        raise _corrupt(what)
    try:
        document = json.loads(data, object_pairs_hook=_no_duplicates)
        address, public_part, private_part = _members(document, "address", "pub_key", "priv_key")
        public = _key_bytes(public_part, _PUBLIC_TYPE)
        private = _key_bytes(private_part, _PRIVATE_TYPE)
        if len(private) != PRIVATE_BYTES or not isinstance(address, str):
            raise ValueError  # noqa: TRY301 (one place says what a broken file is)
    except (ValueError, RecursionError):  # never chained: the decoder's error carries the input
        raise _corrupt(what) from None
    key = Ed25519PrivateKey.from_private_bytes(private[:SEED_BYTES])
    derived = key.public_key().public_bytes_raw()
    expected = hashlib.sha256(derived).digest()[:ADDRESS_BYTES].hex().upper()
    if (private[SEED_BYTES:], public, address) != (derived, derived, expected):
        raise VerificationFailedError(
            f"{what}: private key, public key and address are not of one key (address {expected} by the private key)",
            remedy=_RESTORE,
        )
    return key


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy=_RESTORE) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if mode & _OTHERS or not stat.S_ISREG(mode):
            raise RefusedError(
                f"{path}: mode {stat.S_IMODE(mode):04o}, a validator's key has to be a file of mode 0600",
                remedy=f"chmod 600 {path}; if others could read it, treat it as compromised: RB-DR-005.",
            )
        return os.read(descriptor, MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _members(value: object, *names: str) -> list[object]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError
    return [value[name] for name in names]


def _key_bytes(value: object, kind: str) -> bytes:
    named, text = _members(value, "type", "value")
    if named != kind or not isinstance(text, str):
        raise ValueError
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate member")
    return result


def _corrupt(what: str) -> CorruptError:
    return CorruptError(f"{what}: not a priv_validator_key.json with an Ed25519 key", remedy=_RESTORE)
