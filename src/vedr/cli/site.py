"""`vedr site`: check and show a site file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.errors import InvalidInputError
from vedr.inventory import load_site, parse_site

app = typer.Typer()


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The site file, or a lab's folder.")], as_json: JsonFlag = False
) -> None:
    """Parse a site file and check every rule; exit 2 with each problem's line if one is broken."""
    file = path / "site.toml" if path.is_dir() else path
    try:
        site = parse_site(file.read_text(encoding="utf-8"), source=str(file))
    except UnicodeDecodeError:
        raise InvalidInputError(f"{file} is no text", remedy="Name a site file, or a lab's folder.") from None
    if as_json:
        print_json({"file": str(file), "site": site.name, "regions": len(site.regions), "nodes": len(site.nodes)})
        return
    stdout.print(f"{file}: site {site.name}, {len(site.regions)} regions, {len(site.nodes)} nodes: every rule holds")


@app.command()
def show(site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Show a site as parsed."""
    loaded = load_site(site)
    if as_json:
        print_json(json.loads(loaded.model_dump_json()))
        return
    for name in loaded.regions_by_priority:
        region = loaded.regions[name]
        stdout.print(f"[bold]{name}[/] ({region.role}, {region.workload_pct} % of the workload)")
        for node in loaded.nodes_in(name):
            stdout.print(f"  {node.zone}  {node.name:24} {node.role:10} {node.rpc}")
