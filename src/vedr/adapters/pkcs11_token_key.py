"""`vedr.ports.SigningKey` on a PKCS#11 token.

Guarantees: signs with the one private key of that label and id; a signature leaves only after it verified under the
public key that was pinned when this was opened, so a wrong private key or a faulty device never speaks for the
validator; a lost session is one UnavailableError, and the next call opens the token again and looks for the same key.
A PIN that was refused is not tried a second time, because a few wrong ones lock the token.
Leaves out: what may be signed (vedr.signer).
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

from vedr.adapters.pkcs11_token_process import CALL_DEADLINE_S, TokenProcess
from vedr.custody.hsm import KeyObject, PinSource, Token, matching
from vedr.custody.hsm_keys import PublicKey
from vedr.errors import RefusedError, UnavailableError, VerificationFailedError
from vedr.inventory import Hsm


class TokenKey:
    """An Ed25519 key of a token.  Thread-safe.  Use it with `with`, or close it.

    Args:
        open_token: Gives a logged-in token; called now and after each loss.
        label: The key's CKA_LABEL.
        key_id: Its CKA_ID; None: whatever it is, if the label is on one key only.
        expected: The raw public key that it must be; None: what the token has now.

    Raises:
        NotFoundError, RefusedError, UnavailableError: as `open_token` and `vedr.custody.hsm.matching`.
        VerificationFailedError: it is another key, or not Ed25519.
    """

    def __init__(
        self,
        open_token: Callable[[], Token],
        *,
        label: str,
        key_id: bytes | None = None,
        expected: bytes | None = None,
    ) -> None:
        self._open_token = open_token
        self._label: Final = label
        self._key_id: Final = key_id
        self._lock = threading.Lock()
        self._refused: RefusedError | None = None
        self._closed = False
        token, key, self._public = self._opened(expected)
        self._held: tuple[Token, KeyObject] | None = (token, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes, the same for its life."""
        return self._public.raw_ed25519

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes.

        Raises:
            UnavailableError: the token is lost; the next call opens it again.
            RefusedError: opening it again was refused; it is not tried any more.
            VerificationFailedError: the token has another key by now, or its signature is wrong.
        """
        with self._lock:
            token, key = self._held or self._reopened()
            try:
                signature = token.sign(key, message)
            except UnavailableError:
                self._drop()
                raise
        self._public.verify(signature, message, what=f"key {self._label!r}")
        return signature

    def close(self) -> None:
        """Log out; quiet when it is closed."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._held is not None:
            self._held[0].close()
            self._held = None

    def _reopened(self) -> tuple[Token, KeyObject]:
        if self._closed:
            raise UnavailableError(f"key {self._label!r} is closed", remedy="Open it again.")
        if self._refused is not None:
            raise RefusedError(self._refused.message, remedy=self._refused.remedy)
        try:
            token, key, _ = self._opened(self.public_key)
        except RefusedError as error:
            self._refused = error
            raise
        self._held = (token, key)
        return self._held

    def _opened(self, expected: bytes | None) -> tuple[Token, KeyObject, PublicKey]:
        token = self._open_token()
        try:
            key, public = self._chosen(token.objects(), expected)
        except BaseException:
            token.close()
            raise
        return token, key, public

    def _chosen(self, found: Sequence[KeyObject], expected: bytes | None) -> tuple[KeyObject, PublicKey]:
        key = matching(found, "private", label=self._label, key_id=self._key_id)
        public = matching(found, "public", label=self._label, key_id=key.key_id).public
        if public is None or expected not in (None, public.raw_ed25519):
            shown = "of no known kind" if public is None else public.fingerprint
            raise VerificationFailedError(
                f"key {self._label!r}: its public key on the token ({shown}) is not the expected one",
                remedy="Another key has its label: vedr hsm check, vedr hsm inventory.",
            )
        return key, public


def open_token_key(
    hsm: Hsm,
    pin: PinSource,
    *,
    label: str,
    key_id: bytes | None = None,
    expected: bytes | None = None,
    call_deadline_s: float = CALL_DEADLINE_S,
) -> TokenKey:
    """A key on the token of a region, held by a process of its own; see `TokenKey` and `TokenProcess`.

    Args:
        hsm: As the site describes it.
        pin: Fetches the PIN: `lambda: resolve(hsm.pin)`; called at each login.
        label: The key's CKA_LABEL.
        key_id: Its CKA_ID, if it is known.
        expected: The raw public key that it must be, if it is known.
        call_deadline_s: The longest that one signature may take.
    """
    return TokenKey(
        lambda: TokenProcess(hsm, pin, call_deadline_s=call_deadline_s), label=label, key_id=key_id, expected=expected
    )
