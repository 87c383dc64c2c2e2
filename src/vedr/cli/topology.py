"""`vedr topology`: does the fleet stand where it must, and which losses would halt the chain?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters.site import open_site, utc_now
from vedr.cli import COMMANDS
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.readiness.topology import Audit, audit_json
from vedr.readiness.topology_facts import LiveFacts, audit_live
from vedr.readiness.topology_losses import Exposure
from vedr.readiness.topology_places import RegionRow, percent
from vedr.reports.topology_picture import draw

_COLOURS = {"critical": "bold red", "warning": "yellow", "note": "dim"}
_MAX_PAIRS = 6


def attach(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="topology", help=COMMANDS["topology"])(topology)


def topology(
    *,
    picture: Annotated[Path | None, typer.Option("--picture", help="Also draw it, into this SVG file.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Audit the topology on the live validator set; exit 3 when a finding is critical, or the chain was not asked."""
    with open_site(site) as opened:
        facts, found = audit_live(opened, clock=utc_now)
    if picture is not None:
        picture.write_text(draw(found, at=facts.block_time, height=facts.height), encoding="utf-8")
    if as_json:
        document = audit_json(found)
        print_json({**document, "height": facts.height, "moving": facts.moving, "sources": [*facts.sources]})
    else:
        _show(found, facts)
    found.require_sound()


def _show(found: Audit, facts: LiveFacts) -> None:
    stdout.print(_table(found.regions))
    now = found.now
    state = f"[red]HALTED[/], {-now.margin} short" if now.halted else f"margin {now.margin}"
    stdout.print(
        f"{now.online} of {found.total} voting power takes part, {now.needed} needed: {state}  "
        f"(height {facts.height}, asked {' and '.join(facts.sources)})",
        highlight=False,
        soft_wrap=True,
    )
    for line in _pairs(now):
        stdout.print(line, highlight=False, soft_wrap=True)
    for finding in found.findings:
        colour = _COLOURS[finding.severity]
        stdout.print(f"[{colour}]{finding.severity:9}[/]{escape(finding.message)}", highlight=False, soft_wrap=True)
        stdout.print(f"          next: {escape(finding.remedy)}", highlight=False, soft_wrap=True)


def _table(rows: tuple[RegionRow, ...]) -> Table:
    table = Table("region", "power", "share", "zones", "full nodes", "HSM", "its loss", box=None, pad_edge=False)
    for row in rows:
        zones = ", ".join(f"{zone.name} {zone.power}" for zone in row.zones)
        serving = "" if row.serving is None else f"{row.serving} of "
        table.add_row(
            row.name,
            str(row.power),
            percent(row.share_permille),
            zones,
            f"{serving}{row.full_nodes}" if row.zones else "",
            ("yes" if row.hsm else "no") if row.zones else "",
            _fate(row),
        )
    return table


def _fate(row: RegionRow) -> str:
    if not row.loss.halts:
        return "[green]chain goes on[/]"
    return "[yellow]halts, restorable[/]" if row.loss.restorable else "[red]halts, no way back[/]"


def _pairs(now: Exposure) -> list[str]:
    lines = []
    for kind, count in now.pair_counts.items():
        if count:
            named = [str(loss) for loss in now.pairs if loss.domains[0].kind == kind][:_MAX_PAIRS]
            more = f" and {count - len(named)} more" if count > len(named) else ""
            lines.append(f"{count} pairs of {kind}s halt it: {'; '.join(named)}{more}")
    return lines
