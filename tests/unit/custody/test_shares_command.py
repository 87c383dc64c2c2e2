"""`vedr shares` as its users run it: at a real terminal, one custodian after the other."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.custody import break_glass
from vedr.custody.envelope import seal
from vedr.custody.envelope_files import inspect_file, open_file
from vedr.custody.envelope_slots import (
    PassphraseOpener,
    PassphraseSeal,
    RecoveryOpener,
    RecoverySeal,
    recovery_public_key,
)
from vedr.custody.shares import Share, combine, parse_share, split
from vedr.custody.shares_record import ShareRecord, new_record, open_record, seal_record
from vedr.signature import Signer

DEADLINE_S = 60.0
VEDR = [sys.executable, "-c", "from vedr.cli import main; main()"]
NAMES = ["Ann", "Bob", "Cid", "Dora", "Eve"]
PRIVATE = bytes(range(1, 33))
PUBLIC = recovery_public_key(PRIVATE)
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
LEAVE = "\x1b[?1049l"


class Terminal:
    """A program on a pseudo-terminal of 24 by 80: what it showed, and what is typed into it."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self._read = 0
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job is born with it ignored
            os.execv(VEDR[0], [*VEDR, *arguments])  # noqa: S606
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self._terminal)

    def until(self, text: str) -> str:
        """What was shown since the last call, up to and with `text`."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.shown[self._read :]:
            assert self._more(deadline), f"never shown: {text!r}; shown: {self.shown[-500:]!r}"
        end = self.shown.index(text, self._read) + len(text)
        part, self._read = self.shown[self._read : end], end
        return part

    def enter(self, text: str = "") -> None:
        os.write(self._terminal, f"{text}\n".encode(errors="surrogateescape"))

    def end(self) -> int:
        """The exit status, when it has ended."""
        deadline = time.monotonic() + DEADLINE_S
        while self._more(deadline):
            pass
        _, status = os.waitpid(self.process, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing shown in {DEADLINE_S} s; shown: {self.shown[-500:]!r}"
        chunk = b""
        with contextlib.suppress(OSError):  # how a terminal ends when its program does
            chunk = os.read(self._terminal, 65536)
        self.shown += chunk.decode(errors="replace").replace("\r\n", "\n")
        return bool(chunk)

    # What custodians do.

    def take_share(self, name: str) -> str:
        """Come forward, write the share down, read it back; gives its words."""
        self.until(f"Only {name} may see")
        self.until("Press Enter.")
        self.enter()
        words = words_on(self.until("Written down, every word?"))
        self.enter()
        self.type_share(words)
        return words

    def type_share(self, words: str) -> None:
        self.until("  1> ")
        several = words.split()
        for start in range(0, 33, 11):
            self.enter(" ".join(word[:4] for word in several[start : start + 11]))

    def bring_share(self, words: str) -> None:
        self.until("Only the next custodian may see")
        self.until("Press Enter.")
        self.enter()
        self.type_share(words)

    def ceremony(self, names: Sequence[str]) -> list[str]:
        self.until("nowhere but on its page")
        self.until("Press Enter.")
        self.enter()
        words = [self.take_share(name) for name in names]
        self.until("shares, as they were read back, give the key.")
        self.until("Press Enter.")
        self.enter()
        return words


def words_on(page: str) -> str:
    found = {int(place): word for place, word in re.findall(r" (\d+) ([a-z]+)", page.split("public key", 1)[1])}
    return " ".join(found[place] for place in range(1, 34))


def custodians(names: Sequence[str] = NAMES) -> list[str]:
    return [part for name in names for part in ("--custodian", name)]


@pytest.fixture
def shares() -> tuple[Share, ...]:
    return split(PRIVATE)


@pytest.fixture
def record(tmp_path: Path, shares: tuple[Share, ...]) -> Path:
    path = tmp_path / "record.json"
    path.write_bytes(seal_record(held(shares)))
    return path


def held(shares: Sequence[Share]) -> ShareRecord:
    return new_record(shares, NAMES, public_key=PUBLIC, now=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def envelope(tmp_path: Path) -> Path:
    payload, path = b"the key" * 1000, tmp_path / "backup.vedrenv"
    (tmp_path / "payload").write_bytes(payload)
    slots = [PassphraseSeal(b"a passphrase of an epoch", "aws-secret:one"), RecoverySeal(PUBLIC)]
    path.write_bytes(seal(payload, slots=slots, meta={}, created=datetime.now(UTC), chunk_bytes=1024))
    return path


def files(folder: Path) -> Iterator[bytes]:
    return (path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_ceremony_leaves_a_record_five_pages_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with Terminal("shares", "ceremony", "--record", str(path), *custodians()) as terminal:
        words = terminal.ceremony(NAMES)
        assert terminal.end() == 0
    record = open_record(path.read_bytes())
    shares = [parse_share(text) for text in words]
    assert [record.holder(share).name for share in shares] == NAMES
    assert recovery_public_key(combine(shares[1:4], expected=record.public_key)) == record.public_key
    assert list(tmp_path.iterdir()) == [path]
    assert record.public_key.hex() in terminal.shown
    assert sha256(Path(break_glass.__file__).read_bytes()).hexdigest() in terminal.shown
    shown_last = terminal.shown.rindex("Written down")
    assert CLEAR in terminal.shown[shown_last:]
    after = terminal.shown[terminal.shown.index(LEAVE) :]
    assert not any(text.split()[0] + " " + text.split()[1] in after for text in words)


def test_names_are_asked_for_and_any_k_of_n_will_do(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with Terminal("shares", "ceremony", "--record", str(path), "-k", "2", "-n", "3") as terminal:
        for name in NAMES[:3]:
            terminal.until("Name of its custodian: ")
            terminal.enter(name)
        terminal.ceremony(NAMES[:3])
        assert terminal.end() == 0
    record = open_record(path.read_bytes())
    assert (record.threshold, [custodian.name for custodian in record.custodians]) == (2, NAMES[:3])


def test_a_misread_share_is_shown_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with Terminal(
        "shares", "ceremony", "--record", str(path), *custodians(NAMES[:2]), "-k", "2", "-n", "2"
    ) as terminal:
        terminal.until("Press Enter.")
        terminal.enter()
        terminal.until("Only Ann may see")
        terminal.until("Press Enter.")
        terminal.enter()
        words = words_on(terminal.until("Written down, every word?"))
        terminal.enter()
        misread = words.split()
        misread[6] = "zzzz"
        terminal.type_share(" ".join(misread))
        assert "Not in SLIP-39's list: word 7. " in terminal.until("Press Enter.")
        terminal.enter()
        assert words_on(terminal.until("Written down, every word?")) == words
        terminal.enter()
        terminal.type_share(words)
        terminal.take_share("Bob")
        terminal.until("All 1 choices of 2")
        terminal.enter()
        assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_ceremony_that_is_broken_off_clears_the_screen_and_leaves_no_record(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "record.json"
    with Terminal("shares", "ceremony", "--record", str(path), *custodians()) as terminal:
        terminal.until("Press Enter.")
        terminal.enter()
        terminal.until("Press Enter.")
        terminal.enter()
        terminal.until("Written down, every word?")
        os.kill(terminal.process, signal.SIGTSTP)  # must not leave a share standing on a shell's screen
        os.kill(terminal.process, number)
        terminal.until(CLEAR + LEAVE)
        assert terminal.end() not in (0, -signal.SIGTSTP)
    assert list(tmp_path.iterdir()) == []


def test_pages_are_written_where_asked_and_the_copies_are_named(tmp_path: Path) -> None:
    pages, path = tmp_path / "pages", tmp_path / "record.json"
    pages.mkdir()
    arguments = ["--record", str(path), "--pages", str(pages), *custodians(NAMES[:2]), "-k", "2", "-n", "2"]
    with Terminal("shares", "ceremony", *arguments) as terminal:
        terminal.until("Press Enter.")
        terminal.enter()
        texts = []
        for seat, name in enumerate(NAMES[:2], start=1):
            terminal.until(f"Only {name} may see")
            terminal.until("Press Enter.")
            terminal.enter()
            terminal.until("destroy")
            terminal.until("Press Enter.")
            page = pages / f"share-{seat}-of-2.txt"
            assert page.stat().st_mode & 0o777 == 0o600
            texts.append(words_on(page.read_text()))
            terminal.enter()
            if name == "Ann":  # once wrongly: the page stays as it is
                terminal.type_share("zzzz " + texts[-1].split(" ", 1)[1])
                terminal.until("word 1.")
                terminal.enter()
                terminal.until("destroy")
                terminal.until("Press Enter.")
                terminal.enter()
            terminal.type_share(texts[-1])
        terminal.until("give the key.")
        terminal.enter()
        assert terminal.end() == 0
    record = open_record(path.read_bytes())
    combine([parse_share(text) for text in texts], expected=record.public_key)
    assert not any(text.split()[20] + " " + text.split()[21] in terminal.shown for text in texts)


def test_an_earlier_ceremonys_page_is_never_replaced(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "share-1-of-5.txt").write_text("somebody's only copy")
    arguments = ["--record", str(tmp_path / "record.json"), "--pages", str(pages), *custodians()]
    with Terminal("shares", "ceremony", *arguments) as terminal:
        for _ in range(2):
            terminal.until("Press Enter.")
            terminal.enter()
        terminal.until("File exists")
        assert terminal.end() == 2
    assert (pages / "share-1-of-5.txt").read_text() == "somebody's only copy"


def test_bytes_that_are_no_text_are_a_misread_share(record: Path, shares: tuple[Share, ...]) -> None:
    with Terminal("shares", "verify", "--record", str(record)) as terminal:
        terminal.until("Press Enter.")
        terminal.enter()
        terminal.until("  1> ")
        terminal.enter("\udcff\udcfe")
        terminal.until("  2> ")
        terminal.enter()
        assert "word 1" in terminal.until("Press Enter.")
        terminal.enter()
        terminal.type_share(" ".join(shares[3].words))
        assert terminal.end() == 0


def test_a_printer_that_is_not_there_ends_it(tmp_path: Path) -> None:
    arguments = ["--record", str(tmp_path / "record.json"), "--pages", str(tmp_path / "lp0"), *custodians()]
    with Terminal("shares", "ceremony", *arguments) as terminal:
        for _ in range(2):
            terminal.until("Press Enter.")
            terminal.enter()
        terminal.until("No such file")
        assert terminal.end() == 2


def test_pages_go_to_a_printers_device_as_well(tmp_path: Path) -> None:
    printer, paper = pty.openpty()
    try:
        arguments = ["--record", str(tmp_path / "record.json"), "--pages", os.ttyname(paper), *custodians()]
        with Terminal("shares", "ceremony", *arguments) as terminal:
            for _ in range(2):
                terminal.until("Press Enter.")
                terminal.enter()
            terminal.until("destroy")
            printed = ""
            while "\f" not in printed:
                printed += os.read(printer, 65536).decode().replace("\r\n", "\n")
            parse_share(words_on(printed))
    finally:
        os.close(printer)
        os.close(paper)


def test_combining_three_shares_opens_an_envelope(
    tmp_path: Path, record: Path, shares: tuple[Share, ...], envelope: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--record", str(record), "--open", str(envelope), "--out", str(out)]
    with Terminal("shares", "combine", *arguments) as terminal:
        for share in (shares[4], shares[0], shares[2]):
            terminal.bring_share(" ".join(share.words))
        assert terminal.end() == 0, terminal.shown[-500:]
    assert out.read_bytes() == b"the key" * 1000
    assert PRIVATE.hex() not in terminal.shown
    assert not any(PRIVATE in data or PRIVATE.hex().encode() in data for data in files(tmp_path))


def test_combining_alone_proves_and_writes_nothing_and_the_key_only_where_asked(
    tmp_path: Path, record: Path, shares: tuple[Share, ...]
) -> None:
    for extra in ([], ["--write-key", str(tmp_path / "key")]):
        with Terminal("shares", "combine", "--record", str(record), *extra) as terminal:
            for share in shares[:3]:
                terminal.bring_share(" ".join(share.words))
            assert terminal.end() == 0, terminal.shown[-500:]
        assert (tmp_path / "key").exists() == bool(extra)
    assert (tmp_path / "key").read_text() == PRIVATE.hex() + "\n"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_custodian_verifies_a_share_and_the_record_says_when(
    record: Path, shares: tuple[Share, ...], tmp_path: Path
) -> None:
    before = record.read_bytes()
    with Terminal("shares", "verify", "--record", str(record)) as terminal:
        terminal.bring_share(" ".join(split(PRIVATE)[0].words))
        terminal.until("not one of this record")
        terminal.enter()
        terminal.type_share(" ".join(shares[3].words))
        terminal.until("share of Dora: right; 3 of 5 open")
        assert terminal.end() == 0
    assert record.read_bytes() == before
    signer = Signer(key := Ed25519PrivateKey.generate())
    pem = tmp_path / "signing.pem"
    pem.touch(0o600)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    record.write_bytes(seal_record(held(shares), signer))
    arguments = ["--record", str(record), "--note", "--sign-with", f"file:{pem}", "--trusted", signer.public_hex]
    with Terminal("shares", "verify", *arguments) as terminal:
        terminal.bring_share(" ".join(shares[3].words))
        assert terminal.end() == 0, terminal.shown[-500:]
    noted = open_record(record.read_bytes(), trusted=[signer.public_hex])
    assert noted.custodians[3].confirmed > noted.custodians[0].confirmed


def test_rotation_makes_new_shares_and_moves_old_backups_to_them(
    tmp_path: Path, record: Path, shares: tuple[Share, ...], envelope: Path
) -> None:
    moved, successor = tmp_path / "moved", tmp_path / "new.json"
    moved.mkdir()
    arguments = ["--record", str(record), "--new-record", str(successor), "--rewrap", str(envelope)]
    with Terminal(
        "shares", "rotate", *arguments, "--out", str(moved), *custodians(["Fay", "Gus"]), "-k2", "-n2"
    ) as new:
        for share in shares[:3]:
            new.bring_share(" ".join(share.words))
        words = new.ceremony(["Fay", "Gus"])
        new.until("does not revoke")
        assert new.end() == 0
    rotated = open_record(successor.read_bytes())
    assert rotated.replaces == PUBLIC
    private_key = combine([parse_share(text) for text in words], expected=rotated.public_key)
    copy = moved / envelope.name
    open_file(copy, tmp_path / "by-recovery", RecoveryOpener(private_key))
    open_file(copy, tmp_path / "by-passphrase", PassphraseOpener(b"a passphrase of an epoch"))
    assert (tmp_path / "by-recovery").read_bytes() == (tmp_path / "by-passphrase").read_bytes() == b"the key" * 1000
    assert PUBLIC.hex() not in json.dumps([slot.bound() for slot in inspect_file(copy).slots])
    assert inspect_file(envelope).slots[0] == inspect_file(copy).slots[0]


def test_a_backup_that_was_forgotten_is_moved_later(
    tmp_path: Path, record: Path, shares: tuple[Share, ...], envelope: Path
) -> None:
    moved, successor = tmp_path / "moved", tmp_path / "new.json"
    moved.mkdir()
    private_key = bytes(range(2, 34))
    public_key = recovery_public_key(private_key)
    successor.write_bytes(
        seal_record(new_record(split(private_key), NAMES, public_key=public_key, now=datetime.now(UTC)))
    )
    arguments = ["--record", str(record), "--rewrap", str(envelope), "--out", str(moved), "--to", str(successor)]
    with Terminal("shares", "combine", *arguments) as terminal:
        assert public_key.hex() in terminal.until("Press Enter.")
        terminal.enter()
        for share in shares[:3]:
            terminal.bring_share(" ".join(share.words))
        terminal.until("re-wrapped")
        assert terminal.end() == 0
    open_file(moved / envelope.name, tmp_path / "back", RecoveryOpener(private_key))


def test_without_a_terminal_no_share_is_shown_or_taken(tmp_path: Path) -> None:
    done = subprocess.run(
        [*VEDR, "shares", "ceremony", "--record", str(tmp_path / "record.json")],
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 4
    assert "terminal only" in done.stderr
    assert list(tmp_path.iterdir()) == []
