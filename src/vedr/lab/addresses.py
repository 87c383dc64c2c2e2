"""Which address each part of a lab listens on, and which one others reach it by.

Two ways to separate zones on one machine:

- `namespaces` (root): each zone is a network namespace on one bridge; a part has one address, `<net>.<zone>.<host>`.
- `relays` (no root): everything is on loopback, which is one /8 on Linux.  A part listens on
  `127.<x>.<100+zone>.<host>`; others reach it at `127.<x>.<zone>.<host>`, a relay of its own zone; peers in another
  zone dial `127.<x>.<10*from+to>.<host>`, a relay of the *dialling* zone.  A cut stops a zone's relays.

Guarantees: no two parts or relays share an address; ports are the standard ones in both ways.
Leaves out: creating any of it.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from vedr.errors import InvalidInputError

Mode = Literal["namespaces", "relays"]

P2P_PORT: Final = 26656
RPC_PORT: Final = 26657
METRICS_PORT: Final = 26660
SHIPPER_METRICS_PORT: Final = 26661
SIGNER_METRICS_PORT: Final = 26662
AGENT_PORT: Final = 7000
STORE_PORT: Final = 9000
PROVIDER_PORT: Final = 8443
GATEWAY_PORT: Final = 8080

AGENT_HOST: Final = 2
NODE_HOSTS: Final = 10
PROVIDER_HOSTS: Final = 30
GATEWAY_HOSTS: Final = 40
STORE_HOST: Final = 50

OPS_ZONE: Final = 0
"""Zone number of what stands outside all zones: Prefect, DNS, the load generator."""

_LISTEN_OFFSET: Final = 100
_VIA_FACTOR: Final = 10


@dataclass(frozen=True, slots=True)
class Addresses:
    """The lab's address plan.

    Args:
        network: The first two octets, such as "10.77"; labs side by side need different second octets.
        mode: See the module.
    """

    network: str
    mode: Mode

    def __post_init__(self) -> None:
        try:
            private = bool(re.fullmatch(r"\d+\.\d+", self.network)) and ipaddress.ip_network(self.cidr).is_private
        except ValueError:
            private = False
        if not private:
            raise InvalidInputError(
                f"network {self.network!r} is not the first two octets of a private network",
                remedy='Give one such as "10.77", which nothing else on this machine uses.',
            )

    @property
    def cidr(self) -> str:
        return f"{self.network}.0.0/16"

    @property
    def ops(self) -> str:
        """The address of what stands outside all zones."""
        return f"{self._base}.0.1"

    def listen(self, zone: int, host: int) -> str:
        """Where a part binds."""
        if self.mode == "relays" and zone != OPS_ZONE:
            return f"{self._base}.{_LISTEN_OFFSET + zone}.{host}"
        return self.published(zone, host)

    def published(self, zone: int, host: int) -> str:
        """Where users and the site file reach it."""
        return self.ops if zone == OPS_ZONE else f"{self._base}.{zone}.{host}"

    def dialled(self, from_zone: int, to_zone: int, host: int) -> str:
        """Where a part in `from_zone` reaches it, so that a cut of either zone ends the connection."""
        if self.mode == "namespaces" or OPS_ZONE in (from_zone, to_zone):
            return self.published(to_zone, host)
        if from_zone == to_zone:
            return self.listen(to_zone, host)
        return f"{self._base}.{_VIA_FACTOR * from_zone + to_zone}.{host}"

    @property
    def _base(self) -> str:
        return self.network if self.mode == "namespaces" else f"127.{self.network.split('.')[1]}"
