"""`vedr run RUNBOOK`: a runbook from this shell, with or without Prefect.

The fields of the runbook's order are the options: `vedr run RB-DR-001 --node us-east-validator-0`.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vedr.adapters.site import open_site, utc_now
from vedr.cli import COMMANDS
from vedr.cli.output import JsonFlag, print_json, stderr, stdout
from vedr.cli.plans import plan_document, print_plan
from vedr.errors import InvalidInputError, NotFoundError
from vedr.inventory import load_site
from vedr.ledger import Entry, parse_run_id
from vedr.runbook.choices import check_choices
from vedr.runbook.opening import WATCHERS, recorded_order, target_of
from vedr.runbook.order import Order, detection_time
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook
from vedr.runbook.timing import Forecast, Timing
from vedr.signature import Json

GROUP: Final = "vedr.runbooks"
PLAIN_ENV: Final = "VEDR_PLAIN"  # tells tasks.binding that Prefect is not wanted here
_REFRESH_PER_S: Final = 4


def attach(app: typer.Typer) -> None:
    """Add the command."""
    anything = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name="run", context_settings=anything, help=COMMANDS["run"])(run)


def run(
    context: typer.Context,
    runbook: Annotated[str, typer.Argument(help="Its id, such as RB-DR-001.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and change nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a runbook, resume one (`--incident`), or show its plan."""
    wanted, fields = ("", ["--help"]) if runbook in ("", "--help") else (runbook, context.args)
    if not wanted:
        _show_runbooks(as_json=as_json)
        return
    found = find_runbook(wanted)
    if "--help" in fields:
        _show_fields(found)
        return
    given = parse_fields(found.order, fields)
    if plan:
        _show_plan(found, given, as_json=as_json)
        return
    order = make_order(found.order, _with_recorded(given))
    with _watched(found) as seen:
        outcome = found.perform(order)
    _show_outcome(outcome, seen, as_json=as_json)


def find_runbook(name: str) -> Runbook[Any]:
    """The runbook of that id; NotFoundError lists those that are installed."""
    os.environ[PLAIN_ENV] = "1"
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise NotFoundError(
            f"no runbook {name!r}", remedy=f"Choose one of: {', '.join(sorted(points)) or 'none is installed'}."
        )
    try:
        loaded = points[name].load()
    except (ImportError, AttributeError) as error:
        raise NotFoundError(f"runbook {name} cannot be loaded: {error}", remedy="Install the whole wheel.") from error
    if not isinstance(loaded, Runbook):
        raise NotFoundError(f"{points[name].value} is not a runbook", remedy="Correct the entry point.")
    return loaded


def parse_fields(model: type[Order], words: Sequence[str]) -> dict[str, str | bool]:
    """`--name value`, `--name=value` and `--flag` as fields of an order; InvalidInputError for anything else."""
    given: dict[str, str | bool] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in model.model_fields or name in given:
            why = "is given twice" if name in given else "is not a field of this runbook"
            raise InvalidInputError(f"{word!r} {why}", remedy=f"Fields: {', '.join(map(_option, model.model_fields))}.")
        if equals:
            given[name] = value
        elif model.model_fields[name].annotation is bool:
            given[name] = True
        elif left:
            given[name] = left.pop(0)
        else:
            raise InvalidInputError(f"{option} needs a value", remedy=f"Write {option} VALUE.")
    return given


def make_order(model: type[Order], fields: Mapping[str, object]) -> Order:
    """The order; InvalidInputError names every field that is wrong."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        problems = [
            f"{_option(str(problem['loc'][0])) if problem['loc'] else 'the order'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidInputError("; ".join(problems), remedy="See the runbook's fields with --help.") from None


def _with_recorded(given: Mapping[str, str | bool]) -> Mapping[str, object]:
    """An incident's id is enough to resume it: what it was ordered with is in the ledger."""
    if not (incident := given.get("incident")):
        return given
    run_id = parse_run_id(str(incident))
    with open_site(str(given.get("site") or "") or None) as site:
        return {**recorded_order(site.journal, run_id), **given}


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


# --- showing


def _show_runbooks(*, as_json: bool) -> None:
    names = sorted(point.name for point in entry_points(group=GROUP))
    if as_json:
        print_json([*names])
        return
    stdout.print("vedr run RUNBOOK [--field value …] [--plan] [--json]; RUNBOOK --help shows its fields.")
    for name in names:
        found = find_runbook(name)
        stdout.print(f"  {name}  {found.title}, target {_s(round(found.target_s * 1000))}")


def _show_fields(runbook: Runbook[Any]) -> None:
    stdout.print(f"vedr run {runbook.id}: {runbook.title}", highlight=False)
    table = Table("option", "meaning", "default", box=None)
    for name, field in runbook.order.model_fields.items():
        default = "[bold]required[/]" if field.is_required() else str(field.default or "")
        table.add_row(_option(name), field.description or field.title or "", default)
    table.add_row("--plan", "Show the steps, their budgets and what would be done; change nothing.", "")
    stdout.print(table)


