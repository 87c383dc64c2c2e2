"""The tables of docs/business-continuity.md, generated from the plan's data, so that page and code cannot part.

`python -m vedr.continuity.pages` says whether the page is out of date (exit 1); with `--write` it brings it up to date.
Each table lies between two marks that carry its name; the page's own words stand around them.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from vedr.continuity import activation, communication, deadlines, functions, roles
from vedr.continuity.incident import duration
from vedr.errors import InvalidInputError
from vedr.policies.continuity import ROLE_TITLES
from vedr.targets import COMPONENT_RTO_S, RPO_S, Schedule

_NONE: Final = "\u2013"
PAGE: Final = Path("docs/business-continuity.md")
_BLOCK: Final = re.compile(
    r"(<!-- generated table (?P<name>[a-z-]+): python -m vedr\.continuity\.pages -->\n).*?(<!-- end of table -->)",
    re.DOTALL,
)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(seconds: float | None) -> str:
    return _NONE if seconds is None else duration(round(seconds * 1000)) if seconds else "0"


def _measures() -> str:
    sooner = sorted(
        {
            (one.mtd_s, one.title.lower())
            for one in functions.FUNCTIONS.values()
            if one.priority == "P0" and one.mtd_s < functions.MTD_S
        }
    )
    exceptions = "".join(f"; {title} {_time(mtd_s)}" for mtd_s, title in sooner)
    rows = (
        ("Maximum tolerable downtime", f"{_time(functions.MTD_S)}{exceptions}", "after it, the damage is severe"),
        ("Recovery time", "by function and by runbook, below", "to restored service, from detection"),
        ("Recovery point", "by what is lost, below; 0 for chain state and keys", "what may be lost"),
        ("Work recovery", _time(functions.WORK_RECOVERY_S), "from restored service to full capacity"),
    )
    return _table(("Measure", "Value", "Meaning"), rows)


def _functions() -> str:
    rows = (
        (
            one.title,
            one.priority,
            _time(one.mtd_s),
            _time(one.rto_s),
            ", ".join([*(functions.FUNCTIONS[need].title.lower() for need in one.needs), *one.stands_on]),
            one.when_away,
        )
        for one in functions.FUNCTIONS.values()
    )
    return _table(("Function", "Priority", "MTD", "RTO", "Needs", "Without it"), rows)


def _tiers() -> str:
    rows = ((str(one.number), one.services, one.strategy, one.method) for one in functions.TIERS)
    return _table(("Tier", "Services", "Strategy", "How"), rows)


def _strategies() -> str:
    rows = (
        (one.category.value, one.event, f"[{one.runbook}](runbooks/{one.runbook}.md)", _time(one.rto_s), one.way)
        for one in functions.STRATEGIES
    )
    return _table(("Category", "Lost", "Runbook", "RTO", "Way"), rows)


def _component_rto() -> str:
    rows = ((component.value, *(_time(row[one]) for one in row)) for component, row in COMPONENT_RTO_S.items())
    categories = [category.value for category in next(iter(COMPONENT_RTO_S.values()))]
    return _table(("Component", *categories), rows)


def _rpo() -> str:
    return _table(("What", "RPO"), ((subject.value, _time(limit)) for subject, limit in RPO_S.items()))


def _severities() -> str:
    rows = ((one.severity, one.criterion, one.response, _time(one.updates_s)) for one in functions.SCALES)
    return _table(("Severity", "When", "Who comes", "Updates every"), rows)


def _activation() -> str:
    rows = [("activate, by itself", text) for text in activation.CRITERION_TEXT.values()]
    degraded = (
        f"a critical function degraded, or not seen to be well, for more than {_time(activation.DEGRADED_LIMIT_S)}"
    )
    rows.append(("activate, suggested to the BC manager", degraded))
    stable = f"every critical function up for {_time(activation.STABLE_S)}"
    seen = f"seen at least every {_time(activation.MAX_GAP_S)}"
    rows.append(("deactivate, by the BC manager's word", f"{stable}, {seen}, and no criterion above holds"))
    return _table(("Decision", "Criterion"), rows)


def _communication() -> str:
    rows = (
        (one.who, one.channel, one.when, one.owner, ", ".join(f"`{name}`" for name in one.templates) or _NONE)
        for one in communication.MATRIX
    )
    return _table(("Who", "By", "When", "Owner", "Templates"), rows)


def _templates() -> str:
    parts = [
        f"**`{name}`**\n\n```text\n{subject}\n\n{body}\n```"
        for name, (subject, body) in communication.TEMPLATES.items()
    ]
    return "\n\n".join(parts)


def _effects() -> str:
    rows = (
        (runbook, one.issue, one.services, one.validators, one.providers)
        for runbook, one in communication.EFFECTS.items()
    )
    return _table(("Runbook", "`$issue`", "`$services`", "`$validators`", "`$providers`"), rows)


def _duties() -> str:
    rows = ((ROLE_TITLES[role], one.duty, ROLE_TITLES[one.successor]) for role, one in roles.DUTIES.items())
    return _table(("Role", "Is there to", "Taken over by"), rows)


def _raci() -> str:
    rows = ((one.name, *(one.parts[role] for role in ROLE_TITLES)) for one in roles.RACI)
    return _table(("Activity", *ROLE_TITLES.values()), rows)


def _deadlines() -> str:
    rows = (
        (f"`{one.name}`", one.what, _time(one.within_s), f"{one.after}", one.runbook or "every incident")
        for one in deadlines.RULES
    )
    return _table(("Deadline", "What", "Within", "Counted from", "After"), rows)


def _tests() -> str:
    plan = Schedule()
    rows = (
        ("daily checks", plan.validation, "every copy, node, name, secret; restore dry run"),
        ("single node recovered", plan.drill_weekly, "RB-DR-001"),
        ("zone failover", plan.drill_monthly, "RB-DR-002 and back"),
        ("region failover", plan.drill_quarterly, "RB-DR-003 and back"),
        ("full drill", plan.drill_annual, "all six runbooks"),
    )
    return _table(
        ("Test", "Schedule (cron, UTC)", "Covers"), ((what, f"`{cron}`", covers) for what, cron, covers in rows)
    )


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "measures": _measures,
    "functions": _functions,
    "tiers": _tiers,
    "strategies": _strategies,
    "component-rto": _component_rto,
    "rpo": _rpo,
    "severities": _severities,
    "activation": _activation,
    "communication": _communication,
    "effects": _effects,
    "templates": _templates,
    "duties": _duties,
    "raci": _raci,
    "deadlines": _deadlines,
    "tests": _tests,
}


def with_tables(page: str) -> str:
    """The page with every table brought up to date; InvalidInputError when one lacks its marks, or is not known."""
    named = [block["name"] for block in _BLOCK.finditer(page)]
    if sorted(named) != sorted(TABLES):
        odd = sorted(set(named) ^ set(TABLES)) or sorted({name for name in named if named.count(name) > 1})
        raise InvalidInputError(f"tables of {PAGE}: {', '.join(odd)}", remedy="Each table has its marks exactly once.")
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block['name']]()}\n{block[3]}", page)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    write = parser.parse_args().write
    page = PAGE.read_text(encoding="utf-8")
    current = with_tables(page)
    if current != page:
        sys.stdout.write(
            f"{PAGE}: {'rewritten' if write else 'out of date: python -m vedr.continuity.pages --write'}\n"
        )
        if write:
            PAGE.write_text(current, encoding="utf-8")
    sys.exit(0 if write or current == page else 1)


if __name__ == "__main__":
    main()
