"""One run of a runbook: steps in the ledger before and after, resumed where an earlier process stopped, timed against
the target.

For each step:

1. Recorded as completed in this run?  Then its recorded result is the answer.
2. Nobody took over the run or its subjects?  (A ledger entry and the leases tell.)
3. `step_started` goes into the ledger.
4. It is executed, again as its policy says after transient errors: by the orchestrator, or plainly.
5. `step_completed` with the result, or `step_failed`, goes into the ledger.

Guarantees: nothing acts without its `step_started` in a majority of regions, nor before the people agreed whom the
site asks; a completed step is never executed
again; an overrun is recorded and announced, also when it is only predicted, and never ends a run; a run that fails
stays open.
Leaves out: what steps do; each must be safe to repeat, and is told (`resuming`) when an earlier process began it.  Who
executes them, and who is told, are `vedr.runbook.execution`'s.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from vedr.errors import ConflictError, InvalidInputError, RefusedError, UnavailableError, VedrError
from vedr.ledger import Entry, Kind, RunId
from vedr.policies.approval import Approval
from vedr.runbook import timing
from vedr.runbook.approval import Answer, Answers
from vedr.runbook.asking import Asker, Asking, Inbox, UnansweredError
from vedr.runbook.execution import Executor, Listener
from vedr.runbook.journal import Journal
from vedr.runbook.lease import Lease, Leases
from vedr.runbook.liveness import HEARTBEAT_S
from vedr.runbook.plan import Plan
from vedr.runbook.steps import AnyStep, Context, O, P, R, Runbook, Step, Undo
from vedr.runbook.timing import Forecast, Timing, millis
from vedr.runbook.writer import Writer
from vedr.signature import Json

OutcomeName = Literal["completed", "failed", "refused", "abandoned"]
LEDGER_PATIENCE_S: Final = 60.0  # how long a run stands still for a majority of regions before it gives up
_RETRY_LEDGER_S: Final = 1.0
_TICK_S: Final = 1.0
_MAX_MESSAGE: Final = 2000

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: what a flow returns."""

    run_id: RunId
    runbook: str
    outcome: OutcomeName
    total_ms: int
    target_ms: int
    met: bool
    waiting_ms: int
    overhead_ms: int


@dataclass(frozen=True, slots=True)
class _Running:
    key: str
    budget_ms: int
    since_s: float


