"""What the site file refuses of channels, before anything is sent."""

from typing import Any

import pytest
from continuity_world import EXAMPLE
from pydantic import ValidationError

from vedr.inventory import parse_site
from vedr.policies.notifications import Notifications

MAIL = {
    "kind": "email",
    "name": "mail",
    "server": "smtp.example",
    "sender": "a@b.example",
    "recipients": ["c@d.example"],
}
SLACK = {"kind": "slack", "name": "slack", "url": "env:HOOK"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"username": "vedr"}, "belong together"),
        ({"username": "vedr", "password": "env:P", "security": "none"}, "in the clear"),
        ({"sender": "a@b.example\nBcc: x@y.example"}, "match"),
        ({"recipients": ["c@d.example, x@y.example"]}, "match"),
        ({"recipients": []}, "at least 1"),
        ({"password": "hunter2", "username": "vedr"}, "match"),
        ({"server": "smtp.example/x"}, "match"),
        ({"events": ["sneezed"]}, "declared"),
        ({"severities": []}, "at least 1"),
    ],
)
def test_a_wrong_mail_channel_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        Notifications.model_validate({"channels": [MAIL | changes]})
    assert "hunter2" not in str(caught.value)


def test_a_secret_address_cannot_stand_in_the_file() -> None:
    with pytest.raises(ValidationError, match="match") as caught:
        Notifications.model_validate({"channels": [SLACK | {"url": "https://hooks.slack.com/services/T/B/hunter2"}]})
    assert "hunter2" not in str(caught.value)


def test_channels_have_different_names_and_a_short_deadline() -> None:
    with pytest.raises(ValidationError, match="share the name slack"):
        Notifications.model_validate({"channels": [SLACK, SLACK]})
    with pytest.raises(ValidationError, match="less than or equal to 30"):
        Notifications.model_validate({"deadline_s": 31})


def test_the_example_of_production_reaches_every_audience_but_providers() -> None:
    site = parse_site(EXAMPLE.read_text(encoding="utf-8"), source=EXAMPLE.name)
    audiences = {channel.audience for channel in site.notifications.channels}
    assert audiences == {"responders", "validators", "executives", "public"}
    assert {channel.kind for channel in site.notifications.channels} == {
        "slack", "discord", "pagerduty", "email", "webhook",
    }  # fmt: skip
    assert len(site.continuity.roles) == 5
