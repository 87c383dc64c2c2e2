"""The channels of a site's policy, opened: which adapter serves which kind."""

from typing import assert_never

from vedr.adapters.notify_discord import DiscordChannel
from vedr.adapters.notify_email import EmailChannel
from vedr.adapters.notify_pagerduty import PagerDutyChannel
from vedr.adapters.notify_slack import SlackChannel
from vedr.adapters.notify_webhook import WebhookChannel
from vedr.continuity.delivery import Channel
from vedr.policies import notifications as policies


def open_channel(policy: policies.Channel) -> Channel:
    """Nothing is contacted, and no secret is read, before it sends."""
    match policy:
        case policies.Slack():
            return SlackChannel(policy)
        case policies.Discord():
            return DiscordChannel(policy)
        case policies.PagerDuty():
            return PagerDutyChannel(policy)
        case policies.Webhook():
            return WebhookChannel(policy)
        case policies.Email():
            return EmailChannel(policy)
        case _:
            assert_never(policy)