class Run(Generic[O]):
    """A run in progress; made by vedr.runbook.opening.  Its methods are called from one thread."""

    def __init__(
        self,
        runbook: Runbook[O],
        order: O,
        writer: Writer,
        journal: Journal,
        *,
        executor: Executor,
        listeners: Sequence[Listener] = (),
        medians: Mapping[str, int] | None = None,
        approval: Approval | None = None,
        inboxes: Sequence[Inbox] = (),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.runbook: Final = runbook
        self.order: Final = order
        self.run_id: Final = writer.run_id
        self._writer = writer
        self._journal = journal
        self._leases = Leases(journal)
        self._held: list[Lease] = []
        self._executor = executor
        self._listeners = list(listeners)
        self._medians = dict(medians or {})
        self._approval = approval or Approval()
        self._inboxes = tuple(inboxes)
        self._agreed = False
        self._monotonic = monotonic
        self._sleep = sleep
        self._results = {
            str(e.payload["step"]): e.payload["result"] for e in writer.entries if e.kind == "step_completed"
        }
        self._begun = {str(e.payload["step"]) for e in writer.entries if e.kind == "step_started"}
        self._called: set[str] = set()
        self._running: _Running | None = None
        self._last_append_s = monotonic()
        self._outcome: Outcome | None = None
        self._tell("entry", writer.entries[-1], self.timing, self.forecast())

    @property
    def entries(self) -> Sequence[Entry]:
        """Its ledger, as far as this process wrote or read it."""
        return self._writer.entries

    # --- what a runbook's page uses

    def step(self, one: Step[O, P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do one step, or give its recorded result; see the module's text."""
        self._check_known(one)
        if one.key in self._results:  # (1)
            self._tell("say", f"{one.title}: was completed before, its recorded result is used")
            return one.decode(self._results[one.key])
        if one.acts and not self._agreed and self._approval.needed(self.runbook.id):
            self.approve(self.runbook.plan_of_steps(self.order))
        self._check_leases()  # (2)
        resuming = one.key in self._begun
        self._record(  # (3)
            "step_started",
            {"step": one.key, "title": one.title, "budget_ms": round(one.budget_s * 1000), "resuming": resuming},
        )
        started_s = self._monotonic()
        self._running = _Running(one.key, round(one.budget_s * 1000), started_s)
        attempts = 0

        def attempt() -> R:
            nonlocal attempts
            attempts += 1
            return one.fn(self._context(one, attempts, resuming=resuming), *args, **kwargs)

        try:
            result = self._executor.execute(one.title, one.key, one.retry, attempt)  # (4)
            recorded = one.encode(result)
        except BaseException as error:  # recorded and raised again: also an interrupt belongs in the ledger
            self._record_failure("step_failed", one.key, error, attempts, started_s)
            raise
        finally:
            self._running = None
        took_ms = round((self._monotonic() - started_s) * 1000)
        self._record(
            "step_completed", {"step": one.key, "took_ms": took_ms, "attempts": attempts, "result": recorded}
        )  # (5)
        self._results[one.key] = recorded
        return result

    def approve(self, plan: Plan) -> None:
        """Go on only when as many people agree to this plan as the site's policy asks for; at once when it asks nobody.

        A run that does not say itself what it plans is asked about by its steps, before the first that acts.

        Raises:
            RefusedError: the plan says itself why it must not be carried out, somebody refused it, or (UnansweredError)
                too few answered in time: then the run stays open, and answers given later count when it is resumed.
        """
        plan.check()
        if not self._approval.needed(self.runbook.id):
            self.note("the site's policy asks nobody to approve", digest=plan.digest)
            self._agreed = True
            return
        self._ask(plan, self._approval)
        self._agreed = True

    def _ask(self, plan: Plan, policy: Approval) -> tuple[Answer, ...]:
        asker = Asker(
            run_id=self.run_id,
            runbook=self.runbook.id,
            entries=lambda: self.entries,
            answered=lambda answer: self._record("answered", answer.payload()),
            waiting=lambda facts: self.waiting(**facts),  # type: ignore[arg-type]  # `what` is text
            check=self._writer.check,
            say=lambda message: self._tell("say", message),
        )
        return Asking(
            asker,
            Answers(self._journal),
            policy,
            self._inboxes,
            self._journal.clock,
            self._monotonic,
            self._sleep,
        ).settle(plan)

    @contextlib.contextmanager
    def waiting(self, what: str, **facts: Json) -> Iterator[None]:
        """Time in here is a person's: part of the RTO, shown apart."""
        started_s = self._monotonic()
        self._record("waiting", {"what": what, **facts})
        try:
            yield
        finally:
            self._record("waited", {"what": what, "took_ms": round((self._monotonic() - started_s) * 1000)})

    def note(self, text: str, **facts: Json) -> None:
        """Put an observation into the ledger."""
        self._record("note", {"text": text, **facts})

    def has_done(self, one: AnyStep[O]) -> bool:
        """Whether it is recorded as completed."""
        return one.key in self._results

    def is_dated(self, one: AnyStep[O], *, after_s: float) -> bool:
        """Whether what this completed step saw may be so no more: nothing has acted yet, and it is older than that."""
        if self._has_acted():
            return False
        done = [e.time for e in self.entries if e.kind == "step_completed" and e.payload.get("step") == one.key]
        return (self._journal.clock() - done[-1]).total_seconds() > after_s

    def hold(self, subject: str) -> Lease:
        """Make sure that no other run acts on it until this one closes; every step checks that it still is so."""
        lease = self._patiently(lambda: self._leases.acquire(subject, self.run_id))
        self._held.append(lease)
        return lease

    @property
    def outcome(self) -> Outcome:
        """How it ended; only after it did."""
        if self._outcome is None:
            raise InvalidInputError(f"run {self.run_id} has not ended", remedy="Ask after the `with` block.")
        return self._outcome

    @property
    def timing(self) -> Timing:
        return timing.measure(self._writer.entries)

    # --- ending

    def undo(self, one: AnyStep[O], back: Undo[O], recorded: Json) -> str:
        """Take one step back, given its recorded result; what was done.  Recorded before and after, as a step is."""
        self._check_leases()
        begun = [entry for entry in self.entries if entry.kind == "undo_started"]
        resuming = any(entry.payload.get("step") == one.key for entry in begun)
        self._record("undo_started", {"step": one.key, "title": one.title, "resuming": resuming})
        started_s = self._monotonic()
        attempts = 0

        def attempt() -> str:
            nonlocal attempts
            attempts += 1
            return back.fn(self._context(one, attempts, resuming=resuming), recorded)

        try:
            done = self._executor.execute(f"Undo: {one.title}", one.key, one.retry, attempt)
        except BaseException as error:  # as for steps
            self._record_failure("undo_failed", one.key, error, attempts, started_s)
            raise
        took_ms = round((self._monotonic() - started_s) * 1000)
        self._record("undo_completed", {"step": one.key, "took_ms": took_ms, "attempts": attempts, "done": done})
        return done

    def begin_abandoning(self, reason: str) -> None:
        """From here on the run can only be abandoned."""
        self._record("abandoning", {"reason": reason})

    def abandon(self, facts: Mapping[str, Json]) -> Outcome:
        """Close it as abandoned."""
        return self._close("abandoned", facts)

    def pause(self, error: BaseException) -> None:
        """Leave it open after an error."""
        self._record("paused", {"outcome": "failed", "error": describe(error)})

    def complete(self) -> Outcome:
        """Close it as completed."""
        return self._close("completed", {})

    def stop(self, error: BaseException) -> None:
        """Record that it ended in an error.

        A run that was refused before anything acted is closed, and so is one that never came to a step because another
        run is at work; any other stays open, to be resumed by its id.
        """
        is_conflict = isinstance(error, ConflictError)
        if is_conflict and self._is_fenced():
            return  # the run is another process's now
        refused = isinstance(error, (RefusedError, InvalidInputError)) or (is_conflict and not self._begun)
        name: OutcomeName = "refused" if refused else "failed"
        if refused and not self._has_acted() and not isinstance(error, UnansweredError):
            self._close(name, {"error": describe(error)})
            return
        self._record("paused", {"outcome": name, "error": describe(error)})

    def _close(self, name: OutcomeName, more: Mapping[str, Json]) -> Outcome:
        measured = self.timing
        now_ms = max(measured.total_ms, millis(self._journal.clock() - measured.detected_at))
        took: dict[str, Json] = {row.key: row.took_ms for row in measured.rows if row.took_ms is not None}
        closing = self._record(
            "closed",
            {
                "outcome": name,
                "total_ms": now_ms,
                "target_ms": measured.target_ms,
                "met": now_ms <= measured.target_ms,
                "waiting_ms": measured.waiting_ms,
                "steps": took,
                "not_done": [*timing.not_done(measured)],
                **more,
            },
        )
        final = timing.measure([*self._writer.entries[:-1], closing])
        self._outcome = Outcome(
            run_id=self.run_id,
            runbook=self.runbook.id,
            outcome=name,
            total_ms=final.total_ms,
            target_ms=final.target_ms,
            met=final.met,
            waiting_ms=final.waiting_ms,
            overhead_ms=final.overhead_ms,
        )
        for lease in self._held:
            with contextlib.suppress(UnavailableError, ConflictError):  # the closed run frees its leases anyway
                self._leases.release(lease)
        return self._outcome

    def _has_acted(self) -> bool:
        acting = {one.base_key for one in self.runbook.steps if one.acts}
        return any(key.split(":", 1)[0] in acting for key in self._begun)

    def _is_fenced(self) -> bool:
        try:
            self._writer.append("note", {"text": "ended by a conflict elsewhere"})
        except (ConflictError, UnavailableError):
            return True
        return False

    def _check_leases(self) -> None:
        for lease in self._held:
            self._patiently(functools.partial(self._leases.check, lease))

    def _context(self, one: AnyStep[O], attempt: int, *, resuming: bool) -> Context[O]:
        return Context(
            order=self.order,
            site=self.order.site,
            run_id=self.run_id,
            epoch=self._writer.epoch,
            attempt=attempt,
            resuming=resuming or attempt > 1,
            say=lambda message: self._tell("say", message),
            named=one.key.partition(":")[2],
            note=lambda text, facts: self.note(text, **facts),
            ask=lambda plan, people: self._ask(plan, self._approval.asking(self.runbook.id, people)),
        )

    # --- recording

    def _check_known(self, one: Step[O, P, R]) -> None:
        if not self.runbook.has(one.base_key) or one.key in self._called:
            why = "was called twice in this run" if one.key in self._called else "is not a step of this runbook"
            raise InvalidInputError(
                f"runbook {self.runbook.id}: {one.key} {why}",
                remedy="List it in the runbook; for several things use named().",
            )
        self._called.add(one.key)

    def _record(self, kind: Kind, payload: Mapping[str, Json], *, patient: bool = True) -> Entry:
        entry = (
            self._patiently(lambda: self._writer.append(kind, payload))
            if patient
            else self._writer.append(kind, payload)
        )
        if kind == "step_started":
            self._begun.add(str(payload["step"]))
        self._last_append_s = self._monotonic()
        self._tell("entry", entry, self.timing, self.forecast())
        return entry

    def _record_failure(self, kind: Kind, key: str, error: BaseException, attempts: int, started_s: float) -> None:
        payload: dict[str, Json] = {
            "step": key,
            "took_ms": round((self._monotonic() - started_s) * 1000),
            "attempts": attempts,
            "error": describe(error),
        }
        try:
            self._record(kind, payload)
        except VedrError as unrecorded:  # the step's own error matters more; the run stays open and says `started`
            log.warning("%s: %s could not be recorded: %s", key, kind, unrecorded)

    def _patiently(self, write: Callable[[], T]) -> T:
        until = self._monotonic() + LEDGER_PATIENCE_S
        while True:
            try:
                return write()
            except UnavailableError as error:
                if self._monotonic() >= until:
                    raise
                self._tell("say", f"waiting for the ledger: {error.message}")
                self._sleep(_RETRY_LEDGER_S)

    def _tell(self, what: Literal["entry", "say"], *args: object) -> None:
        for listener in tuple(self._listeners):
            try:
                getattr(listener, what)(*args)
            except Exception:  # showing a run must never end it
                log.exception("a listener of run %s failed and is not told any more", self.run_id)
                self._listeners.remove(listener)

    # --- the clock

    def forecast(self) -> Forecast:
        """When it is going to end, by budgets and the medians of past runs."""
        measured = self.timing
        running = self._running
        done = {row.key for row in measured.rows if row.state in ("completed", "running")}
        return timing.forecast(
            elapsed_ms=millis(self._journal.clock() - measured.detected_at),
            target_ms=measured.target_ms,
            running=(running.budget_ms, round((self._monotonic() - running.since_s) * 1000)) if running else None,
            running_key=running.key if running else "",
            to_do=[(row.key, row.budget_ms) for row in measured.rows if row.key not in done],
            medians=self._medians,
        )

    def tick(self) -> None:
        """A heartbeat when the ledger was silent, and overruns when there are any to announce."""
        seen = {entry.kind for entry in self._writer.entries}
        forecast = self.forecast()
        elapsed_ms = millis(self._journal.clock() - self.timing.detected_at)
        if elapsed_ms > forecast.target_ms and "overrun" not in seen:
            self._record("overrun", {"elapsed_ms": elapsed_ms, "target_ms": forecast.target_ms}, patient=False)
        elif forecast.overrun and not seen & {"overrun", "overrun_predicted"}:
            self._record(
                "overrun_predicted",
                {"predicted_ms": forecast.predicted_ms, "target_ms": forecast.target_ms, "basis": forecast.basis},
                patient=False,
            )
        elif self._monotonic() - self._last_append_s >= HEARTBEAT_S:
            self._record("heartbeat", {}, patient=False)

    @contextlib.contextmanager
    def ticking(self, every_s: float = _TICK_S) -> Iterator[None]:
        """Tick in the background.  A tick that finds the run taken over or closed stops; the next step finds it too."""
        stopped = threading.Event()

        def loop() -> None:
            while not stopped.wait(every_s):
                try:
                    self.tick()
                except UnavailableError as error:
                    log.warning("run %s: %s", self.run_id, error.message)
                except ConflictError as error:
                    self._tell("say", str(error))
                    return

        thread = threading.Thread(target=loop, name=f"ticking-{self.run_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def describe(error: BaseException) -> dict[str, Json]:
    """An error as the ledger keeps it; the text of foreign errors is left out, it may hold what nobody vouched for."""
    described: dict[str, Json] = {"type": type(error).__name__}
    if isinstance(error, VedrError):
        described |= {"message": error.message[:_MAX_MESSAGE], "remedy": error.remedy, "transient": error.transient}
    return described