def _show_plan(runbook: Runbook[Any], given: Mapping[str, str | bool], *, as_json: bool) -> None:
    order = make_order(runbook.order, _with_recorded(given))
    site = load_site(order.site or None)
    if not order.incident:  # what is resumed was checked when it was opened
        check_choices(order, site)
        detection_time(order, utc_now())
    target_s = target_of(runbook, site.targets)
    runbook.check_budgets(target_s)
    plan = None if runbook.plan is None else runbook.plan(order)
    if as_json:
        steps: list[Json] = [
            {
                "key": one.key,
                "title": one.title,
                "budget_ms": round(one.budget_s * 1000),
                "attempts": one.retry.attempts,
                "acts": one.acts,
                "effect": one.effect,
            }
            for one in runbook.steps
        ]
        document: dict[str, Json] = {"runbook": runbook.id, "target_ms": round(target_s * 1000), "steps": steps}
        planned: dict[str, Json] = {} if plan is None else {"plan": plan_document(plan)}
        print_json({**document, "order": json.loads(order.model_dump_json()), **planned})
    else:
        _print_steps(runbook, target_s)
        if plan is not None:
            print_plan(plan)
        stdout.print("Nothing was changed.")
    if plan is not None:
        plan.check()


def _print_steps(runbook: Runbook[Any], target_s: float) -> None:
    table = Table("", "step", "budget", "tries", "changes", "effect", title=f"{runbook.id} {runbook.title}: plan")
    for number, one in enumerate(runbook.steps, start=1):
        changes = "acts" if one.acts else "looks"
        table.add_row(str(number), one.title, f"{one.budget_s:g} s", str(one.retry.attempts), changes, one.effect)
    stdout.print(table)
    stdout.print(f"budgets {runbook.budget_s:g} s of the target {target_s:g} s")


class Watcher:
    """A listener for terminals: a live table where there is one, a line an entry elsewhere."""

    def __init__(self, *, live: bool) -> None:
        self.measured: Timing | None = None
        self._forecast: Forecast | None = None
        self._live = live
        self._said = ""
        self._step_since_s = time.monotonic()

    def entry(self, entry: Entry, measured: Timing, forecast: Forecast) -> None:
        """As vedr.runbook.execution.Listener says."""
        self.measured, self._forecast = measured, forecast
        if entry.kind == "step_started":
            self._step_since_s = time.monotonic()
        if entry.kind == "opened" or not self._live:
            named = (entry.payload.get(key) for key in ("title", "step", "person", "what"))
            what = next((name for name in named if name), "")
            stderr.print(f"{entry.time:%H:%M:%S} {entry.run_id} {entry.kind} {what}", highlight=False, markup=False)

    def say(self, message: str) -> None:
        """A line of progress."""
        self._said = message
        if not self._live:
            stderr.print(f"         {message}", highlight=False, markup=False)

    def __rich__(self) -> Table:
        """The table as it is now; the running step's time grows."""
        table = Table("", "step", "budget", "took", "tries")
        if self.measured is None or self._forecast is None:
            return table
        for row in self.measured.rows:
            took_ms = row.took_ms
            if row.state == "running":
                took_ms = round((time.monotonic() - self._step_since_s) * 1000)
            colour = "red" if took_ms is not None and took_ms > row.budget_ms else ""
            mark = {"to do": "·", "running": "▶", "completed": "[green]✓[/]", "failed": "[red]✗[/]"}[row.state]
            took = "" if took_ms is None else _s(took_ms)
            table.add_row(mark, row.title, _s(row.budget_ms), took, str(row.attempts or ""), style=colour)
        late = " [red]over the target[/]" if self._forecast.overrun else ""
        predicted = f"predicted {_s(self._forecast.predicted_ms)} of {_s(self._forecast.target_ms)}"
        table.caption = f"{predicted}{late}  {escape(self._said)}"
        return table


@contextmanager
def _watched(runbook: Runbook[Any]) -> Iterator[Watcher]:
    watcher = Watcher(live=stderr.is_terminal)
    token = WATCHERS.set((watcher,))
    stderr.print(f"{runbook.id} {runbook.title}, target {_s(round(runbook.target_s * 1000))}", highlight=False)
    try:
        if stderr.is_terminal:
            with Live(watcher, console=stderr, refresh_per_second=_REFRESH_PER_S):
                yield watcher
        else:
            yield watcher
    finally:
        WATCHERS.reset(token)


def _show_outcome(outcome: object, seen: Watcher, *, as_json: bool) -> None:
    if not isinstance(outcome, Outcome):
        raise InvalidInputError("the runbook's body returned no outcome", remedy="Return run.outcome.")
    rows = seen.measured.rows if seen.measured else ()
    if as_json:
        steps: list[Json] = [{**dataclasses.asdict(row)} for row in rows]
        print_json({**dataclasses.asdict(outcome), "steps": steps})
        return
    verdict = "[green]within[/]" if outcome.met else "[red]over[/]"
    stdout.print(
        f"{outcome.run_id}: {outcome.outcome} in {_s(outcome.total_ms)}, {verdict} the target"
        f" of {_s(outcome.target_ms)} (of which waiting for people {_s(outcome.waiting_ms)},"
        f" vedr itself {_s(outcome.overhead_ms)})"
    )
    stdout.print(f"The record: vedr ledger show {outcome.run_id}", highlight=False)


def _s(ms: int) -> str:
    minutes, seconds = divmod(ms / 1000, 60)
    return f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
