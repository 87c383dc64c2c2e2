"""`vedr`: the everyday and the break-glass command.

Guarantees: the exit status is true to the result (0 only when everything asked for was done and seen); errors go to
standard error with what to do next, never as a bare trace; with `--json` standard output carries one JSON document and
nothing else.
"""

import importlib
import os
import sys
import traceback
from types import ModuleType
from typing import Final, NoReturn

import typer

from vedr.cli.output import of_this_machine, report_error
from vedr.errors import VedrError

GROUPS: Final = {
    "snapshot": "Chain-state snapshots: create, list, verify, restore, prune.",
    "keys": "Key backups: backup, list, inspect, verify, restore, rotate the passphrase, status.",
    "shares": "The recovery key among its custodians: ceremony, verify, combine, rotate.",
    "ledger": "The durable record of every run: show, verify, export.",
    "signer": "The remote signer of a validator: run, status, found.",
    "sign-state": "Sign states of file-based validators: ship them to the regions, show what the regions hold.",
    "controller": "The failover controller of a region: run, status.",
    "bcp": "The business continuity plan: status, messages, deadlines.",
    "notify": "Whom the site tells of incidents: test the channels.",
    "lab": "The embedded three-region network: up, down, status, faults.",
    "site": "Site files: check and show.",
    "traffic": "What users are sent to: show, check, set.",
    "hsm": "Keys in hardware: reference, check of replicas, inventory.",
    "report": "Evidence of incidents and drills: INCIDENT or --all as pages and PDFs, verify.",
    "drill": "Drills: list, plan, run, all, tabletop sheets, signed evidence.",
    "metrics": "What Prometheus is told: serve, print.",
}


COMMANDS: Final = {
    "run": "Run a runbook here and now: RUNBOOK --help shows its fields.",
    "check": "The daily checks: all, or those named.  Exit 0 only when every one passed.",
    "topology": "Audit where everything stands, and which losses would halt the chain.",
    "approve": "Show what a run asks, and answer it: agree to its plan, or refuse it.",
    "abandon": "Give a run up: take back what is safe to take back, name the rest, close it.",
}
COMPLETION_ENV: Final = "_VEDR_COMPLETE"
"""Set by a shell that asks what a word may become; it may ask within any group."""


def build(only: str | None = None) -> typer.Typer:
    """`vedr` with every group and command: each module in `vedr.cli` has an `app`, or adds itself with `attach`.

    Args:
        only: The one that is going to be used: the others' imports take a second that a take-over has not.
    """
    vedr = _vedr()
    for name, summary in GROUPS.items():
        if only in (None, name):
            vedr.add_typer(_module(name).app, name=name, help=summary, no_args_is_help=True)
    for name in COMMANDS:
        if only in (None, name):
            _module(name).attach(vedr)
    return vedr


def listing() -> typer.Typer:
    """`vedr` with the names and nothing behind them: enough for its help, and to refuse a name that there is not."""
    vedr = _vedr()
    for name, summary in GROUPS.items():
        vedr.add_typer(typer.Typer(), name=name, help=summary)
    for name, summary in COMMANDS.items():
        vedr.command(name=name, help=summary)(_nothing)
    return vedr


def main() -> None:
    """The console script."""
    named = next((word for word in sys.argv[1:2] if word in (*GROUPS, *COMMANDS)), None)
    try:
        (build(named) if named or COMPLETION_ENV in os.environ else listing())()
    except VedrError as error:
        _end(error)
    except OSError as error:
        _end(of_this_machine(error))
    except Exception as error:  # noqa: BLE001 (a defect: its trace is needed, and so is a word on what now)
        traceback.print_exc()
        remedy = "This is a defect of vedr: report the lines above.  The ledger has what a run did: vedr ledger list."
        _end(VedrError(f"{type(error).__name__}: {error}", remedy=remedy))


def _end(error: VedrError) -> NoReturn:
    report_error(error)
    sys.exit(error.exit_code)


def _vedr() -> typer.Typer:
    vedr = typer.Typer(name="vedr", no_args_is_help=True, pretty_exceptions_enable=False)
    vedr.callback(help="Disaster recovery for VirtEngine's chain.")(_nothing)  # without one, a lone command has no name
    return vedr


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"vedr.cli.{name.replace('-', '_')}")


def _nothing() -> None:
    """Stands where a command is only listed, and where nothing is to be done before one."""
