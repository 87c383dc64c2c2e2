"""Slots: one data key, sealed once under each secret that may open the envelope.

Guarantees: a slot opens only with its own secret, its own parameters and the core that it was made for.  No error
carries a secret or anything derived from one.
Leaves out: where passphrases and recovery keys come from (escrow, shares), and wiping memory, which Python cannot do.

Sources: RFC 9106 (Argon2id), RFC 9180 (HPKE base mode, single shot), docs/formats/envelope.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, TypeAlias

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from vedr.custody.envelope_format import (
    KEY_BYTES,
    NONCE_BYTES,
    PUBLIC_KEY_BYTES,
    RFC_9106_SECOND,
    SALT_BYTES,
    SLOT_ID_BYTES,
    Core,
    Cost,
    PassphraseSlot,
    RecoverySlot,
    Slot,
)
from vedr.errors import InvalidInputError, NoSpaceError, VerificationFailedError
from vedr.signature import canonical_json

Entropy: TypeAlias = Callable[[int], bytes]
"""Gives that many fresh random bytes; `secrets.token_bytes` but in tests."""

MIN_PASSPHRASE_BYTES: Final = 12  # what Argon2id can still make expensive; escrow's are random and longer
MAX_PASSPHRASE_BYTES: Final = 1024
SLOT_CONTEXT: Final = b"vedr envelope v1 slot"
_HPKE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class WrongSecretError(VerificationFailedError):
    """No slot opens with the secret that was given; a changed core or slot looks the same, by design."""


@dataclass(frozen=True, slots=True)
class PassphraseSeal:
    """Ask for a slot under this passphrase.  `reference` is recorded in clear and must not tell the passphrase."""

    passphrase: bytes = field(repr=False)
    reference: str | None = None
    cost: Cost = RFC_9106_SECOND


@dataclass(frozen=True, slots=True)
class RecoverySeal:
    """Ask for a slot under this X25519 public key, 32 raw bytes."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class PassphraseOpener:
    """Open with a passphrase; with a reference only the slots of that reference are tried."""

    passphrase: bytes = field(repr=False)
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class RecoveryOpener:
    """Open with an X25519 private key, 32 raw bytes, as shares give it."""

    private_key: bytes = field(repr=False)


Seal: TypeAlias = PassphraseSeal | RecoverySeal
Opener: TypeAlias = PassphraseOpener | RecoveryOpener


def recovery_public_key(private_key: bytes) -> bytes:
    """The public half, 32 raw bytes, of a raw X25519 private key."""
    if len(private_key) != KEY_BYTES:
        raise InvalidInputError("a recovery private key is 32 bytes", remedy="Give the key that the shares combine to.")
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def wrap_key(key: bytes, seals: Iterable[Seal], core: Core, entropy: Entropy) -> tuple[Slot, ...]:
    """A slot for each seal, in their order.

    Raises:
        InvalidInputError: a seal is out of its limits.
        NoSpaceError: this machine lacks the memory that the cost asks for.
    """
    return tuple(
        _wrap_passphrase(key, seal, core, entropy)
        if isinstance(seal, PassphraseSeal)
        else _wrap_recovery(key, seal, core, entropy)
        for seal in seals
    )


def _wrap_passphrase(key: bytes, seal: PassphraseSeal, core: Core, entropy: Entropy) -> PassphraseSlot:
    if not MIN_PASSPHRASE_BYTES <= len(seal.passphrase) <= MAX_PASSPHRASE_BYTES:
        raise InvalidInputError("a passphrase has 12 to 1024 bytes", remedy="Use a random one: openssl rand -hex 32.")
    if not seal.cost.in_range:
        raise InvalidInputError(
            "the Argon2id cost is out of range", remedy="Take t 3 to 10, m 64 MiB to 2 GiB, p 1 to 16."
        )
    if seal.reference is not None and seal.passphrase in seal.reference.encode():
        raise InvalidInputError("the reference contains the passphrase", remedy="Name the secret, do not tell it.")
    slot = PassphraseSlot(
        slot_id=entropy(SLOT_ID_BYTES).hex(),
        reference=seal.reference,
        cost=seal.cost,
        salt=entropy(SALT_BYTES),
        nonce=entropy(NONCE_BYTES),
    )
    sealed = AESGCM(_derived(seal.passphrase, slot)).encrypt(slot.nonce, key, _binding(core, slot))
    return replace(slot, sealed=sealed)


def _wrap_recovery(key: bytes, seal: RecoverySeal, core: Core, entropy: Entropy) -> RecoverySlot:
    if len(seal.public_key) != PUBLIC_KEY_BYTES:
        raise InvalidInputError("a recovery public key is 32 bytes", remedy="Take it from the record of the shares.")
    slot = RecoverySlot(slot_id=entropy(SLOT_ID_BYTES).hex(), public_key=seal.public_key)
    try:
        recipient = X25519PublicKey.from_public_bytes(seal.public_key)
        sealed = _HPKE.encrypt(key, recipient, info=_binding(core, slot))
    except ValueError:
        raise InvalidInputError(
            "the recovery public key is a point of low order", remedy="Take it from the record of the shares."
        ) from None
    return replace(slot, sealed=sealed)


def unwrap_key(slots: Sequence[Slot], opener: Opener, core: Core) -> bytes:
    """The data key.

    Raises:
        WrongSecretError: no slot opens with it.
        NoSpaceError: this machine lacks the memory that a slot asks for.
    """
    if isinstance(opener, RecoveryOpener):
        return _unwrap_recovery(slots, opener, core)
    for slot in slots:
        if isinstance(slot, PassphraseSlot) and opener.reference in (None, slot.reference):
            try:
                return AESGCM(_derived(opener.passphrase, slot)).decrypt(slot.nonce, slot.sealed, _binding(core, slot))
            except InvalidTag:
                continue
    raise WrongSecretError(
        "envelope: no slot opens with this passphrase: it is another one, or the metadata or the slot was edited",
        remedy="Try the passphrase of the reference in the slot (vedr keys inspect), then another region's copy.",
    )


def _unwrap_recovery(slots: Sequence[Slot], opener: RecoveryOpener, core: Core) -> bytes:
    public_key = recovery_public_key(opener.private_key)
    private_key = X25519PrivateKey.from_private_bytes(opener.private_key)
    for slot in slots:
        if isinstance(slot, RecoverySlot) and slot.public_key == public_key:
            try:
                return _HPKE.decrypt(slot.sealed, private_key, info=_binding(core, slot))
            except InvalidTag:
                continue
    raise WrongSecretError(
        "envelope: no slot opens with this recovery key: it is another one, or the metadata or the slot was edited",
        remedy="Compare the public key in the slot with the record of the shares, then try another region's copy.",
    )


def _derived(passphrase: bytes, slot: PassphraseSlot) -> bytes:
    try:
        return hash_secret_raw(
            secret=passphrase,
            salt=slot.salt,
            time_cost=slot.cost.t,
            memory_cost=slot.cost.m_kib,
            parallelism=slot.cost.p,
            hash_len=KEY_BYTES,
            type=Type.ID,
            version=ARGON2_VERSION,
        )
    except HashingError:
        raise NoSpaceError(
            f"Argon2id needs {slot.cost.m_kib // 1024} MiB of memory", remedy="Open it on a machine that has them free."
        ) from None


def _binding(core: Core, slot: Slot) -> bytes:
    """What a sealed key is authentic for: 53 bytes, under the 64 that RFC 9180 section 7.2.1 recommends."""
    return SLOT_CONTEXT + sha256(canonical_json({"core": core.payload(), "slot": slot.bound()})).digest()
