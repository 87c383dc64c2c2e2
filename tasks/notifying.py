"""Telling people about a run: from a step, where the result is in the ledger, and from outside of the steps.

A step says what only it knows (declared, mitigated):

    @step(title="Notify", budget_s=10, acts=False)
    def notify(ctx: Ctx) -> Announced:
        with open_site(ctx.order.site) as opened:
            return announce(opened, ctx, "declared", {"lost": ctx.order.region})

What the run itself shows (waiting for a person, an overrun, its end) goes out by `Announcer`, a listener of every
incident's run.

Guarantees: neither raises for a channel, nor takes longer than the site's deadline; the run never waits for the
listener, except for that deadline when it ends.
Leaves out: scheduled jobs, which alerts and the daily checks watch.
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
from vedr.continuity.delivery import Channel, Delivery, notify
from vedr.continuity.incident import incident_of
from vedr.continuity.message import Link, Message
from vedr.errors import VedrError
from vedr.ledger import Entry, RunId
from vedr.policies.notifications import Event, Severity
from vedr.runbook.order import Order
from vedr.runbook.steps import Context
from vedr.runbook.timing import Forecast, Timing

EXERCISE: Final = ContextVar[bool]("exercise", default=False)
"""Set while a drill runs a runbook: every message says so, and only channels that take exercises get any."""

_NO_FACTS: Final[Mapping[str, str]] = MappingProxyType({})
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


def announce(
    opened: OpenSite,
    ctx: Context[Order],
    event: Event,
    facts: Mapping[str, str] = _NO_FACTS,
    *,
    severity: Severity | None = None,
    links: tuple[Link, ...] = (),
    about: str = "",
) -> Announced:
    """Tell every channel that wants this event of the step's own run, side by side.

    Args:
        opened: The site.
        ctx: The step's context.
        event: What happened.
        facts: What the step knows, by name; never a secret.
        severity: When it is known better than by the runbook.
        links: Where to look, besides Prefect's page.
        about: Tells apart several announcements of one event in one run.
    """
    incident = incident_of(opened.journal.read(ctx.run_id).entries)
    said = announcement(
        incident,
        event,
        facts,
        at=opened.journal.clock(),
        severity=severity,
        links=(*links, *_links(opened)),
        about=about,
        exercise=EXERCISE.get(),
        repeated=ctx.resuming,
    )
    announced = tell(opened, said)
    ctx.say(str(announced))
    return announced


def tell(opened: OpenSite, said: Message) -> Announced:
    """Give a message to every channel that wants it."""
    wanting = [(channel, said) for channel in _wanting(opened, said)]
    deliveries = notify(wanting, deadline_s=opened.site.notifications.deadline_s)
    return Announced(said.event, said.severity, said.subject, deliveries, said.exercise)


def _wanting(opened: OpenSite, said: Message) -> list[Channel]:
    by_name = {channel.name: channel for channel in opened.channels}
    return [
        by_name[policy.name]
        for policy in opened.site.notifications.channels
        if policy.wants(said.event, said.severity, exercise=said.exercise)
    ]


def _links(opened: OpenSite) -> tuple[Link, ...]:
    return (Link("Prefect", opened.site.orchestrator.ui_url),)


class Announcer:
    """A listener that tells people what the run itself shows; use it with `with`, around the run."""

    def __init__(self, opened: OpenSite) -> None:
        self._opened = opened
        self._exercise = EXERCISE.get()
        self._todo: queue.SimpleQueue[tuple[RunId, Event, str] | None] = queue.SimpleQueue()
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
        """As vedr.runbook.run.Listener says."""
        if event := event_of(entry):
            self._todo.put((entry.run_id, event, str(entry.seq)))

    def say(self, message: str) -> None:
        """Progress is for whoever watches."""

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                self._tell(*item)
            except VedrError as error:
                log.warning("nobody could be told that run %s is %s: %s", item[0], item[1], error.message)
            except Exception:
                log.exception("nobody could be told that run %s is %s", item[0], item[1])

    def _tell(self, run_id: RunId, event: Event, about: str) -> None:
        opened = self._opened
        entries = opened.journal.read(run_id).entries
        said = announcement(
            incident_of(entries),
            event,
            _facts(entries[int(about)]) if int(about) < len(entries) else _NO_FACTS,
            at=opened.journal.clock(),
            links=_links(opened),
            about=about,
            exercise=self._exercise,
        )
        for delivery in tell(opened, said).deliveries:
            if delivery.state == "failed":
                log.warning("run %s is %s: not told by %s", run_id, event, delivery)


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
            outcome = entry.payload.get("outcome")
            ends: dict[object, Event] = {"completed": "resolved", "abandoned": "abandoned"}
            return ends.get(outcome, "failed")
        case _:
            return None


def _facts(entry: Entry) -> dict[str, str]:
    """What of the entry people should read."""
    names = ("what", "person", "approved", "why", "reason")
    return {name: str(entry.payload[name]) for name in names if name in entry.payload}
