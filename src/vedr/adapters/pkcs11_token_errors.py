"""PKCS#11's return codes as errors of ours, each with what to do next.

Guarantees: nothing of the vendor's text is shown, only the name of the code: libraries are free to put anything there.
Leaves out: retries; UnavailableError is what a new session may cure, every other error stays until somebody acts.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import pkcs11.exceptions as codes
from pkcs11.exceptions import PKCS11Error

from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VedrError

_Kind = tuple[type[VedrError], str, str]

_PIN_WRONG: Final[_Kind] = (
    RefusedError,
    "the PIN is wrong",
    "Do not try again: a few wrong PINs lock the token.  Compare the PIN's secret reference with the token.",
)
_LOST: Final[_Kind] = (
    UnavailableError,
    "the session or the token is lost",
    "Open the token again; if that fails, check the device and its network.",
)
_NOT_ALLOWED: Final[_Kind] = (
    RefusedError,
    "the token does not allow that",
    "Check the key's attributes and the module's mechanisms: vedr hsm inventory.",
)
_ABSENT: Final[_Kind] = (NotFoundError, "there is no such token", "Check token_label, module and config in the site.")

_KINDS: Final[dict[type[PKCS11Error], _Kind]] = {
    codes.PinIncorrect: _PIN_WRONG,
    codes.PinInvalid: _PIN_WRONG,
    codes.PinLenRange: _PIN_WRONG,
    codes.PinLocked: (
        RefusedError,
        "the PIN is locked: too many wrong ones were tried",
        "The token's security officer has to set a new PIN; find out who tried.",
    ),
    codes.PinExpired: (RefusedError, "the PIN has expired", "Set a new one, and keep it where the site refers to."),
    codes.UserPinNotInitialized: (RefusedError, "the token has no user PIN", "Its security officer has to set one."),
    codes.UserAlreadyLoggedIn: (
        ConflictError,
        "this process is logged in to the token already",
        "Close the other session first: one session for a token and process.",
    ),
    codes.NoSuchToken: _ABSENT,
    codes.SlotIDInvalid: _ABSENT,
    codes.MultipleTokensReturned: (
        RefusedError,
        "several tokens have that label",
        "Give each token a label of its own; nothing here guesses.",
    ),
    codes.TokenWriteProtected: _NOT_ALLOWED,
    codes.SessionReadOnly: _NOT_ALLOWED,
    codes.KeyTypeInconsistent: _NOT_ALLOWED,
    codes.MechanismInvalid: _NOT_ALLOWED,
    codes.MechanismParamInvalid: _NOT_ALLOWED,
    codes.FunctionNotSupported: _NOT_ALLOWED,
    codes.UserNotLoggedIn: _LOST,
    codes.SessionHandleInvalid: _LOST,
    codes.SessionClosed: _LOST,
    codes.ObjectHandleInvalid: _LOST,
    codes.KeyHandleInvalid: _LOST,
    codes.TokenNotPresent: _LOST,
    codes.TokenNotRecognised: _LOST,
    codes.DeviceRemoved: _LOST,
}  # fmt: skip
_OTHER: Final[_Kind] = (
    UnavailableError,
    "the device or its library failed",
    "Look into the module's own log, then try again.",
)


def translated(error: PKCS11Error, what: str) -> VedrError:
    """The error of ours for that code; `what` names the token and what was asked of it."""
    kind, meaning, remedy = _KINDS.get(type(error), _OTHER)
    return kind(f"{what}: {meaning} ({type(error).__name__})", remedy=remedy)


@contextlib.contextmanager
def translating(what: str) -> Iterator[None]:
    """Raise ours where the block raises PKCS#11's.  The original is not chained: its text is the vendor's."""
    try:
        yield
    except PKCS11Error as error:
        raise translated(error, what) from None
