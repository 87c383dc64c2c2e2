"""`vedr site`: check and show a site file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.inventory import load_site

app = typer.Typer()


@app.command()
def check(path: Annotated[Path, typer.Argument(help="The site file.")]) -> None:
    """Parse a site file and check every rule; exit 2 with each problem's line if one is broken."""
    site = load_site(str(path) if path.suffix == ".toml" else f"{path}/site.toml")
    stdout.print(f"{path}: site {site.name}, {len(site.regions)} regions, {len(site.nodes)} nodes: every rule holds")


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
