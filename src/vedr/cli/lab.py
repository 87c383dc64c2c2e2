"""`vedr lab`: the embedded three-region network."""

import subprocess
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.table import Table

from vedr.cli.output import JsonFlag, print_json, stderr, stdout
from vedr.errors import NotFoundError, RefusedError
from vedr.inventory import SITE_ENV
from vedr.lab import corruption, faults, lifecycle
from vedr.lab.plan import Plan
from vedr.lab.settings import exclusive, load_plan, new_settings, read_settings
from vedr.lab.status import LabStatus, observe

app = typer.Typer()

NameOption: TypeAlias = Annotated[str, typer.Option("--name", envvar=SITE_ENV, help="The lab's name.")]
TargetArgument: TypeAlias = Annotated[str, typer.Argument(help="A node or other unit, a zone or a region.")]
ZonesArgument: TypeAlias = Annotated[str, typer.Argument(help="A zone or a region.")]


@app.command()
def up(
    name: NameOption = "lab",
    network: Annotated[
        str | None, typer.Option(help="First two octets of a private network of its own; default 10.77.")
    ] = None,
    port_base: Annotated[
        int | None, typer.Option(min=1024, max=65000, help="Prefect's port; DNS is 53 above; default 4200.")
    ] = None,
    mode: Annotated[
        Literal["namespaces", "relays"] | None,
        typer.Option(help="How zones are separated; default: namespaces for root, else relays."),
    ] = None,
    programs: Annotated[Path | None, typer.Option(help="Folder of the built programs; default build/bin.")] = None,
) -> None:
    """Start what is missing of a lab; safe to run again at any time."""
    settings = new_settings(name, network=network, port_base=port_base, mode=mode, programs=programs)
    plan = load_plan(settings)
    started = lifecycle.up(plan, _print_part)
    stdout.print(f"\nlab [bold]{name}[/] is up after {started.took_s:.1f} s: {plan.folder}", highlight=False)
    stdout.print(f"  Prefect      {plan.orchestrator_url}", highlight=False)
    for gateway in started.site.gateways:
        stdout.print(f"  API          {gateway.url}/status  ({gateway.region})", highlight=False)
    stdout.print(f"  metrics      {plan.metrics_url}", highlight=False)
    stdout.print(f"  names        {plan.dns_zone} at {plan.addresses.ops} port {plan.dns_port}", highlight=False)


@app.command()
def down(
    name: NameOption = "lab",
    purge: Annotated[bool, typer.Option("--purge", help="Also remove its folder: chain, keys and snapshots.")] = False,
) -> None:
    """End every process, namespace and device of a lab; exit 7 when something is left."""
    plan = _plan(name)
    lifecycle.down(plan, _print_part, purge=purge)
    stdout.print(f"lab {name} is down: no process, namespace or mount is left", highlight=False)


@app.command()
def status(name: NameOption = "lab", as_json: JsonFlag = False) -> None:
    """Show every node, zone and part as it is now."""
    plan = _plan(name)
    seen = observe(plan)
    if as_json:
        print_json(seen.document())
        return
    stdout.print(_node_table(seen))
    stdout.print(_part_table(seen))
    for zone in seen.zones:
        if zone.cut or not zone.supervisor:
            stdout.print(f"[bold red]{zone.name}[/]: {'cut off' if zone.cut else 'down'}")
    power = f"{seen.online_power} of {seen.total_power} voting power online"
    verdict = "[green]can commit[/]" if seen.can_commit else "[bold red]cannot commit: the chain halts[/]"
    stdout.print(f"height {seen.height}, {power}: {verdict}", highlight=False)


@app.command()
def kill(target: TargetArgument, name: NameOption = "lab") -> None:
    """End a unit, zone or region with SIGKILL."""
    _act(name, lambda plan: faults.kill(plan, faults.find(plan, target)))


@app.command()
def stop(target: Annotated[str, typer.Argument(help="A node or other unit.")], name: NameOption = "lab") -> None:
    """End a unit cleanly."""
    _act(name, lambda plan: faults.stop(plan, faults.find(plan, target)))


@app.command()
def start(target: TargetArgument, name: NameOption = "lab") -> None:
    """Bring back a unit, zone or region that was killed or stopped."""
    _act(name, lambda plan: faults.start(plan, faults.find(plan, target)))


