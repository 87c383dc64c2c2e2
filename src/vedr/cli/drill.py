"""`vedr drill`: what is drilled when, what a drill would break, and the drills themselves.

Guarantees: the exit status is 0 only when every drill that was asked for ran and passed; `not run` is never `passed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from cronsim import CronSim
from rich.markup import escape
from rich.table import Column, Table

from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.cli.output import JsonFlag, SiteOption, print_json, stderr, stdout
from vedr.cli.plans import plan_document, print_plan
from vedr.cli.run import Watcher, find_runbook, make_order
from vedr.custody import escrow_rotation
from vedr.custody.key_material import KINDS
from vedr.custody.key_material_process import no_core_dumps
from vedr.drills.scenario import SCENARIOS, Scenario
from vedr.drills.tabletop import Quarter, page
from vedr.errors import InvalidInputError, RefusedError, VedrError, VerificationFailedError
from vedr.ledger import Entry, RunId, parse_run_id
from vedr.readiness.drill_schedule import REHEARSAL_ID, REHEARSALS_A_YEAR, Cadence, stands_for
from vedr.readiness.run_times import last_due, opened_at
from vedr.reports.binder import Binder
from vedr.reports.drill_bundle import DRILL, Bundle, make_bundle
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet
from vedr.runbook.opening import WATCHERS
from vedr.runbook.timing import Forecast, Timing
from vedr.signature import Json

app = typer.Typer()

BACKUPS: Final = ("chain-snapshot", "provider-state-backup", "key-backup")
"""What the runbooks restore from; a fresh one is left as it is."""
COLOURS: Final = {"passed": "green", "failed": "bold red", "not run": "bold magenta"}

Kind = Annotated[Cadence, typer.Argument(help="Which drill.")]
Target = Annotated[str, typer.Option("--target", help="Node, zone or region; default: drilled the longest ago.")]
Form = Annotated[
    str, typer.Option("--form", help="disruptive, non-disruptive; default: disruptive where the site allows faults.")
]


@dataclass(frozen=True, slots=True)
class Result:
    """A drill that was asked for; without a bundle no run of it was opened."""

    kind: str
    bundle: Bundle | None
    error: VedrError | None

    @property
    def verdict(self) -> str:
        return self.bundle.verdict if self.bundle else "not run"

    @property
    def reason(self) -> str:
        return self.error.message if self.error else ""


class Seen:
    """A listener that remembers which run is the drill's own."""

    def __init__(self) -> None:
        self.run_id: RunId | None = None

    def entry(self, entry: Entry, measured: Timing, _: Forecast) -> None:
        """As vedr.runbook.execution.Listener says."""
        if self.run_id is None and measured.runbook.startswith(DRILL):
            self.run_id = entry.run_id

    def say(self, _: str) -> None:
        """Progress is for others."""


