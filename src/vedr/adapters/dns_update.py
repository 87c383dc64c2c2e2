"""Dynamic updates of a zone (RFC 2136), signed with TSIG (RFC 8945).

Guarantees: an update is applied whole or not at all, and only over the records that it expects; the server's own
signature is checked; an answer that was lost is UnavailableError: look before repeating.  The key is read when it is
used, and is in no error.
Leaves out: what is to be changed.
"""

import base64
import binascii
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.tsig
import dns.update

from vedr.adapters.dns_answers import TIMEOUT_S, Server, absolute
from vedr.errors import ConflictError, InvalidInputError, RefusedError, UnavailableError, VedrError

_LENGTH_BYTES: Final = 2  # RFC 1035, 4.2.2
_CONFLICTS: Final = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN)
_ALGORITHMS: Final = {
    "hmac-sha224": dns.tsig.HMAC_SHA224,
    "hmac-sha256": dns.tsig.HMAC_SHA256,
    "hmac-sha384": dns.tsig.HMAC_SHA384,
    "hmac-sha512": dns.tsig.HMAC_SHA512,
}
"""RFC 8945 discourages MD5 and SHA-1."""


@dataclass(frozen=True, slots=True)
class RecordSet:
    """One name and type: its texts and TTL; no values: it does not exist."""

    name: str
    kind: str
    values: tuple[str, ...]
    ttl_s: int = 0


def tsig_key(secret: bytes) -> dns.tsig.Key:
    """From `hmac-sha256:NAME:BASE64`; the error never shows it."""
    try:
        algorithm, name, encoded = secret.decode("ascii").split(":")
        return dns.tsig.Key(name, base64.b64decode(encoded, validate=True), _ALGORITHMS[algorithm.lower()])
    except (ValueError, KeyError, binascii.Error, dns.exception.DNSException):
        raise InvalidInputError(
            "the key of [dns] is not <algorithm>:<name>:<base64>",
            remedy=f"Write it so; algorithms: {', '.join(_ALGORITHMS)}.",
        ) from None


@dataclass(frozen=True, slots=True)
class Updater:
    """One zone at its primary server; `read_key` gives the key's text."""

    server: Server
    zone: str
    read_key: Callable[[], bytes]

    def swap(self, expected: list[RecordSet], desired: list[RecordSet]) -> None:
        """Replace record sets, if all that are expected are there as they are (TTLs are not compared).

        Raises:
            ConflictError: some record set is not what was expected; nothing was changed.
            UnavailableError: the server is silent or failed; not known whether it was changed.
            RefusedError: it does not take our key, or does not have the zone.
        """
        key = tsig_key(self.read_key())
        try:
            message = dns.update.UpdateMessage(self.zone, keyring=key)
            for records in expected:
                if records.values:
                    message.present(absolute(records.name), records.kind, *map(_presented(records), records.values))
                else:
                    message.absent(absolute(records.name), records.kind)
            for records in desired:
                message.delete(absolute(records.name), records.kind)
                for value in records.values:
                    message.add(absolute(records.name), records.ttl_s, records.kind, _presented(records)(value))
        except (dns.exception.DNSException, ValueError) as error:
            raise InvalidInputError(
                f"zone {self.zone}: an update can't be written: {error}", remedy="Correct the names and addresses."
            ) from error
        self._send(message)

    def _send(self, message: dns.update.UpdateMessage) -> None:
        try:
            answer = _exchange(message, self.server)
            for problem in answer.errors:
                # A server that does not have the zone refuses without a signature; success has to be signed.
                if type(problem.exception) is not dns.exception.FormError or answer.rcode() == dns.rcode.NOERROR:
                    raise problem.exception
        except dns.tsig.PeerError as error:
            raise self._refused_key(type(error).__name__, str(error)) from error
        except (dns.tsig.BadSignature, dns.tsig.BadTime, dns.message.UnknownTSIGKey) as error:
            raise self._refused_key(type(error).__name__, "the answer's signature is not of our key") from error
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise UnavailableError(
                f"zone {self.zone}: {self.server} does not answer the update ({type(error).__name__}: {error})",
                remedy="Not known whether it was applied: look, then repeat it.",
            ) from error
        self._check(answer.rcode())

    def _check(self, rcode: dns.rcode.Rcode) -> None:
        if rcode == dns.rcode.NOERROR:
            return
        name = dns.rcode.to_text(rcode)
        if rcode in _CONFLICTS:
            raise ConflictError(
                f"zone {self.zone} at {self.server} is not what it was when it was read ({name}): nothing was changed",
                remedy="Look at it again, and plan anew.",
            )
        if rcode == dns.rcode.SERVFAIL:
            raise UnavailableError(
                f"zone {self.zone}: {self.server} failed (SERVFAIL)", remedy="Look at its log, then repeat it."
            )
        raise RefusedError(
            f"zone {self.zone}: {self.server} does not carry out the update ({name})",
            remedy="Check that it is the zone's primary, that our key may update, and the names in [traffic].",
        )

    def _refused_key(self, name: str, detail: str) -> VedrError:
        is_clock = "Time" in name
        return RefusedError(
            f"zone {self.zone}: {self.server} does not take our TSIG signature ({name}: {detail})",
            remedy="Compare both clocks." if is_clock else "Check the key's name, algorithm and secret on both sides.",
        )


def _presented(records: RecordSet) -> Callable[[str], str]:
    """A value as zone files write it."""
    return (lambda value: f'"{value}"') if records.kind == "TXT" else str


def _exchange(message: dns.update.UpdateMessage, server: Server) -> dns.message.Message:
    """The answer with its problems: `dns.query.tcp` hides an answer that is not signed behind a format error."""
    wire = message.to_wire()
    with socket.create_connection((server.address(), server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(len(wire).to_bytes(_LENGTH_BYTES, "big") + wire)
        length = int.from_bytes(_read(connection, _LENGTH_BYTES), "big")
        answer = _read(connection, length)
    return dns.message.from_wire(answer, keyring=message.keyring, request_mac=message.mac, continue_on_error=True)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError("the connection ended before the answer")
        data += part
    return data
