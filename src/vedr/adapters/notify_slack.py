"""Slack, by an incoming webhook.

Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and the limits of Block Kit.  A
webhook offers nothing by which Slack could drop a repeated message.

Guarantees: what a message says is text there, and can't mention people or make links.
Leaves out: trying again and other channels (vedr.continuity.delivery).
"""

from typing import Final

from vedr.adapters import notify_http
from vedr.continuity.message import Message, shortened
from vedr.errors import RefusedError
from vedr.policies.notifications import Slack

MAX_HEADER: Final = 150
MAX_SECTION: Final = 3000
MAX_TEXT: Final = 4000  # Slack cuts the text of notifications there
_MARKS: Final = {"SEV-1": "🔴", "SEV-2": "🟠", "SEV-3": "🟡", "SEV-4": "🔵"}


class SlackChannel:
    """As vedr.continuity.delivery.Channel."""

    kind: Final = "slack"

    def __init__(self, policy: Slack) -> None:
        self.name: Final = policy.name
        self._policy = policy

    def send(self, message: Message, *, timeout_s: float) -> None:
        """Delivered when Slack answers 200 and `ok`: anything else with 200 was not Slack."""
        hook = notify_http.hook(self._policy.url, self._policy.ca_file)
        answer = notify_http.post(hook, notify_http.encoded(render(message)), {}, timeout_s=timeout_s)
        if answer.text.strip() != "ok":
            raise RefusedError(
                f"HTTP {answer.status} with {notify_http.quoted(answer.text, hook)!r} instead of ok",
                remedy="Check that the address is that of a Slack webhook.",
            )


def render(message: Message) -> dict[str, object]:
    """Block Kit, with the whole text besides for phones' notifications."""
    title = f"{_MARKS[message.severity]} {message.subject}"
    links = "  ".join(f"<{link.url.replace('&', '&amp;')}|{_link_text(link.label)}>" for link in message.links)
    blocks: list[dict[str, object]] = [
        {"type": "header", "text": {"type": "plain_text", "text": shortened(title, MAX_HEADER), "emoji": False}}
    ]
    blocks += [
        {"type": "section", "text": {"type": "mrkdwn", "verbatim": True, "text": text}}
        for text in (escaped(message.body, MAX_SECTION), shortened(links, MAX_SECTION))
        if text
    ]
    footer = escaped(f"{message.site} · {message.incident} · {message.at:%Y-%m-%d %H:%M:%S} UTC", MAX_SECTION)
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "verbatim": True, "text": footer}]})
    return {"text": escaped(f"{title}\n{message.body}", MAX_TEXT), "blocks": blocks}


def escaped(text: str, limit: int) -> str:
    """Text in which nothing is a mention, a link or a channel, within that many characters after escaping."""
    pieces: list[str] = []
    length = 0
    for char in text:
        piece = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(char, char)
        if length + len(piece) > limit - 1:
            return "".join(pieces) + "…"
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)


def _link_text(label: str) -> str:
    return escaped(label.replace("|", " "), MAX_HEADER)
