"""Is the key on the standby the validator's own?  Step 6 of the promotion.

Guarantees: `check_key` accepts only a key whose public half gives the validator's address and, for a file, one that
nobody but its owner may read.  `read_key_file` also finds out whether the private half belongs to the public one.
Leaves out: where the key comes from (custody), and how an HSM proves that it holds the private half.

Format: cometbft v0.38 privval/file.go, FilePVKey; Ed25519 private keys are seed and public key, 64 bytes.
"""

import base64
import binascii
import hashlib
import hmac
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain.block import ADDRESS_BYTES, KEY_BYTES
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.inventory import Node

FILE_NAME: Final = "priv_validator_key.json"
OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True)
class KeySeen:
    """What is on the standby: the public half only.  `mode` is the file's; None for a key inside an HSM."""

    kind: Literal["file", "hsm"]
    public_key: bytes
    where: str
    mode: int | None = field(default=None)


def check_key(seen: KeySeen, validator: Node) -> None:
    """RefusedError unless it is the validator's key, kept so that others can't read it."""
    address = hashlib.sha256(seen.public_key).digest()[:ADDRESS_BYTES].hex().upper()
    if len(seen.public_key) != KEY_BYTES or address != validator.address:
        raise RefusedError(
            f"the key at {seen.where} has address {address}, {validator.name} has {validator.address}",
            remedy="Put the right key there; a node started with another one signs nothing, or signs as somebody else.",
        )
    if seen.kind == "file" and seen.mode != OWNER_ONLY:
        mode = "unknown" if seen.mode is None else f"{seen.mode:04o}"
        raise RefusedError(
            f"the key at {seen.where} has mode {mode}, not {OWNER_ONLY:04o}",
            remedy=f"chmod {OWNER_ONLY:04o} it, and find out who may have read it.",
        )


def read_key_file(path: Path) -> KeySeen:
    """The public half of a priv_validator_key.json whose halves and address agree.

    No error shows what the file holds.

    Raises:
        NotFoundError: there is none; a node started now would silently make a new one.
        CorruptError: it is not such a file, or its parts do not belong together.
    """
    try:
        data = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no key", remedy="Restore the validator's key (vedr keys restore).") from error
    public = _public_of(data)
    if public is None:
        raise CorruptError(
            f"{path}: not a whole Ed25519 validator key", remedy="Restore it from its backup (vedr keys restore)."
        ) from None
    return KeySeen("file", public, str(path), mode)


def _public_of(data: bytes) -> bytes | None:
    try:
        match json.loads(data):
            case {
                "address": str(address),
                "pub_key": {"type": "tendermint/PubKeyEd25519", "value": str(public_text)},
                "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": str(private_text)},
            }:
                public = base64.b64decode(public_text, validate=True)
                private = base64.b64decode(private_text, validate=True)
                derived = Ed25519PrivateKey.from_private_bytes(private[:KEY_BYTES]).public_key().public_bytes_raw()
            case _:
                return None
    except (ValueError, binascii.Error, RecursionError):
        return None
    agree = hmac.compare_digest(derived + derived, public + private[KEY_BYTES:])
    right = address == hashlib.sha256(public).digest()[:ADDRESS_BYTES].hex().upper()
    return public if agree and right else None
