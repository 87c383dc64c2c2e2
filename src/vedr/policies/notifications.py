"""Who is told of an incident, and by which channel: the `[notifications]` table of a site file.

Guarantees: every address that is a secret, and every key, is a reference; a password never crosses an unencrypted
connection; channels have different names.
Leaves out: sending (vedr.adapters.notify_*), and what the messages say (vedr.continuity.message).
"""

from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from vedr.policies.names import SecretRef
from vedr.targets import Frozen

Severity = Literal["SEV-1", "SEV-2", "SEV-3", "SEV-4"]
Event = Literal[
    "declared",
    "overrun_predicted",
    "waiting_for_approval",
    "acknowledged",
    "mitigated",
    "resolved",
    "failed",
    "abandoned",
]
"""What happens to an incident; `acknowledged`: a person answered what it waited for."""
Audience = Literal["responders", "validators", "providers", "executives", "public"]
"""Whom a channel reaches: that decides the wording, and which events are for them at all."""

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
EVENTS: Final[tuple[Event, ...]] = get_args(Event)
MAX_DEADLINE_S: Final = 30.0  # a runbook waits for its announcements: they may not cost it more than a retry of a step

ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}$")]
"""A mail address, RFC 5321's unquoted form: nothing in it can end a header or a command."""


class AnyChannel(Frozen):
    """What every channel has."""

    name: ChannelName
    severities: tuple[Severity, ...] = Field(default=SEVERITIES, min_length=1)
    events: tuple[Event, ...] = Field(default=EVENTS, min_length=1)
    audience: Audience = "responders"
    exercises: bool = Field(default=False, description="whether it is told of exercises too, which every message says")
    ca_file: Path | None = Field(default=None, description="certificates (PEM) that it trusts; None: the system's")

    def wants(self, event: Event, severity: Severity, *, exercise: bool = False) -> bool:
        """Whether it is told of this."""
        return event in self.events and severity in self.severities and (self.exercises or not exercise)


class Slack(AnyChannel):
    """An incoming webhook."""

    kind: Literal["slack"]
    url: SecretRef


class Discord(AnyChannel):
    """A webhook of a Discord channel."""

    kind: Literal["discord"]
    url: SecretRef


class PagerDuty(AnyChannel):
    """An integration of a PagerDuty service by the Events API v2."""

    kind: Literal["pagerduty"]
    routing_key: SecretRef
    endpoint: str = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        pattern=r"^https?://",
        description="in the EU: https://events.eu.pagerduty.com/v2/enqueue",
    )


class Webhook(AnyChannel):
    """Any service that takes JSON; `key` signs it (docs/notifications.md)."""

    kind: Literal["webhook"]
    url: SecretRef
    key: SecretRef = Field(description="of HMAC-SHA256, as many bytes as you like, 32 or more are sensible")


class Email(AnyChannel):
    """Mail by a relay (SMTP)."""

    kind: Literal["email"]
    server: str = Field(pattern=r"^[A-Za-z0-9.:-]+$")
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: SecretRef | None = None
    sender: Address
    recipients: tuple[Address, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _password_is_safe(self) -> Self:
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password belong together: give both, or neither for a relay without login")
        if self.username and self.security == "none":
            raise ValueError('a password would be sent in the clear: set security = "starttls" or "tls"')
        return self


Channel = Annotated[Slack | Discord | PagerDuty | Webhook | Email, Field(discriminator="kind")]


class Notifications(Frozen):
    """The site's channels, all told side by side, and how long a runbook waits for them."""

    channels: tuple[Channel, ...] = ()
    deadline_s: float = Field(default=5.0, gt=0, le=MAX_DEADLINE_S)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [channel.name for channel in self.channels]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"channels share the name {', '.join(repeated)}: name each once")
        return self