@app.command("list")
def list_command(site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Every drill, when it is due, what its newest run came to.  Exit 3 when one was not passed since it was due."""
    with open_site(site) as opened:
        rows = [_row(opened, scenario) for scenario in SCENARIOS.values()]
    if as_json:
        print_json([*rows])
    else:
        table = Table("drill", "next", Column("newest run", no_wrap=True), "form", "came to", "kept")
        for row in rows:
            table.add_row(*(str(row[name]) for name in ("drill", "next", "run", "form", "verdict", "kept")))
        stdout.print(table)
    if missed := [str(row["drill"]) for row in rows if row["kept"] == "no"]:
        raise VerificationFailedError(
            f"not passed since they were due: {', '.join(missed)}", remedy="Run them: vedr drill run …"
        )


@app.command("plan")
def plan_command(kind: Kind, target: Target = "", site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """What would be broken, and what that means for consensus; changes nothing.  Exit 4 when it would be refused."""
    runbook = find_runbook(SCENARIOS[kind].runbook)
    order = make_order(runbook.order, {"site": site or "", **_given(kind, target)})
    plan = runbook.plan(order) if runbook.plan else runbook.plan_of_steps(order)
    if as_json:
        print_json(plan_document(plan))
    else:
        print_plan(plan)
        stdout.print("Nothing was changed.")
    plan.check()


@app.command("run")
def run_command(
    kind: Kind,
    *,
    target: Target = "",
    form: Form = "as the site allows",
    reason: Annotated[str, typer.Option("--reason", help="One line for the record.")] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a drill; with --json its signed evidence.  Exit 0: passed, 4: not run, else failed."""
    with open_site(site) as opened:
        given = {"site": site or "", **_given(kind, target)}
        result = _perform(opened, kind, {**given, "form": form, "reason": reason})
    if as_json and result.bundle:
        typer.echo(result.bundle.document.decode())
    elif as_json:
        print_json(_document(result))  # nothing was opened that could be signed
    else:
        _show([result])
    _require([result])


@app.command("all")
def all_command(
    out: Annotated[Path | None, typer.Option("--out", help="Write the reports of all of it there.")] = None,
    form: Form = "as the site allows",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """All four drills, one after the other, after the backups that they need.  Exit 0 only when all passed."""
    since = utc_now()
    with open_site(site) as opened:
        _back_up(opened, site or "")
        given = {"site": site or "", "form": form, "reason": "all drills"}
        results = [_perform(opened, kind, given) for kind in SCENARIOS]
        if out is not None:
            binder = Binder(opened.journal, out, utc_now)
            binder.write_all(binder.overview(since), pdf=True)
    if as_json:
        print_json([_document(result) for result in results])
    else:
        _show(results)
    _require(results)


@app.command("sheet")
def sheet_command(quarter: Annotated[Quarter, typer.Argument(help="Q1 to Q4.")]) -> None:
    """Print a tabletop exercise's sheet; record that it was held with `vedr run drill-tabletop`."""
    typer.echo(page(quarter))


@app.command("evidence")
def evidence_command(run: Annotated[str, typer.Argument(help="Id of a drill's run.")], site: SiteOption = None) -> None:
    """Print a drill's signed evidence; check such a document with `vedr report verify`."""
    with open_site(site) as opened:
        typer.echo(make_bundle(opened.journal, parse_run_id(run), made_at=utc_now()).document.decode())


def _given(kind: Cadence, target: str) -> dict[str, str]:
    if target and kind == "annual":
        raise InvalidInputError("the annual drill chooses all its targets itself", remedy="Leave out --target.")
    return {"target": target} if target else {}


def _back_up(opened: OpenSite, site: str) -> None:
    """The scheduled jobs, as they are; what fails here would make every drill fail for another reason than its own.

    A lab that was only just started has no passphrases to seal keys with: it gets its first.  Elsewhere their making is
    people's, and the job that finds none names the command.
    """
    if opened.site.drills.faults == "lab":
        no_core_dumps()
        for kind in (one for one in KINDS if not opened.keys.escrow.epochs(one)):
            escrow_rotation.rotate(opened.keys, kind, opened.site.regions_by_priority, _say)
    for job in BACKUPS:
        runbook = find_runbook(job)
        for region in opened.site.regions_by_priority:
            stderr.print(f"{job} {region}", highlight=False)
            runbook.perform(make_order(runbook.order, {"site": site, "region": region}))


def _say(what: str) -> None:
    stderr.print(what, highlight=False, markup=False)


def _perform(opened: OpenSite, kind: Cadence, fields: dict[str, str]) -> Result:
    """Its failure is a result."""
    runbook = find_runbook(SCENARIOS[kind].runbook)
    order = make_order(runbook.order, fields)
    seen = Seen()
    token = WATCHERS.set((Watcher(live=False), seen))
    error: VedrError | None = None
    try:
        runbook.perform(order)
    except VedrError as raised:
        error = raised
    finally:
        WATCHERS.reset(token)
    if seen.run_id is None:
        return Result(kind, None, error)
    return Result(kind, make_bundle(opened.journal, seen.run_id, made_at=utc_now()), error)


def _require(results: Sequence[Result]) -> None:
    """The error of the only one, else one that names all that were not passed."""
    bad = [result for result in results if result.verdict != "passed" or result.error]
    if not bad:
        return
    if len(results) == 1 and bad[0].error:
        raise bad[0].error
    kind = RefusedError if all(one.verdict == "not run" for one in bad) else VerificationFailedError
    raise kind(
        "; ".join(f"{one.kind}: {one.verdict}" for one in bad),
        remedy="See vedr drill list, and each run's vedr ledger show.",
    )


def _show(results: Sequence[Result]) -> None:
    table = Table("drill", "came to", "run", "why")
    for one in results:
        run = one.bundle.run_id if one.bundle else ""
        table.add_row(one.kind, f"[{COLOURS[one.verdict]}]{one.verdict}[/]", run, escape(one.reason))
    stdout.print(table)


def _document(result: Result) -> Json:
    run = result.bundle.run_id if result.bundle else None
    return {"drill": result.kind, "verdict": result.verdict, "run": run, "reason": result.reason}


def _row(opened: OpenSite, scenario: Scenario) -> dict[str, Json]:
    now = utc_now()
    cron = scenario.cron(opened.site)
    due, newest = last_due(cron, now), _newest(opened.journal, scenario)
    bundle = make_bundle(opened.journal, newest, made_at=now) if newest else None
    started = next((opened_at(run_id) for run_id in opened.journal.runs()), now)
    passed = bundle is not None and bundle.verdict == "passed" and opened_at(bundle.run_id) >= due
    at_work = newest is not None and not is_quiet(opened.journal.read(newest).entries, now)
    return {
        "drill": scenario.cadence,
        "title": scenario.title,
        "next": f"{next(CronSim(cron, now)):%Y-%m-%d %H:%M} UTC",
        "run": newest or "never",
        "form": "" if bundle is None else "non-disruptive" if bundle.drill == REHEARSAL_ID else "disruptive",
        "verdict": "at work" if at_work else bundle.verdict if bundle else "not run",
        "kept": "yes" if passed else "not due yet" if due <= started or at_work else "no",
    }


def _newest(journal: Journal, scenario: Scenario) -> RunId | None:
    """Of its own runs, and of the non-disruptive ones in its place."""
    found = list(journal.runs_of(scenario.runbook)[-1:])
    for run_id in reversed(journal.runs_of(REHEARSAL_ID)[-REHEARSALS_A_YEAR:]):
        if stands_for(journal.read(run_id).entries) == scenario.cadence:
            found.append(run_id)
            break
    return max(found, key=opened_at, default=None)