@app.command()
def cut(target: ZonesArgument, name: NameOption = "lab") -> None:
    """Cut a zone or region off: nothing passes, its processes go on."""
    _act(name, lambda plan: faults.cut(plan, faults.find(plan, target)))


@app.command()
def heal(target: ZonesArgument, name: NameOption = "lab") -> None:
    """Reconnect a zone or region that was cut off."""
    _act(name, lambda plan: faults.heal(plan, faults.find(plan, target)))


@app.command()
def corrupt(
    node: Annotated[str, typer.Argument(help="A chain node.")],
    what: Annotated[str, typer.Option("--what", help=f"One of: {', '.join(corruption.KINDS)}.")],
    kill_first: Annotated[bool, typer.Option("--kill", help="Kill the node first if it runs.")] = False,
    name: NameOption = "lab",
) -> None:
    """Damage a stopped node's data and say exactly how."""
    plan = _plan(name)
    found = next((n for n in plan.nodes if n.name == node), None)
    if found is None:
        raise NotFoundError(f"lab {name} has no node {node!r}", remedy="See `vedr lab status`.")
    with exclusive(plan.settings):
        if faults.is_running(plan, found):
            if not kill_first:
                raise RefusedError(f"{node} runs: its files may not be touched", remedy="Stop it, or give --kill.")
            stdout.print(faults.kill(plan, faults.find(plan, node)), highlight=False)
        done = corruption.corrupt(found.home, what, record=plan.folder / "faults.jsonl")
    stdout.print(f"{node}: {done}", highlight=False)


@app.command()
def load(
    rate: Annotated[float, typer.Argument(help="Transactions a second; 0 ends the load.", min=0)],
    value_bytes: Annotated[int | None, typer.Option(help="Bytes each writes.", min=1, max=65536)] = None,
    name: NameOption = "lab",
) -> None:
    """Change what the load generator writes."""
    _act(name, lambda plan: faults.change_load(plan, transactions_per_s=rate, value_bytes=value_bytes))


@app.command()
def logs(
    unit: Annotated[str, typer.Argument(help="A unit, such as a node or prefect-server.")],
    name: NameOption = "lab",
    lines: Annotated[int, typer.Option("-n", help="How many lines from the end.", min=1)] = 40,
    follow: Annotated[bool, typer.Option("-f", help="Go on as the log grows.")] = False,
) -> None:
    """Show the end of a unit's log."""
    path = _plan(name).folder / "logs" / f"{unit}.log"
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in path.parent.glob("*.log")))
        raise NotFoundError(f"no log of {unit!r}", remedy=f"Choose one of: {known}.")
    subprocess.run(["tail", "-n", str(lines), *(["-f"] if follow else []), str(path)], check=False)


def _plan(name: str) -> Plan:
    return load_plan(read_settings(name))


def _act(name: str, action: faults.Action) -> None:
    plan = _plan(name)
    with exclusive(plan.settings):
        stdout.print(action(plan), highlight=False)


def _print_part(title: str, detail: str, took_s: float) -> None:
    stderr.print(f"[green]✓[/] {title:34} {took_s:6.1f} s  {detail}", highlight=False, soft_wrap=True)


def _node_table(seen: LabStatus) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("region and node", "zone", "role", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("height", "peers", "power"):
        table.add_column(title, justify="right")
    region = ""
    for node in seen.nodes:
        if node.region != region:
            region = node.region
            table.add_row(f"[bold]{region}[/]")
        state = f"[green]{node.state}[/]" if node.height is not None else f"[red]{node.state}[/]"
        if node.catching_up:
            state = "[yellow]catching up[/]"
        elif node.state == "running" and node.height is None:
            state = "[red]unreachable[/]"
        shown = [("-" if value is None else str(value)) for value in (node.height, node.peers)]
        table.add_row(f"  {node.name}", node.zone, node.role, state, *shown, str(node.power or ""))
    return table


def _part_table(seen: LabStatus) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("part", "kind", "zone", "state"):
        table.add_column(title, no_wrap=True)
    for part in seen.parts:
        good = part.state == "running" and part.answers is not False
        words = part.state if part.answers is not False or part.state != "running" else "unreachable"
        colour = "green" if good else "red"
        if part.reserve and part.state == "stopped":
            words, colour = "in reserve", "dim"
        table.add_row(part.name, part.kind, part.zone, f"[{colour}]{words}[/]")
    return table
