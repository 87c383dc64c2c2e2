"""Waiting for the lab's parts to serve, each with its own limit.

Guarantees: returns as soon as the thing is true; past the limit the error says which part, what it last said, and where
its log is.
"""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vedr.adapters.rpc import HttpChainRpc
from vedr.errors import DeadlineError, UnavailableError, VedrError
from vedr.inventory import Height

POLL_S: Final = 0.1
_ASK_LIMIT_S: Final = 2.0
_NO_PROXY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def until(what: str, ready: Callable[[], bool], *, limit_s: float, log: Path | None = None) -> None:
    """Ask until the answer is yes; a VedrError counts as 'not yet'."""
    deadline = time.monotonic() + limit_s
    last = "it said no"
    while True:
        try:
            if ready():
                return
        except VedrError as error:
            last = error.message
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"{what}: not ready after {limit_s:g} s: {last}",
                remedy=f"See {log}, then run the command again." if log else "Run the command again.",
            )
        time.sleep(POLL_S)


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    fetch(url)
    return True


def listens(address: str) -> bool:
    """Whether `host:port` accepts TCP connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ASK_LIMIT_S).close()
    except OSError as error:
        raise UnavailableError(f"{address}: {error}", remedy="Check with `vedr lab status`.") from error
    return True


def responds(url: str) -> bool:
    """Whether a GET is answered at all, a refusal included: enough for a server that wants credentials."""
    try:
        return answers(url)
    except UnavailableError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError):
            return True
        raise


def fetch(url: str, *, body: object = None) -> bytes:
    """GET, or POST the body as JSON; UnavailableError for everything but success."""
    request = urllib.request.Request(url)  # noqa: S310 - the lab's own URLs
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with _NO_PROXY.open(request, timeout=_ASK_LIMIT_S) as answer:
            content: bytes = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise UnavailableError(f"{url}: {error}", remedy="Check with `vedr lab status`.") from error
    return content


def height(url: str) -> Height:
    """A node's newest block."""
    with HttpChainRpc(url, deadline_s=_ASK_LIMIT_S) as rpc:
        return rpc.status().latest_height
