"""What each kind of channel does that the others do not, against services as strict as the real ones."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from notify_rig import INCIDENT, PASSWORD, Maker, news, services

from vedr.adapters import notify_discord, notify_slack
from vedr.continuity.delivery import ATTEMPTS
from vedr.continuity.message import Link
from vedr.policies import notifications as policies

pytestmark = pytest.mark.server


# --- services on the web


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
