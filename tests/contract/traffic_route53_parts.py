"""Route 53 for tests: moto's server, made as strict as Amazon's about change batches, and name servers that answer."""

import contextlib
import random
import secrets
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from xml.etree import ElementTree as ET

import boto3
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
from botocore.config import Config
from loopback_ports import free_port
from traffic_parts import ADDRESSES, ZONE, Stage, make_site

from vedr.adapters.s3_store import Credentials
from vedr.adapters.traffic_route53 import Route53Traffic
from vedr.inventory import Site

XML: Final = "{https://route53.amazonaws.com/doc/2013-04-01/}"
BEHIND_S: Final = 0.3
CREDENTIALS: Final = Credentials("test", "test-secret")
KEYS: Final = {"aws_access_key_id": "test", "aws_secret_access_key": "test-secret", "region_name": "us-east-1"}


def open_client(url: str) -> Any:
    return boto3.client("route53", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}), **KEYS)


def leaves(element: ET.Element, path: str = "") -> frozenset[tuple[str, str]]:
    """Every text of an element with its place: what two record sets are compared by."""
    found = {(path, (element.text or "").strip().rstrip("."))} if not len(element) else set()
    for child in element:
        found |= leaves(child, f"{path}/{child.tag.removeprefix(XML)}")
    return frozenset(found)


@dataclass
class StrictRoute53:
    """In front of moto: a batch whose DELETE differs from what is there, or whose CREATE is there, is refused whole.

    `scripted` answers come first, one a request whose path ends so: (status, body).  With `pending` above 0, that many
    looks at a change say PENDING.
    """

    moto: str
    scripted: list[tuple[str, int, str]] = field(default_factory=list)
    pending: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy.lock:
                    status, answer = proxy.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = handle_any  # noqa: N815 (as the server calls them)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, path))
        for number, (start, status, text) in enumerate(self.scripted):
            if f"{method} {path}".startswith(start):
                del self.scripted[number]
                return status, text.encode()
        if method == "POST" and path.rstrip("/").endswith("/rrset") and (problem := self._problem(path, headers, body)):
            return 400, _error("InvalidChangeBatch", problem)
        status, answer = self._forward(method, path, headers, body)
        if b"INSYNC" in answer and self.pending:
            self.pending -= 1
            answer = answer.replace(b"INSYNC", b"PENDING")
        return status, answer

    def _problem(self, path: str, headers: dict[str, str], body: bytes) -> str:
        listed = self._forward("GET", f"{path.rstrip('/')}?maxitems=300", headers, b"")[1]
        there = {leaves(record) for record in ET.fromstring(listed).iter(f"{XML}ResourceRecordSet")}  # noqa: S314 (our own)
        keys = {_key(record) for record in there}
        for change in ET.fromstring(body).iter(f"{XML}Change"):  # noqa: S314 (our own)
            record = leaves(change.find(f"{XML}ResourceRecordSet"))  # type: ignore[arg-type]
            match change.findtext(f"{XML}Action"):
                case "DELETE" if _key(record) not in keys:
                    return "Tried to delete resource record set but it was not found"
                case "DELETE" if record not in there:
                    return "Tried to delete resource record set but the values provided do not match the current values"
                case "DELETE":
                    there.discard(record)
                    keys.discard(_key(record))
                case "CREATE" if _key(record) in keys:
                    return "Tried to create resource record set but it already exists"
        return ""

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        kept.setdefault("Content-Type", "text/xml")  # urllib would say that it is a form
        request = urllib.request.Request(self.moto + path, data=body or None, headers=kept, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (our own server)
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def _key(record: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in record if pair[0] in ("/Name", "/Type", "/SetIdentifier"))


def _error(code: str, message: str) -> bytes:
    return error_text(code, message).encode()


def error_text(code: str, message: str = "said so") -> str:
    inner = f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
    return f"<ErrorResponse><Error>{inner}</Error></ErrorResponse>"


@contextlib.contextmanager
def name_server(url: str, zone_id: str, *, port: int | None = None) -> Iterator[int]:
    """Answers as Route 53's do: one record set, chosen by weight, from what the API holds at that moment."""
    client = open_client(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", port or free_port()))
        udp.settimeout(0.05)
        ending = threading.Event()
        zone = _Zonefile(client, zone_id)

        def answer_all() -> None:
            while not ending.is_set():
                with contextlib.suppress(TimeoutError, dns.exception.DNSException):
                    wire, where = udp.recvfrom(4096)
                    udp.sendto(zone.response(dns.message.from_wire(wire)).to_wire(), where)

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield udp.getsockname()[1]
        finally:
            ending.set()
            thread.join()


@dataclass
class _Zonefile:
    """What name servers have of a hosted zone: a moment behind the API, as Route 53's are."""

    client: Any
    zone_id: str
    sets: list[dict[str, Any]] = field(default_factory=list)
    until_s: float = 0.0

    def response(self, question: dns.message.Message) -> dns.message.Message:
        if time.monotonic() > self.until_s:
            self.sets = self.client.list_resource_record_sets(HostedZoneId=self.zone_id)["ResourceRecordSets"]
            self.until_s = time.monotonic() + BEHIND_S
        asked = question.question[0]
        name, kind = asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype)
        response = dns.message.make_response(question)
        response.flags |= dns.flags.AA
        fitting = [record for record in self.sets if record["Name"] == name and record["Type"] in (kind, "CNAME")]
        if fitting:
            weights = [record["Weight"] for record in fitting]
            chosen = random.choices(fitting, weights if any(weights) else None)[0]
            values = [entry["Value"] for entry in chosen["ResourceRecords"]]
            response.answer.append(dns.rrset.from_text(name, chosen["TTL"], "IN", chosen["Type"], *values))
        return response


@dataclass
class Zone:
    """A hosted zone and all that belongs to it."""

    zone_id: str
    url: str
    strict: StrictRoute53
    client: Any
    config: dict[str, Any]
    policy: dict[str, Any]

    def traffic(self, **more: Any) -> Route53Traffic:
        site = self.site(**more)
        return Route53Traffic(site, site.traffic.backends[0], lambda: CREDENTIALS, sleep=lambda _: None)

    def site(self, **more: Any) -> Site:
        return make_site(**{**self.policy, "backends": [{**self.config, **more}]})

    def stage(self) -> Stage:
        return Stage(
            self.site(), self.traffic(), self.traffic(), "api", lambda: self.put("api", "gateway-us-east-0", 7)
        )

    def put(self, name: str, gateway: str, weight: int, **more: Any) -> None:
        """By somebody else."""
        self.write("UPSERT", record_of(name, gateway, weight, **more))

    def write(self, action: str, *records: dict[str, Any]) -> None:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record} for record in records]}
        self.client.change_resource_record_sets(HostedZoneId=self.zone_id, ChangeBatch=batch)

    def sets(self) -> list[dict[str, Any]]:
        return list(self.client.list_resource_record_sets(HostedZoneId=self.zone_id)["ResourceRecordSets"])


