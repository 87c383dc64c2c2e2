"""The ceremony: a recovery key is split, handed out to custodians one at a time, read back and proven.

Guarantees: when `hold` returns, every custodian has read back every word of a share, and every choice of threshold
shares, as read back, gave the key.  The shares are then only on the custodians' pages.  When anything ends it before,
there is no record, and the key is worth nothing.
Leaves out: the screen and the printer (a `Desk`), making the key, storing the record.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.shares import (
    WORDS,
    Share,
    ShareError,
    ShareRefusal,
    check_shape,
    combine,
    parse_share,
    prove_all,
    split,
    unknown_positions,
)
from vedr.custody.shares_record import Custodian, ShareRecord, check_names, new_record
from vedr.errors import VerificationFailedError

COLUMNS: Final = 3
ROWS: Final = WORDS // COLUMNS

COPIES: Final = (
    "A share must be nowhere but on its page. Keep it from cameras, phones and screen recording.",
    "Terminal programs, tmux and `script` can keep what was on the screen; this one clears it, theirs it cannot.",
    "A printer keeps pages in its memory and spool; a memory stick keeps deleted files. Destroy them or lock them up.",
    "Do this on a machine without network and without swap, and switch it off afterwards.",
)


@dataclass(frozen=True, slots=True)
class Page:
    """One share as its custodian takes it away."""

    name: str
    seat: int
    seats: int
    share: Share = field(repr=False)
    public_key: bytes
    date: datetime

    def text(self) -> str:
        """Twenty-three lines of at most 78 characters: a small screen or half a sheet."""
        words, share = self.share.words, self.share
        title = f"Recovery share {self.seat} of {self.seats}; any {share.threshold} open."
        rows = [
            "".join(f"{place + 1:>4} {words[place]:<14}" for place in range(row, WORDS, ROWS)).rstrip()
            for row in range(ROWS)
        ]
        return "\n".join(
            (
                f"{title}   {self.date:%Y-%m-%d}   set {share.set_id}",
                f"Custodian: {self.name}",
                f"Recovery public key: {self.public_key.hex()[:32]}",
                f"                     {self.public_key.hex()[32:]}",
                "",
                *rows,
                "",
                "SLIP-39, empty passphrase. Read the columns downwards. Keep it secret, keep it",
                "dry, keep it away from the other shares. Never type it into anything but the",
                "recovery. Lost, seen or copied: say so at once, the key is then rotated.",
            )
        )


class Desk(Protocol):
    """Where one custodian at a time sits.  What it shows it takes away again; it keeps nothing typed."""

    def summon(self, name: str, seat: int, seats: int) -> None:
        """Wait until this custodian, alone, is there."""

    def hand_out(self, page: Page) -> None:
        """Let the custodian take the share away; returns when that is done and the screen is clear."""

    def ask(self, name: str) -> str:
        """The words that the custodian types."""

    def say(self, text: str) -> None:
        """Something that is no secret, and wait until it was read."""


def hold(
    desk: Desk,
    names: Sequence[str],
    *,
    threshold: int,
    private_key: bytes,
    now: Callable[[], datetime],
    replaces: bytes | None = None,
) -> ShareRecord:
    """Hand the key out in shares.

    1. Split the key, as many shares as names.
    2. One custodian after the other: take the share away, read every word back, until it is right.
    3. From what was read back, combine every choice of threshold shares, and compare the public key.

    Raises:
        InvalidInputError: threshold and names do not fit.
        ShareError: a choice of shares does not give the key.
    """
    check_shape(threshold, len(names))
    check_names(names, len(names))
    public_key = recovery_public_key(private_key)
    shares = split(private_key, threshold=threshold, count=len(names))  # (1)
    seats = len(names)
    read_back = []
    for seat, (name, share) in enumerate(zip(names, shares, strict=True), start=1):  # (2)
        desk.summon(name, seat, seats)
        read_back.append(_taken(desk, Page(name, seat, seats, share, public_key, now())))
    choices = prove_all(read_back, expected=public_key)  # (3)
    desk.say(f"All {choices} choices of {threshold} of these {seats} shares, as they were read back, give the key.")
    return new_record(shares, names, public_key=public_key, now=now(), replaces=replaces)


def _taken(desk: Desk, page: Page) -> Share:
    """Shown again after each wrong reading: what is on the paper is what has to be right."""
    while True:
        desk.hand_out(page)
        typed = desk.ask(page.name)
        try:
            share = parse_share(typed)
        except ShareError as error:
            desk.say(_hint(error, typed))
            continue
        if share == page.share:
            return share
        desk.say("That is a valid share, but not the one just handed out. Put the other away and look again.")


def gather(desk: Desk, record: ShareRecord) -> bytes:
    """The private key, from as many custodians as it takes.

    Raises:
        ShareError: the shares of this record do not combine to its key.
    """
    shares: list[Share] = []
    while len(shares) < record.threshold:
        share, custodian = identify(desk, record, seat=len(shares) + 1)
        if share in shares:
            desk.say(f"{custodian.name}'s share was given already. Ask another custodian.")
        else:
            shares.append(share)
    return combine(shares, expected=record.public_key)


def identify(desk: Desk, record: ShareRecord, *, seat: int = 1) -> tuple[Share, Custodian]:
    """A share that a custodian types, once it is one of the record's, and whose it is."""
    desk.summon("the next custodian", seat, record.threshold)
    while True:
        typed = desk.ask("the custodian")
        try:
            share = parse_share(typed)
            return share, record.holder(share)
        except ShareError as error:
            desk.say(_hint(error, typed))
        except VerificationFailedError as error:
            desk.say(str(error))


def _hint(error: ShareError, typed: str) -> str:
    if error.refusal is ShareRefusal.UNKNOWN_WORD:
        places = ", ".join(map(str, unknown_positions(typed)))
        return f"Not in SLIP-39's list: word {places}. {error.remedy}"
    return str(error)
