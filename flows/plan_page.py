"""The tables of docs/disaster-recovery.md: targets, runbooks, schedule, retention, checks and drills, from the code.

Each table lies between two marks that carry its name; the page's own words stand around them.  `python -m flows.pages`
compares them and writes them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from vedr.continuity.pages import TABLES as CONTINUITY_TABLES
from vedr.drills.scenario import SCENARIOS
from vedr.errors import InvalidInputError
from vedr.policies.controller import ControllerPolicy
from vedr.readiness.registry import CHECKS
from vedr.runbook.steps import Runbook
from vedr.targets import HOUR_S, MINUTE_S, Retention, Schedule

PAGE: Final = Path("docs/disaster-recovery.md")
_BLOCK: Final = re.compile(
    r"(<!-- generated table (?P<name>[a-z-]+): python -m flows\.pages -->\n).*?(<!-- end of table -->)", re.DOTALL
)
_TRIGGERS: Final[Mapping[str, str]] = {
    "RB-DR-001": "a node crashed, lost its disk, does not answer",
    "RB-DR-002": "a zone is lost, or to be emptied",
    "RB-DR-003": "a region is lost, or over half of its services; or it is to be emptied",
    "RB-DR-004": "a halt on an app hash, a database error, diverging nodes, broken configuration",
    "RB-DR-005": "a validator's, provider's or node's key is, or may be, in other hands",
    "RB-DR-006": "data is lost, or not to be trusted",
    "failback": "what a failover left is healthy again",
}
_JOBS: Final[Mapping[str, tuple[str, str]]] = {
    "chain_state": ("chain-snapshot", "chain state of each region, captured live, in three regions, checked in each"),
    "provider_state": ("provider-state-backup", "provider daemons' state, reconciled against the chain"),
    "configuration": ("config-backup", "configuration without keys and secrets, also committed to git"),
    "keys": ("key-backup", "validator, node and provider keys: sealed, opened again, compared"),
    "snapshot_verify": ("snapshot-verify", "each region's newest snapshot proven by booting a node from it"),
    "validation": ("daily-validation", "every check below"),
    "failover_watch": ("failover-watch", "what the last failovers moved, for 24 h"),
}
_KEPT: Final[Mapping[str, str]] = {
    "chain_state_days": "chain state",
    "keep_all_days": "of it, every snapshot; older ones are thinned to the newest of each day",
    "provider_state_days": "provider state",
    "configuration_days": "configuration",
    "provider_keys_days": "provider keys; validator and node keys are kept for good",
}


def with_tables(page: str, runbooks: Iterable[Runbook[Any]]) -> str:
    """The page with every table brought up to date; InvalidInputError when one lacks its marks, or is not known."""
    tables = _tables({one.id: one for one in runbooks})
    named = [block["name"] for block in _BLOCK.finditer(page)]
    if sorted(named) != sorted(tables):
        odd = sorted(set(named) ^ set(tables)) or sorted({name for name in named if named.count(name) > 1})
        raise InvalidInputError(f"tables of {PAGE}: {', '.join(odd)}", remedy="Each table has its marks exactly once.")
    return _BLOCK.sub(lambda block: f"{block[1]}{tables[block['name']]()}\n{block[3]}", page)


def duration(seconds: float) -> str:
    """`1 h`, `2 min 30 s`."""
    if seconds % HOUR_S == 0:
        return f"{seconds // HOUR_S:g} h"
    minutes, rest = divmod(seconds, MINUTE_S)
    return " ".join(f"{value:g} {unit}" for value, unit in ((minutes, "min"), (rest, "s")) if value)


def _tables(runbooks: Mapping[str, Runbook[Any]]) -> Mapping[str, Callable[[], str]]:
    return {
        "runbooks": lambda: _runbooks(runbooks),
        "component-rto": CONTINUITY_TABLES["component-rto"],
        "rpo": CONTINUITY_TABLES["rpo"],
        "schedule": _schedule,
        "retention": _retention,
        "checks": _checks,
        "controller": _controller,
        "drills": _drills,
    }


def _runbooks(runbooks: Mapping[str, Runbook[Any]]) -> str:
    rows = (
        (f"[{name}](runbooks/{name}.md)", one.title, when, duration(one.target_s))
        for name, when in _TRIGGERS.items()
        for one in [runbooks[name]]
    )
    return _table(("Runbook", "What", "When", "Target"), rows)


def _schedule() -> str:
    plan = Schedule()
    rows = [(f"[{job}](runbooks/{job}.md)", f"`{getattr(plan, name)}`", what) for name, (job, what) in _JOBS.items()]
    return _table(("Job", "Cron, UTC", "What"), rows)


def _retention() -> str:
    kept = Retention()
    return _table(("Days", "Kept"), ((str(getattr(kept, name)), what) for name, what in _KEPT.items()))


def _checks() -> str:
    return _table(("Check", "Makes sure that"), ((one.name, one.makes_sure) for one in CHECKS))


def _controller() -> str:
    policy = ControllerPolicy()
    rows = (
        ("probes of everything, every", duration(policy.interval_s)),
        ("failures in a row that count at one vantage point", str(policy.failures)),
        ("recoveries in a row that count", str(policy.recoveries)),
        ("vantage points that must agree", "a majority of the regions"),
        ("pause after an action on the same place", duration(policy.cool_down_s)),
        ("reaction, unless the site says `start`", policy.region),
    )
    return _table(("What", "Value"), rows)


def _drills() -> str:
    plan = Schedule()
    rows = (
        (
            f"[{one.cadence}](runbooks/{one.runbook}.md)",
            ", ".join(exercise.runbook for exercise in one.exercises),
            duration(one.target_s),
            f"`{getattr(plan, f'drill_{one.cadence}')}`",
        )
        for one in SCENARIOS.values()
    )
    return _table(("Drill", "Exercises", "At most", "Cron, UTC"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
