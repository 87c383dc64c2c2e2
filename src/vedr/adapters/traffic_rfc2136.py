"""Traffic by address records that dynamic updates change: `vedr.failover.traffic.Traffic` over RFC 2136.

A name has the addresses of the endpoints above 0, all with equal chance: plain DNS has no weights.  (More records for
more users does not work: servers drop equal records, and resolvers rotate names, not users.)

Guarantees: all names change in one update, which the server applies whole, and only over the very records that were
read; the last plan's epoch and digest are a TXT record in the same update, so that an older epoch's is refused.
Leaves out: secondaries' refresh, which `answers` sees.
"""

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vedr.adapters.dns_answers import ADDRESS_TYPES, Records, Server, SilentError, ask_all, records
from vedr.adapters.dns_update import RecordSet, Updater
from vedr.errors import CorruptError, InvalidInputError, VedrError
from vedr.failover.traffic import (
    GUARD_NAME,
    Answer,
    Backend,
    Change,
    Endpoint,
    Guard,
    Picture,
    Share,
    already_serves,
    check_basis,
    check_guard,
    check_serves,
    parse_guard,
    tag_of,
)
from vedr.failover.traffic_division import regional_names
from vedr.inventory import Dns, Site
from vedr.policies.traffic import DynamicDns

NAME: Final = "rfc2136"
GUARD_TTL_S: Final = 5


@dataclass(frozen=True, slots=True)
class Book:
    """Which address is which endpoint's."""

    addresses: Mapping[str, tuple[str, ...]]

    def read(self, found: Mapping[str, Records]) -> Share:
        """The share that these records, by type, stand for."""
        there = {value for kind in ADDRESS_TYPES for value in found[kind].values}
        weights = {name: int(there.issuperset(own)) for name, own in self.addresses.items()}
        known = {address for name, own in self.addresses.items() if weights[name] for address in own}
        ttls = [found[kind].ttl_s for kind in ADDRESS_TYPES if found[kind].ttl_s is not None]
        return Share(weights, max((ttl for ttl in ttls if ttl is not None), default=None), tuple(sorted(there - known)))

    def write(self, name: str, share: Share) -> list[RecordSet]:
        """The record sets that serve it."""
        there = [address for endpoint in sorted(share.serving) for address in self.addresses[endpoint]]
        return [
            RecordSet(name, kind, tuple(a for a in there if _kind(a) == kind), share.ttl_s or 0)
            for kind in ADDRESS_TYPES
        ]


class DnsTraffic:
    """`vedr.failover.traffic.Traffic`.  Safe to use from many threads."""

    def __init__(self, site: Site, config: DynamicDns, zone: Dns, read_key: Callable[[], bytes]) -> None:
        self._zone = zone.zone
        self._primary = Server(zone.server, zone.port)
        self._servers = tuple(Server.parse(text) for text in config.servers) or (self._primary,)
        self._updater = Updater(self._primary, zone.zone, read_key)
        self._names = (*site.traffic.global_names, *regional_names(site))
        self._book = Book(_addresses_of(site, config))
        endpoints = tuple(Endpoint(g.name, g.region, (g.name,)) for g in site.gateways)
        self._backend = Backend(NAME, endpoints, is_weighted=False)

    @property
    def backend(self) -> Backend:
        return self._backend

    def picture(self) -> Picture:
        return self._look()[0]

    def shift(self, change: Change) -> bool:
        check_serves(change)
        now, found, guard_text = self._look()
        check_guard(now, change)
        if already_serves(now, change, is_weighted=False):
            return False
        check_basis(now, change, f"zone {self._zone} at {self._primary}")
        guard = RecordSet(self._full(GUARD_NAME), "TXT", guard_text)
        expected = [
            RecordSet(self._full(name), kind, found[name][kind].values) for name in found for kind in ADDRESS_TYPES
        ]
        desired = [
            records for name, share in change.names.items() for records in self._book.write(self._full(name), share)
        ]
        written = RecordSet(guard.name, "TXT", (str(change.guard),), GUARD_TTL_S)
        self._updater.swap([*expected, guard], [*desired, written])
        return True

    def answers(self, names: Collection[str]) -> tuple[Answer, ...]:
        return ask_all(self._servers, names, self._answer)

    def _answer(self, server: Server, name: str) -> Answer:
        try:
            found = {kind: records(server, self._full(name), kind) for kind in ADDRESS_TYPES}
        except VedrError as error:
            return Answer(str(server), name, problem=error.message, silent=isinstance(error, SilentError))
        share = self._book.read(found)
        return Answer(str(server), name, tuple(sorted(share.serving)), share.strangers, share.ttl_s)

    def _look(self) -> tuple[Picture, dict[str, dict[str, Records]], tuple[str, ...]]:
        """At the primary, which is also who is written to."""
        found = {
            name: {kind: records(self._primary, self._full(name), kind, tcp=True) for kind in ADDRESS_TYPES}
            for name in self._names
        }
        texts = records(self._primary, self._full(GUARD_NAME), "TXT", tcp=True).values
        if len(texts) > 1:
            raise CorruptError(
                f"{self._full(GUARD_NAME)} has {len(texts)} records, one is vedr's",
                remedy="Remove those that vedr did not write.",
            )
        guard: Guard | None = parse_guard(texts[0]) if texts else None
        shares = {name: self._book.read(by_kind) for name, by_kind in found.items()}
        return Picture(NAME, shares, guard, tag_of(shares, guard)), found, texts

    def _full(self, name: str) -> str:
        return f"{name}.{self._zone}."


def _addresses_of(site: Site, config: DynamicDns) -> dict[str, tuple[str, ...]]:
    found = {gateway.name: _addresses(gateway.name, gateway.url, config) for gateway in site.gateways}
    owners: dict[str, str] = {}
    for gateway, addresses in found.items():
        for address in addresses:
            if owners.setdefault(address, gateway) != gateway:
                raise InvalidInputError(
                    f"address {address} is of both {owners[address]} and {gateway}: they can't be told apart",
                    remedy="Give each gateway an address of its own.",
                )
    return found


def _addresses(gateway: str, url: str, config: DynamicDns) -> tuple[str, ...]:
    named = config.addresses.get(gateway) or (urlsplit(url).hostname or "",)
    try:
        return tuple(str(ipaddress.ip_address(text)) for text in named)
    except ValueError:
        raise InvalidInputError(
            f"gateway {gateway}: {', '.join(named)} is no address, and address records need one",
            remedy=f"Name its addresses in [traffic] backends: addresses.{gateway}.",
        ) from None


def _kind(address: str) -> str:
    return "AAAA" if ":" in address else "A"
