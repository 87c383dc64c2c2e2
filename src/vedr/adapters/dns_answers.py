"""What authoritative servers answer, asked directly, without a resolver and its cache.

Guarantees: an answer counts only with the AA flag; a truncated one is asked for again over TCP; a server that is
silent, refuses or fails is told apart from a name that has no records.
Leaves out: DNSSEC validation; what resolvers still have cached.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

from vedr.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.failover.traffic import Answer

TIMEOUT_S: Final = 2.0
TRIES: Final = 2
DEFAULT_PORT: Final = 53
ADDRESS_TYPES: Final = ("A", "AAAA")
_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d+))?")


class SilentError(UnavailableError):
    """The server gave no answer at all."""


@dataclass(frozen=True, slots=True)
class Server:
    """A name server, by address or host name."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Server":
        """`host`, `host:port` or `[IPv6]:port`."""
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            raise InvalidInputError(f"{text!r} is no name server", remedy="Write host, host:port or [IPv6]:port.")
        return cls(match["v6"] or match["host"], int(match["port"] or DEFAULT_PORT))

    def address(self) -> str:
        """Its IP address; UnavailableError when its name does not resolve."""
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(self.host))
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise UnavailableError(
                f"name server {self.host} has no address: {error.strerror}", remedy="Name it by address in [dns]."
            ) from error
        return str(found[0][4][0])


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one name and type: texts, sorted; none and no TTL when there are none."""

    values: tuple[str, ...] = ()
    ttl_s: int | None = None


def ask_all(
    servers: Sequence[Server], names: Collection[str], one: Callable[[Server, str], Answer]
) -> tuple[Answer, ...]:
    """Every name of every server, the servers side by side; one that is silent about a name is not asked the others."""

    def of(server: Server) -> list[Answer]:
        found: list[Answer] = []
        for name in names:
            is_silent = bool(found) and found[-1].silent
            found.append(replace(found[-1], name=name) if is_silent else one(server, name))
        return found

    with ThreadPoolExecutor(max(1, len(servers)), "name-servers") as pool:
        return tuple(answer for answers in pool.map(of, servers) for answer in answers)


def records(server: Server, name: str, kind: str, *, tcp: bool = False) -> Records:
    """What the server says with authority.

    Raises:
        UnavailableError: it is silent, or SERVFAIL.
        RefusedError: REFUSED or another error; an alias where records are expected.
        NotFoundError: it has no authority for the name.
    """
    answer = _authoritative(server, name, kind, tcp=tcp)
    if _of_kind(answer, "CNAME") is not None:
        raise RefusedError(f"{server}: {name} is an alias (CNAME)", remedy="Give the name address records of its own.")
    return _of_kind(answer, kind) or Records()


def targets(server: Server, name: str) -> Records:
    """Where one answer leads: addresses of both families, or the name that stands in for them; errors as `records`."""
    answer = _authoritative(server, name, "A", tcp=False)
    if (alias := _of_kind(answer, "CNAME")) is not None:
        return alias
    found = [_of_kind(answer, "A"), _of_kind(_authoritative(server, name, "AAAA", tcp=False), "AAAA")]
    there = [records for records in found if records is not None]
    values = tuple(value for records in there for value in records.values)
    return Records(values, max((records.ttl_s or 0 for records in there), default=None))


def _of_kind(answer: dns.message.Message, kind: str) -> Records | None:
    wanted = dns.rdatatype.from_text(kind)
    for rrset in answer.answer:
        if rrset.rdtype == wanted:
            return Records(tuple(sorted(_text(rrset))), rrset.ttl)
    return None


def _authoritative(server: Server, name: str, kind: str, *, tcp: bool) -> dns.message.Message:
    answer = _ask(server, name, kind, tcp=tcp)
    rcode = answer.rcode()
    if rcode == dns.rcode.SERVFAIL:
        raise UnavailableError(f"{server}: SERVFAIL for {name} {kind}", remedy="Look at that server's log.")
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise RefusedError(
            f"{server}: {dns.rcode.to_text(rcode)} for {name} {kind}", remedy="Check that it serves the zone."
        )
    if not answer.flags & dns.flags.AA:
        raise NotFoundError(
            f"{server} has no authority for {name}: it answers from elsewhere",
            remedy="Name the zone's own servers in [traffic].",
        )
    return answer


def _text(rrset: dns.rrset.RRset) -> Iterator[str]:
    for rdata in rrset:
        if rdata.rdtype == dns.rdatatype.TXT:
            yield b"".join(rdata.strings).decode("utf-8", "replace")
        else:
            yield rdata.to_text()


def _ask(server: Server, name: str, kind: str, *, tcp: bool) -> dns.message.Message:
    where = server.address()
    question = dns.message.make_query(absolute(name), kind)
    question.flags &= ~dns.flags.RD
    reason = ""
    for _ in range(TRIES):
        try:
            if tcp:
                return dns.query.tcp(question, where, port=server.port, timeout=TIMEOUT_S)
            return dns.query.udp_with_fallback(question, where, port=server.port, timeout=TIMEOUT_S)[0]
        except (dns.exception.DNSException, OSError, EOFError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise SilentError(f"name server {server} does not answer: {reason}", remedy="Check that it runs.")


def absolute(name: str) -> dns.name.Name:
    """As DNS messages want it; InvalidInputError when it is none."""
    try:
        return dns.name.from_text(name)
    except dns.exception.DNSException as error:
        raise InvalidInputError(f"{name!r} is no domain name: {error}", remedy="Correct [dns] zone.") from error
