"""Telling a site's channels about an incident, each in the words for whom it reaches, and a run's listener that does.

Guarantees: nothing here raises for a channel, nor takes longer than the site's deadline; a run never waits for the
listener, but for that deadline when it ends; what the listener could not tell is logged.
Leaves out: scheduled jobs, which alerts and the daily checks watch; the record (a step's result: tasks.notifying).
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Final, Self

from vedr.adapters.site import OpenSite
from vedr.continuity.announcement import announcement
from vedr.continuity.communication import Setting, filled, template_for
from vedr.continuity.delivery import Channel, Delivery, notify
from vedr.continuity.incident import Incident, incident_of
from vedr.continuity.message import Link, Message, message
from vedr.errors import NotFoundError, VedrError
from vedr.ledger import Entry, RunId
from vedr.policies.continuity import Continuity
from vedr.policies.notifications import Audience, Event, Severity
from vedr.runbook.timing import Forecast, Timing

EXERCISE: Final = ContextVar[bool]("exercise", default=False)
"""Set while a drill runs a runbook: every message says so, and only channels that take exercises get any."""

NO_FACTS: Final[Mapping[str, str]] = MappingProxyType({})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """What was said, and what came of it for each channel that wanted it.  No channel: nobody was told."""

    event: Event
    severity: Severity
    subject: str
    deliveries: tuple[Delivery, ...]
    exercise: bool

    def __str__(self) -> str:
        if not self.deliveries:
            return f"{self.subject}: no channel of the site wants it, nobody was told"
        return f"{self.subject}: told " + "; ".join(map(str, self.deliveries))


@contextlib.contextmanager
def exercising() -> Iterator[None]:
    """What is announced in here is an exercise."""
    token = EXERCISE.set(True)
    try:
        yield
    finally:
        EXERCISE.reset(token)


def tell(
    opened: OpenSite,
    incident: Incident,
    event: Event,
    facts: Mapping[str, str] = NO_FACTS,
    *,
    severity: Severity | None = None,
    links: tuple[Link, ...] = (),
    about: str = "",
    exercise: bool = False,
    repeated: bool = False,
) -> Announced:
    """Tell every channel that wants this event, side by side: responders all of it, others by the plan's templates."""
    at = opened.journal.clock()
    for_responders = announcement(
        incident,
        event,
        facts,
        at=at,
        severity=severity,
        links=(*links, Link("Prefect", opened.site.orchestrator.ui_url)),
        about=about,
        exercise=exercise,
        repeated=repeated,
    )
    setting = setting_of(opened.site.continuity)

    def worded(audience: Audience) -> Message | None:
        if audience == "responders":
            return for_responders
        name = template_for(audience, event)
        if name is None:
            return None
        return filled(
            name, incident, event, setting,
            at=at, severity=severity, about=about, exercise=exercise, repeated=repeated,
        )  # fmt: skip

    addressed: list[tuple[Channel, Message]] = []
    for policy, channel in zip(opened.site.notifications.channels, opened.channels, strict=True):
        said = worded(policy.audience)
        if said is not None and policy.wants(event, said.severity, exercise=exercise):
            addressed.append((channel, said))
    deliveries = notify(addressed, deadline_s=opened.site.notifications.deadline_s)
    return Announced(event, for_responders.severity, for_responders.subject, deliveries, exercise)


def tell_standing(
    opened: OpenSite, run_id: RunId, event: Event, *, severity: Severity, subject: str, body: str
) -> tuple[Delivery, ...]:
    """Tell responders and executives how the continuity plan itself stands; `run_id` is its episode."""
    said = message(
        site=opened.site.name,
        incident=run_id,
        event=event,
        severity=severity,
        subject=subject,
        body=body,
        at=opened.journal.clock(),
        links=(Link("Status page", opened.site.continuity.status_page),),
    )
    addressed = [
        (channel, said)
        for policy, channel in zip(opened.site.notifications.channels, opened.channels, strict=True)
        if policy.audience in ("responders", "executives") and policy.wants(event, severity)
    ]
    return notify(addressed, deadline_s=opened.site.notifications.deadline_s)


def setting_of(policy: Continuity) -> Setting:
    """What templates say of the site's plan."""
    role = policy.roles.get("incident-commander")
    commander = f"{role.primary.name} ({role.primary.reach})" if role else "to be named"
    return Setting(commander, policy.validator_channel, policy.status_page)


class Announcer:
    """A listener that tells people what the run itself shows; use it with `with`, around the run."""

    def __init__(self, opened: OpenSite) -> None:
        self._opened = opened
        self._exercise = EXERCISE.get()
        self._todo: queue.SimpleQueue[tuple[RunId, Event, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="announcing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._todo.put(None)
        self._thread.join(2 * self._opened.site.notifications.deadline_s)

    def entry(self, entry: Entry, _measured: Timing, _forecast: Forecast) -> None:
        """As vedr.runbook.execution.Listener says."""
        if event := event_of(entry):
            self._todo.put((entry.run_id, event, entry.seq))

    def say(self, _message: str) -> None:
        """Progress is for whoever watches."""

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                self._tell(*item)
            except VedrError as error:
                log.warning("nobody could be told that run %s is %s: %s", item[0], item[1], error.message)
            except Exception:
                log.exception("nobody could be told that run %s is %s", item[0], item[1])

    def _tell(self, run_id: RunId, event: Event, seq: int) -> None:
        entries = self._opened.journal.read(run_id).entries
        if seq >= len(entries):
            raise NotFoundError(f"entry {seq} is not in a majority of regions yet", remedy="See vedr ledger show.")
        incident = incident_of(entries[: seq + 1])
        facts = _facts(entries[seq])
        announced = tell(
            self._opened, incident, event, facts, about=str(seq), exercise=self._exercise or incident.exercise
        )
        for delivery in announced.deliveries:
            if delivery.state == "failed":
                log.warning("run %s is %s: not told by %s", run_id, event, delivery)


@contextlib.contextmanager
def announcing(opened: OpenSite, *, is_incident: bool = True) -> Iterator[tuple[Announcer, ...]]:
    """The listener for a run, where there is anybody to tell; none else."""
    if not (is_incident and opened.site.notifications.channels):
        yield ()
        return
    with Announcer(opened) as announcer:
        yield (announcer,)


def event_of(entry: Entry) -> Event | None:
    """The event that an entry of a run's ledger is; None for what nobody need be told."""
    match entry.kind:
        case "overrun" | "overrun_predicted":
            return "overrun_predicted"
        case "waiting":
            return "waiting_for_approval"
        case "answered":
            return "acknowledged"
        case "paused":
            return "failed"
        case "closed":
            ends: dict[object, Event] = {"completed": "resolved", "abandoned": "abandoned"}
            return ends.get(entry.payload.get("outcome"), "failed")
        case _:
            return None


def _facts(entry: Entry) -> dict[str, str]:
    """What of the entry people should read."""
    names = ("what", "person", "approved", "why", "reason")
    return {name: str(entry.payload[name]) for name in names if name in entry.payload}
