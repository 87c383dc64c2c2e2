"""The shipped copies of file-based validators' sign-states: an object in each region's bucket.

The program's own shipper decides what is written (`vedr.chain.shipping`), one on each host, and its own look tells what
the copies say.  Hands put copies back, remove or exchange them, in one region or in all of them: copies are no proof,
and only raise a floor, so that nothing of this is excluded.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.signing.buckets import VALIDATOR, Kept
from bench.signing.rules import ALIEN
from bench.signing.world import Host
from vedr.chain.register_claim import Read, Swap
from vedr.chain.shipping import Shipment, Shipped
from vedr.chain.sign_state import SignState
from vedr.failover.signer_disk import OPEN

RECENT: Final = 3  # contents among which a hand that undoes something finds its own
LOST: Final = 0.1  # of the answers to writes that took effect


@dataclass(slots=True)
class Copies:
    """All regions' copies, and the hosts' shippers."""

    regions: Sequence[str]
    chance: random.Random
    kept: dict[str, Kept] = field(init=False)
    shippers: dict[str, Shipment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = {region: Kept() for region in self.regions}

    def ship(self, host: Host, silent: frozenset[str], now_s: int) -> None:
        """What the host's shipper does in a moment: where it has the key, and its disk is not fenced."""
        folder = host.folder
        if not (host.is_connected and host.has_key and folder and folder.state and folder.name == OPEN):
            return
        shipper = self.shippers.get(host.name)
        if shipper is None:
            shipper = self.shippers[host.name] = self._shipment()
        shipper.offer(Shipped(host.name, now_s, folder.state))
        for region in self.regions:
            if region not in silent:
                self._converse(shipper, region)

    def look(self, silent: frozenset[str]) -> list[SignState]:
        """What the regions that answer tell."""
        shipment = self._shipment()
        for region in self.regions:
            if region not in silent and shipment.next_call(region) is not None:
                shipment.on_read(region, self.kept[region].held)
        return [copy.state for copy in shipment.copies().values() if copy]

    def reach_in(self) -> str:
        """A hand changes copies; what it did."""
        chance = self.chance
        where = self.regions if chance.random() < 0.3 else (chance.choice(self.regions),)
        kind = chance.choice(("any", "recent", "emptied", "another region's", "another validator's"))
        for region in where:
            self.kept[region].put(self._chosen(kind, region))
        return f"a hand changes the copies in {', '.join(where)}: {kind}"

    def _chosen(self, kind: str, region: str) -> bytes | None:
        chance, past = self.chance, self.kept[region].past
        if kind == "another validator's":
            return ALIEN
        if kind == "another region's":
            past = self.kept[chance.choice(self.regions)].past[-RECENT:]
        elif kind == "recent":
            past = past[-RECENT:]
        return chance.choice(past) if past and kind != "emptied" else None

    def _shipment(self) -> Shipment:
        return Shipment(VALIDATOR, self.regions, now_us=lambda: 0)

    def _converse(self, shipper: Shipment, region: str) -> None:
        kept = self.kept[region]
        for _ in range(4):
            match shipper.next_call(region):
                case Read():
                    shipper.on_read(region, kept.held)
                case Swap() as call:
                    tag = kept.swap(call, compares=True)
                    if tag is None:
                        shipper.on_refused(region)
                    elif self.chance.random() < LOST:
                        shipper.on_lost(region, "answer lost")
                    else:
                        shipper.on_swapped(region, tag)
                case _:
                    return
