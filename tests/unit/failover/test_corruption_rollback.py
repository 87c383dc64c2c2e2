"""A node program's rollback: it is given a home, bounded in time, and believed only when it says that it succeeded."""

from pathlib import Path

import pytest

from vedr.adapters.rollback import roll_back
from vedr.errors import NotFoundError, VerificationFailedError
from vedr.inventory import Chain


def chain(*rollback: str) -> Chain:
    return Chain(
        chain_id="chain-1", block_time_s=1, start=("x",), start_isolated=("x",), inspect=("x",), rollback=rollback,
        genesis=Path("genesis.json"), genesis_sha256="0" * 64,
    )  # fmt: skip


def test_the_program_gets_the_home_and_its_data(tmp_path: Path) -> None:
    roll_back(chain("sh", "-c", 'echo "$1" > "$0"/told', "{home}", "{data}"), tmp_path)
    assert (tmp_path / "told").read_text().strip() == str(tmp_path / "data")


def test_a_refusal_is_told_in_the_programs_own_words(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailedError, match="no earlier version"):
        roll_back(chain("sh", "-c", "echo no earlier version >&2; exit 3"), tmp_path)


def test_a_silent_refusal_is_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailedError, match="exit status 1"):
        roll_back(chain("false"), tmp_path)


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailedError, match="took more than"):
        roll_back(chain("sleep", "60"), tmp_path, limit_s=0.2)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no-such-program"):
        roll_back(chain("no-such-program"), tmp_path)
