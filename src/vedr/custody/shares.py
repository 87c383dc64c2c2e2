"""Shares of the recovery key: SLIP-39, any k of n, so that no one custodian can open a backup and two may be lost.

What is split is a 32-byte X25519 private key, whose public half seals every backup (`envelope`).  The SLIP-39
passphrase is always empty: a wrong one would give a wrong key without a word.

Guarantees: exactly k shares combine, and the key they give is compared with the public key that is expected; nothing
typed or shown is ever in an error or a repr.
Leaves out: asking for shares (`ceremony`), remembering who holds one (`shares_record`), and wiping memory.

Source: SLIP-0039; 32 bytes make 33 words.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final, NewType

from shamir_mnemonic import (  # type: ignore[import-untyped]
    EncryptedMasterSecret,
    MnemonicError,
    decode_mnemonics,
    generate_mnemonics,
    recover_ems,
)
from shamir_mnemonic import Share as Slip39Share
from shamir_mnemonic.wordlist import WORDLIST  # type: ignore[import-untyped]

from vedr.custody.envelope_slots import recovery_public_key
from vedr.errors import InvalidInputError, VerificationFailedError

DEFAULT_THRESHOLD: Final = 3
DEFAULT_COUNT: Final = 5
MIN_THRESHOLD: Final = 2  # one share that opens everything is not a share
MAX_COUNT: Final = 16  # SLIP-39's limit
KEY_BYTES: Final = 32
WORDS: Final = 33
PREFIX_LETTERS: Final = 4  # SLIP-39's words differ in their first four letters
ITERATION_EXPONENT: Final = 1
FINGERPRINT_CONTEXT: Final = b"vedr share v1\n"

Fingerprint = NewType("Fingerprint", str)
"""SHA-256 in hexadecimal of a share's words: tells which share it is, and nothing of what it says."""

_BY_PREFIX: Final[dict[str, str]] = {word[:PREFIX_LETTERS]: word for word in WORDLIST}


class ShareRefusal(StrEnum):
    """Why shares are refused; the text is the whole message."""

    UNKNOWN_WORD = "a word is not in SLIP-39's list"
    LENGTH = "a share of a recovery key has 33 words"
    CHECKSUM = "its checksum is wrong: a word was read or typed wrongly, or two changed places"
    FOREIGN = "it is a SLIP-39 share, but not of one recovery key split among one group"
    TOO_FEW = "fewer shares than their threshold"
    TOO_MANY = "more shares than their threshold; exactly that many combine"
    REPEATED = "one share was given twice"
    OTHER_SET = "the shares are of different sets"
    FORGED = "the shares do not belong together: one was forged or altered, checksum and all"
    OTHER_KEY = "the shares combine, but to another key than the recorded public key belongs to"


_REMEDIES: Final = {
    ShareRefusal.UNKNOWN_WORD: "Read it again; the first four letters of each word are enough.",
    ShareRefusal.LENGTH: "Count the words on the page again.",
    ShareRefusal.CHECKSUM: "Read the words again, in their order.",
    ShareRefusal.TOO_FEW: "Ask for another custodian's share.",
    ShareRefusal.TOO_MANY: "Leave the others out.",
    ShareRefusal.REPEATED: "Ask for another custodian's share.",
    ShareRefusal.FORGED: "Try other custodians' shares, one exchanged at a time, and treat the odd one as an incident.",
}


class ShareError(VerificationFailedError):
    """These shares are not what they should be; the message has no word of them."""

    def __init__(self, refusal: ShareRefusal) -> None:
        super().__init__(
            f"shares: {refusal.value}",
            remedy=_REMEDIES.get(refusal, "Compare the date and set on the pages with the record of the shares."),
        )
        self.refusal: Final = refusal


@dataclass(frozen=True, slots=True)
class Share:
    """One custodian's share; `words` is the secret."""

    words: tuple[str, ...] = field(repr=False)
    set_id: int
    index: int
    threshold: int

    @property
    def fingerprint(self) -> Fingerprint:
        text = FINGERPRINT_CONTEXT + " ".join(self.words).encode()
        return Fingerprint(sha256(text).hexdigest())


def split(private_key: bytes, *, threshold: int = DEFAULT_THRESHOLD, count: int = DEFAULT_COUNT) -> tuple[Share, ...]:
    """All shares of a 32-byte recovery key, randomness the library's own.

    Raises:
        InvalidInputError: not 2 <= threshold <= count <= 16, or not 32 bytes.
    """
    check_shape(threshold, count)
    recovery_public_key(private_key)
    (group,) = generate_mnemonics(
        1, [(threshold, count)], private_key, passphrase=b"", extendable=True, iteration_exponent=ITERATION_EXPONENT
    )
    return tuple(map(parse_share, group))


