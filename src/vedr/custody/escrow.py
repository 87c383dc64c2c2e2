"""Escrow of backup passphrases: one immutable secret an epoch and kind of key, in a secrets manager, in every region.

    virtengine/dr/backup-passphrase-validator/0001

Guarantees: a passphrase is used for new backups only when it is read, with one value, in two regions or more, so that
the loss of any one region cannot take it away; a secret is never changed; a passphrase is put nowhere and shown
nowhere: callers get it from `Escrow.fetch`, use it and drop it.
Leaves out: wrapping backups anew under a new epoch and retiring the old one (escrow_rotation).

The order of a rotation: created, readable in all regions, every backup wrapped anew, every backup decrypted, and only
then, when no stored envelope refers to it, the old epoch is retired.  A rotation is not a revocation: whoever copied an
old envelope and its passphrase keeps both.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NewType, Protocol

from vedr.custody.key_material import KeyKind
from vedr.errors import (
    ConflictError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)

Epoch = NewType("Epoch", int)
"""1 or more; every rotation is one higher."""

SCHEME: Final = "aws-secret:"
PASSPHRASE_BYTES: Final = 32  # of entropy: 43 characters of URL-safe base64
MIN_REGIONS: Final = 2  # that hold a passphrase before it may be used: one of them may be lost
_EPOCH: Final = re.compile(r"[0-9]{4}")


class SecretVault(Protocol):
    """A secrets manager as the escrow uses it.  Values never appear in errors.

    Raises, all methods: UnavailableError (no answer), RefusedError (not allowed).
    """

    @property
    def regions(self) -> tuple[str, ...]:
        """By priority."""

    def create(self, name: str, value: bytes) -> None:
        """Put a new secret and ask for its copies.

        Raises:
            ConflictError: the name is used, or was; nothing is changed.
            UnavailableError: some region does not tell whether it has one, and nothing was made; or an answer was lost:
                then it may have been made, and is found when every region answers.
        """

    def replicate(self, name: str) -> None:
        """Ask for the copies that regions lack; quiet when there is nothing to do."""

    def read(self, name: str, region: str) -> bytes:
        """The value as that region has it; NotFoundError when it has none."""

    def names(self, prefix: str, region: str) -> tuple[str, ...]:
        """The secrets that are to be found in that region, whose names begin so."""

    def retire(self, name: str) -> None:
        """Take it out of use in every region; it can be brought back for a month.  Quiet when it is retired already."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Where one epoch's passphrase was read, with one value, and why not elsewhere."""

    epoch: Epoch
    regions: tuple[str, ...]
    refusals: Mapping[str, VedrError]

    @property
    def everywhere(self) -> bool:
        return not self.refusals


