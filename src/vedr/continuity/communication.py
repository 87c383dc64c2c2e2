"""The communication plan: who is told by which template, when and how often, and the templates filled from an incident.

Guarantees: every template fills for every incident, with no gap left open; what the public, validators and providers
read names no host, no person and no detail of a key or an attack.
Leaves out: posting to a status page that has no webhook: `vedr bcp messages` prints the text to paste.

Source: the matrix and the templates of VirtEngine's business continuity plan, in our words.
"""

import datetime as dt
from dataclasses import dataclass
from string import Template
from types import MappingProxyType
from typing import Final, Literal

from vedr.continuity.functions import SCALES
from vedr.continuity.incident import Incident, duration
from vedr.continuity.message import Link, Message, message
from vedr.policies.notifications import Audience, Event, Severity
from vedr.targets import MINUTE_S

TemplateName = Literal[
    "status-investigating", "status-identified", "status-resolved", "validator-alert", "provider-notice", "exec-update"
]
UPDATE_S: Final = 30 * MINUTE_S


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the matrix."""

    audience: Audience
    who: str
    channel: str
    when: str
    owner: str
    templates: tuple[TemplateName, ...]


MATRIX: Final = (
    Line("responders", "Engineering", "Slack, PagerDuty", "every event, at once", "incident commander", ()),
    Line("executives", "Leadership", "mail", "every 30 min of SEV-1 and SEV-2", "communications", ("exec-update",)),
    Line(
        "validators",
        "Validator operators",
        "Discord, mail",
        "start, changes, end",
        "communications",
        ("validator-alert",),
    ),
    Line("providers", "Providers", "mail", "start and end", "communications", ("provider-notice",)),
    Line(
        "public",
        "Users",
        "status page",
        "start, cause, end",
        "communications",
        ("status-investigating", "status-identified", "status-resolved"),
    ),
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What an incident of a runbook means to those outside: in general words, safe to publish."""

    issue: str
    services: str
    validators: str
    providers: str


EFFECTS: Final = MappingProxyType[str, Effect](
    {
        "RB-DR-001": Effect("the loss of one of our nodes", "none expected", "none", "none"),
        "RB-DR-002": Effect(
            "an outage in one of our data centres",
            "API, new deployments",
            "keep your node running; peers in one zone may be unreachable for minutes",
            "deployments that wait are taken up again by themselves",
        ),
        "RB-DR-003": Effect(
            "an outage of one of our regions",
            "block production, transactions, API, marketplace",
            "keep your node running and do not move your key: the chain goes on by itself when more than 2/3 of the "
            "voting power is back",
            "workloads that run go on; orders and bids wait until blocks are made again",
        ),
        "RB-DR-004": Effect(
            "inconsistent data on some of our nodes",
            "API answers may be late",
            "compare your application hash at the last height with the one in the channel; do not delete data",
            "none",
        ),
        "RB-DR-005": Effect(
            "a security precaution, for which we replace credentials of one component",
            "none expected",
            "accept no peer or validator changes that are not announced in the channel",
            "accept no changes of provider keys that are not announced here",
        ),
        "RB-DR-006": Effect("a restoration of one of our nodes from backup", "API answers may be late", "none", "none"),
    }
)
_ELSE: Final = Effect("a disturbance of our service", "being looked into", "none", "none")

TEMPLATES: Final = MappingProxyType[TemplateName, tuple[str, str]](
    {
        "status-investigating": (
            "[INVESTIGATING] Service disturbance",
            (
                "We are looking into $issue.\n\nStart: $start\nAffected services: $services\n\n"
                "We update this page every $update, or as soon as we know more.\n\nPosted: $now"
            ),
        ),
        "status-identified": (
            "[IDENTIFIED] Service disturbance: cause known",
            (
                "We know the cause: $issue.  Recovery is under way.\n\nStart: $start\nAffected services: $services\n"
                "Progress: $progress\nExpected end: $estimate\n\nUpdated: $now"
            ),
        ),
        "status-resolved": (
            "[RESOLVED] Service restored",
            (
                "$issue_capital is resolved; all services work.\n\nStart: $start\nEnd: $end\nDuration: $duration\n"
                "Affected services: $services\n\nWe review what happened and publish our findings.  We apologise for "
                "the inconvenience.\n\nPosted: $now"
            ),
        ),
        "validator-alert": (
            "[$urgency] Network alert: $state",
            (
                "Dear validator operator,\n\nthere is $issue.\n\nStatus: $progress\nStart: $start\nWhat you should do: "
                "$validators\n\nIf your node has trouble: look at its log for errors, check its peers, and report with "
                "your validator's address in $validator_channel, where we also post updates.\n\nSent: $now"
            ),
        ),
        "provider-notice": (
            "[$urgency] Notice to providers: $state",
            (
                "Dear provider,\n\nthere is $issue.\n\nStatus: $progress\nStart: $start\nAffected services: $services\n"
                "What it means to you: $providers\n\nSent: $now"
            ),
        ),
        "exec-update": (
            "Incident update: $severity, $name, $state",
            (
                "Severity: $severity ($criterion)\nIncident: $incident, $name\nDuration: $duration\nTarget: $target, "
                "$verdict\nUsers: $services\n\nStatus: $progress\nDone: $done\nNext: $next\nExpected end: $estimate\n\n"
                "Next update: $next_update\nIncident commander: $commander"
            ),
        ),
    }
)
_PHASES: Final = MappingProxyType[Event, Literal["investigating", "identified", "resolved"]](
    {
        "declared": "investigating",
        "overrun_predicted": "identified",
        "waiting_for_approval": "identified",
        "acknowledged": "identified",
        "mitigated": "identified",
        "failed": "identified",
        "abandoned": "identified",
        "resolved": "resolved",
    }
)
_STATUS: Final = MappingProxyType[str, TemplateName](
    {
        "investigating": "status-investigating",
        "identified": "status-identified",
        "resolved": "status-resolved",
    }
)
TOLD: Final = MappingProxyType[Audience, tuple[Event, ...]](
    {
        "executives": (
            "declared",
            "overrun_predicted",
            "waiting_for_approval",
            "failed",
            "mitigated",
            "resolved",
            "abandoned",
        ),
        "validators": ("declared", "overrun_predicted", "mitigated", "resolved"),
        "providers": ("declared", "mitigated", "resolved"),
        "public": ("declared", "overrun_predicted", "mitigated", "resolved"),
    }
)
"""Which events are for them at all; responders are told of every one (vedr.continuity.announcement)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What templates say besides the incident."""

    commander: str = "to be named"
    validator_channel: str = "the validators' channel"
    status_page: str = ""


