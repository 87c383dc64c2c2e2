"""Services that take messages, as strict as the real ones: real servers on loopback, in the test's process.

Each keeps what it accepted and refuses what the real service refuses, with the same status and words.
"""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import re
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from loopback_ports import free_port

Reply = tuple[int, str, dict[str, str]]
OK_TEXT: Reply = (200, "ok", {})


@dataclass
class Faults:
    """What the next requests meet, in order: a status, `hang`, `drop` or `drip`; then all is well."""

    plan: list[int | str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    seen: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    def next(self) -> int | str | None:
        self.seen += 1
        return self.plan.pop(0) if self.plan else None


@dataclass
class Service:
    """An HTTP service; `judge` says what it answers to a request that meets no fault."""

    judge: Callable[[str, dict[str, str], bytes], Reply]
    faults: Faults = field(default_factory=Faults)
    port: int = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    service: Service

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        service = self.server.service
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match service.faults.next():
            case "hang":
                service.faults.release.wait(30)
            case "drop":
                self.connection.close()
            case "drip":
                self._drip(service)
            case int(status):
                self._answer(status, service.faults.body, service.faults.headers)
            case _:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self._answer(*service.judge(self.path, headers, body))

    def _answer(self, status: int, text: str, headers: dict[str, str]) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drip(self, service: Service) -> None:
        """A byte now and then: each read is answered in time, the whole never is."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not service.faults.release.wait(0.1):
                self.wfile.write(b".")
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(service: Service, context: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Run it for the block; requests that hang are let go at its end."""
    server = _Server(("127.0.0.1", free_port()), _Handler)
    server.service = service
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.faults.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- Slack


@dataclass
class Slack:
    path: str = "/services/T00000000/B00000000/secretSECRETsecretSECRET"
    posted: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if path != self.path:
            return 404, "no_service", {}
        if headers["content-type"] != "application/json":
            return 400, "invalid_payload", {}
        document = json.loads(body)
        if problem := self._problem(document):
            return 400, problem, {}
        self.posted.append(document)
        return OK_TEXT

    @staticmethod
    def _problem(document: dict[str, Any]) -> str:
        if not document.get("text"):
            return "no_text"
        texts = [document["text"]]
        for block in document.get("blocks", []):
            inner = block.get("text") or block["elements"][0]
            limit = {"header": 150, "section": 3000, "context": 3000}[block["type"]]
            if not 1 <= len(inner["text"]) <= limit:
                return "invalid_blocks"
            if inner["type"] == "mrkdwn":
                texts.append(inner["text"])
        unescaped = any(re.search(r"<[!@#]|&(?!amp;|lt;|gt;)", text) for text in texts)
        return "a_mention_got_through" if unescaped else ""


# --- Discord


@dataclass
class Discord:
    path: str = "/api/webhooks/1234567890/token-TOKEN-token-TOKEN"
    posted: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, path: str, _: dict[str, str], body: bytes) -> Reply:
        plain, _, query = path.partition("?")
        if plain != self.path:
            return 404, '{"message": "Unknown Webhook", "code": 10015}', {}
        document = json.loads(body)
        if not 1 <= len(document["content"]) <= 2000:
            return 400, '{"content": ["Must be 2000 or fewer in length."]}', {}
        if document.get("allowed_mentions") != {"parse": []}:
            return 400, '{"message": "this would have mentioned somebody"}', {}
        self.posted.append(document)
        return (200, '{"id": "1"}', {}) if query == "wait=true" else (204, "", {})


# --- PagerDuty


