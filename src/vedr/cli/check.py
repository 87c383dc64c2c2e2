"""`vedr check [NAME…]`: the daily checks, here and now."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from vedr.cli import COMMANDS
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.inventory import load_site
from vedr.readiness.finding import STATUSES, Finding, Status
from vedr.signature import Json

COLOURS: Final[dict[Status, str]] = {
    "passed": "green",
    "warning": "yellow",
    "failed": "bold red",
    "could not run": "bold magenta",
}
EXIT_WARNED: Final = 1
EXIT_FAILED: Final = 3


def attach(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="check", help=COMMANDS["check"])(check)


def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Checks; see --list.")] = None,
    *,
    list_only: Annotated[bool, typer.Option("--list", help="Show which checks there are, and run none.")] = False,
    boot: Annotated[
        bool, typer.Option("--boot", help="Boot the newest snapshot of each region now; takes minutes.")
    ] = False,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Look at everything, side by side; exit 0: all passed, 1: warnings only, 3: a check failed or could not run."""
    from vedr.adapters.check_probes import shared_ports  # noqa: PLC0415 (every adapter: a second that others have not)
    from vedr.readiness.registry import CHECKS, with_boot  # noqa: PLC0415
    from vedr.readiness.validation import choose, validate  # noqa: PLC0415

    chosen = choose(with_boot(CHECKS) if boot else CHECKS, names or [])
    if list_only:
        _show_list([(one.name, one.makes_sure) for one in chosen], as_json=as_json)
        return
    loaded = load_site(site)
    with shared_ports(loaded) as open_ports:
        findings = validate(chosen, open_ports, loaded.checks)
    if as_json:
        print_json(document(findings))
    else:
        stdout.print(_table(findings))
        stdout.print(_summary(findings))
    if status := exit_status(findings):
        raise typer.Exit(status)


def exit_status(findings: Sequence[Finding]) -> int:
    """0 only when there are findings and every one passed."""
    if not findings or any(finding.is_failure for finding in findings):
        return EXIT_FAILED
    return 0 if all(finding.passed for finding in findings) else EXIT_WARNED


def document(findings: Sequence[Finding]) -> Json:
    """What `--json` prints."""
    return {
        "passed": exit_status(findings) == 0,
        "findings": [
            {
                "check": finding.check,
                "status": finding.status,
                "observed": finding.observed,
                "expected": finding.expected,
                "remedy": finding.remedy,
                "took_ms": round(finding.took_s * 1000),
            }
            for finding in findings
        ],
    }


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "result", "observed, expected, and what to do", "took", show_lines=True)
    for finding in findings:
        colour = COLOURS[finding.status]
        words = escape(finding.observed)
        if not finding.passed:
            words += f"\n[dim]expected: {escape(finding.expected)}[/]"
        if finding.remedy:
            words += f"\n[bold]next:[/] {escape(finding.remedy)}"
        table.add_row(finding.check, f"[{colour}]{finding.status}[/]", words, f"{finding.took_s:.1f} s")
    return table


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.status for finding in findings)
    return ", ".join(f"[{COLOURS[status]}]{counts[status]} {status}[/]" for status in STATUSES if counts[status])


def _show_list(rows: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        print_json([{"check": name, "makes_sure": what} for name, what in rows])
        return
    table = Table("check", "makes sure that")
    for name, what in rows:
        table.add_row(name, what)
    stdout.print(table)
