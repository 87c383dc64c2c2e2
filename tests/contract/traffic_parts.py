"""Real servers behind traffic backends, and the site whose users they serve."""

import base64
import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.tsigkeyring
import dns.update
from loopback_ports import free_port

from vedr.failover.traffic import Traffic
from vedr.inventory import Dns, Gateway, Site, parse_site

EXAMPLE: Final = Path(__file__).parents[2] / "deployments" / "sites" / "production.example.toml"
ZONE: Final = "paper.virtengine.test"
START_DEADLINE_S: Final = 10.0
ADDRESSES: Final = {
    "gateway-us-east-0": "192.0.2.10",
    "gateway-us-east-1": "192.0.2.11",
    "gateway-eu-west-0": "192.0.2.20",
    "gateway-ap-south-0": "192.0.2.30",
}
ALL: Final = frozenset(ADDRESSES)
ZONES: Final = {
    "gateway-us-east-0": "us-east-1a",
    "gateway-us-east-1": "us-east-1b",
    "gateway-eu-west-0": "eu-west-1a",
    "gateway-ap-south-0": "ap-south-1a",
}


def make_site(**policy: object) -> Site:
    """The example of production with four gateways, and `[traffic]` as given."""
    example = parse_site(EXAMPLE.read_text(encoding="utf-8"), source="example.toml")
    gateways = tuple(
        Gateway(
            name=name,
            region=zone.rsplit("-", 1)[0],
            zone=zone,
            unit="api-gateway",
            url=f"http://{ADDRESSES[name]}:8080",
        )
        for name, zone in ZONES.items()
    )
    traffic = type(example.traffic).model_validate({"backends": [{"kind": "rfc2136"}], **policy})
    return example.model_copy(update={"gateways": gateways, "traffic": traffic})


@dataclass
class Stage:
    """A backend over a real server in calm times, a second connection to it, and somebody else who writes to it."""

    site: Site
    traffic: Traffic
    beside: Traffic
    name: str
    meddle: Callable[[], None]


@dataclass
class Knot:
    """A real knotd, the primary of ZONE or a secondary of one."""

    folder: Path
    secret: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    primary: "Knot | None" = None
    zone_text: str | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Knot":
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in ("run", "db"):
            (self.folder / part).mkdir(exist_ok=True)
        if self.zone_text is not None and not (self.folder / "zone.db").exists():
            (self.folder / "zone.db").write_text(self.zone_text)
        (self.folder / "knot.conf").write_text(self._config())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["knotd", "-c", str(self.folder / "knot.conf")], stdout=log, stderr=log)
        self._wait_until_it_answers()
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self):  # noqa: ANN201
        """It is there and says nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # a thread that runs elsewhere still answers a moment longer
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    @property
    def key(self) -> bytes:
        return f"hmac-sha256:vedr:{self.secret}".encode()

    @property
    def dns(self) -> Dns:
        return Dns(server="127.0.0.1", port=self.port, zone=ZONE)

    def update(self, *changes: tuple[str, int, str, str]) -> None:
        """By somebody else with the same key."""
        keyring = dns.tsigkeyring.from_text({"vedr": ("hmac-sha256", self.secret)})
        message = dns.update.UpdateMessage(ZONE, keyring=keyring)
        for name, ttl_s, kind, value in changes:
            message.replace(name, ttl_s, kind, value)
        assert dns.query.tcp(message, "127.0.0.1", port=self.port, timeout=5).rcode() == 0

    def notify(self) -> None:
        """Tell a secondary that its primary has news."""
        message = dns.message.make_query(ZONE, "SOA")
        message.set_opcode(dns.opcode.NOTIFY)
        message.flags = (message.flags & ~dns.flags.RD) | dns.flags.AA
        dns.query.udp(message, "127.0.0.1", port=self.port, timeout=5)

    def _wait_until_it_answers(self) -> None:
        question = dns.message.make_query(ZONE, "SOA")
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                answer = dns.query.tcp(question, "127.0.0.1", port=self.port, timeout=0.5)
                if answer.answer or (self.zone_text is None and self.primary is None):
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def _config(self) -> str:
        master, remote = ("", "")
        if self.primary is not None:
            master = "    master: primary\n"
            remote = f"remote:\n  - id: primary\n    address: 127.0.0.1@{self.primary.port}\n"
        return f"""server:
    rundir: "{self.folder}/run"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{self.folder}/db"
key:
  - id: vedr
    algorithm: hmac-sha256
    secret: {self.secret}
  - id: reader
    algorithm: hmac-sha256
    secret: {self.secret}
{remote}acl:
  - id: keyed
    key: vedr
    action: update
  - id: open
    address: 127.0.0.1
    action: [transfer, notify]
zone:
  - domain: {ZONE}
    storage: "{self.folder}"
    file: zone.db
{master}    acl: [keyed, open]
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: changes
"""


def zone_text(*, ttl_s: int = 60) -> str:
    """As the lab has it: global names lead to the primary region, regional names to their own."""
    lines = [
        f"{ZONE}. 60 SOA ns.{ZONE}. hostmaster.{ZONE}. 1 300 60 86400 10",
        f"{ZONE}. 60 NS ns.{ZONE}.",
        f"ns.{ZONE}. 60 A 127.0.0.1",
        f"www.{ZONE}. 60 CNAME ns.{ZONE}.",
    ]
    for gateway, address in ADDRESSES.items():
        region = ZONES[gateway].rsplit("-", 1)[0]
        lines.append(f"rpc-{region}.{ZONE}. {ttl_s} A {address}")
        if region == "us-east":
            lines += [f"{name}.{ZONE}. {ttl_s} A {address}" for name in ("rpc", "api")]
    return "\n".join(lines) + "\n"
