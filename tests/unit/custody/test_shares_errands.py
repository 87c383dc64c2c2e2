"""What `vedr shares` refuses before it troubles any custodian."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from vedr.cli.desk import swap_is_on
from vedr.cli.shares import _write_record, app
from vedr.custody.envelope import seal
from vedr.custody.envelope_slots import RecoverySeal, recovery_public_key
from vedr.custody.shares import split
from vedr.custody.shares_record import new_record, open_record, seal_record
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.signature import Signer

PRIVATE = bytes(range(1, 33))
PUBLIC = recovery_public_key(PRIVATE)
RECORD = new_record(split(PRIVATE), list("abcde"), public_key=PUBLIC, now=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("record").write_bytes(seal_record(RECORD))
    Path("edited").write_bytes(seal_record(RECORD) + b"\n")
    Path("signed").write_bytes(seal_record(RECORD, Signer(Ed25519PrivateKey.generate())))
    key = Ed25519PrivateKey.generate()
    Path("key.pem").touch(0o600)
    Path("key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    Path("payload").write_bytes(b"payload")
    for name, public_key in (("backup", PUBLIC), ("other", recovery_public_key(bytes(range(2, 34))))):
        slots = [RecoverySeal(public_key)]
        Path(name).write_bytes(seal(b"payload", slots=slots, meta={}, created=datetime.now(UTC)))
    for name in ("empty", "full", "deep"):
        Path(name).mkdir()
    Path("full/backup").touch()
    Path("deep/backup").write_bytes(Path("backup").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected", "says"),
    [
        ("ceremony --record record", ConflictError, "record exists"),
        ("ceremony --record no/record", NotFoundError, "no folder"),
        ("ceremony --record new -k 6", InvalidInputError, "6 of 5"),
        ("ceremony --record new -k 3 -n 17", InvalidInputError, "3 of 17"),
        ("ceremony --record new --sign-with file:/no/such/key", NotFoundError, "key"),
        ("ceremony --record new --custodian a", InvalidInputError, "5 shares need as many"),
        ("ceremony --record new", RefusedError, "terminal only"),
        ("verify --record missing", NotFoundError, "missing"),
        ("verify --record signed --note", InvalidInputError, "signed"),
        ("verify --record signed --note --sign-with file:KEY", InvalidInputError, "verified"),
        ("verify --record signed --trusted needle", InvalidInputError, "not a public key"),
        ("verify --record edited", RefusedError, "terminal only"),
        ("verify --record payload", VedrError, "not JSON"),
        ("combine --record record --open backup", InvalidInputError, "--open needs"),
        ("combine --record record --open missing --out new", NotFoundError, "missing"),
        ("combine --record record --open other --out new", InvalidInputError, "no slot of the key"),
        ("combine --record record --open payload --out new", VedrError, "envelope"),
        ("combine --record record --open backup --out record", ConflictError, "record exists"),
        ("combine --record record --write-key record", ConflictError, "record exists"),
        ("combine --record record --rewrap backup", InvalidInputError, "folder"),
        ("combine --record record --rewrap backup --out record", InvalidInputError, "folder"),
        ("combine --record record --rewrap backup --out empty", InvalidInputError, "record of the new shares"),
        ("combine --record record --rewrap backup --out full", ConflictError, "full/backup exists"),
        ("combine --record record --rewrap backup --rewrap deep/backup --out empty", InvalidInputError, "one name"),
        ("combine --record record --open backup --rewrap backup --out empty", InvalidInputError, "two errands"),
        ("rotate --record record --new-record record", ConflictError, "record exists"),
        ("rotate --record record --new-record new --rewrap other --out empty", InvalidInputError, "no slot"),
        ("rotate --record record --new-record new -n 1", InvalidInputError, "3 of 1"),
        ("rotate --record record --new-record new", RefusedError, "terminal only"),
    ],
)
def test_nobody_is_asked_for_a_share_when_the_errand_cannot_be_done(
    folder: Path, line: str, expected: type[VedrError], says: str
) -> None:
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(app, line.replace("KEY", str(folder / "key.pem")).split())
    assert isinstance(result.exception, expected)
    assert says in str(result.exception)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("lines", "expected"), [(1, False), (2, True)])
def test_swap_is_noticed(tmp_path: Path, lines: int, expected: bool) -> None:
    path = tmp_path / "swaps"
    assert not swap_is_on(path)
    path.write_text("Filename Type Size Used Priority\n" * lines)
    assert swap_is_on(path) is expected


def test_a_record_that_cannot_be_written_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnavailableError, match="Save the record printed above"):
        _write_record(tmp_path / "missing" / "record", RECORD, None)
    assert open_record(capsys.readouterr().out.strip().encode()) == RECORD
