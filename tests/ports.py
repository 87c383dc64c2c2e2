"""Ports for servers that tests start, stop and start again.  Each worker of pytest-xdist has a range of its own."""

import os
import secrets
import socket
from typing import Final

LOWEST: Final = 20_000
HIGHEST: Final = 32_000
"""Below the range that Linux takes ports of outgoing connections from (32768 up): a port stays free while its server is
down, whoever connects to whatever meanwhile."""
WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SHARE: Final = (HIGHEST - LOWEST) // WORKERS
"""A worker's part of the range: between a look at a port and its server's start, another worker would find it free."""


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """That many different ones."""
    found: set[int] = set()
    while len(found) < count:
        port = LOWEST + WORKER * SHARE + secrets.randbelow(SHARE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    return list(found)
