"""What every channel must do, against services as strict as the real ones, and what nobody may ever see."""

import datetime as dt
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loopback_ports import free_port

from vedr.adapters import notify_discord, notify_slack
from vedr.adapters.notify_channels import open_channel
from vedr.continuity.delivery import ATTEMPTS, Channel, Delivery, notify
from vedr.continuity.message import Link, Message, message
from vedr.policies import notifications as policies
from vedr.policies.notifications import EVENTS

pytestmark = pytest.mark.server


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

    def tell(self, said: Message, *, deadline_s: float = 5.0) -> Delivery:
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


@pytest.fixture
def make_channel(tmp_path: Path) -> Iterator[Maker]:
    """A channel of that kind, and its service; all end with the test."""

    def secret(name: str, value: str | bytes) -> str:
        path = tmp_path / f"{name}-{free_port()}"
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


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, make_channel: Maker) -> Rig:
    return make_channel(request.param)


@pytest.fixture(params=WEB)
def web_rig(request: pytest.FixtureRequest, make_channel: Maker) -> Rig:
    return make_channel(request.param)


# --- what is promised of all


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_arrives_at_every_kind_of_channel(rig: Rig, event: policies.Event) -> None:
    delivery = rig.tell(news(event=event))
    assert (delivery.state, delivery.reason, delivery.attempts) == ("delivered", "", 1)
    assert rig.arrived == 1


HOSTILE = (
    "line one\r\nBcc: everybody@example.org\r\n\r\n<!channel> <@U123> @everyone `rm` *b* _i_ [click](https://evil.example)"
    " & < > \x00\x1b[31m \u202egnp.exe " + "ü🔥" * 40
)


def test_text_that_means_something_to_a_service_is_only_text(rig: Rig) -> None:
    assert rig.tell(news(subject=HOSTILE, body=HOSTILE * 60, incident=INCIDENT)).state == "delivered"


def test_a_port_where_nobody_listens_is_reported_at_once_and_named_by_no_address(rig: Rig, make_channel: Maker) -> None:
    dead = make_channel(rig.channel.kind)
    dead.channel._policy = _at_port(dead, free_port())  # type: ignore[attr-defined]
    delivery = dead.tell(news(), deadline_s=3.0)
    assert delivery.state == "failed"
    assert delivery.reason == "no connection: Connection refused"
    assert delivery.attempts == ATTEMPTS
    assert delivery.took_ms < 2000


def test_a_service_that_hangs_costs_the_deadline_and_no_more(rig: Rig) -> None:
    if rig.channel.kind == "email":
        rig.service.replies["DATA"] = "hang"
    else:
        rig.service.faults.plan[:] = ["hang"]
    began = time.monotonic()
    delivery = rig.tell(news(), deadline_s=0.7)
    assert time.monotonic() - began < 1.5
    assert delivery.state == "failed"
    assert "no answer" in delivery.reason


def test_one_dead_channel_delays_and_prevents_no_other(make_channel: Maker) -> None:
    rigs = [make_channel(kind) for kind in KINDS]
    hanging = make_channel("slack")
    hanging.service.faults.plan[:] = ["hang"]
    began = time.monotonic()
    deliveries = notify([(rig.channel, news()) for rig in (hanging, *rigs)], deadline_s=2.5)
    assert time.monotonic() - began < 3.5
    assert [delivery.state for delivery in deliveries] == ["failed", *["delivered"] * len(KINDS)]
    assert max(delivery.took_ms for delivery in deliveries[1:]) < 2300


