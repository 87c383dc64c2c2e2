"""Discord, by a channel's webhook.

Source: https://docs.discord.com/developers/resources/webhook#execute-webhook.  With `wait=true` Discord answers when it
has stored the message, with the message.  A webhook offers nothing by which Discord could drop a repeated message.
"""

import re
from typing import Final

from vedr.adapters import notify_http
from vedr.continuity.message import Message
from vedr.policies.notifications import Discord

MAX_CONTENT: Final = 2000
_MARKUP: Final = re.compile(r"([\\*_~`|>\[\]#-])")
_CUT: Final = "…"


class DiscordChannel:
    """As vedr.continuity.delivery.Channel."""

    kind: Final = "discord"

    def __init__(self, policy: Discord) -> None:
        self.name: Final = policy.name
        self._policy = policy

    def send(self, message: Message, *, timeout_s: float) -> None:
        hook = notify_http.hook(self._policy.url, self._policy.ca_file)
        waiting = notify_http.Hook(hook.url.copy_merge_params({"wait": "true"}), hook.secrets, hook.ca_file)
        notify_http.post(waiting, notify_http.encoded(render(message)), {}, timeout_s=timeout_s)


def render(message: Message) -> dict[str, object]:
    """Markdown without mentions; the body is cut, never the subject, the links or where it comes from."""
    head = f"**{escaped(message.subject)}**\n"
    tail = "".join(f"\n{escaped(link.label)}: <{link.url}>" for link in message.links)
    tail += f"\n-# {escaped(f'{message.site} · {message.incident} · {message.at:%Y-%m-%d %H:%M:%S} UTC')}"
    room = MAX_CONTENT - len(head) - len(tail)
    if room < len(_CUT):
        head, tail, room = head[:MAX_CONTENT], "", MAX_CONTENT - min(len(head), MAX_CONTENT)
    body = escaped(message.body)
    if len(body) > room:
        body = body[: max(0, room - len(_CUT))].rstrip("\\") + _CUT
    return {"content": (head + body + tail)[:MAX_CONTENT], "allowed_mentions": {"parse": []}}


def escaped(text: str) -> str:
    """Text in which nothing is markup or a masked link; mentions are shut off for the whole message."""
    return _MARKUP.sub(r"\\\1", text)