class Escrow:
    """The passphrases of one site."""

    def __init__(self, vault: SecretVault, prefix: str, *, new_passphrase: Callable[[], bytes] | None = None) -> None:
        self._vault = vault
        self._prefix = prefix
        self._new = new_passphrase or (lambda: secrets.token_urlsafe(PASSPHRASE_BYTES).encode())

    @property
    def regions(self) -> tuple[str, ...]:
        return self._vault.regions

    def reference(self, kind: KeyKind, epoch: Epoch) -> str:
        """As it stands in an envelope's slot: `aws-secret:…/0001`."""
        return f"{SCHEME}{self._name(kind, epoch)}"

    def epoch_of(self, kind: KeyKind, reference: str) -> Epoch | None:
        """The epoch that a slot refers to; None when it refers to something else."""
        stem, _, number = reference.rpartition("/")
        if stem != f"{SCHEME}{self._stem(kind)}" or not _EPOCH.fullmatch(number):
            return None
        return Epoch(int(number))

    def epochs(self, kind: KeyKind) -> tuple[Epoch, ...]:
        """Every epoch that any region knows, oldest first.

        Raises:
            UnavailableError: no region answers.
        """
        found: set[Epoch] = set()
        refusals: dict[str, VedrError] = {}
        for region in self.regions:
            try:
                names = self._vault.names(f"{self._stem(kind)}/", region)
            except VedrError as error:
                refusals[region] = error
                continue
            found |= {epoch for name in names if (epoch := self.epoch_of(kind, f"{SCHEME}{name}")) is not None}
        if len(refusals) == len(self.regions):
            raise _no_region(f"the passphrases of {kind} keys", refusals)
        return tuple(sorted(found))

    def current(self, kind: KeyKind) -> Copies:
        """The newest epoch that enough regions hold.

        Raises:
            NotFoundError: there is none yet.
            UnavailableError: too few regions hold, or tell, any.
        """
        epochs = self.epochs(kind)
        if not epochs:
            raise NotFoundError(
                f"no passphrase was ever put into escrow for {kind} keys",
                remedy=f"Make the first: vedr keys rotate-passphrase --kind {kind}.",
            )
        for epoch in reversed(epochs):
            copies = self.copies(kind, epoch)
            if len(copies.regions) >= MIN_REGIONS:
                return copies
        raise UnavailableError(
            f"no passphrase epoch of {kind} keys is held by {MIN_REGIONS} regions that answer",
            remedy="Bring a region's secrets manager back, or finish the rotation: vedr keys rotate-passphrase.",
        )

    def copies(self, kind: KeyKind, epoch: Epoch) -> Copies:
        """Read it in every region and compare.

        Raises:
            VerificationFailedError: two regions have different values; neither is shown.
        """
        name = self._name(kind, epoch)
        values: dict[str, bytes] = {}
        refusals: dict[str, VedrError] = {}
        for region in self.regions:
            try:
                values[region] = self._vault.read(name, region)
            except VedrError as error:
                refusals[region] = error
        first = next(iter(values.values()), b"")
        different = [region for region, value in values.items() if not hmac.compare_digest(value, first)]
        if different:
            raise VerificationFailedError(
                f"secret {name} has another value in {', '.join(different)} than in {next(iter(values))}",
                remedy="Somebody changed an immutable secret: find out who.  The custodians' shares open every backup.",
            )
        return Copies(epoch, tuple(values), refusals)

    def fetch(self, kind: KeyKind, epoch: Epoch, *, prefer: str | None = None) -> bytes:
        """The passphrase, from the first region that gives it.  Use it and drop it.

        Raises:
            NotFoundError: every region answers that it has none.
            UnavailableError: no region gives it, and some do not answer.
        """
        name = self._name(kind, epoch)
        refusals: dict[str, VedrError] = {}
        for region in sorted(self.regions, key=lambda name: name != prefer):
            try:
                return self._vault.read(name, region)
            except VedrError as error:
                refusals[region] = error
        raise _no_region(f"secret {name}", refusals)

    def open_epoch(self, kind: KeyKind) -> Epoch:
        """Create the next epoch; safe to repeat after a crash, since an unused epoch harms nothing.

        Raises:
            ConflictError: another rotation has just made one.
        """
        epochs = self.epochs(kind)
        epoch = Epoch((epochs[-1] if epochs else 0) + 1)
        try:
            self._vault.create(self._name(kind, epoch), self._new())
        except ConflictError:
            raise ConflictError(
                f"passphrase epoch {epoch} of {kind} keys exists already, or was retired",
                remedy="Another rotation runs, or an old epoch waits for its deletion: look, then run it again.",
            ) from None
        return epoch

    def spread(self, kind: KeyKind, epoch: Epoch) -> Copies:
        """Ask for the copies that are missing, and say where it can be read now."""
        found = self.copies(kind, epoch)
        if not found.everywhere:
            self._vault.replicate(self._name(kind, epoch))
            found = self.copies(kind, epoch)
        return found

    def retire(self, kind: KeyKind, epoch: Epoch) -> None:
        """Take an epoch out of use; the caller has seen that no stored envelope refers to it."""
        self._vault.retire(self._name(kind, epoch))

    def _stem(self, kind: KeyKind) -> str:
        return f"{self._prefix}-{kind}"

    def _name(self, kind: KeyKind, epoch: Epoch) -> str:
        return f"{self._stem(kind)}/{epoch:04d}"


def _no_region(what: str, refusals: Mapping[str, VedrError]) -> VedrError:
    reasons = "; ".join(f"{region}: {error.message}" for region, error in refusals.items())
    if refusals and all(isinstance(error, NotFoundError) for error in refusals.values()):
        return NotFoundError(
            f"{what}: in no region ({reasons})", remedy="Use the custodians' shares: vedr shares combine."
        )
    return UnavailableError(
        f"{what}: not in enough regions ({reasons})", remedy="Bring a region's secrets manager back, and run it again."
    )