def make_zone(
    url: str, moto: str, strict: StrictRoute53, closing: contextlib.ExitStack, policy: dict[str, Any]
) -> Zone:
    """In calm times: global names by workload, each region's own name to itself, the others at 0."""
    client = open_client(moto)
    made = client.create_hosted_zone(Name=f"{ZONE}.", CallerReference=secrets.token_hex(8))
    zone_id = made["HostedZone"]["Id"].rsplit("/", 1)[-1]
    port = closing.enter_context(name_server(moto, zone_id))
    config = {
        "kind": "route53",
        "hosted_zone": zone_id,
        "set_identifier": "{gateway}.{name}",
        "endpoint": url,
        "servers": [f"127.0.0.1:{port}"],
    }
    zone = Zone(zone_id, url, strict, client, config, policy)
    health = client.create_health_check(
        CallerReference=secrets.token_hex(8), HealthCheckConfig={"Type": "TCP", "IPAddress": "192.0.2.10", "Port": 80}
    )["HealthCheck"]["Id"]
    shares = {"gateway-us-east-0": 20, "gateway-us-east-1": 20, "gateway-eu-west-0": 35, "gateway-ap-south-0": 25}
    records = []
    for gateway, share in shares.items():
        records += [record_of(name, gateway, share, HealthCheckId=health) for name in ("api", "rpc")]
        for region in ("us-east", "eu-west", "ap-south"):
            records.append(record_of(f"rpc-{region}", gateway, share if region in gateway else 0))
    zone.write("UPSERT", *records)
    return zone


def record_of(name: str, gateway: str, weight: int, **more: Any) -> dict[str, Any]:
    """A weighted address record; `more` adds to it, or takes out with None."""
    record = {
        "Name": f"{name}.{ZONE}.",
        "Type": "A",
        "SetIdentifier": f"{gateway}.{name}",
        "Weight": weight,
        "TTL": 60,
        "ResourceRecords": [{"Value": ADDRESSES.get(gateway, "198.51.100.1")}],
        **more,
    }
    return {key: value for key, value in record.items() if value is not None}