@dataclass
class PagerDuty:
    """Keeps alerts by key as PagerDuty does: a second trigger joins, what has no alert is accepted and does nothing."""

    routing_key: str = "0123456789abcdef0123456789abcdef"
    alerts: dict[str, list[str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, path: str, _: dict[str, str], body: bytes) -> Reply:
        if path != "/v2/enqueue":
            return 404, "", {}
        event = json.loads(body)
        if errors := self._errors(event):
            return (
                400,
                json.dumps({"status": "invalid event", "message": "Event object is invalid", "errors": errors}),
                {},
            )
        self.events.append(event)
        action, key = event["event_action"], event["dedup_key"]
        if action == "trigger":
            self.alerts.setdefault(key, []).append("triggered")
        elif key in self.alerts and self.alerts[key][-1] != "resolved":
            self.alerts[key].append({"acknowledge": "acknowledged", "resolve": "resolved"}[action])
        return 202, json.dumps({"status": "success", "message": "Event processed", "dedup_key": key}), {}

    def _errors(self, event: dict[str, Any]) -> list[str]:
        errors = []
        if event.get("routing_key") != self.routing_key:
            errors.append(f"'routing_key' is invalid: {event.get('routing_key')}")
        if event.get("event_action") not in ("trigger", "acknowledge", "resolve"):
            errors.append("'event_action' is invalid")
        if not 1 <= len(event.get("dedup_key", "")) <= 255:
            errors.append("'dedup_key' is missing or too long")
        if event.get("event_action") == "trigger":
            payload = event["payload"]
            errors += [f"'{name}' is missing" for name in ("summary", "source", "severity") if not payload.get(name)]
            errors += ["'summary' is too long"] if len(payload["summary"]) > 1024 else []
            known = ("critical", "error", "warning", "info")
            errors += ["'severity' is invalid"] if payload["severity"] not in known else []
            errors += ["a link has no href"] if any(not link.get("href") for link in event.get("links", [])) else []
        return errors


# --- a receiver of signed webhooks, written from docs/notifications.md


@dataclass
class Receiver:
    key: bytes = b"a key that only the two of us have"
    path: str = "/hooks/very-secret-place"
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeats: int = 0

    def judge(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        timestamp = headers["x-vedr-timestamp"]
        expected = hmac.new(self.key, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        if path != self.path or not hmac.compare_digest(f"sha256={expected}", headers["x-vedr-signature"]):
            return 401, "bad signature", {}
        if abs(time.time() - int(timestamp)) > 300:
            return 401, "too old", {}
        key = headers["idempotency-key"]
        if key in self.accepted:
            self.repeats += 1
        self.accepted[key] = json.loads(body)
        return 202, "", {}


# --- a mail relay


@dataclass
class Relay:
    """Speaks enough of RFC 5321 with STARTTLS and AUTH PLAIN to be told from a real one by no client."""

    context: ssl.SSLContext | None = None
    implicit_tls: bool = False
    login: tuple[str, str] | None = None
    refused: frozenset[str] = frozenset()
    replies: dict[str, str] = field(default_factory=dict)
    """By command: what it answers instead, like `{"DATA": "451 later"}`; `hang` answers nothing."""
    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    port: int = 0


@contextlib.contextmanager
def relaying(relay: Relay) -> Iterator[Relay]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                _Session(relay, self.request).run()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", free_port()), Handler)
    relay.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Session:
    """One connection."""

    def __init__(self, relay: Relay, connection: Any) -> None:
        self._relay = relay
        self._socket = connection
        self._secure = False
        self._authenticated = relay.login is None
        self._sender = ""
        self._recipients: list[str] = []

    def run(self) -> None:
        if self._relay.implicit_tls:
            self._wrap()
        self._file = self._socket.makefile("rb")
        try:
            self._say("220 relay.example ESMTP")
            while line := self._file.readline():
                verb, _, rest = line.decode().strip().partition(" ")
                if (reply := self._relay.replies.get(verb.upper())) is not None:
                    if reply == "hang":
                        self._relay.release.wait(30)
                        return
                    self._say(reply)
                    continue
                if not self._command(verb.upper(), rest):
                    return
        finally:
            self._file.close()
            self._socket.close()

    def _command(self, verb: str, rest: str) -> bool:
        match verb:
            case "EHLO":
                self._ehlo()
            case "STARTTLS":
                self._say("220 go ahead")
                self._file.close()
                self._wrap()
                self._file = self._socket.makefile("rb")
            case "AUTH":
                self._auth(rest)
            case "MAIL":
                self._sender = rest
                self._say("250 ok" if self._authenticated else "530 5.7.0 log in first")
            case "RCPT":
                address = rest.partition("<")[2].partition(">")[0]
                if address in self._relay.refused:
                    self._say(f"550 5.1.1 no such user {address}")
                else:
                    self._recipients.append(address)
                    self._say("250 ok")
            case "DATA":
                self._data()
            case "QUIT":
                self._say("221 bye")
                return False
            case _:
                self._say("250 ok")
        return True

    def _ehlo(self) -> None:
        offers = ["relay.example"]
        if self._relay.context and not self._secure:
            offers.append("STARTTLS")
        if self._relay.login:
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            self._say(f"250-{offer}")
        self._say(f"250 {offers[-1]}")

    def _auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        self._authenticated = (user, password) == self._relay.login
        self._say("235 welcome" if self._authenticated else f"535 5.7.8 wrong: {password}")

    def _data(self) -> None:
        self._say("354 go on")
        lines = []
        while (line := self._file.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self._relay.mails.append((self._sender, list(self._recipients), mail))
        self._relay.encrypted.append(self._secure)
        self._say("250 queued")

    def _wrap(self) -> None:
        assert self._relay.context is not None
        self._socket = self._relay.context.wrap_socket(self._socket, server_side=True)
        self._secure = True

    def _say(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r\n")
