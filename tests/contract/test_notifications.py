"""What every channel must do, against services as strict as the real ones, and what nobody may ever see."""

import logging
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from loopback_ports import free_port
from notify_rig import INCIDENT, KINDS, WEB, Maker, Rig, news

from vedr.adapters.notify_channels import open_channel
from vedr.continuity.delivery import ATTEMPTS, notify
from vedr.continuity.message import Message
from vedr.policies import notifications as policies
from vedr.policies.notifications import EVENTS

pytestmark = pytest.mark.server


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
