"""Why a service that takes messages could not be reached, in our words.

Guarantees: no text of the service, and nothing of its address, is in them.
"""

import socket
import ssl

from vedr.errors import UnavailableError, VedrError, VerificationFailedError


def unreachable(error: BaseException) -> VedrError:
    """The first of the error's causes that says something, as one of ours."""
    for cause in _causes(error):
        if found := _known(cause):
            return found
    return UnavailableError(f"broken off ({type(error).__name__})", remedy="Look at the service's own status.")


def _known(cause: BaseException) -> VedrError | None:
    match cause:
        case ssl.SSLCertVerificationError():
            reason = cause.verify_message.split(",", 1)[0]  # what follows names the host
            return VerificationFailedError(
                f"its certificate is not trusted: {reason}", remedy="Check the address, or name the CA in ca_file."
            )
        case ssl.SSLError():
            return UnavailableError(f"no TLS connection: {cause.reason or 'broken off'}", remedy="Check the address.")
        case TimeoutError():
            return UnavailableError("no answer in time", remedy="Look at the service's own status.")
        case socket.gaierror():
            return UnavailableError("its name cannot be resolved", remedy="Check the address, and this machine's DNS.")
        case OSError() if cause.strerror:
            return UnavailableError(f"no connection: {cause.strerror}", remedy="Check the address.")
        case _:
            return None


def _causes(error: BaseException) -> list[BaseException]:
    """Itself last: what it was made from says more."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found[::-1]
