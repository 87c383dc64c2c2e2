"""Flows as a worker of Prefect loads them, over folders as regions: `VEDR_TEST_STATE` names where these are.

As a program it is `vedr`, over the same folders: answers_flow.py bcp status …, answers_flow.py report verify ….
"""

import contextlib
import datetime as dt
import os
import re
from collections.abc import Iterator
from pathlib import Path

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from folder_store import FolderStore

import tasks.binding
import tasks.continuity
import tasks.drills_evidence
import vedr.cli.bcp
import vedr.cli.report
from flows.bcp_status import bcp_status
from flows.drills import tabletop
from vedr.adapters.site import OpenSite
from vedr.inventory import Site, parse_site
from vedr.runbook.journal import Journal
from vedr.signature import Signer

__all__ = ["bcp_status", "tabletop"]

EXAMPLE = Path(__file__).parents[2] / "deployments" / "sites" / "production.example.toml"
NOBODY = "127.0.0.1:1"
REGIONS = ("us-east", "eu-west", "ap-south")


def example() -> Site:
    """The example of production, of which nothing answers, and which nobody is told of."""
    text = re.sub(r'"(https?)://[^"]*"', rf'"\1://{NOBODY}"', EXAMPLE.read_text(encoding="utf-8"))
    made = parse_site(text, source=EXAMPLE.name).model_dump()
    return Site.model_validate(made | {"traffic": {}, "notifications": {}})


@contextlib.contextmanager
def open_site(_: object = None) -> Iterator[OpenSite]:
    """The site, with its ledger and stores in the folders; every opening has its own."""
    with OpenSite(example()) as opened:
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        state = Path(os.environ["VEDR_TEST_STATE"])
        stores = {region: FolderStore(state / region) for region in REGIONS}
        journal = Journal(
            stores,
            site=opened.site.name,
            signer=signer,
            trusted=[signer.public_hex],
            clock=lambda: dt.datetime.now(dt.UTC),
        )
        opened.__dict__.update(stores=stores, journal=journal)  # in the cached properties' place
        try:
            yield opened
        finally:
            journal.close()


for module in (tasks.binding, tasks.continuity, tasks.drills_evidence, vedr.cli.bcp, vedr.cli.report):
    module.open_site = open_site  # type: ignore[attr-defined]

if __name__ == "__main__":
    app = typer.Typer()
    app.add_typer(vedr.cli.bcp.app, name="bcp")
    app.add_typer(vedr.cli.report.app, name="report")
    app()
