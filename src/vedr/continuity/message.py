"""Messages about an incident, as values: what happened, how grave it is, in words that every channel can render.

Guarantees: a message is plain text without control characters or characters that change the direction of writing, its
subject one line, its links http(s) without anything that could end them; making one never fails.
Leaves out: rendering (each adapter for its channel), wording for other audiences (vedr.continuity.communication).
"""

import datetime as dt
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from vedr.policies.notifications import Event, Severity

MAX_SUBJECT: Final = 250  # a phone shows less; PagerDuty takes 1024, Slack's header 150
MAX_BODY: Final = 20_000
_KEPT: Final = frozenset("\n\t")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_URL_SAFE: Final = ":/?#@!$&'*+,;=%~[]()-._"


@dataclass(frozen=True, slots=True)
class Link:
    """Where to look: a label and an http(s) address."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that somebody is told.  Made by `message`.

    `about` tells apart several messages of one event (two approvals); `repeated`: an earlier process may have sent it.
    """

    site: str
    incident: str
    event: Event
    severity: Severity
    subject: str
    body: str
    at: dt.datetime
    links: tuple[Link, ...] = ()
    about: str = ""
    exercise: bool = False
    repeated: bool = False

    @property
    def key(self) -> str:
        """The same for the same news, however often it is sent: receivers can drop what they have."""
        return "/".join(part for part in (self.incident, self.event, self.about) if part)


def message(
    *,
    site: str,
    incident: str,
    event: Event,
    severity: Severity,
    subject: str,
    body: str,
    at: dt.datetime,
    links: tuple[Link, ...] = (),
    about: str = "",
    exercise: bool = False,
    repeated: bool = False,
) -> Message:
    """A message whose text is cleaned and cut to size; links that are not http(s) are left out."""
    marks = ("EXERCISE: " if exercise else "") + ("again: " if repeated else "")
    note = "This is an exercise: nothing is wrong.\n\n" if exercise else ""
    return Message(
        site=site,
        incident=one_line(incident),
        event=event,
        severity=severity,
        subject=shortened(marks + one_line(subject), MAX_SUBJECT),
        body=shortened(note + printable(body).strip(), MAX_BODY),
        at=at.astimezone(dt.UTC),
        links=tuple(safe for safe in map(_safe_link, links) if safe is not None),
        about=one_line(about),
        exercise=exercise,
        repeated=repeated,
    )


def printable(text: str) -> str:
    """Without characters that are not seen, but for line ends and tabs."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char for char in unified if char in _KEPT or unicodedata.category(char) not in _UNSEEN)


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


def shortened(text: str, limit: int) -> str:
    """Cut to that many characters, and then it says so."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _safe_link(link: Link) -> Link | None:
    url = quote(one_line(link.url).replace(" ", "%20"), safe=_URL_SAFE)
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return Link(one_line(link.label) or url, url) if parts.scheme in ("http", "https") and parts.netloc else None
