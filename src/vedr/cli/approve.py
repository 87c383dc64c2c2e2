"""`vedr approve INCIDENT`: what a run asks, and a person's answer to it, from any machine that has the site's file.

Guarantees: the plan is shown before the answer is taken; exit status 0 of an answer means that a majority of the
regions keep it.  Prefect is not needed, nor that the asking process is alive: an answer counts when the run is resumed.
Leaves out: proof of who answers; see docs/approval.md.
"""

from typing import Annotated, Final

import typer

from vedr.adapters.site import open_site
from vedr.cli import COMMANDS
from vedr.cli.output import JsonFlag, SiteOption, print_json, stderr, stdout
from vedr.cli.plans import plan_document, print_plan
from vedr.errors import InvalidInputError, RefusedError
from vedr.ledger import RunId, parse_run_id
from vedr.policies.approval import parse_person
from vedr.runbook.approval import Answer, Answers, Question, asked, counted
from vedr.runbook.journal import Journal
from vedr.runbook.liveness import is_quiet
from vedr.signature import Json

MAX_WHY: Final = 200  # as Prefect's form has it


def attach(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="approve", help=COMMANDS["approve"])(approve)


def approve(
    incident: Annotated[str, typer.Argument(help="The run's id, as its notice and `vedr ledger list` show it.")],
    *,
    person: Annotated[str, typer.Option("--as", help="Who you are; without it nothing is answered.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse the plan: the run ends.")] = False,
    why: Annotated[str, typer.Option("--why", help="One line for the record; a refusal needs it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again after showing the plan.")] = False,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the question; with `--as`, answer it."""
    name = parse_person(person) if person else ""
    _check_why(why, refuse=refuse)
    with open_site(site) as opened:
        journal, policy = opened.journal, opened.site.approval
        question, quiet = _find(journal, parse_run_id(incident))
        answers = Answers(journal)
        given = counted(answers.of(question.run_id, question.plan.digest), policy.people)
        if not as_json:
            _show(question, given)
        if name:
            policy.check_person(name)
            if not yes:
                typer.confirm(f"{name}: {'refuse' if refuse else 'agree to'} this plan?", abort=True, err=True)
            digest = question.plan.digest
            answers.give(Answer(question.run_id, digest, name, not refuse, why, journal.clock(), "cli"))
            given = counted(answers.of(question.run_id, digest), policy.people)
    if as_json:
        print_json(_document(question, given))
    else:
        _show_answers(question, given)
    if quiet:
        stderr.print(
            f"nobody works on this run: go on with vedr run {question.runbook} --incident {question.run_id}",
            highlight=False,
        )


def _check_why(why: str, *, refuse: bool) -> None:
    if refuse and not why:
        raise InvalidInputError("a refusal needs a reason", remedy="Add --why, one line.")
    if len(why) > MAX_WHY or not why.isprintable():
        raise InvalidInputError(
            f"the reason has {len(why)} characters or more than a line", remedy=f"One line, {MAX_WHY} at most."
        )


def _find(journal: Journal, run_id: RunId) -> tuple[Question, bool]:
    """What the run asks, and whether its process is gone."""
    entries = journal.read(run_id).entries
    if (question := asked(entries)) is None:
        raise RefusedError(
            f"run {run_id} asks nothing: its last entry is {entries[-1].kind if entries else 'not decided yet'}",
            remedy=f"See where it is: vedr ledger show {run_id}.",
        )
    return question, is_quiet(entries, journal.clock())


def _show(question: Question, given: tuple[Answer, ...]) -> None:
    people = "one person" if question.people == 1 else f"{question.people} different people"
    stdout.print(f"{question.runbook} {question.run_id} asks {people} until {question.until:%H:%M:%S} UTC:")
    print_plan(question.plan)
    _show_answers(question, given)


def _show_answers(question: Question, given: tuple[Answer, ...]) -> None:
    for answer in given:
        said = "agreed" if answer.approved else "refused"
        why = f": {answer.why}" if answer.why else ""
        stdout.print(f"{answer.person} {said} at {answer.time:%H:%M:%S} UTC{why}", markup=False, highlight=False)
    missing = question.people - sum(answer.approved for answer in given)
    if missing > 0 and all(answer.approved for answer in given):
        stdout.print(f"{missing} more to agree", highlight=False)


def _document(question: Question, given: tuple[Answer, ...]) -> dict[str, Json]:
    refused = any(not answer.approved for answer in given)
    return {
        "run": question.run_id,
        "runbook": question.runbook,
        "people": question.people,
        "until": question.until.isoformat(),
        "plan": plan_document(question.plan),
        "answers": [answer.payload() for answer in given],
        "state": "refused" if refused else "approved" if len(given) >= question.people else "waiting",
    }
