"""A site's key backups over three fake regions, and key files as their programs write them."""

import base64
import datetime as dt
import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.secrets_memory import MemoryVault
from vedr.custody.escrow import Escrow
from vedr.custody.key_backup import Bundle, make_bundle
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_material import NODE_FILE, VALIDATOR_FILE, KeyFile, KeyKind, new_key_file
from vedr.signature import Signer
from vedr.targets import Retention

REGIONS = ("us-east", "eu-west", "ap-south")
PREFIX = "virtengine/dr/backup-passphrase"
CHAIN = "virtengine-1"
NOW = dt.datetime(2026, 11, 23, 2, 0, tzinfo=dt.UTC)
PATHS: dict[KeyKind, str] = {"validator": VALIDATOR_FILE, "node": NODE_FILE, "provider": "keys/provider.pem"}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += dt.timedelta(**amount)


@dataclass
class KeysWorld:
    stores: dict[str, MemoryStore]
    vault: MemoryVault
    clock: Clock
    recovery: X25519PrivateKey
    repository: KeyRepository
    made: int = field(default=0)

    def bundle(self, kind: KeyKind = "validator", owner: str = "", *files: KeyFile) -> Bundle:
        held = files or (new_key_file(kind, PATHS[kind]),)
        return make_bundle(kind, owner or f"{kind}-0", CHAIN, held)


def make_world(**locked: Any) -> KeysWorld:
    clock = Clock()
    stores = {region: MemoryStore(region, clock=clock, **locked) for region in REGIONS}
    vault = MemoryVault(*REGIONS)
    signer = Signer(Ed25519PrivateKey.generate())
    recovery = X25519PrivateKey.generate()
    repository = KeyRepository(
        stores=stores,
        signer=signer,
        trusted=(signer.public_hex,),
        escrow=Escrow(vault, PREFIX),
        recovery_public_key=recovery.public_key().public_bytes_raw(),
        chain_id=CHAIN,
        retention=Retention(),
        clock=clock,
    )
    for kind in ("validator", "node", "provider"):
        repository.escrow.open_epoch(kind)  # type: ignore[arg-type]
    return KeysWorld(stores, vault, clock, recovery, repository)


DAEMON_PASSPHRASE = b"the daemon's own passphrase"


def daemon_key(label: str = "key-1", *, key: Ed25519PrivateKey | None = None, **changes: Any) -> dict[str, Any]:
    """An entry as the daemon should write it; it leaves `private_key` out."""
    key = key or Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    entry = {
        "label": label,
        "algorithm": "ed25519",
        "private_key": base64.b64encode(key.private_bytes_raw() + public).decode(),
        "public_key": base64.b64encode(public).decode(),
        "created_at": "2026-01-02T03:04:05.123456789Z",
        "metadata": {"status": "active"},
    }
    return {**entry, **changes}


def daemon_backup(entries: list[dict[str, Any]] | None, *, plain: bytes | None = None, **changes: Any) -> bytes:
    """A KeyBackup as Go marshals it."""
    document = {"keys": entries, "timestamp": "2026-11-01T00:00:00Z", "source_fingerprint": "00112233"}
    plaintext = plain if plain is not None else json.dumps(document, separators=(",", ":")).encode()
    salt, nonce = bytes(range(32)), bytes(range(12))
    backup = {
        "version": 1,
        "created_at": "2026-11-01T00:00:00Z",
        "expires_at": "2027-11-01T00:00:00Z",
        "algorithm": "AES-256-GCM",
        "key_derivation": {"algorithm": "argon2id", "time": 3, "memory": 65536, "threads": 4, "key_length": 32},
        "salt": base64.b64encode(salt).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "ciphertext": base64.b64encode(AESGCM(argon2(salt)).encrypt(nonce, plaintext, None)).decode(),
        "checksum": hashlib.sha256(plaintext).hexdigest(),
        "metadata": {"backup_id": "x", "key_count": len(entries or []), "key_types": [], "key_labels": []},
    }
    return json.dumps({**backup, **changes}, separators=(",", ":")).encode()


def daemon_share(content: bytes, index: int = 1, **changes: Any) -> bytes:
    """A RecoveryShare around any content, sealed as the daemon seals them."""
    salt, nonce = bytes(range(32)), bytes(range(12))
    sealed = salt + nonce + AESGCM(argon2(salt)).encrypt(nonce, content, None)
    share = {
        "index": index,
        "share": base64.b64encode(sealed).decode(),
        "threshold": 3,
        "total_shares": 5,
        "created_at": "2026-11-01T00:00:00Z",
        "expires_at": "2027-11-01T00:00:00Z",
        "share_checksum": hashlib.sha256(content).hexdigest()[:16],
    }
    return json.dumps({**share, **changes}, separators=(",", ":")).encode()


@functools.cache
def argon2(salt: bytes) -> bytes:
    return hash_secret_raw(DAEMON_PASSPHRASE, salt, 3, 65536, 4, 32, Type.ID)
