"""The process that holds one token (docs/decisions/token-process.md).

Guarantees: serves one token, one request at a time, and ends when its parent is gone; a failure leaves as an answer and
nothing else; no core dump, and no debugger of the same user.
Leaves out: deadlines, which the parent keeps by ending this process.
"""

import contextlib
import ctypes
import resource
import socket
from pathlib import Path
from typing import Final

from vedr.adapters import fence_hsm_token as fencing
from vedr.adapters import pkcs11_token_provisioning as provisioning
from vedr.adapters.pkcs11_token import Pkcs11Token, open_here
from vedr.adapters.pkcs11_token_wire import (
    ClosedChannelError,
    Message,
    facts_message,
    failure,
    key_message,
    key_of,
    receive,
    send,
)
from vedr.errors import ConflictError

_PR_SET_DUMPABLE: Final = 4  # prctl(2): core_pattern's pipes don't heed RLIMIT_CORE


def main(descriptor: int) -> None:
    """Serve the parent at the other end of that socket until it hangs up."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    with socket.socket(fileno=descriptor) as channel:
        serve(channel)


def serve(channel: socket.socket) -> None:
    """Answer requests, the first of which opens the token."""
    with contextlib.ExitStack() as closing, contextlib.suppress(ClosedChannelError, OSError):
        try:
            token = closing.enter_context(_opened(receive(channel)))
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent has to hear of it)
            send(channel, failure(error))
            return
        send(channel, {"ok": None})
        while True:
            request = receive(channel)
            try:
                answer: Message = {"ok": _served(token, request)}
            except Exception as error:  # noqa: BLE001 (the same)
                answer = failure(error)
            send(channel, answer)


def _opened(request: Message) -> Pkcs11Token:
    pin = bytes.fromhex(request["pin"])
    return open_here(Path(request["module"]), request["label"], pin, writable=request["writable"])


def _served(token: Pkcs11Token, request: Message) -> object:
    match request["do"]:
        case "facts":
            return facts_message(token.facts())
        case "objects":
            return [key_message(key) for key in token.objects()]
        case "sign":
            return token.sign(key_of(request["key"]), bytes.fromhex(request["message"]))
        case "import":
            seed, key_id = bytes.fromhex(request["seed"]), bytes.fromhex(request["id"])
            return provisioning.import_ed25519(token, seed, label=request["label"], key_id=key_id).spki
        case "generate":
            key_id = bytes.fromhex(request["id"])
            return provisioning.generate(token, request["kind"], label=request["label"], key_id=key_id).spki
        case "disable" | "still signs" as what:
            return fencing.served(token, what, request["label"])
        case other:
            raise ConflictError(f"a token's process was asked to {other!r}", remedy="Run one version of vedr only.")
