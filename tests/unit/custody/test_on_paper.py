"""docs/custody/on-paper.md: its scripts, as printed, take a key backup from its envelope back to key files."""

import re
import subprocess
import sys
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vedr.custody import break_glass
from vedr.custody.envelope import seal
from vedr.custody.envelope_slots import PassphraseSeal, RecoverySeal, recovery_public_key
from vedr.custody.shares import split
from vedr.signature import canonical_json

PAGE = Path(__file__).parents[3] / "docs" / "custody" / "on-paper.md"
PRIVATE = bytes(range(1, 33))
PASSPHRASE = "a passphrase of an epoch"
KEY_FILE = b'{"address":"00"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = PAGE.read_text()
    scripts = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, script in zip(re.findall(r"Save as `(\w+\.py)`", text), scripts, strict=True):
        (tmp_path / name).write_text(script)
    (tmp_path / "break_glass.py").write_bytes(Path(break_glass.__file__).read_bytes())
    bundle = canonical_json(
        {
            "chain_id": "x-1",
            "files": [{"content": b64encode(KEY_FILE).decode(), "path": "config/priv_validator_key.json"}],
            "format": "vedr-key-bundle/1",
            "kind": "validator",
            "owner": "validator-1",
        }
    )
    slots = [PassphraseSeal(PASSPHRASE.encode(), "aws-secret:one"), RecoverySeal(recovery_public_key(PRIVATE))]
    (tmp_path / "BACKUP").write_bytes(seal(bundle, slots=slots, meta={}, created=datetime.now(UTC)))
    return tmp_path


def run(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", *arguments]
    return subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True, check=True, timeout=60)


def unpacked(folder: Path) -> bytes:
    said = run(folder, "unpack.py", "OUT", "keys").stdout
    assert said == "validator validator-1 x-1\nkeys/config/priv_validator_key.json\n"
    return (folder / "keys" / "config" / "priv_validator_key.json").read_bytes()


def test_the_page_opens_a_backup_with_the_passphrase(folder: Path) -> None:
    assert '"reference": "aws-secret:one"' in run(folder, "break_glass.py", "BACKUP").stdout
    run(folder, "break_glass.py", "BACKUP", "OUT", typed=PASSPHRASE + "\n")
    assert unpacked(folder) == KEY_FILE
    assert (folder / "keys" / "config" / "priv_validator_key.json").stat().st_mode & 0o777 == 0o600


def test_the_page_opens_a_backup_with_three_shares(folder: Path) -> None:
    typed = "".join(f"{' '.join(share.words)}\n" for share in split(PRIVATE)[2:])
    combined = run(folder, "combine.py", "3", typed=typed)
    assert f"public key: {recovery_public_key(PRIVATE).hex()}" in combined.stderr
    run(folder, "break_glass.py", "BACKUP", "OUT", "--recovery", typed=combined.stdout)
    assert unpacked(folder) == KEY_FILE


def test_the_page_names_every_option_that_break_glass_has(folder: Path) -> None:
    options = set(re.findall(r"--\w+", run(folder, "break_glass.py", "--help").stdout)) - {"--help"}
    assert options
    assert all(option in PAGE.read_text() for option in options)
