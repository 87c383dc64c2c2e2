"""Keeps a token from signing with a key: vedr.failover.fencing.HsmKeys over PKCS#11.

Guarantees: `disable` sets CKA_SIGN of the private key to false, where the token permits it; `signs` is False only when
the token itself refused to sign with that key.  A token that can't be asked, a wrong PIN, a key that is not found are
errors.
Leaves out: enabling, which is done by hand on the token; tokens whose keys can't be changed, which refuse; copies of
the key on other tokens, each of which is a host of its own to the fence.
"""

from collections.abc import Callable

from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.inventory import Hsm


class TokenKeys:
    """One token's keys; opened for each call, so that what another session changed is seen.

    Args:
        hsm: The token's place.
        pin: Fetches the PIN.
    """

    def __init__(self, hsm: Hsm, pin: Callable[[], bytes]) -> None:
        self._hsm = hsm
        self._pin = pin

    def disable(self, label: str) -> None:
        with TokenProcess(self._hsm, self._pin, writable=True) as token:
            token.disable(label)

    def signs(self, label: str) -> bool:
        with TokenProcess(self._hsm, self._pin) as token:
            return token.still_signs(label)
