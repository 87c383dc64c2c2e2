"""The light client's rules: from a header that is trusted to a later one, by signatures alone.

Guarantees: each function returns quietly only when its claim holds and raises VerificationFailedError with both sides
of the comparison otherwise.  Pure: no clock, no network; times are nanoseconds since 1970.
Leaves out: fetching, bisection, witnesses and remembering (`light`).

Differs from CometBFT in one point, on the safe side: signatures are checked by RFC 8032 as OpenSSL does, not by
ZIP-215, so a commit that only malformed signatures carry over two thirds would be refused here and taken there.

Sources: cometbft v0.38 light/verifier.go, types/validation.go; the specification in spec/light-client/verification.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vedr.chain.block import Commit, Flag, Header, SignedHeader, ValidatorSet
from vedr.chain.wire import to_rfc3339
from vedr.errors import VerificationFailedError

BLOCK_PROTOCOL: Final = 11  # version.BlockProtocol of v0.34 to v0.38
FORGED: Final = "Treat the node that gave it as hostile or broken: take it out of the sources, and find out why."


@dataclass(frozen=True, slots=True)
class TrustLevel:
    """The share of the trusted set's power that must have signed a later, non-adjacent header."""

    numerator: int
    denominator: int

    def __post_init__(self) -> None:
        if not self.denominator <= 3 * self.numerator <= 3 * self.denominator:
            raise ValueError(f"trust level {self.numerator}/{self.denominator} is not within 1/3 and 1")


