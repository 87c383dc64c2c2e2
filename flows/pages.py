"""The tables in docs/runbooks/ and docs/disaster-recovery.md: generated from the code, so that they cannot part.

`python -m flows.pages` says which pages are out of date (exit 1 if any is); with `--write` it brings them up to date.
A page's own words stand around the generated part, which lies between two marks.
"""

import argparse
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from flows.plan_page import PAGE, duration, with_tables
from vedr.errors import InvalidInputError
from vedr.runbook.steps import Runbook

FOLDER: Final = Path("docs/runbooks")
BEGIN: Final = "<!-- generated from the code by python -m flows.pages: do not edit -->"
END: Final = "<!-- end of the generated part -->"


def runbooks() -> Iterable[Runbook[Any]]:
    """Every runbook that `vedr run` finds, by id."""
    for point in sorted(entry_points(group="vedr.runbooks"), key=lambda point: point.name):
        yield point.load()


def table(runbook: Runbook[Any]) -> str:
    """Target, form and steps of one runbook, as Markdown."""
    budgets = duration(runbook.budget_s)
    lines = [f"Target: **{duration(runbook.target_s)}** from detection; the budgets below take {budgets}.", ""]
    lines += ["| Order | Meaning | Default |", "|---|---|---|"]
    for name, field in runbook.order.model_fields.items():
        default = "must be given" if field.is_required() else f"`{field.default}`" if field.default else "empty"
        lines.append(f"| `{name}` | {field.description or field.title} | {default} |")
    lines += ["", "| Step | Budget | Tries | What it does |", "|---|---|---|---|"]
    lines += [
        f"| {number}. {step.title} | {duration(step.budget_s)} | {step.retry.attempts} | {step.effect} |"
        for number, step in enumerate(runbook.steps, start=1)
    ]
    return "\n".join(lines)


def with_table(page: str, runbook: Runbook[Any]) -> str:
    """The page with its generated part brought up to date."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidInputError(
            f"page of {runbook.id} lacks the marks of its generated part", remedy=f"Put {BEGIN} and {END}."
        )
    return f"{before}{BEGIN}\n{table(runbook)}\n{END}{after}"


def stale(folder: Path, *, write: bool) -> list[Path]:
    """The runbooks' pages, and the plan beside their folder, that differ from the code; rewritten when asked to."""
    found = []
    for runbook in runbooks():
        path = folder / f"{runbook.id}.md"
        if not path.is_file():
            raise InvalidInputError(f"runbook {runbook.id} has no page", remedy=f"Write {path}.")
        page = path.read_text(encoding="utf-8")
        if (current := with_table(page, runbook)) != page:
            found.append(path)
            if write:
                path.write_text(current, encoding="utf-8")
    plan = folder.parent / PAGE.name
    page = plan.read_text(encoding="utf-8")
    if (current := with_tables(page, runbooks())) != page:
        found.append(plan)
        if write:
            plan.write_text(current, encoding="utf-8")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring the pages up to date")
    write = parser.parse_args().write
    pages = stale(FOLDER, write=write)
    for path in pages:
        sys.stdout.write(f"{path}: {'rewritten' if write else 'out of date: python -m flows.pages --write'}\n")
    sys.exit(0 if write or not pages else 1)


if __name__ == "__main__":
    main()
