"""`vedr.custody.hsm.Token` in a process of its own: several tokens side by side, each with its configuration.

Guarantees: every call ends within its deadline, also when the vendor's library hangs or crashes, which then is an
UnavailableError; the PIN goes over the socket once, never into arguments, environment or files; closing ends the
process.
Leaves out: coming back after a loss: the caller opens a new one (`pkcs11_token_key` does).

Why a process (docs/decisions/token-process.md): SoftHSM reads SOFTHSM2_CONF once a process, a vendor's library may
hang, crash or not survive its device, and a call into it can't be interrupted.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

from vedr.adapters.pkcs11_token_wire import (
    ClosedChannelError,
    facts_of,
    key_message,
    keys_of,
    raise_failure,
    receive,
    send,
)
from vedr.custody.hsm import KeyObject, PinSource, TokenFacts
from vedr.custody.hsm_keys import KeyKind, PublicKey, from_spki
from vedr.errors import InvalidInputError, UnavailableError
from vedr.inventory import Hsm

OPEN_DEADLINE_S: Final = 20.0  # an interpreter, the vendor's library, a login over a network
CALL_DEADLINE_S: Final = 10.0
GENERATE_DEADLINE_S: Final = 120.0  # RSA 4096
_CLOSE_GRACE_S: Final = 3.0
_EXIT_GRACE_S: Final = 0.2  # between a socket that closed and an exit status
_SERVE: Final = "import sys; from vedr.adapters.pkcs11_token_worker import main; main(int(sys.argv[1]))"
_CONFIGURATION: Final = "SOFTHSM2_CONF"


class TokenProcess:
    """One token's process.  Thread-safe: calls take turns.  Use it with `with`, or close it.

    Args:
        hsm: The token's place; its PIN reference is not followed here.
        pin: Fetches the PIN, once, now.
        writable: For provisioning.
        call_deadline_s: The longest that any other call than opening and generating may take.

    Raises:
        NotFoundError: the module is missing, or has no token of that label.
        InvalidInputError: the module can't be loaded.
        RefusedError: the PIN is wrong, locked or expired; don't repeat.  Several tokens of that label.
        UnavailableError: the device, its library or the process failed.
    """

    def __init__(
        self, hsm: Hsm, pin: PinSource, *, writable: bool = False, call_deadline_s: float = CALL_DEADLINE_S
    ) -> None:
        self._name: Final = f"token {hsm.token_label!r}"
        self._call_deadline_s: Final = call_deadline_s
        self._lock = threading.Lock()
        secret = pin()  # before there is a process to end, should it fail
        self._channel, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self._channel.close)
            self._process = _spawn(hsm, theirs.fileno())
            undo.pop_all()
        place: dict[str, object] = {"module": str(hsm.module), "label": hsm.token_label, "writable": writable}
        try:
            self._ask({**place, "pin": secret}, deadline_s=OPEN_DEADLINE_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> TokenFacts:
        """As the port says."""
        with self._understanding():
            return facts_of(self._ask({"do": "facts"}))

    def objects(self) -> tuple[KeyObject, ...]:
        """As the port says."""
        with self._understanding():
            return keys_of(self._ask({"do": "objects"}))

    def sign(self, key: KeyObject, message: bytes) -> bytes:
        """As the port says."""
        with self._understanding():
            return bytes.fromhex(self._ask({"do": "sign", "key": key_message(key), "message": message}))

    def close(self) -> None:
        """Log out and end the process; quiet when it is closed."""
        with self._lock:
            self._channel.close()
            try:
                self._process.wait(_CLOSE_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def import_ed25519(self, seed: bytes, *, label: str, key_id: bytes) -> PublicKey:
        """See `pkcs11_token_provisioning.import_ed25519`; needs `writable`."""
        with self._understanding():
            answer = self._ask({"do": "import", "seed": seed, "label": label, "id": key_id})
            return from_spki(bytes.fromhex(answer), what=label)

    def generate(self, kind: KeyKind, *, label: str, key_id: bytes) -> PublicKey:
        """See `pkcs11_token_provisioning.generate`; needs `writable`."""
        with self._understanding():
            request = {"do": "generate", "kind": kind, "label": label, "id": key_id}
            return from_spki(bytes.fromhex(self._ask(request, deadline_s=GENERATE_DEADLINE_S)), what=label)

    def disable(self, label: str) -> None:
        """See `fence_hsm_token.disable`; needs `writable`."""
        with self._understanding():
            self._ask({"do": "disable", "label": label})

    def still_signs(self, label: str) -> bool:
        """See `fence_hsm_token.still_signs`; what is not plainly False is True."""
        with self._understanding():
            return self._ask({"do": "still signs", "label": label}) is not False

    def _ask(self, request: Mapping[str, object], *, deadline_s: float | None = None) -> Any:
        limit_s = self._call_deadline_s if deadline_s is None else deadline_s
        with self._lock:
            if self._process.returncode is not None:
                raise UnavailableError(f"{self._name}: its process has ended", remedy="Open the token again.")
            try:
                self._channel.settimeout(limit_s)
                send(self._channel, request)
                answer = receive(self._channel, deadline_s=limit_s)
            except TimeoutError:
                self._process.kill()
                self._process.wait()
                raise UnavailableError(
                    f"{self._name} did not answer within {limit_s:g} s",
                    remedy="Check the device and its network, then open the token again.",
                ) from None
            except (ClosedChannelError, OSError):
                how = self._end()
                raise UnavailableError(
                    f"{self._name}: its process ended ({how})",
                    remedy="The module may have crashed: look at its log, then open the token again.",
                ) from None
        raise_failure(answer)
        return answer["ok"]

    def _end(self) -> str:
        """How it ended, when it did so by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_GRACE_S)
        self._process.kill()
        status = self._process.wait()
        return f"status {status}" if status >= 0 else signal.Signals(-status).name

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UnavailableError(
                f"{self._name}: its process gave an answer that is not understood",
                remedy="Run one version of vedr only; open the token again.",
            ) from None


def _spawn(hsm: Hsm, descriptor: int) -> subprocess.Popen[bytes]:
    if importlib.util.find_spec("pkcs11") is None:
        raise InvalidInputError("python-pkcs11 is not installed", remedy="pip install 'vedr[custody]'.")
    configuration = {} if hsm.config is None else {_CONFIGURATION: str(hsm.config)}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE, str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what a vendor's library prints is not ours to show
        stderr=subprocess.DEVNULL,
        env={**os.environ, **configuration},
        start_new_session=True,  # Ctrl-C is for the parent, which hangs up
    )
