"""Every error that vedr raises on purpose.

Guarantees: each error says what went wrong and, in `remedy`, what to do next; its class decides whether a retry can
help (`transient`) and with which status the command line ends (`exit_code`).  Leaves out: vendor errors, which
adapters turn into these with `from`.

No message may carry a secret: messages reach the ledger, Prefect's database and terminals.
"""

from typing import ClassVar


class VedrError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What happened, to which thing, observed against expected.
        remedy: What the reader should do next, one sentence.
    """

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}  Next: {self.remedy}" if self.remedy else self.message


class InvalidInputError(VedrError):
    """The request, the site file or a parameter is wrong; nothing was done."""

    exit_code = 2


class VerificationFailedError(VedrError):
    """A check ran and said no, or could not run: both count as failed."""

    exit_code = 3


class CorruptError(VerificationFailedError):
    """Stored bytes are not what their name, hash or signature promises."""


class RefusedError(VedrError):
    """A safety rule forbids the action; there is no flag that bypasses it."""

    exit_code = 4


class ConflictError(VedrError):
    """Somebody else holds the lease, wrote the ledger slot, or acts on the same node."""

    exit_code = 5


class NotFoundError(VedrError):
    """The named thing does not exist where it was looked for."""

    exit_code = 6


class UnavailableError(VedrError):
    """A service did not answer or answered that it is overloaded; trying again may help."""

    exit_code = 7
    transient = True


class DeadlineError(VedrError):
    """Something did not come true within its time limit."""

    exit_code = 8


class NoSpaceError(VedrError):
    """A disk lacks room for what was asked; nothing was changed."""

    exit_code = 9
