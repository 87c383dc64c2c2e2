"""A site whose ledger is in memory, with a chosen policy; everything else of it is the example of production's."""

import datetime as dt
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.site import OpenSite
from vedr.inventory import Site, parse_site
from vedr.runbook.journal import Journal
from vedr.signature import Signer

REGIONS = ("us-east", "eu-west", "ap-south")
EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"
START = dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self, **amount: float) -> None:
        self.now += dt.timedelta(**amount)


def example(**tables: Any) -> Site:
    """The example of production, with other tables, and no backend of traffic to ask."""
    made = parse_site(EXAMPLE.read_text(encoding="utf-8"), source=EXAMPLE.name)
    return Site.model_validate(made.model_dump() | {"traffic": {}} | tables)


class LedgerSite(OpenSite):
    """An open site of which only the ledger, and the channels of its policy, are there."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.clock = Clock()
        self.memory = {region: MemoryStore(region) for region in REGIONS}
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        journal = Journal(self.memory, site=site.name, signer=signer, trusted=[signer.public_hex], clock=self.clock)
        self.__dict__["journal"] = journal  # in the cached property's place
        self._closing.callback(journal.close)