def test_what_is_reported_or_logged_shows_no_secret(
    make_channel: Maker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for kind in WEB:
        for plan in ([], [400], [500], [302], ["drop"], ["hang"]):
            rig = make_channel(kind)
            rig.service.faults.plan[:] = plan
            rig.service.faults.body = f"you said {' '.join(rig.secrets)}, which I do not know"
            delivery = rig.tell(news(), deadline_s=0.4 if plan else 5.0)
            assert (delivery.state == "delivered") == (plan == [])
            shown = "".join([repr(delivery), str(delivery), caplog.text, *capfd.readouterr()])
            assert not [secret for secret in rig.secrets if secret in shown], (kind, plan, shown)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
def test_no_is_told_at_once_and_not_asked_again(web_rig: Rig, status: int) -> None:
    web_rig.service.faults.plan[:] = [status]
    web_rig.service.faults.body = "invalid_payload"
    delivery = web_rig.tell(news())
    assert (delivery.state, delivery.reason) == ("failed", f"HTTP {status}: invalid_payload")
    assert web_rig.service.faults.seen == 1


@pytest.mark.parametrize("fault", [500, 502, 503, "drop"])
def test_a_service_that_stumbles_is_asked_again(web_rig: Rig, fault: int | str) -> None:
    web_rig.service.faults.plan[:] = [fault]
    delivery = web_rig.tell(news())
    assert (delivery.state, delivery.attempts, web_rig.arrived) == ("delivered", 2, 1)


def test_a_service_that_asks_to_wait_is_left_alone_that_long(web_rig: Rig) -> None:
    web_rig.service.faults.plan[:] = [429]
    web_rig.service.faults.headers = {"Retry-After": "0.6"}
    delivery = web_rig.tell(news())
    assert (delivery.state, delivery.attempts) == ("delivered", 2)
    assert delivery.took_ms >= 600


def test_a_wait_longer_than_the_deadline_is_reported_instead(web_rig: Rig) -> None:
    web_rig.service.faults.plan[:] = [429]
    web_rig.service.faults.headers = {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}
    delivery = web_rig.tell(news(), deadline_s=2.0)
    assert (delivery.state, delivery.reason, delivery.attempts) == ("failed", "HTTP 429", 1)
    assert delivery.took_ms < 1000


def test_a_redirect_is_not_followed(web_rig: Rig, make_channel: Maker) -> None:
    elsewhere = make_channel("slack")
    web_rig.service.faults.plan[:] = [302]
    web_rig.service.faults.headers = {"Location": f"{elsewhere.service.base}{elsewhere.judge.path}"}
    delivery = web_rig.tell(news())
    assert delivery.state == "failed"
    assert "redirects" in delivery.reason
    assert elsewhere.service.faults.seen == 0


def test_an_answer_that_never_ends_costs_the_deadline_and_no_more(make_channel: Maker) -> None:
    rig = make_channel("webhook")
    rig.service.faults.plan[:] = ["drip"]
    delivery = rig.tell(news(), deadline_s=0.6)
    assert (delivery.state, delivery.reason) == ("failed", "no answer within 0.6 s; it may have arrived")


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's side for 127.0.0.1 under a certificate of its own, and that certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own")])
    now = dt.datetime.now(dt.UTC)
    import ipaddress  # noqa: PLC0415

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


@pytest.mark.parametrize("kind", WEB)
def test_a_certificate_that_nobody_vouches_for_ends_it_before_anything_is_said(
    make_channel: Maker, authority: tuple[ssl.SSLContext, Path], kind: str
) -> None:
    context, ca_file = authority
    rig = make_channel(kind, context=context)
    delivery = rig.tell(news())
    assert (delivery.state, delivery.attempts) == ("failed", 1)
    assert delivery.reason == "its certificate is not trusted: self-signed certificate"
    assert rig.service.faults.seen == 0
    assert make_channel(kind, context=context, ca_file=ca_file).tell(news()).state == "delivered"


def test_a_certificate_of_another_name_is_refused(make_channel: Maker, authority: tuple[ssl.SSLContext, Path]) -> None:
    context, ca_file = authority
    rig = make_channel("webhook", context=context, ca_file=ca_file, host="localhost")
    assert rig.tell(news()).reason == "its certificate is not trusted: Hostname mismatch"


def test_a_ca_file_that_is_missing_is_named(make_channel: Maker, authority: tuple[ssl.SSLContext, Path]) -> None:
    context, ca_file = authority
    rig = make_channel("slack", context=context, ca_file=ca_file.with_name("nothing.pem"))
    assert "nothing.pem holds no certificates" in rig.tell(news()).reason


def test_plain_http_leaves_this_machine_never(tmp_path: Path) -> None:
    address = tmp_path / "url"
    address.touch(mode=0o600)
    address.write_text("http://hooks.example.org/services/secretSECRET")
    channel = open_channel(policies.Slack(kind="slack", name="clear", url=f"file:{address}"))
    [delivery] = notify([(channel, news())], deadline_s=1.0)
    assert "in the clear" in delivery.reason
    assert "secretSECRET" not in delivery.reason


@pytest.mark.parametrize("content", ["", "not an address", "ftp://example.org/x", "https://", "hunter2hunter2"])
def test_a_secret_that_is_no_address_is_reported_without_it(tmp_path: Path, content: str) -> None:
    address = tmp_path / "url"
    address.touch(mode=0o600)
    address.write_text(content)
    channel = open_channel(policies.Discord(kind="discord", name="odd", url=f"file:{address}"))
    [delivery] = notify([(channel, news())], deadline_s=1.0)
    assert (delivery.state, delivery.attempts) == ("failed", 1)
    assert "URL" in delivery.reason
    assert not content or content not in delivery.reason


def test_a_secret_that_is_missing_fails_its_channel_only(make_channel: Maker) -> None:
    lost = open_channel(policies.Slack(kind="slack", name="lost", url="env:VEDR_TEST_NOBODY_SETS_THIS"))
    rig = make_channel("slack")
    deliveries = notify([(lost, news()), (rig.channel, news())], deadline_s=3.0)
    assert [delivery.state for delivery in deliveries] == ["failed", "delivered"]
    assert "VEDR_TEST_NOBODY_SETS_THIS is not set" in deliveries[0].reason


def test_an_adapter_that_is_wrong_fails_its_channel_only_and_its_words_are_not_shown(make_channel: Maker) -> None:
    class Broken:
        name = kind = "broken"

        def send(self, _: Message, *, timeout_s: float) -> None:  # noqa: ARG002 (the Protocol's name)
            raise KeyError("a-secret-in-an-exception")

    rig = make_channel("webhook")
    deliveries = notify([(Broken(), news()), (rig.channel, news())], deadline_s=3.0)
    assert [delivery.state for delivery in deliveries] == ["failed", "delivered"]
    assert deliveries[0].reason == "KeyError in the adapter"


def test_nobody_to_tell_is_nothing_to_wait_for() -> None:
    assert notify([], deadline_s=5.0) == ()


# --- each by itself


def test_pagerdutys_alert_lives_as_the_incident_does(make_channel: Maker) -> None:
    rig = make_channel("pagerduty")
    life: tuple[policies.Event, ...] = (
        "declared", "overrun_predicted", "waiting_for_approval", "acknowledged", "failed", "mitigated", "resolved",
    )  # fmt: skip
    for event in life:
        assert rig.tell(news(event=event)).state == "delivered"
    expected = ["triggered", "triggered", "triggered", "acknowledged", "triggered", "acknowledged", "resolved"]
    assert rig.judge.alerts == {INCIDENT: expected}


def test_an_abandoned_incident_is_not_resolved_in_pagerduty(make_channel: Maker) -> None:
    rig = make_channel("pagerduty")
    rig.tell(news())
    rig.tell(news(event="abandoned"))
    assert rig.judge.alerts[INCIDENT][-1] == "acknowledged"


def test_the_same_news_from_two_processes_is_one_alert_one_webhook_key_and_one_mail_id(make_channel: Maker) -> None:
    pager, hook, mail = (make_channel(kind) for kind in ("pagerduty", "webhook", "email"))
    for rig in (pager, hook, mail):
        rig.tell(news())
        rig.tell(news(repeated=True))
    assert list(pager.judge.alerts) == [INCIDENT]
    assert (len(hook.judge.accepted), hook.judge.repeats) == (1, 1)
    ids = {mail_[2]["Message-ID"] for mail_ in mail.service.mails}
    assert ids == {f"<{INCIDENT}.declared@virtengine.example>"}


def test_an_exercise_says_so_and_pages_with_no_urgency(make_channel: Maker) -> None:
    rig = make_channel("pagerduty")
    rig.tell(news(exercise=True))
    payload = rig.judge.events[0]["payload"]
    assert payload["severity"] == "info"
    assert payload["summary"].startswith("EXERCISE: ")
    assert "nothing is wrong" in payload["custom_details"]["message"]


def test_slack_is_believed_only_when_it_says_ok(make_channel: Maker) -> None:
    rig = make_channel("slack")
    rig.service.judge = lambda *_: (200, "<html>Please log in to the guest network</html>", {})
    delivery = rig.tell(news())
    assert delivery.state == "failed"
    assert "instead of ok" in delivery.reason


def test_pagerduty_is_believed_only_when_it_accepts(make_channel: Maker) -> None:
    rig = make_channel("pagerduty")
    rig.service.judge = lambda *_: (200, "hello", {})
    assert "instead of 202" in rig.tell(news()).reason


def test_slack_shows_text_links_and_where_it_comes_from() -> None:
    rendered: Any = notify_slack.render(news(body="a < b & c"))
    header, body, links, footer = rendered["blocks"]
    assert header["text"] == {
        "type": "plain_text", "text": "🔴 SEV-1 RB-DR-003 region failover (us-east): declared", "emoji": False,
    }  # fmt: skip
    assert body["text"]["text"] == "a &lt; b &amp; c"
    assert links["text"]["text"] == "<https://prefect.example/runs?id=1&amp;x=2|Prefect>"
    assert footer["elements"][0]["text"] == f"production · {INCIDENT} · 2026-02-14 03:17:05 UTC"


def test_slacks_cut_never_splits_an_entity() -> None:
    for length in range(20, 40):
        cut = notify_slack.escaped("&" * 30, length)
        assert len(cut) <= length
        assert cut.rstrip("…").replace("&amp;", "") == ""


@pytest.mark.parametrize("size", [0, 10, 1_700, 2_000, 10_000])
def test_discord_loses_the_bodys_end_never_the_subject_or_the_links(size: int) -> None:
    content: Any = notify_discord.render(news(body="x_" * (size // 2)))["content"]
    assert len(content) <= notify_discord.MAX_CONTENT
    assert content.startswith("**SEV\\-1 RB\\-DR\\-003 region failover")
    assert "<https://prefect.example/runs?id=1&x=2>" in content
    assert content.endswith("UTC")


def test_discord_stays_within_its_limit_whatever_the_links_are() -> None:
    links = tuple(Link(f"link {n}", f"https://example.org/{'a' * 100}/{n}") for n in range(40))
    content: Any = notify_discord.render(news(links=links))["content"]
    assert len(content) <= notify_discord.MAX_CONTENT


def test_a_receiver_that_knows_another_key_refuses_the_webhook(make_channel: Maker) -> None:
    rig = make_channel("webhook")
    rig.judge.key = b"another key"
    assert rig.tell(news()).reason == "HTTP 401: bad signature"


def test_a_link_that_is_no_web_address_is_left_out() -> None:
    links = (Link("a", "javascript:alert(1)"), Link("b", "https://ok.example/a b>|<"), Link("c", "https://[bad"))
    assert news(links=links).links == (Link("b", "https://ok.example/a%20b%3E%7C%3C"),)


# --- mail


def test_mails_of_an_incident_are_one_thread_and_ask_for_no_answer(make_channel: Maker) -> None:
    rig = make_channel("email")
    rig.tell(news())
    rig.tell(news(event="resolved", subject="über alles\r\nBcc: everybody@example.org"))
    (sender, recipients, first), (_, _, second) = rig.service.mails
    assert sender.startswith("FROM:<vedr@virtengine.example>")
    assert recipients == ["one@virtengine.example", "two@virtengine.example"]
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["References"] == second["References"]
    assert first["Message-ID"] != second["Message-ID"]
    assert second["Bcc"] is None
    assert second["Subject"] == "[SEV-1] über alles Bcc: everybody@example.org"
    assert "Prefect: https://prefect.example/runs?id=1&x=2" in first.get_content()


def test_a_password_travels_encrypted(make_channel: Maker, authority: tuple[ssl.SSLContext, Path]) -> None:
    context, ca_file = authority
    for implicit, security in ((False, "starttls"), (True, "tls")):
        relay = services.Relay(context=context, implicit_tls=implicit, login=("vedr", PASSWORD))
        delivery = make_channel("email", relay=relay, security=security, ca_file=ca_file).tell(news())
        assert delivery.state == "delivered", delivery
        assert relay.encrypted == [True]


def test_a_relay_without_starttls_gets_nothing(make_channel: Maker) -> None:
    relay = services.Relay(login=("vedr", PASSWORD))
    delivery = make_channel("email", relay=relay, security="starttls").tell(news())
    assert delivery.reason == "the relay lacks STARTTLS or a login"
    assert relay.mails == []


def test_a_relay_that_nobody_vouches_for_gets_nothing(
    make_channel: Maker, authority: tuple[ssl.SSLContext, Path]
) -> None:
    relay = services.Relay(context=authority[0], login=("vedr", PASSWORD))
    delivery = make_channel("email", relay=relay, security="starttls").tell(news())
    assert delivery.reason == "its certificate is not trusted: self-signed certificate"
    assert relay.mails == []


def test_a_login_that_is_refused_is_reported_without_the_password_that_the_relay_repeats(
    make_channel: Maker, authority: tuple[ssl.SSLContext, Path]
) -> None:
    relay = services.Relay(context=authority[0], login=("vedr", "another"))
    delivery = make_channel("email", relay=relay, security="starttls", ca_file=authority[1]).tell(news())
    assert (delivery.reason, delivery.attempts) == ("the relay refuses the login (535)", 1)


def test_a_recipient_that_is_refused_is_a_failure_also_when_the_other_is_not(make_channel: Maker) -> None:
    relay = services.Relay(refused=frozenset({"two@virtengine.example"}))
    delivery = make_channel("email", relay=relay).tell(news())
    assert (delivery.state, delivery.reason) == ("failed", "the relay refused 1 of 2 recipients (550)")
    assert len(relay.mails) == 1


@pytest.mark.parametrize(
    ("command", "reply", "reason", "attempts"),
    [
        ("MAIL", "550 5.7.1 go away", "the relay says 550 (SMTPSenderRefused)", 1),
        ("DATA", "451 4.3.0 later", "the relay says 451 (SMTPDataError)", ATTEMPTS),
        ("RCPT", "450 4.2.0 greylisted", "the relay refused 2 of 2 recipients (450)", ATTEMPTS),
        ("RCPT", "550 5.1.1 nobody", "the relay refused 2 of 2 recipients (550)", 1),
    ],
)
def test_a_relays_no_is_final_and_its_not_now_is_not(
    make_channel: Maker, command: str, reply: str, reason: str, attempts: int
) -> None:
    relay = services.Relay(replies={command: reply})
    delivery = make_channel("email", relay=relay).tell(news())
    assert (delivery.reason, delivery.attempts) == (reason, attempts)


@pytest.mark.parametrize("goodbye", ["500 what?", "hang"])
def test_a_mail_that_was_taken_counts_however_the_relay_says_goodbye(make_channel: Maker, goodbye: str) -> None:
    relay = services.Relay(replies={"QUIT": goodbye})
    assert make_channel("email", relay=relay).tell(news()).state == "delivered"


def _at_port(rig: Rig, port: int) -> Any:
    """The channel's policy, with its service at another port."""
    policy: Any = rig.channel._policy  # type: ignore[attr-defined]
    match policy:
        case policies.Email():
            return policy.model_copy(update={"port": port})
        case policies.PagerDuty():
            return policy.model_copy(update={"endpoint": f"http://127.0.0.1:{port}/v2/enqueue"})
        case _:
            path = Path(policy.url.removeprefix("file:"))
            path.write_text(path.read_text().replace(f":{rig.service.port}/", f":{port}/"))
            return policy
