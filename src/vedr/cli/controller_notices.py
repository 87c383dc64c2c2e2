"""Whom a controller tells: its log, and the site's channels where a person is needed."""

from typing import Final

from vedr.adapters.site import OpenSite
from vedr.cli.signer import log_line
from vedr.continuity.delivery import notify
from vedr.continuity.message import message
from vedr.failover.controller_loop import Notice, NoticeKind
from vedr.policies.notifications import Event, Severity

_EVENTS: Final[dict[NoticeKind, Event]] = {
    "proposed": "waiting_for_approval",
    "start-unclear": "failed",
    "start-failed": "failed",
}
"""What the runbook itself cannot tell: that it was not started.  A started one announces itself."""


class LogAnnouncer:
    """One JSON object a line, on standard error."""

    def announce(self, notice: Notice) -> None:
        facts = {"text": notice.text, "outage": notice.outage_id, "command": notice.command}
        log_line(notice.kind, {name: fact for name, fact in facts.items() if fact})


class ChannelAnnouncer:
    """The site's channels, as its [notifications] say."""

    def __init__(self, opened: OpenSite) -> None:
        self._opened = opened

    def announce(self, notice: Notice) -> None:
        event = _EVENTS.get(notice.kind)
        policies = self._opened.site.notifications.channels
        if event is None or notice.domain is None or not policies:
            return
        severity: Severity = "SEV-1" if notice.domain.kind == "region" else "SEV-2"
        told = message(
            site=self._opened.site.name,
            incident=notice.outage_id,
            event=event,
            severity=severity,
            subject=f"{notice.domain} is down: {notice.kind.replace('-', ' ')}",
            body=f"{notice.text}\n\nBy hand: {notice.command}",
            at=notice.at,
            about=notice.kind,
        )
        addressed = [
            (channel, told)
            for policy, channel in zip(policies, self._opened.channels, strict=True)
            if policy.audience == "responders" and policy.wants(event, severity)
        ]
        for delivery in notify(addressed, deadline_s=self._opened.site.notifications.deadline_s):
            if delivery.state == "failed":
                log_line("not-told", {"channel": delivery.channel, "why": delivery.reason})
