"""The runbooks' pages say what the code does."""

from flows.pages import FOLDER, stale


def test_every_page_is_up_to_date_with_its_runbook() -> None:
    assert not stale(FOLDER, write=False), "run: python -m flows.pages --write"
