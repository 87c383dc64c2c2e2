"""Channels of every kind, each with a service as strict as the real one behind it."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beside import beside
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loopback_ports import free_port

from vedr.adapters.notify_channels import open_channel
from vedr.continuity.delivery import Channel, Delivery, notify
from vedr.continuity.message import Link, Message, message
from vedr.policies import notifications as policies

services = beside("notify_services", Path(__file__).with_name("notify_services.py"))
INCIDENT = "inc-20260214-031500-k3x9"
AT = dt.datetime(2026, 2, 14, 3, 17, 5, tzinfo=dt.UTC)
KINDS = ("slack", "discord", "pagerduty", "webhook", "email")
WEB = KINDS[:-1]
PASSWORD = "the-relays-own-password"


def news(**changes: Any) -> Message:
    facts: dict[str, Any] = {
        "site": "production",
        "incident": INCIDENT,
        "event": "declared",
        "severity": "SEV-1",
        "subject": "SEV-1 RB-DR-003 region failover (us-east): declared",
        "body": "lost: us-east\nDetected 03:15:00 UTC, 2 min 5 s ago; target 30 min.",
        "at": AT,
        "links": (Link("Prefect", "https://prefect.example/runs?id=1&x=2"),),
    }
    return message(**(facts | changes))


@dataclass
class Rig:
    """One channel and the service behind it."""

    channel: Channel
    service: Any
    """Behind HTTP: its faults.  For mail: the relay."""
    judge: Any
    secrets: tuple[str, ...]

    def tell(self, said: Message, *, deadline_s: float = 30.0) -> Delivery:
        [delivery] = notify([(self.channel, said)], deadline_s=deadline_s)
        return delivery

    @property
    def arrived(self) -> int:
        match self.channel.kind:
            case "slack" | "discord":
                return len(self.judge.posted)
            case "pagerduty":
                return len(self.judge.events)
            case "webhook":
                return len(self.judge.accepted)
            case _:
                return len(self.service.mails)


Maker = Callable[..., Rig]


@contextmanager
def channels(folder: Path) -> Iterator[Maker]:
    """Makes a channel of a kind, and its service; all end with the block."""

    def secret(name: str, value: str | bytes) -> str:
        path = folder / f"{name}-{free_port()}"
        path.touch(mode=0o600)
        path.write_bytes(value if isinstance(value, bytes) else value.encode())
        return f"file:{path}"

    with ExitStack() as running:

        def web(kind: str, context: ssl.SSLContext | None, ca_file: Path | None, host: str) -> Rig:
            judge = {
                "slack": services.Slack,
                "discord": services.Discord,
                "pagerduty": services.PagerDuty,
                "webhook": services.Receiver,
            }[kind]()
            service = running.enter_context(services.serving(services.Service(judge.judge), context))
            base = f"{'https' if context else 'http'}://{host}:{service.port}"
            common = {"name": f"the-{kind}", "ca_file": ca_file}
            if kind == "pagerduty":
                key = secret("key", judge.routing_key)
                policy: Any = policies.PagerDuty(
                    kind="pagerduty", routing_key=key, endpoint=f"{base}/v2/enqueue", **common
                )
                return Rig(open_channel(policy), service, judge, (judge.routing_key,))
            url = secret("url", base + judge.path)
            secrets = (judge.path.rpartition("/")[2],)
            if kind == "webhook":
                policy = policies.Webhook(kind="webhook", url=url, key=secret("key", judge.key), **common)
                return Rig(open_channel(policy), service, judge, (*secrets, judge.key.decode()))
            model: Any = {"slack": policies.Slack, "discord": policies.Discord}[kind]
            return Rig(open_channel(model(kind=kind, url=url, **common)), service, judge, secrets)

        def mail(relay: Any, **settings: Any) -> Rig:
            running.enter_context(services.relaying(relay))
            login = {"username": "vedr", "password": secret("password", PASSWORD)} if relay.login else {}
            policy = policies.Email(
                kind="email",
                name="the-email",
                server=settings.pop("server", "127.0.0.1"),
                port=relay.port,
                sender="vedr@virtengine.example",
                recipients=("one@virtengine.example", "two@virtengine.example"),
                **({"security": "none"} | login | settings),
            )
            return Rig(open_channel(policy), relay, relay, (PASSWORD,))

        def make(
            kind: str,
            *,
            context: ssl.SSLContext | None = None,
            ca_file: Path | None = None,
            host: str = "127.0.0.1",
            relay: Any = None,
            **settings: Any,
        ) -> Rig:
            if kind == "email":
                return mail(relay or services.Relay(), ca_file=ca_file, **settings)
            return web(kind, context, ca_file, host)

        yield make


def make_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side for 127.0.0.1 under a certificate of its own, and that certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "ca.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    own = folder / "key.pem"
    own.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, own)
    return context, pem
