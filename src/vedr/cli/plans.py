"""How a plan is printed: the same table before it is approved, when it is asked about, and with `--plan`."""

from rich.markup import escape
from rich.table import Table

from vedr.cli.output import stdout
from vedr.runbook.plan import Plan
from vedr.signature import Json


def plan_document(plan: Plan) -> dict[str, Json]:
    """A plan for `--json`, with the digest that answers name."""
    return {**plan.document(), "digest": plan.digest}


def print_plan(plan: Plan) -> None:
    """Its actions, and everything that it says about itself."""
    table = Table("", "action", "where", "budget", "effect", title=plan.title)
    for number, action in enumerate(plan.actions, start=1):
        what, where, effect = map(escape, (action.what, action.where, action.effect))
        table.add_row(str(number), what, where, f"{action.budget_s:g} s", effect)
    stdout.print(table)
    for heading, texts in (
        ("note", plan.notes),
        ("[yellow]warning[/]", plan.warnings),
        ("[red]refused[/]", plan.refusals),
    ):
        for text in texts:
            stdout.print(f"{heading}: ", end="")
            stdout.print(text, markup=False, highlight=False)
    stdout.print(f"budgets {plan.budget_s:g} s.  Digest of this plan: {plan.digest}", highlight=False, soft_wrap=True)
