"""What responders are told of an incident's events: enough to decide at three in the morning what to do next.

Guarantees: pure; every event has a text; facts are shown as they are given, in their order.
Leaves out: the texts for everybody else (vedr.continuity.communication).
"""

import datetime as dt
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vedr.continuity.incident import Incident, duration
from vedr.continuity.message import Link, Message, message
from vedr.policies.notifications import Event, Severity

_HEADLINES: Final = MappingProxyType[Event, str](
    {
        "declared": "declared",
        "overrun_predicted": "takes longer than its target",
        "waiting_for_approval": "waits for a person",
        "acknowledged": "has its answer, goes on",
        "mitigated": "service is back, being watched",
        "resolved": "resolved",
        "failed": "stopped: needs a person",
        "abandoned": "abandoned",
    }
)


def announcement(
    incident: Incident,
    event: Event,
    facts: Mapping[str, str] = MappingProxyType({}),
    *,
    at: dt.datetime,
    severity: Severity | None = None,
    links: tuple[Link, ...] = (),
    about: str = "",
    exercise: bool = False,
    repeated: bool = False,
) -> Message:
    """The message of one event.

    Args:
        incident: What happened to.
        event: What happened.
        facts: Shown as `name: value`, first of all.
        at: Now.
        severity: When it is known better than by the runbook.
        links: Where to look.
        about: Tells apart several of one event.
        exercise: Nothing is wrong, and the message says so.
        repeated: An earlier process may have sent it.
    """
    grave = severity or incident.severity
    order = " ".join(incident.order[name] for name in _SUBJECT_FIELDS if name in incident.order)
    subject = f"{grave} {incident.name}{f' ({order})' if order else ''}: {_HEADLINES[event]}"
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    lines += [f"{name}: {value}" for name, value in incident.order.items() if name not in facts]
    lines += ["", *_progress(incident, at), *_next(incident, event)]
    return message(
        site=incident.site,
        incident=incident.run_id,
        event=event,
        severity=grave,
        subject=subject,
        body="\n".join(lines),
        at=at,
        links=links,
        about=about,
        exercise=exercise,
        repeated=repeated,
    )


_SUBJECT_FIELDS: Final = ("region", "zone", "node", "owner")


def _progress(incident: Incident, at: dt.datetime) -> list[str]:
    target = duration(incident.target_ms)
    detected = f"{incident.detected_at:%Y-%m-%d %H:%M:%S} UTC"
    if incident.ended_at is not None:
        verdict = "within" if incident.met else "over"
        return [f"Detected {detected}, ended after {duration(incident.total_ms)}, {verdict} the target of {target}."]
    passed = duration(max(0, round((at - incident.detected_at).total_seconds() * 1000)))
    lines = [f"Detected {detected}, {passed} ago; target {target}."]
    if incident.predicted_ms is not None:
        lines.append(f"Predicted to take {duration(incident.predicted_ms)}.")
    running = f"; now: {incident.running}" if incident.running else ""
    lines.append(f"{len(incident.steps_done)} of {incident.steps_total} steps done{running}.")
    if incident.error:
        lines.append(f"Error: {incident.error}")
    return lines


def _next(incident: Incident, event: Event) -> list[str]:
    where = f"--site {incident.site}"
    lines = [f"See: vedr ledger show {incident.run_id} {where}"]
    if event == "failed" and incident.ended_at is None:
        lines.append(f"Go on: vedr run {incident.runbook} --incident {incident.run_id} {where}")
    return lines
