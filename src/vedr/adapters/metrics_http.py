"""Serves a process's metrics to Prometheus: GET /metrics, text format 0.0.4.

Guarantees: only that path, only reading; a slow reader holds up nobody else.  Leaves out: TLS and authentication;
listen on loopback or a private network.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from vedr.errors import InvalidInputError

_ADDRESS: Final = re.compile(r"([^/@:\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_READ_TIMEOUT_S: Final = 5.0
_MAX_PORT: Final = 65535


@contextlib.contextmanager
def serve_metrics(address: str, text: Callable[[], str]) -> Iterator[int]:
    """Serve while the block runs; gives the port, which is chosen freely when the address says 0.

    Raises:
        InvalidInputError: the address can't be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _READ_TIMEOUT_S

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: scrapes are no events."""

    match = _ADDRESS.fullmatch(address)
    try:
        if match is None or int(match[2]) > _MAX_PORT:
            raise OSError("write host:port")  # noqa: TRY301 (one place says what is wrong)
        server = ThreadingHTTPServer((match[1].strip("[]"), int(match[2])), Handler)
    except OSError as error:
        raise InvalidInputError(
            f"metrics cannot be served at {address!r}: {error}", remedy="Give a free address: 127.0.0.1:9464."
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
