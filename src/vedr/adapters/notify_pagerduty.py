"""PagerDuty, by its Events API v2: one alert an incident, whose life follows the incident's.

The alert's key is the incident's id: the same news twice is one alert, from whichever process.  `mitigated`,
`acknowledged` and `abandoned` acknowledge it (a person has it), only `resolved` resolves it.

Guarantees: delivered means that PagerDuty has queued the event; an exercise is never more than `info` there.
Leaves out: trying again and other channels (vedr.continuity.delivery), and who is woken (PagerDuty's schedules).

Source: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ and the reference of `enqueue`.
"""

from types import MappingProxyType
from typing import Final, Literal

import httpx

from vedr.adapters import notify_http
from vedr.adapters.secrets import resolve
from vedr.continuity.message import Message, shortened
from vedr.errors import RefusedError
from vedr.policies.notifications import Event, PagerDuty, Severity

Action = Literal["trigger", "acknowledge", "resolve"]
ACTIONS: Final = MappingProxyType[Event, Action](
    {
        "declared": "trigger",
        "overrun_predicted": "trigger",
        "waiting_for_approval": "trigger",
        "acknowledged": "acknowledge",
        "mitigated": "acknowledge",
        "resolved": "resolve",
        "failed": "trigger",
        "abandoned": "acknowledge",
    }
)
SEVERITIES: Final = MappingProxyType[Severity, str](
    {"SEV-1": "critical", "SEV-2": "error", "SEV-3": "warning", "SEV-4": "info"}
)
MAX_SUMMARY: Final = 1024
MAX_KEY: Final = 255
MAX_DETAILS: Final = 8000


class PagerDutyChannel:
    """As vedr.continuity.delivery.Channel."""

    kind: Final = "pagerduty"

    def __init__(self, policy: PagerDuty) -> None:
        self.name: Final = policy.name
        self._policy = policy

    def send(self, message: Message, *, timeout_s: float) -> None:
        """Delivered when PagerDuty answers 202, which means that it has queued the event."""
        key = resolve(self._policy.routing_key)
        hook = notify_http.hook_at(self._policy.endpoint, "the channel's endpoint", self._policy.ca_file, keys=[key])
        event = {"routing_key": key.decode("ascii", "replace"), **render(message)}
        answer = notify_http.post(hook, notify_http.encoded(event), {}, timeout_s=timeout_s)
        if answer.status != httpx.codes.ACCEPTED:
            raise RefusedError(
                f"HTTP {answer.status} instead of 202: not PagerDuty, or not its events", remedy="Check the endpoint."
            )


def render(message: Message) -> dict[str, object]:
    """The event without its routing key; all but a trigger need no more than the alert's key."""
    action = ACTIONS[message.event]
    event: dict[str, object] = {"event_action": action, "dedup_key": shortened(message.incident, MAX_KEY)}
    if action != "trigger":
        return event
    return event | {
        "client": "vedr",
        "links": [{"href": link.url, "text": link.label} for link in message.links],
        "payload": {
            "summary": shortened(message.subject, MAX_SUMMARY),
            "source": message.site,
            "severity": "info" if message.exercise else SEVERITIES[message.severity],
            "timestamp": message.at.isoformat(),
            "class": message.event,
            "custom_details": {"message": shortened(message.body, MAX_DETAILS), "severity": message.severity},
        },
    }
