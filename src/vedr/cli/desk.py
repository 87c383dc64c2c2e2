"""The terminal as a desk at which custodians sit, one at a time (`vedr.custody.ceremony.Desk`).

Guarantees: shares are shown on the terminal's alternate screen only, and cleared, with its scrollback, before anything
else is shown and however it ends; it refuses to work into a pipe or a file; this process leaves no core dump.
Leaves out: what the terminal program, a multiplexer or a camera keeps; the ceremony warns of them.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from vedr.custody.ceremony import Page
from vedr.custody.key_material_process import no_core_dumps
from vedr.custody.shares import WORDS
from vedr.errors import InvalidInputError, RefusedError

ENTER: Final = "\x1b[?1049h"  # the alternate screen
LEAVE: Final = "\x1b[?1049l"
CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"  # also the scrollback, where the terminal does that


class TerminalDesk:
    """With `pages`, shares are not shown but written there: a file each in a folder, or all into a printer's device."""

    def __init__(self, pages: Path | None = None) -> None:
        self._pages = pages
        self._written: dict[str, str] = {}

    def summon(self, name: str, seat: int, seats: int) -> None:
        self.say(f"Seat {seat} of {seats}: {name}.\n\nOnly {name} may see this screen. Everybody else turns away.")

    def hand_out(self, page: Page) -> None:
        if self._pages is None:
            _show(f"{page.text()}\n")
            _pause("Written down, every word? Then press Enter; the screen is cleared.")
        else:
            where = self._written.get(page.name) or write_page(self._pages, page)
            self._written[page.name] = where
            self.say(f"The share of {page.name} is in {where}: a copy that somebody has to destroy or lock up.")

    def ask(self, name: str) -> str:
        _show(f"Type the {WORDS} words of {name}'s share, in their order, as many on a line as you like.\n")
        _tell("The first four letters of each are enough. An empty line ends.\n\n")
        typed: list[str] = []
        while len(typed) < WORDS:
            words = _line(f"{len(typed) + 1:>3}> ").split()
            if not words and typed:
                break
            typed += words
        _show("")
        return " ".join(typed)

    def say(self, text: str) -> None:
        _show(f"{text}\n\n")
        _pause("Press Enter.")

    def ask_name(self, seat: int, seats: int) -> str:
        """A custodian's name; no secret."""
        _show(f"Share {seat} of {seats}.\n\n")
        return _line("Name of its custodian: ").strip()


@contextmanager
def terminal_desk(pages: Path | None = None) -> Iterator[TerminalDesk]:
    """A desk for the time of the block.

    Raises:
        RefusedError: input or output is not a terminal.
    """
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise RefusedError(
            "shares are shown and typed at a terminal only, never through a pipe or into a file",
            remedy="Run it at a terminal.",
        )
    no_core_dumps()
    handlers = {number: signal.signal(number, _ended) for number in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # suspended, it would leave a share shown
    _tell(ENTER)
    try:
        yield TerminalDesk(pages)
    finally:
        _tell(CLEAR + LEAVE)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def swap_is_on(swaps: Path = Path("/proc/swaps")) -> bool:
    """Whether this machine may write memory to a disk."""
    return swaps.exists() and len(swaps.read_text().splitlines()) > 1


def write_page(pages: Path, page: Page) -> str:
    """Into a new file of mode 0600 in that folder, or into that device, with a form feed; gives where.

    Raises:
        InvalidInputError: there is such a file already, or the folder or device cannot be written to.
    """
    if pages.is_dir():
        path = pages / f"share-{page.seat}-of-{page.seats}.txt"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    else:
        path, flags = pages, os.O_WRONLY
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii", errors="replace") as file:
            file.write(page.text() + "\n\f")
    except OSError as error:
        raise InvalidInputError(
            f"{path}: {error.strerror}", remedy="Name an empty folder or a printer's device."
        ) from None
    return str(path)


def _ended(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _show(text: str) -> None:
    _tell(CLEAR + text)


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _pause(prompt: str) -> None:
    _line(f"{prompt} ")
    _show("")


def _line(prompt: str) -> str:
    _tell(prompt)
    line = sys.stdin.buffer.readline().decode(errors="replace")  # an error of decoding would show what was typed
    if not line:
        raise InvalidInputError("the input ended before the last answer", remedy="Start again; nothing was kept.")
    return line.rstrip("\n")
