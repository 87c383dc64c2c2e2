"""The table of what breaks each check: whole, and the same on its page."""

import subprocess
import sys
from pathlib import Path

import pytest

from vedr.errors import InvalidInputError
from vedr.readiness.faults import FAULTS
from vedr.readiness.pages import BEGIN, END, with_table
from vedr.readiness.registry import CHECKS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "checks.md"


def test_every_check_has_a_fault_that_it_finds_and_no_fault_is_of_a_check_that_there_is_not() -> None:
    assert {one.check for fault in FAULTS for one in fault.shown} == {check.name for check in CHECKS}


def test_every_fault_is_found_as_a_failure_with_a_subject_and_something_to_do() -> None:
    for fault in FAULTS:
        for one in fault.shown:
            assert one.result in ("failed", "could not run")
            assert one.names
            assert one.remedy
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_page_shows_the_faults_as_they_are_done() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m vedr.readiness.pages --write"


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_that_lost_its_marks_is_refused(page: str) -> None:
    with pytest.raises(InvalidInputError, match="marks"):
        with_table(page)


def test_the_command_says_whether_the_page_is_current() -> None:
    command = [sys.executable, "-m", "vedr.readiness.pages"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
