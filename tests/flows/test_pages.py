"""The runbooks' pages and the recovery plan say what the code does."""

import re
import shutil
from pathlib import Path

import pytest

from flows.pages import FOLDER, runbooks, stale
from flows.plan_page import PAGE, with_tables
from vedr.errors import InvalidInputError
from vedr.targets import Retention, Schedule

ROOT = Path(__file__).parents[2]


def test_every_page_is_up_to_date_with_its_runbook() -> None:
    assert not stale(FOLDER, write=False), "run: python -m flows.pages --write"


def test_a_number_that_was_edited_in_the_plan_is_found_and_put_right(tmp_path: Path) -> None:
    shutil.copytree(ROOT / FOLDER, tmp_path / "runbooks")
    plan = tmp_path / PAGE.name
    right = (ROOT / PAGE).read_text(encoding="utf-8")
    plan.write_text(right.replace("`0 6 * * *`", "`0 9 * * *`"), encoding="utf-8")
    assert plan in stale(tmp_path / "runbooks", write=True)
    assert plan.read_text(encoding="utf-8") == right
    with pytest.raises(InvalidInputError, match="retention"):
        with_tables(right.replace("generated table retention:", "table retention:"), runbooks())


def test_the_plan_names_every_scheduled_job_and_everything_that_is_kept() -> None:
    plan = (ROOT / PAGE).read_text(encoding="utf-8")
    assert all(f"`{cron}`" in plan for cron in Schedule().model_dump().values())
    days = {str(value) for name, value in Retention() if name != "epoch_days"}
    assert days <= set(re.findall(r"^\| (\d+) \|", plan, re.MULTILINE))


@pytest.mark.parametrize(
    "page", sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md"))
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_field_of_every_form_says_what_it_is_and_refuses_nonsense() -> None:
    free = {("Tabletop", "findings")}  # what people found, in their own words
    for runbook in runbooks():
        for name, field in runbook.order.model_json_schema()["properties"].items():
            where = (runbook.order.__name__, name)
            assert field.get("title"), where
            assert field.get("description"), where
            for kind in (field, *field.get("anyOf", ())):
                bounded = kind.keys() & {"pattern", "enum", "format", "const"}
                assert kind.get("type") != "string" or bounded or where in free, where
