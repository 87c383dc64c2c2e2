"""Any service that takes JSON, signed so that it can tell our messages from others' (docs/notifications.md).

`X-Vedr-Signature: sha256=<hex>` is HMAC-SHA256 over `<X-Vedr-Timestamp>.<body>`; a receiver that refuses timestamps
older than five minutes cannot be told an old message again.  `Idempotency-Key` is the same for the same news.

Guarantees: what is signed is the body as it is sent, byte for byte.
Leaves out: trying again and other channels (vedr.continuity.delivery), and checking signatures (the receiver's).
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

from vedr.adapters import notify_http
from vedr.adapters.secrets import resolve
from vedr.continuity.message import Message
from vedr.policies.notifications import Webhook

FORMAT: Final = "vedr-notification/1"


class WebhookChannel:
    """As vedr.continuity.delivery.Channel."""

    kind: Final = "webhook"

    def __init__(self, policy: Webhook, *, clock_s: Callable[[], float] = time.time) -> None:
        self.name: Final = policy.name
        self._policy = policy
        self._clock_s = clock_s

    def send(self, message: Message, *, timeout_s: float) -> None:
        """Delivered when the service answers 2xx."""
        key = resolve(self._policy.key)
        hook = notify_http.hook(self._policy.url, self._policy.ca_file, keys=[key])
        body = notify_http.encoded(render(message))
        timestamp = str(int(self._clock_s()))
        headers = {
            "X-Vedr-Timestamp": timestamp,
            "X-Vedr-Signature": f"sha256={signature(key, timestamp, body)}",
            "Idempotency-Key": message.key,
        }
        notify_http.post(hook, body, headers, timeout_s=timeout_s)


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """64 hexadecimal digits."""
    return hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def render(message: Message) -> dict[str, object]:
    """The message as it is."""
    return {
        "format": FORMAT,
        "key": message.key,
        "site": message.site,
        "incident": message.incident,
        "event": message.event,
        "severity": message.severity,
        "subject": message.subject,
        "body": message.body,
        "at": message.at.isoformat(),
        "links": [{"label": link.label, "url": link.url} for link in message.links],
        "exercise": message.exercise,
        "repeated": message.repeated,
    }
