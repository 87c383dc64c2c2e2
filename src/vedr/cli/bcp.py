"""`vedr bcp`: the business continuity plan as it stands now.

Guarantees: the exit status is true to the answer; looking changes nothing but the record of what was seen, and
`status --no-record` not even that.
"""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters.continuity_standing import Look, keep, look, look_anyway
from vedr.adapters.notify_announcing import setting_of, tell_standing
from vedr.adapters.site import OpenSite, open_site
from vedr.cli.output import JsonFlag, SiteOption, not_blank, print_json, stderr, stdout
from vedr.continuity import activation, communication
from vedr.continuity.activation import Standing
from vedr.continuity.deadlines import Deadline, all_deadlines, mark_done
from vedr.continuity.delivery import Delivery
from vedr.continuity.functions import FUNCTIONS
from vedr.continuity.incident import duration, incident_of
from vedr.continuity.record import Record
from vedr.continuity.severity import Assessment
from vedr.errors import NotFoundError, UnavailableError, VerificationFailedError
from vedr.ledger import RunId, parse_run_id
from vedr.policies.continuity import ROLE_TITLES
from vedr.policies.notifications import Audience
from vedr.signature import Json

app = typer.Typer()

Who = Annotated[str, typer.Option("--by", help="Your name; recorded.", callback=not_blank)]
Why = Annotated[str, typer.Option("--reason", help="One line; recorded.", callback=not_blank)]


@app.command()
def status(
    site: SiteOption = None,
    as_json: JsonFlag = False,
    record: Annotated[bool, typer.Option(help="Keep what was seen, so that durations are known later.")] = True,
) -> None:
    """Functions, severity, activation.  Exit 3 when the plan is active, or a critical function is not seen to be up.

    Where the ledger cannot be read it tells what is seen now, and says so: then it ends with 3 or 7.
    """
    with open_site(site) as opened:
        seen = look_anyway(opened)
        if record and not seen.alone:
            _show_failed(keep(opened, seen).deliveries)
        unfilled = [role for role in ROLE_TITLES if role not in opened.site.continuity.roles]
    if as_json:
        print_json(_status(seen.assessment, seen.standing, unfilled) | {"alone": seen.alone})
    else:
        _show(seen.assessment, seen.standing, unfilled)
        if seen.alone:
            stdout.print(f"All this by one look alone, which was not recorded: {seen.alone}", markup=False)
    _end(seen)


