"""`vedr`: the everyday and the break-glass command.

Guarantees: the exit status is true to the result (0 only when everything asked for was done and seen); errors go to
standard error with what to do next; with `--json` standard output carries one JSON document and nothing else.
"""

import importlib
import sys
from typing import Final

import typer

from vedr.cli.output import report_error
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
    "metrics": "What Prometheus is told: serve, print.",
}


def build(only: str | None = None) -> typer.Typer:
    """The command with every group; each module in `vedr.cli` named in GROUPS has an `app`.

    Args:
        only: The one group that is going to be used: the others' imports take a second that a take-over has not.
    """
    app = typer.Typer(
        name="vedr",
        help="Disaster recovery for VirtEngine's chain.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for name, summary in GROUPS.items():
        if only in (None, name):
            group = importlib.import_module(f"vedr.cli.{name.replace('-', '_')}").app
            app.add_typer(group, name=name, help=summary, no_args_is_help=True)
    if only is None:
        for command in ("run", "check", "topology", "approve", "abandon"):
            importlib.import_module(f"vedr.cli.{command}").attach(app)
    return app


def main() -> None:
    """The console script."""
    try:
        build(next((name for name in sys.argv[1:2] if name in GROUPS), None))()
    except VedrError as error:
        report_error(error)
        sys.exit(error.exit_code)