def check_shape(threshold: int, count: int) -> None:
    """InvalidInputError unless 2 <= threshold <= count <= 16."""
    if not MIN_THRESHOLD <= threshold <= count <= MAX_COUNT:
        raise InvalidInputError(
            f"{threshold} of {count} shares cannot be", remedy="Take a threshold of 2 or more, up to 16 shares."
        )


def parse_share(text: str) -> Share:
    """One share from its words; the first four letters of each are enough.

    Raises:
        ShareError: not such a share.
    """
    words = tuple(map(expand_word, text.split()))
    if len(words) != WORDS:
        raise ShareError(ShareRefusal.LENGTH)
    try:
        share = Slip39Share.from_mnemonic(" ".join(words))
    except MnemonicError:
        raise ShareError(ShareRefusal.CHECKSUM) from None
    one_group = (share.group_index, share.group_threshold, share.group_count) == (0, 1, 1)
    if not one_group or not share.extendable or share.member_threshold < MIN_THRESHOLD:
        raise ShareError(ShareRefusal.FOREIGN)
    return Share(words=words, set_id=share.identifier, index=share.index, threshold=share.member_threshold)


def expand_word(typed: str) -> str:
    """The word of the list that was meant: whole, or its first four letters, in any case.  ShareError otherwise."""
    word = _BY_PREFIX.get(typed[:PREFIX_LETTERS].lower())
    if word is None or not word.startswith(typed.lower()):
        raise ShareError(ShareRefusal.UNKNOWN_WORD)
    return word


def unknown_positions(text: str) -> tuple[int, ...]:
    """Which words, counted from 1, are not of the list: a place to look, and no part of the secret."""
    return tuple(place for place, typed in enumerate(text.split(), start=1) if not _is_known(typed))


def _is_known(typed: str) -> bool:
    try:
        expand_word(typed)
    except ShareError:
        return False
    return True


def combine(shares: Sequence[Share], *, expected: bytes) -> bytes:
    """The private key.

    Args:
        shares: Exactly their threshold of them.
        expected: The public key, 32 raw bytes, from the record or from an envelope's slot.

    Raises:
        ShareError: too few, too many, repeated, of different sets, forged, or of another key.
    """
    check_together(shares)
    return _compared(_recovered(shares).decrypt(b""), expected)


def check_together(shares: Sequence[Share]) -> None:
    """ShareError unless these are exactly as many different shares of one set as combine."""
    if len({(share.set_id, share.threshold) for share in shares}) > 1:
        raise ShareError(ShareRefusal.OTHER_SET)
    if len({share.index for share in shares}) < len(shares):
        raise ShareError(ShareRefusal.REPEATED)
    if not shares or len(shares) < shares[0].threshold:
        raise ShareError(ShareRefusal.TOO_FEW)
    if len(shares) > shares[0].threshold:
        raise ShareError(ShareRefusal.TOO_MANY)


def prove_all(shares: Sequence[Share], *, expected: bytes) -> int:
    """Combine every choice of threshold shares; gives how many there are.

    Each choice is recovered by itself.  What it recovers is decrypted once for each different value: the last step
    is the slow one and depends on that value alone, and 8 of 16 make 12,870 choices.

    Raises:
        ShareError: a choice does not give the key.
    """
    proven: set[EncryptedMasterSecret] = set()
    choices = 0
    for chosen in _choices(shares):
        check_together(chosen)
        recovered = _recovered(chosen)
        if recovered not in proven:
            _compared(recovered.decrypt(b""), expected)
            proven.add(recovered)
        choices += 1
    return choices


def _choices(shares: Sequence[Share]) -> Iterable[tuple[Share, ...]]:
    if not shares or len(shares) < shares[0].threshold:
        raise ShareError(ShareRefusal.TOO_FEW)
    return itertools.combinations(shares, shares[0].threshold)


def _recovered(shares: Sequence[Share]) -> EncryptedMasterSecret:
    try:
        return recover_ems(decode_mnemonics([" ".join(share.words) for share in shares]))
    except MnemonicError:
        raise ShareError(ShareRefusal.FORGED) from None


def _compared(private_key: bytes, expected: bytes) -> bytes:
    """A set of another iteration exponent, passphrase or split would end here as well."""
    if len(private_key) != KEY_BYTES or recovery_public_key(private_key) != expected:
        raise ShareError(ShareRefusal.OTHER_KEY)
    return private_key