@app.command()
def activate(reason: Why, by: Who, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Activate the plan by your word; recorded.  Refused when it is active."""
    with open_site(site) as opened:
        standing = look(opened).standing
        run_id = Record(opened.journal).activate(standing, by=by, why=reason)
        _tell_activated(opened, run_id, standing, f"{reason} (by {by})")
    if as_json:
        print_json({"episode": run_id, "active": True, "by": by, "reason": reason})
    else:
        stdout.print(f"The plan is active, by {by}: {reason}", markup=False)


@app.command()
def deactivate(reason: Why, by: Who, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Deactivate the plan; refused unless every critical function was seen up for an hour."""
    with open_site(site) as opened:
        standing = look(opened).standing
        run_id = Record(opened.journal).deactivate(standing, by=by, why=reason)
        told, body = "The business continuity plan is no longer active", f"{reason} (by {by})"
        _show_failed(tell_standing(opened, run_id, "resolved", severity=standing.severity, subject=told, body=body))
    if as_json:
        print_json({"episode": run_id, "active": False, "by": by, "reason": reason})
    else:
        stdout.print("The plan is no longer active.  What is due now: vedr bcp deadlines")


@app.command()
def messages(
    incident: Annotated[str, typer.Argument(help="Id of an incident.")],
    audience: Annotated[str, typer.Option("--audience", help="Only for these; default: all.")] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """The plan's messages, filled from an incident as it stands: to be sent, or pasted into the status page."""
    run_id = parse_run_id(incident)
    with open_site(site) as opened:
        found = incident_of(opened.journal.read(run_id).entries)
        setting, at = setting_of(opened.site.continuity), opened.journal.clock()
    event = communication.event_now(found)
    audiences: list[Audience] = [one for one in communication.TOLD if not audience or one == audience]
    if not audiences:
        raise NotFoundError(f"no audience {audience!r}", remedy=f"Choose from: {', '.join(communication.TOLD)}.")
    rows = []
    for one in audiences:
        name = communication.template_of(one, event)
        rows.append((one, name, communication.filled(name, found, event, setting, at=at)))
    if as_json:
        documents: list[Json] = [
            {"audience": one, "template": name, "subject": said.subject, "body": said.body} for one, name, said in rows
        ]
        print_json({"incident": run_id, "event": event, "messages": documents})
        return
    for one, name, said in rows:
        stdout.rule(f"{one}: {name}", align="left")
        stdout.print(f"{said.subject}\n\n{said.body}\n", markup=False, highlight=False, soft_wrap=True)


@app.command()
def deadlines(
    site: SiteOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is done.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """What is due after incidents; exit 3 while anything is overdue."""
    with open_site(site) as opened:
        found = all_deadlines(opened.journal)
    shown = [one for one in found if everything or not one.done]
    if as_json:
        rows: list[Json] = [_deadline(one) for one in shown]
        print_json({"deadlines": rows})
    else:
        table = Table("incident", "runbook", "deadline", "due (UTC)", "state", "what", box=None, pad_edge=False)
        for one in shown:
            state = f"[red]{one.state}[/]" if one.state == "overdue" else one.state
            table.add_row(one.run_id, one.runbook, one.name, f"{one.due_at:%Y-%m-%d %H:%M}", state, one.what)
        stdout.print(table if shown else "Nothing is due.")
    if overdue := [one for one in found if one.state == "overdue"]:
        raise VerificationFailedError(
            f"{len(overdue)} deadlines after incidents have passed",
            remedy="Do them, then: vedr bcp done INCIDENT NAME.",
        )


@app.command()
def done(
    incident: Annotated[str, typer.Argument(help="Id of an incident.")],
    deadline: Annotated[str, typer.Argument(help="Its name, as `vedr bcp deadlines` shows it.")],
    *,
    by: Who,
    reference: Annotated[
        str, typer.Option("--reference", help="Where to read it: an address, a ticket.", callback=not_blank)
    ],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say that something due after an incident is done; recorded with your name."""
    with open_site(site) as opened:
        word = mark_done(opened.journal, parse_run_id(incident), deadline, by=by, reference=reference)
    if as_json:
        at = word.at.isoformat()
        print_json(
            {"incident": word.run_id, "deadline": word.name, "at": at, "by": word.by, "reference": word.reference}
        )
    else:
        stdout.print(f"{word.name} of {word.run_id}: done, {word.at:%Y-%m-%d %H:%M} UTC, by {word.by}", markup=False)


def _tell_activated(opened: OpenSite, run_id: RunId, standing: Standing, why: str) -> None:
    body = f"Why: {why}\nSeverity: {standing.severity}\nSee: vedr bcp status --site {opened.site.name}"
    told = "The business continuity plan is active"
    _show_failed(tell_standing(opened, run_id, "declared", severity="SEV-1", subject=told, body=body))


def _show_failed(deliveries: tuple[Delivery, ...]) -> None:
    for one in deliveries:
        if one.state == "failed":
            stderr.print(f"not told: {one}", markup=False)


def _end(seen: Look) -> None:
    assessment, standing = seen.assessment, seen.standing
    if standing.active:
        said = "the criteria for activating the plan are met" if seen.alone else "the plan is active"
        raise VerificationFailedError(
            f"{said}: {standing.why_active}", remedy="Follow docs/business-continuity.md, Activation."
        )
    bad = [
        f"{FUNCTIONS[function].title} is {health.state} ({health.why})"
        for function, health in assessment.functions.items()
        if health.state != "up" and FUNCTIONS[function].is_critical
    ]
    if bad or assessment.severity in ("SEV-1", "SEV-2"):
        why = "; ".join(bad) or "; ".join(assessment.reasons)
        raise VerificationFailedError(f"{assessment.severity}: {why}", remedy="See vedr check, and the runbooks.")
    if seen.alone:
        raise UnavailableError(
            f"what was seen before is not known: {seen.alone}", remedy="Look again when more regions answer."
        )


def _status(assessment: Assessment, standing: Standing, unfilled: Sequence[str]) -> dict[str, Json]:
    functions: dict[str, Json] = {
        function.value: {"state": health.state, "why": health.why, "inferred": health.inferred}
        for function, health in assessment.functions.items()
    }
    since: dict[str, Json] = {function.value: one.at.isoformat() for function, one in standing.troubled.items()}
    holding: dict[str, Json] = {criterion: at.isoformat() for criterion, at in standing.holding.items()}
    return {
        "at": standing.seen_at.isoformat(),
        "severity": assessment.severity,
        "certain": assessment.certain,
        "reasons": [*assessment.reasons],
        "affected_pct": assessment.affected_pct,
        "functions": functions,
        "not_of_this_site": [function.value for function in FUNCTIONS if function not in assessment.functions],
        "not_up_since": since,
        "criteria_since": holding,
        "active": standing.active,
        "activated_at": standing.activated_at.isoformat() if standing.activated_at else None,
        "why_active": standing.why_active,
        "suggestions": [*activation.suggestions(standing)],
        "roles_not_filled": [*unfilled],
    }


def _show(assessment: Assessment, standing: Standing, unfilled: Sequence[str]) -> None:
    table = Table("function", "priority", "state", "since", "MTD left", "why", box=None, pad_edge=False)
    for function, health in assessment.functions.items():
        impact, trouble = FUNCTIONS[function], standing.troubled.get(function)
        away_s = (standing.seen_at - trouble.at).total_seconds() if trouble else 0.0
        since = duration(round(away_s * 1000)) if trouble else ""
        left = duration(max(0, round((impact.mtd_s - away_s) * 1000))) if health.state == "down" else ""
        why = f"{health.why} (inferred)" if health.inferred else health.why
        table.add_row(impact.title, impact.priority, health.state, since, left, escape(why))
    stdout.print(table)
    if absent := [impact.title for function, impact in FUNCTIONS.items() if function not in assessment.functions]:
        stdout.print(f"Not of this site, by its file: {', '.join(absent)}", markup=False)
    certain = "" if assessment.certain else ", or worse: not everything could be seen"
    stdout.print(f"Severity {assessment.severity}{certain}: {'; '.join(assessment.reasons) or 'nothing'}", markup=False)
    state = (
        f"active since {standing.activated_at:%Y-%m-%d %H:%M} UTC: {standing.why_active}"
        if standing.activated_at
        else ""
    )
    stdout.print(f"Plan: {state or 'not active'}", markup=False)
    for suggestion in activation.suggestions(standing):
        stdout.print(f"Suggested: {suggestion}", markup=False)
    if unfilled:
        stdout.print(f"Nobody is named for: {', '.join(unfilled)} ([continuity.roles] of the site file)", markup=False)


def _deadline(one: Deadline) -> dict[str, Json]:
    word = one.done
    return {
        "incident": one.run_id,
        "runbook": one.runbook,
        "deadline": one.name,
        "what": one.what,
        "due_at": one.due_at.isoformat(),
        "state": one.state,
        "done": {"at": word.at.isoformat(), "by": word.by, "reference": word.reference} if word else None,
    }
