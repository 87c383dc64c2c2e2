"""`vedr abandon INCIDENT`: give a run up; what is safe to take back is taken back, the rest is named.

Guarantees: what is going to be taken back is shown first; exit status 0 means that the run is closed.
Leaves out: a run whose runbook is not installed here, which `vedr ledger abandon` closes without touching anything.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters.notify_announcing import announcing
from vedr.adapters.site import open_site
from vedr.cli import COMMANDS
from vedr.cli.output import JsonFlag, SiteOption, print_json, stderr, stdout
from vedr.cli.run import Watcher, find_runbook
from vedr.errors import InvalidInputError
from vedr.ledger import parse_run_id
from vedr.runbook.abandoning import Abandoned, Way, check_open, ways_back
from vedr.runbook.abandoning import abandon as give_up
from vedr.signature import Json


def attach(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="abandon", help=COMMANDS["abandon"])(abandon)


def abandon(
    incident: Annotated[str, typer.Argument(help="The run's id, as `vedr ledger list` shows it.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why it is given up; recorded.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be taken back, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again after showing what is taken back.")] = False,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take back what a run did, newest first, and close it; refused while somebody works on it."""
    run_id = parse_run_id(incident)
    if not plan and not reason.strip():
        raise InvalidInputError("no reason is given", remedy="Say why with --reason, one line for the record.")
    with open_site(site) as opened:
        entries = opened.journal.read(run_id).entries
        runbook = find_runbook(str(entries[0].payload.get("runbook")) if entries else "")
        check_open(runbook, entries, run_id)
        ways = ways_back(runbook, entries)
        if plan and as_json:
            print_json({"run": run_id, "runbook": runbook.id, "steps": [_way(way) for way in ways]})
            return
        if not as_json:
            _show_ways(ways)
        if plan:
            stdout.print("Nothing was changed.")
            return
        if not yes:
            typer.confirm(f"{run_id}: take these steps back and close the run?", abort=True, err=True)
        with announcing(opened, is_incident=runbook.is_incident) as telling:
            done = give_up(runbook, opened.journal, run_id, reason, listeners=[Watcher(live=False), *telling])
    _show_done(done, as_json=as_json)


def _way(way: Way[Any]) -> dict[str, Json]:
    undo = way.step.undo
    return {
        "step": way.step.key,
        "title": way.step.title,
        "completed": way.completed,
        "undo": undo.effect if undo else None,
        "by_hand": way.by_hand,
        "done": way.done,
    }


def _show_ways(ways: Sequence[Way[Any]]) -> None:
    if not ways:
        stdout.print("Nothing acted: the run is only closed.")
        return
    table = Table("step", "came", "way back", title="what is taken back, in this order")
    for way in ways:
        came = "to its end" if way.completed else "nobody knows how far"
        back = way.step.undo.effect if way.step.undo else f"[yellow]by hand[/]: {escape(way.by_hand)}"
        table.add_row(way.step.title, came, escape(f"done: {way.done}") if way.done is not None else back)
    stdout.print(table)


def _show_done(done: Abandoned, *, as_json: bool) -> None:
    if as_json:
        back: list[Json] = [{**asdict(one)} for one in done.taken_back]
        left: list[Json] = [{**asdict(one)} for one in done.by_hand]
        print_json({"run": done.outcome.run_id, "outcome": "abandoned", "taken_back": back, "by_hand": left})
        return
    for one in done.taken_back:
        stdout.print(f"taken back: {one.title}: {one.done}", markup=False, highlight=False)
    for stands in done.by_hand:
        stderr.print(f"by hand: {stands.title}: {stands.why}", markup=False, highlight=False)
    stdout.print(f"{done.outcome.run_id}: closed as abandoned", highlight=False)
