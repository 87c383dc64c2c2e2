"""The break-glass decrypter as somebody would run it: one file, beside a backup, in a bare interpreter."""

import contextlib
import json
import os
import pty
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from argon2.exceptions import HashingError

from vedr.custody import break_glass
from vedr.custody.envelope import seal
from vedr.custody.envelope_slots import PassphraseSeal, RecoverySeal, recovery_public_key

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "envelope-v1.json").read_text())
SCRIPT = Path(break_glass.__file__)
PAYLOAD = bytes(range(256)) * 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "break_glass.py").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "backup").write_bytes(bytes.fromhex(VECTOR["both"]))
    return tmp_path


def run(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Isolated (-I): neither the environment nor the folder can lend it a module."""
    return subprocess.run(
        [sys.executable, "-I", "break_glass.py", *arguments],
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_imports_nothing_of_vedr() -> None:
    assert "vedr." not in "".join(line for line in SCRIPT.read_text().splitlines() if "import" in line)


@pytest.mark.parametrize(
    ("flags", "typed"), [([], VECTOR["passphrase"]), (["--recovery"], VECTOR["recovery_private_key"])]
)
def test_it_opens_an_envelope_with_either_secret(folder: Path, flags: list[str], typed: str) -> None:
    done = run(folder, "backup", "out", *flags, typed=typed + "\n")
    assert (done.returncode, done.stdout) == (0, "verified and written: out\n"), done.stderr
    assert (folder / "out").read_bytes() == PAYLOAD
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} == {"break_glass.py", "backup", "out"}


def test_it_shows_what_the_header_claims_without_a_secret(folder: Path) -> None:
    done = run(folder, "backup")
    assert done.returncode == 0
    assert done.stdout.startswith("Unverified")
    assert json.loads(done.stdout.split("\n", 1)[1])["core"]["meta"] == VECTOR["meta"]


def test_what_is_typed_at_a_terminal_is_not_echoed(folder: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-I", "break_glass.py", "backup", "out"])  # noqa: S606
    shown = os.read(terminal, 1024)
    assert b"Passphrase: " in shown
    os.write(terminal, VECTOR["passphrase"].encode() + b"\n")
    with contextlib.suppress(OSError):  # how a terminal ends when its program does
        while chunk := os.read(terminal, 1024):
            shown += chunk
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert VECTOR["passphrase"].encode() not in shown
    assert (folder / "out").read_bytes() == PAYLOAD


@pytest.mark.parametrize(
    ("flags", "typed", "says"),
    [
        ([], "needle needle needle", "no slot opens with that"),
        (["--recovery"], "ab" * 32, "no slot opens with that"),
        (["--recovery"], "needle", "64 hexadecimal digits"),
    ],
)
def test_a_wrong_secret_writes_nothing_and_is_not_printed(
    folder: Path, flags: list[str], typed: str, says: str
) -> None:
    done = run(folder, "backup", "out", *flags, typed=typed + "\n")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert typed not in done.stdout + done.stderr
    assert {path.name for path in folder.iterdir()} == {"break_glass.py", "backup"}


def test_an_altered_file_writes_nothing(folder: Path) -> None:
    data = bytearray((folder / "backup").read_bytes())
    data[-1] ^= 1
    (folder / "backup").write_bytes(data)
    done = run(folder, "backup", "out", "--recovery", typed=VECTOR["recovery_private_key"])
    assert (done.returncode, done.stderr) == (1, "refused: a chunk was changed, removed or moved\n")
    assert {path.name for path in folder.iterdir()} == {"break_glass.py", "backup"}


# The same in this process, where every branch can be reached.


@pytest.fixture
def arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    given = ["break_glass.py", "backup", "out", "--recovery"]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(sys, "stdin", Typed(VECTOR["recovery_private_key"] + "\n"))
    return given


class Typed(BytesIO):
    """Standard input with one line, at a terminal or not."""

    def __init__(self, line: str, *, terminal: bool = False) -> None:
        super().__init__()
        self._line = line
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def readline(self, _size: int | None = -1) -> str:  # type: ignore[override]
        return self._line


def test_a_file_that_exists_is_never_replaced(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").write_bytes(b"mine")
    assert arguments
    assert break_glass.main() == 1
    assert "exists" in capsys.readouterr().err
    assert (folder / "out").read_bytes() == b"mine"
    with pytest.raises(break_glass.Refused, match="exists"):  # also one that appears while it works
        break_glass.decrypt_file(
            folder / "backup", folder / "out", bytes.fromhex(VECTOR["recovery_private_key"]), "recovery"
        )
    assert {path.name for path in folder.iterdir()} == {"break_glass.py", "backup", "out"}


def test_it_works_in_this_process_too(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0
    assert (folder / "out").read_bytes() == PAYLOAD
    arguments[1:] = ["backup"]
    assert break_glass.main() == 0
    arguments[1:] = ["missing"]
    assert break_glass.main() == 1
    assert "missing: No such file" in capsys.readouterr().err


def test_it_asks_at_a_terminal_without_echo(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("", terminal=True))
    monkeypatch.setattr("getpass.getpass", lambda _prompt: VECTOR["passphrase"])
    arguments[1:] = ["backup", "out"]
    assert break_glass.main() == 0
    assert (folder / "out").read_bytes() == PAYLOAD


def test_what_is_no_recovery_key_is_refused_before_it_is_tried(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("needle\n"))
    assert arguments[-1] == "--recovery"
    assert break_glass.main() == 1
    assert "needle" not in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (EOFError(), "broken off"),
        (KeyboardInterrupt(), "broken off"),
        (UnicodeDecodeError("utf-8", b"needle", 0, 1, "bad"), "not UTF-8"),
    ],
)
def test_a_prompt_that_is_left_or_answered_in_other_bytes_ends_in_one_line(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    says: str,
) -> None:
    def interrupted(_prompt: str) -> str:
        raise raised

    monkeypatch.setattr(sys, "stdin", Typed("", terminal=True))
    monkeypatch.setattr("getpass.getpass", interrupted)
    assert arguments[-1] == "--recovery"
    assert break_glass.main() == 1
    assert capsys.readouterr().err == f"refused: {'what was typed is ' if 'UTF' in says else ''}{says}\n"


def test_a_machine_without_the_memory_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(break_glass, "hash_secret_raw", no_memory)
    with pytest.raises(break_glass.Refused, match="memory"):
        break_glass.decrypt_file(folder / "backup", folder / "out", b"any passphrase", "passphrase")


def refused(data: bytes) -> str:
    with pytest.raises(break_glass.Refused) as caught:
        break_glass.read_header(BytesIO(data), len(data))
    return str(caught.value)


def header_of(text: str) -> bytes:
    return b"vedrenv\x01" + len(text).to_bytes(4, "big") + text.encode() + bytes(32)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"created":"2026', '"created":"2026-99', "a field of the header"),
        ('"created":"2026-01', '"created":"2026-13', "a field of the header"),
        ('"meta":{"chain_id":"virtengine-1","kind":"validator-key"}', '"meta":[]', "no object"),
        ('"slots":[', '"slots":[1,', "unknown kind"),
        ('"kind":"recovery"', '"kind":"other"', "unknown kind"),
        ('"t":3', '"t":2', "out of its range"),
        ('"t":3', '"t":true', "out of its range"),
        ('"t":3', '"t":3.0', "not whole"),
        ('"t":3', '"t":3,"t":3', "twice"),
        ('"t":3', '"t": 3', "canonical"),
        ('"t":3', '"t":3,"u":3', "fields of version 1"),
        ('"t":3', '"t":', "not JSON"),
        ('"reference":"aws', '"reference":"\\taws', "reference"),
        ('"size":1280', '"size":1073741825', "1,048,576 chunks"),
        ('"slots":', '"slot":', "fields of version 1"),
    ],
)
def test_it_refuses_a_header_that_is_not_of_version_1(old: str, new: str, says: str) -> None:
    data = bytes.fromhex(VECTOR["both"])
    text = data[12 : 12 + int.from_bytes(data[8:12], "big")].decode()
    assert old in text
    assert says in refused(header_of(text.replace(old, new, 1)))


def test_it_refuses_what_is_no_envelope() -> None:
    data = bytes.fromhex(VECTOR["both"])
    slots = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "big")])["slots"]
    header = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "big")])
    twice = json.dumps({**header, "slots": [slots[0], slots[0]]}, sort_keys=True, separators=(",", ":"))
    none = json.dumps({**header, "slots": []}, sort_keys=True, separators=(",", ":"))
    assert "empty" in refused(b"")
    assert "no envelope" in refused(b"PK")
    assert "another version" in refused(b"vedrenv\x02" + data[8:])
    assert "cut off" in refused(data[:10])
    assert "cut off" in refused(data[:50])
    assert "cut off" in refused(data[:-1])
    assert "follow" in refused(data + b"\0")
    assert "64 KiB" in refused(b"vedrenv\x01\xff\xff\xff\xff")
    assert "two slots" in refused(header_of(twice))
    assert "1 to 8" in refused(header_of(none))


def test_a_slot_without_a_reference_is_fine_and_slots_of_the_other_kind_are_passed_over() -> None:
    private = bytes(range(1, 33))
    slots = [PassphraseSeal(b"twelve bytes and more"), RecoverySeal(recovery_public_key(private))]
    data = seal(b"", slots=slots, meta={}, created=break_glass.dt.datetime.now(break_glass.dt.UTC))
    out = BytesIO()
    break_glass.decrypt(BytesIO(data), len(data), private, "recovery", out)
    assert out.getvalue() == b""


def refused_with_slots(change: Callable[[list[dict[str, str]]], object]) -> str:
    """What is said to the right secret about the vector with its slots changed."""
    data = bytes.fromhex(VECTOR["both"])
    length = int.from_bytes(data[8:12], "big")
    header = json.loads(data[12 : 12 + length])
    change(header["slots"])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    forged = data[:8] + len(text).to_bytes(4, "big") + text + data[12 + length :]
    with pytest.raises(break_glass.Refused) as caught:
        break_glass.decrypt(
            BytesIO(forged), len(forged), bytes.fromhex(VECTOR["recovery_private_key"]), "recovery", BytesIO()
        )
    return str(caught.value)


def test_a_removed_slot_is_noticed() -> None:
    assert "changed after" in refused_with_slots(lambda slots: slots.pop(0))


def test_a_slot_whose_public_key_anybody_can_answer_opens_for_nobody() -> None:
    """A point of low order: what is agreed on with it is the same for every private key."""

    def weaken(slots: list[dict[str, str]]) -> None:
        for slot in slots:
            if slot["kind"] == "recovery":
                slot["sealed"] = bytes(32).hex() + slot["sealed"][64:]

    assert "no slot opens with that" in refused_with_slots(weaken)


@pytest.mark.parametrize("from_the_end", [1, 17, len(PAYLOAD)], ids=["tag", "last byte", "payload"])
def test_a_changed_payload_leaves_no_file_behind(folder: Path, from_the_end: int) -> None:
    data = bytearray((folder / "backup").read_bytes())
    data[-from_the_end] ^= 1
    (folder / "backup").write_bytes(data)
    before = set(folder.iterdir())
    with pytest.raises(break_glass.Refused, match="a chunk was changed, removed or moved"):
        break_glass.decrypt_file(
            folder / "backup", folder / "out", bytes.fromhex(VECTOR["recovery_private_key"]), "recovery"
        )
    assert set(folder.iterdir()) == before
