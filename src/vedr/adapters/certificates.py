"""The certificate that an https URL shows, and whether OpenSSL would take it from that host.

Guarantees: ends in bounded time; the host's name is matched, and a chain built, by OpenSSL and by no code of ours;
dates are read also where the certificate is refused, so that the reason told is the one to mend.
Leaves out: what is soon (vedr.readiness.credentials); revocation, which these services' own monitoring asks about.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from vedr.errors import CorruptError, NotFoundError, UnavailableError
from vedr.policies.checks import SYSTEM_ROOTS
from vedr.readiness.ports import Certificate

DEADLINE_S: Final = 5.0
HTTPS_PORT: Final = 443


def shown_by(url: str, *, roots: Sequence[str], named: bool) -> Certificate:
    """Ask the URL's host for its certificate.

    Args:
        url: An https URL.
        roots: Whom to trust: PEM files, or SYSTEM_ROOTS; none: whoever signed it.
        named: The certificate has to be for the URL's host.

    Raises:
        UnavailableError: no TLS there, or not in time.
        CorruptError: a certificate that cannot be read.
        NotFoundError: a file of roots is not there, or holds none.
    """
    shown = _handshake(url, _context(verify=False))
    try:
        leaf = x509.load_der_x509_certificate(shown)
        found = Certificate(leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    except ValueError as error:
        raise CorruptError(f"{url} shows no readable certificate", remedy="Look at its TLS settings.") from error
    context = _context(verify=True)
    context.check_hostname = named
    for root in roots:
        _trust(context, root)
    if not roots:
        if not named:
            return found
        context.load_verify_locations(cadata=shown)  # it vouches for itself, so that only its name is in question
    try:
        _handshake(url, context)
    except ssl.SSLCertVerificationError as error:
        return Certificate(found.starts, found.ends, refusal=error.verify_message.rstrip("."))
    return found


def _context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the site names is trusted, root or not
    return context


def _trust(context: ssl.SSLContext, root: str) -> None:
    if root == SYSTEM_ROOTS:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    try:
        context.load_verify_locations(cafile=root)
    except (OSError, ssl.SSLError) as error:
        raise NotFoundError(
            f"{root}: no certificates can be read from it",
            remedy="Correct [checks] certificate_roots: PEM files of authorities.",
        ) from error


def _handshake(url: str, context: ssl.SSLContext) -> bytes:
    """The certificate in DER; ssl.SSLCertVerificationError where the context does not take it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with (
            socket.create_connection((host, parts.port or HTTPS_PORT), DEADLINE_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"{url}: {type(error).__name__}: {error}", remedy="Look at the service and at the way to it."
        ) from error
