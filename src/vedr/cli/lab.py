"""`vedr lab`: the embedded three-region network."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from vedr.cli.output import JsonFlag, print_json, stdout
from vedr.inventory import SITE_ENV
from vedr.lab import lifecycle
from vedr.lab.addresses import Mode
from vedr.lab.plan import Plan
from vedr.lab.settings import load_plan, new_settings, read_settings

app = typer.Typer()

NameOption: TypeAlias = Annotated[str, typer.Option("--name", envvar=SITE_ENV, help="The lab's name.")]


@app.command()
def up(
    name: NameOption = "lab",
    network: Annotated[
        str | None, typer.Option(help="First two octets of a private network of its own; default 10.77.")
    ] = None,
    port_base: Annotated[int | None, typer.Option(help="Prefect's port; DNS is 53 above; default 4200.")] = None,
    mode: Annotated[str | None, typer.Option(help="namespaces (root) or relays; default: by who you are.")] = None,
    programs: Annotated[Path | None, typer.Option(help="Folder of the built programs; default build/bin.")] = None,
) -> None:
    """Start what is missing of a lab; safe to run again at any time."""
    settings = new_settings(name, network=network, port_base=port_base, mode=mode, programs=programs)  # type: ignore[arg-type]
    started = lifecycle.up(load_plan(settings), _print_part)
    stdout.print(f"lab {name} is up after {started.took_s:.1f} s")


@app.command()
def down(
    name: NameOption = "lab",
    purge: Annotated[bool, typer.Option("--purge", help="Also remove its folder: chain, keys and snapshots.")] = False,
) -> None:
    """End every process, namespace and device of a lab; exit 7 when something is left."""
    lifecycle.down(_plan(name), _print_part, purge=purge)


def _plan(name: str) -> Plan:
    return load_plan(read_settings(name))


def _print_part(title: str, detail: str, took_s: float) -> None:
    stdout.print(f"[green]✓[/] {title:36} {detail:60} {took_s:6.1f} s", highlight=False)
