"""Dynamic updates of a zone (RFC 2136), signed with TSIG (RFC 8945).

Guarantees: an update is applied whole or not at all, and only over the records that it expects; the server's own
signature is checked; an answer that was lost is UnavailableError: look before repeating.  The key is read when it is
used, and is in no error.
Leaves out: what is to be changed.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from vedr.adapters.dns_answers import TIMEOUT_S, Server, absolute
from vedr.errors import ConflictError, InvalidInputError, RefusedError, UnavailableError, VedrError

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
        where = self.server.address()
        try:
            answer = dns.query.tcp(message, where, port=self.server.port, timeout=TIMEOUT_S)
        except dns.tsig.PeerError as error:
            raise self._refused_key(type(error).__name__, str(error)) from error
        except (dns.tsig.BadSignature, dns.tsig.BadTime, dns.message.UnknownTSIGKey) as error:
            raise self._refused_key(type(error).__name__, "the answer's signature is not of our key") from error
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise UnavailableError(
                f"zone {self.zone}: {self.server} did not answer the update ({type(error).__name__}: {error})",
                remedy="Not known whether it was applied: look, then repeat it.",
            ) from error
        self._check(answer)

    def _check(self, answer: dns.message.Message) -> None:
        rcode = answer.rcode()
        if rcode == dns.rcode.NOERROR and answer.had_tsig:
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
        if rcode in (dns.rcode.NOTAUTH, dns.rcode.REFUSED) or not answer.had_tsig:
            raise RefusedError(
                f"zone {self.zone}: {self.server} refuses the update ({name})",
                remedy="Check that it is the zone's primary, and that it lets our key update.",
            )
        raise RefusedError(
            f"zone {self.zone}: {self.server} does not carry out the update ({name})",
            remedy="Check the zone's name and the names in [traffic].",
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
