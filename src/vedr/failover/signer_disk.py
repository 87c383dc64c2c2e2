"""A host's signer disk: the `data` folder under its own name lets a signer run, under any other name it does not.

`data` is renamed to `data.fenced-<epoch>-<attempt>` to fence the host, and back to open it.  FilePV keeps its state in
it and writes it, by path, before it lets a signature out.  So a rename does three things at once: a start fails for
want of the state file, a process that still runs ends at its next signature, and whoever came before and wakes up late
finds no folder of its own to write into or to open.

Guarantees: every change is one rename, or a write inside a folder that carries the writer's own ticket; a ticket older
than the one on the disk is refused; the state that is written is never lower than the one that is there.
Leaves out: the process (`fencing`), and other hosts.

What renames rest on: POSIX rename is atomic within a file system, and refuses to replace a folder that is not empty.
"""

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from vedr.chain.durable import replace_file
from vedr.chain.floor import Floor, apply_floor
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state
from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError
from vedr.inventory import Node
from vedr.ports import Files

OPEN: Final = "data"
TICKET_FILE: Final = "vedr-ticket.json"
_FENCED: Final = re.compile(r"^data\.fenced-(\d{8})-(\d{4})$")
_CHECK: Final = re.compile(rb"^double_sign_check_height[ \t]*=.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """Who acts: the epoch of the lease on the signer, and which process of that run; both only grow."""

    epoch: int
    attempt: int

    @property
    def folder(self) -> str:
        return f"data.fenced-{self.epoch:08d}-{self.attempt:04d}"

    def __str__(self) -> str:
        return f"{self.epoch}.{self.attempt}"


NO_TICKET: Final = Ticket(0, 0)
"""What a disk carries that no promotion ever touched."""


@dataclass(frozen=True, slots=True)
class Place:
    """How the folder is named now, and whose ticket it carries."""

    where: Literal["open", "fenced", "missing"]
    ticket: Ticket


class SignerDisk(Protocol):
    """The disk that a host's signer can't sign without.

    Raises, all methods: UnavailableError (the host does not answer; not known whether it was done: look again).
    """

    def place(self) -> Place:
        """How it is now.  CorruptError when both names exist, or the ticket can't be read."""

    def take_away(self, ticket: Ticket) -> None:
        """Fence it under this ticket, from whatever name it has; quiet when it is, or when there is no such folder.

        Raises:
            ConflictError: it carries a newer ticket, or moved in the meantime.
        """

    def state(self, ticket: Ticket | None) -> SignState:
        """The signer's state in the folder fenced under this ticket; None: in the open one.

        Raises:
            NotFoundError, CorruptError: it is not there, or can't be trusted.
        """

    def prepare(self, ticket: Ticket, floor: Floor, *, check_height: int) -> SignState:
        """Write the floor into the folder fenced under this ticket, and the node's `double_sign_check_height`.

        Raises:
            ConflictError: the folder does not carry this ticket any more.
            CorruptError: the state there can't be read and the floor rests on it.
        """

    def bring_back(self, ticket: Ticket) -> None:
        """Open it: one rename, from this ticket's name.  ConflictError when it does not carry this ticket any more."""


class LocalSignerDisk:
    """A `SignerDisk` under a path that this process reaches."""

    def __init__(self, files: Files, node: Node) -> None:
        self._files = files
        self._node = node

    def place(self) -> Place:
        """As SignerDisk says."""
        home = self._files.home(self._node)
        fenced = [match for entry in home.iterdir() if (match := _FENCED.fullmatch(entry.name))]
        is_open = (home / OPEN).exists()
        if len(fenced) + is_open > 1:
            names = ", ".join(sorted([*(match[0] for match in fenced), *([OPEN] if is_open else [])]))
            raise CorruptError(
                f"{self._node.name}: more than one signer folder: {names}",
                remedy="Find out which one the signer wrote last; move the others out of the node's home.",
            )
        if is_open:
            return Place("open", _read_ticket(home / OPEN))
        if fenced:
            return Place("fenced", Ticket(int(fenced[0][1]), int(fenced[0][2])))
        return Place("missing", NO_TICKET)

    def take_away(self, ticket: Ticket) -> None:
        """As SignerDisk says."""
        home, now = self._files.home(self._node), self.place()
        if now.ticket > ticket:
            raise _passed(self._node, now.ticket, ticket)
        if now.where == "missing" or (now.where, now.ticket) == ("fenced", ticket):
            return
        self._rename(home / (OPEN if now.where == "open" else now.ticket.folder), home / ticket.folder)

    def state(self, ticket: Ticket | None) -> SignState:
        """As SignerDisk says."""
        return read_sign_state(self._files.home(self._node) / (ticket.folder if ticket else OPEN) / FILE_NAME)

    def prepare(self, ticket: Ticket, floor: Floor, *, check_height: int) -> SignState:
        """As SignerDisk says."""
        home = self._files.home(self._node)
        folder = home / ticket.folder
        if not folder.is_dir():
            raise _passed(self._node, self.place().ticket, ticket)
        set_double_sign_check(home / "config" / "config.toml", check_height)
        try:
            replace_file(folder / TICKET_FILE, json.dumps({"epoch": ticket.epoch, "attempt": ticket.attempt}).encode())
            return apply_floor(floor, folder / FILE_NAME)
        except FileNotFoundError:
            raise _passed(self._node, self.place().ticket, ticket) from None

    def bring_back(self, ticket: Ticket) -> None:
        """As SignerDisk says."""
        home = self._files.home(self._node)
        self._rename(home / ticket.folder, home / OPEN)

    def _rename(self, old: Path, new: Path) -> None:
        try:
            old.rename(new)
        except OSError as error:
            raise ConflictError(
                f"{self._node.name}: {old.name} could not become {new.name}: {error.strerror}",
                remedy="Another process acts on this host: see `vedr ledger list`.",
            ) from error
        folder = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def double_sign_check(config: Path) -> int:
    """What a node's config.toml has; NotFoundError, RefusedError as for setting it."""
    try:
        found = _CHECK.findall(config.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{config}: no such file", remedy="Make the standby's home first.") from error
    if len(found) != 1 or not (value := found[0].partition(b"=")[2].partition(b"#")[0].strip()).isdigit():
        raise RefusedError(
            f"{config}: double_sign_check_height is there {len(found)} times, or is no number",
            remedy="Let the node write its config anew.",
        )
    return int(value)


def set_double_sign_check(config: Path, height: int) -> None:
    """Set it in a node's config.toml; everything else stays as it is.

    Raises:
        NotFoundError: there is no such file.
        RefusedError: it does not have the setting exactly once, as CometBFT writes it.
    """
    try:
        before = config.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{config}: no such file", remedy="Make the standby's home first.") from error
    after, found = _CHECK.subn(b"double_sign_check_height = %d" % height, before)
    if found != 1:
        raise RefusedError(
            f"{config}: double_sign_check_height is there {found} times", remedy="Let the node write its config anew."
        )
    if after != before:
        replace_file(config, after, mode=config.stat().st_mode & 0o777)


def _read_ticket(folder: Path) -> Ticket:
    with contextlib.suppress(FileNotFoundError):
        try:
            match json.loads((folder / TICKET_FILE).read_bytes()):
                case {"epoch": int(epoch), "attempt": int(attempt)}:
                    return Ticket(epoch, attempt)
        except ValueError:
            pass  # said below
        raise CorruptError(f"{folder / TICKET_FILE}: not a ticket", remedy="Keep the signer stopped; see who wrote it.")
    return NO_TICKET


def _passed(node: Node, newer: Ticket, ours: Ticket) -> ConflictError:
    return ConflictError(
        f"{node.name}: its signer disk carries ticket {newer}, ours is {ours}: this process must not act on it again",
        remedy="Leave it to that run, or wait until it is closed and resume this one.",
    )
