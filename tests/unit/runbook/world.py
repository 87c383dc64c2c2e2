"""A site's ledger over three fake regions, which tests break at will."""

import datetime as dt
from dataclasses import dataclass, field

from vedr.adapters.memory_store import MemoryStore
from vedr.ports import ObjectKey
from vedr.runbook.journal import Journal
from vedr.signature import Signer

REGIONS = ("us-east", "eu-west", "ap-south")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@dataclass
class World:
    """Three regions, a clock and the journals over them."""

    stores: dict[str, MemoryStore]
    clock: Clock
    signer: Signer
    journals: list[Journal] = field(default_factory=list)

    def journal(self) -> Journal:
        """As another process has it: nothing shared but the stores."""
        journal = Journal(
            self.stores, site="lab", signer=self.signer, trusted=[self.signer.public_hex], clock=self.clock
        )
        self.journals.append(journal)
        return journal

    def down(self, *regions: str) -> None:
        """These regions do not answer from now on, all others do."""
        for region, store in self.stores.items():
            store.faults.down = region in regions

    def held(self, region: str, key: str) -> bytes | None:
        """What a region's disk has."""
        versions = self.stores[region]._versions.get(ObjectKey(key))
        return versions[-1].data if versions else None

    def put(self, region: str, key: str, data: bytes | None) -> None:
        """Change a region's disk behind everybody's back; None removes."""
        self.stores[region]._versions.pop(ObjectKey(key), None)
        if data is not None:
            self.stores[region].overwrite(ObjectKey(key), data)

    def settle(self) -> None:
        """Wait until the slower regions' background writes are through."""
        for journal in self.journals:
            for pool in journal.replicas._pools.values():
                for done in [pool.submit(lambda: None) for _ in range(12)]:
                    done.result()