ONE_THIRD: Final = TrustLevel(1, 3)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a header is trusted, and how far clocks may differ."""

    chain_id: str
    trust_period_ns: int
    max_clock_drift_ns: int
    trust_level: TrustLevel = ONE_THIRD


@dataclass(frozen=True, slots=True)
class LightBlock:
    """A signed header with the validators of its height."""

    signed: SignedHeader
    validators: ValidatorSet

    @property
    def header(self) -> Header:
        return self.signed.header


class TooLittleTrustError(VerificationFailedError):
    """Too little of the trusted power signed the later header: a header between must be verified first."""


class ExpiredError(VerificationFailedError):
    """The trusted header is older than the trust period."""


def check_itself(block: LightBlock, chain_id: str) -> None:
    """The parts belong together: chain, protocol, commit to header, validators to header.

    No signature is checked here.
    """
    header, commit = block.header, block.signed.commit
    where = f"header {header.height}"
    _same(f"{where}: chain id", header.chain_id, chain_id)
    _same(f"{where}: block protocol", header.block_version, BLOCK_PROTOCOL)
    _same(f"{where}: height in its commit", commit.height, header.height)
    _same(f"{where}: hash, computed, against the commit's", header.hash().hex(), commit.block_id.hash.hex())
    _same(f"{where}: hash of its validators", block.validators.hash().hex(), header.validators_hash.hex())
    _same(f"{where}: signatures, against validators", len(commit.signatures), len(block.validators.validators))


def check_commit(block: LightBlock, chain_id: str) -> None:
    """More than 2/3 of the header's own validators signed it.  Signatures are checked until that is reached.

    Entries stand in the validators' order; those for nil or absent don't count.
    """
    commit, total = block.signed.commit, block.validators.total_power
    needed, power = total * 2 // 3, 0
    for index, (sig, validator) in enumerate(zip(commit.signatures, block.validators.validators, strict=True)):
        if sig.flag is not Flag.COMMIT:
            continue
        _same(f"commit {commit.height}: address at {index}", sig.address.hex(), validator.address.hex())
        _check_signature(commit, index, validator.key, chain_id)
        power += validator.power
        if power > needed:
            return
    raise VerificationFailedError(
        f"commit {commit.height}: {power} of {total} voting power signed it, more than {needed} is needed",
        remedy=FORGED,
    )


def check_overlap(trusted: ValidatorSet, later: SignedHeader, rules: Rules) -> None:
    """More than the trust level of the *trusted* validators signed the later header.

    Members are found by address, since the sets differ; one that stands twice is a forgery.

    Raises:
        TooLittleTrustError: no more than that share signed; a header between may do.
    """
    known, seen, power = trusted.by_address(), set[bytes](), 0
    total = trusted.total_power
    needed = total * rules.trust_level.numerator // rules.trust_level.denominator
    for index, sig in enumerate(later.commit.signatures):
        validator = known.get(sig.address)
        if sig.flag is not Flag.COMMIT or validator is None:
            continue
        if sig.address in seen:
            raise VerificationFailedError(
                f"commit {later.commit.height}: validator {sig.address.hex().upper()} stands in it twice", remedy=FORGED
            )
        seen.add(sig.address)
        _check_signature(later.commit, index, validator.key, rules.chain_id)
        power += validator.power
        if power > needed:
            return
    raise TooLittleTrustError(
        f"commit {later.commit.height}: {power} of the {total} trusted power signed it, more than {needed} is needed"
    )


def check_fresh(trusted: Header, rules: Rules, now_ns: int) -> None:
    """The trusted header is younger than the trust period: its validators can still be punished for lying.

    Raises:
        ExpiredError: it is not.
    """
    expiry_ns = trusted.time_ns + rules.trust_period_ns
    if expiry_ns <= now_ns:
        raise ExpiredError(
            f"trusted header {trusted.height} expired at {to_rfc3339(expiry_ns)}, now it is {to_rfc3339(now_ns)}",
            remedy="Take height and hash of a recent header from two sources that you trust into trust_height and "
            "trust_hash of the site file.",
        )


def verify_later(trusted: LightBlock, later: LightBlock, rules: Rules, now_ns: int) -> None:
    """The later header follows from the trusted one.

    (1) The trusted header has not expired.
    (2) The later block's parts belong together.
    (3) Its height and time are above the trusted one's, and its time is not ahead of our clock.
    (4) Adjacent: its validators are those that the trusted header announced.
        Further: enough of the trusted validators signed it.
    (5) More than 2/3 of its own validators signed it.

    Raises:
        TooLittleTrustError: (4) failed for a further header.
        VerificationFailedError: any other.
    """
    check_fresh(trusted.header, rules, now_ns)  # (1)
    check_itself(later, rules.chain_id)  # (2)
    _check_order(trusted.header, later.header, rules, now_ns)  # (3)
    if later.header.height == trusted.header.height + 1:  # (4)
        _same(
            f"header {later.header.height}: validators, against those announced",
            later.header.validators_hash.hex(),
            trusted.header.next_validators_hash.hex(),
        )
    else:
        check_overlap(trusted.validators, later.signed, rules)
    check_commit(later, rules.chain_id)  # (5)


def verify_earlier(trusted: Header, earlier: Header) -> None:
    """The earlier header is the one that the trusted one names as its predecessor."""
    _same("height of the earlier header", earlier.height, trusted.height - 1)
    _same(f"header {earlier.height}: chain id", earlier.chain_id, trusted.chain_id)
    _same(
        f"header {earlier.height}: hash, against the one that header {trusted.height} names",
        earlier.hash().hex(),
        trusted.last_block_id.hash.hex(),
    )


def _check_order(trusted: Header, later: Header, rules: Rules, now_ns: int) -> None:
    if later.height <= trusted.height or later.time_ns <= trusted.time_ns:
        raise VerificationFailedError(
            f"header {later.height} of {to_rfc3339(later.time_ns)} is not after the trusted header {trusted.height} of "
            f"{to_rfc3339(trusted.time_ns)}",
            remedy=FORGED,
        )
    if later.time_ns >= now_ns + rules.max_clock_drift_ns:
        raise VerificationFailedError(
            f"header {later.height} is of {to_rfc3339(later.time_ns)}, now it is {to_rfc3339(now_ns)}: more than "
            f"{rules.max_clock_drift_ns / 1e9:g} s ahead",
            remedy="Check this machine's clock (timedatectl); if it is right, the node is hostile or broken.",
        )


def _check_signature(commit: Commit, index: int, key: bytes, chain_id: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(
            commit.signatures[index].signature, commit.sign_bytes(chain_id, index)
        )
    except (InvalidSignature, ValueError) as error:
        raise VerificationFailedError(
            f"commit {commit.height}: wrong signature of {commit.signatures[index].address.hex().upper()} at {index}",
            remedy=FORGED,
        ) from error


def _same(what: str, observed: object, expected: object) -> None:
    if observed != expected:
        raise VerificationFailedError(f"{what}: observed {observed}, expected {expected}", remedy=FORGED)
