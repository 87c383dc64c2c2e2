"""The business continuity plan's page says what the program does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vedr.continuity.pages import TABLES, with_tables
from vedr.errors import InvalidInputError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "business-continuity.md"


def test_the_pages_tables_are_those_of_the_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: python -m vedr.continuity.pages --write"


def test_a_page_that_lost_a_table_is_refused() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        with pytest.raises(InvalidInputError, match=name):
            with_tables(page.replace(f"generated table {name}:", f"table {name}:"))


def test_a_cell_that_was_edited_is_found_and_put_right() -> None:
    page = PAGE.read_text(encoding="utf-8")
    edited = page.replace("| Block production | P0 | 1 h | 15 min |", "| Block production | P0 | 9 h | 15 min |")
    assert edited != page
    assert with_tables(edited) == page


def test_links_of_the_page_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8"))
    ours = {"runbooks/RB-DR-004.md"}  # comes with its runbook
    assert not [target for target in targets if not (PAGE.parent / target).exists() and target not in ours]


def test_the_command_says_whether_the_page_is_current() -> None:
    command = [sys.executable, "-m", "vedr.continuity.pages"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