def template_for(audience: Audience, event: Event) -> TemplateName | None:
    """The template that an audience is sent at an event; None when the event is not for them."""
    return None if audience == "responders" or event not in TOLD[audience] else template_of(audience, event)


def template_of(audience: Audience, event: Event) -> TemplateName:
    """The template that says how things stand at an event; responders, who have none, read the executives'."""
    match audience:
        case "public":
            return _STATUS[_PHASES[event]]
        case "validators":
            return "validator-alert"
        case "providers":
            return "provider-notice"
        case _:
            return "exec-update"


def event_now(incident: Incident) -> Event:
    """What the newest state of an incident is to those outside."""
    ends: dict[str, Event] = {"completed": "resolved", "abandoned": "abandoned", "refused": "failed"}
    if incident.state in ends:
        return ends[incident.state]
    if incident.state in ("paused", "failed"):
        return "failed"
    return "acknowledged" if incident.steps_done else "declared"


def filled(
    name: TemplateName,
    incident: Incident,
    event: Event,
    setting: Setting = Setting(),
    *,
    at: dt.datetime,
    severity: Severity | None = None,
    about: str = "",
    exercise: bool = False,
    repeated: bool = False,
) -> Message:
    """A template filled from the incident; the arguments as for vedr.continuity.announcement."""
    facts = _facts(incident, event, setting, at, severity or incident.severity)
    subject, body = (Template(text).substitute(facts) for text in TEMPLATES[name])
    return message(
        site=incident.site,
        incident=incident.run_id,
        event=event,
        severity=severity or incident.severity,
        subject=subject,
        body=body,
        at=at,
        links=(Link("Status page", setting.status_page),) if setting.status_page else (),
        about=f"{name}-{about}" if about else name,
        exercise=exercise,
        repeated=repeated,
    )


def _facts(incident: Incident, event: Event, setting: Setting, at: dt.datetime, severity: Severity) -> dict[str, str]:
    effect = EFFECTS.get(incident.runbook, _ELSE)
    passed_ms = incident.total_ms if incident.ended_at else round((at - incident.detected_at).total_seconds() * 1000)
    estimate = _estimate(incident)
    return {
        "issue": effect.issue,
        "issue_capital": effect.issue[0].upper() + effect.issue[1:],
        "services": effect.services,
        "validators": effect.validators,
        "providers": effect.providers,
        "validator_channel": setting.validator_channel,
        "commander": setting.commander,
        "incident": incident.run_id,
        "name": incident.name,
        "severity": severity,
        "criterion": next(scale.criterion for scale in SCALES if scale.severity == severity),
        "start": _utc(incident.detected_at),
        "end": _utc(incident.ended_at) if incident.ended_at else "not yet",
        "now": _utc(at),
        "duration": duration(max(0, passed_ms)) + ("" if incident.ended_at else " so far"),
        "target": duration(incident.target_ms),
        "verdict": _verdict(incident, passed_ms),
        "progress": _PROGRESS[event],
        "state": _STATES[event],
        "done": "; ".join(incident.steps_done) or "nothing yet",
        "next": incident.running or ("none" if incident.ended_at else "a decision"),
        "estimate": estimate,
        "update": duration(UPDATE_S * 1000),
        "next_update": "none" if incident.ended_at else _utc(at + dt.timedelta(seconds=UPDATE_S)) + ", or sooner",
        "urgency": "URGENT" if severity == "SEV-1" and not incident.ended_at else "NOTICE",
    }


_PROGRESS: Final = MappingProxyType[Event, str](
    {
        "declared": "we are looking into it",
        "overrun_predicted": "recovery takes longer than planned",
        "waiting_for_approval": "recovery is prepared and waits for a decision",
        "acknowledged": "recovery is under way",
        "mitigated": "service is restored, and watched",
        "resolved": "resolved",
        "failed": "recovery stopped, and is taken up by hand",
        "abandoned": "this attempt was given up; recovery goes on in another way",
    }
)
_STATES: Final = MappingProxyType[Event, str](
    {
        "declared": "begun",
        "overrun_predicted": "delayed",
        "waiting_for_approval": "waiting",
        "acknowledged": "in progress",
        "mitigated": "restored",
        "resolved": "resolved",
        "failed": "stopped",
        "abandoned": "given up",
    }
)


def _estimate(incident: Incident) -> str:
    if incident.ended_at:
        return _utc(incident.ended_at)
    expected_ms = incident.predicted_ms or incident.target_ms
    return _utc(incident.detected_at + dt.timedelta(milliseconds=expected_ms))


def _verdict(incident: Incident, passed_ms: int) -> str:
    if incident.ended_at:
        return "met" if incident.met else "missed"
    return "exceeded" if passed_ms > incident.target_ms else "not yet exceeded"


def _utc(when: dt.datetime) -> str:
    return f"{when.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
