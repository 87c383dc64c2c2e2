"""Runbooks in Prefect, and the same runbooks without it.

`runbook_flow` makes a function a Prefect flow and tells its runbook about it; `open_run`, called in it, opens the
site and the run.  Inside a flow run every step is a Prefect task, with the step's own retry policy; everywhere else it
is called plainly.

Guarantees: a step is executed as the ledger says, whatever Prefect does: when its API does not answer, or its
machinery fails around a step, the step goes on plainly, and what the step returned or raised is what counts.  A dead
API costs a step at most PROBE_TIMEOUT_S.  No result of a step is kept by Prefect.
Leaves out: making Prefect's state right afterwards (tasks.reconcile).
"""

import contextlib
import datetime as dt
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast
from uuid import UUID

import httpx

from tasks.showing import PrefectShow
from vedr.adapters.notify_announcing import EXERCISE, announcing, exercising
from vedr.adapters.site import open_site
from vedr.errors import VedrError
from vedr.ledger import RunId
from vedr.runbook.asking import Inbox
from vedr.runbook.choices import check_choices
from vedr.runbook.execution import Executor, Listener, Plainly
from vedr.runbook.opening import opened_run
from vedr.runbook.order import new_run_id
from vedr.runbook.run import Outcome, Run
from vedr.runbook.steps import O, Retry, Runbook
from vedr.signature import Json

PLAIN_ENV: Final = "VEDR_PLAIN"
"""Set: Prefect is not even imported (1.5 s, and it may be broken)."""

PROBE_TIMEOUT_S: Final = 0.5
PROBE_AGAIN_S: Final = 10.0  # a dead API is asked again no sooner
PROBE_VALID_S: Final = 2.0

log = logging.getLogger(__name__)
T = TypeVar("T")


def runbook_flow(runbook: Runbook[O]) -> Callable[[Callable[[O], Outcome]], Callable[[O], Outcome]]:
    """Make a function the body of a runbook, and a Prefect flow where Prefect is installed."""

    def decorate(body: Callable[[O], Outcome]) -> Callable[[O], Outcome]:
        runbook.bind(body)
        if not _prefect_wanted():
            return body
        from prefect import flow  # noqa: PLC0415 - an optional dependency, 1.5 s

        name = f"{runbook.id} {runbook.title}" if runbook.is_incident else runbook.id
        return cast(
            "Callable[[O], Outcome]", flow(name=name, retries=0, persist_result=False, validate_parameters=True)(body)
        )

    return decorate


@contextlib.contextmanager
def open_run(runbook: Runbook[O], order: O) -> Iterator[Run[O]]:
    """The run that an order asks for: Prefect's tasks inside a Prefect flow run, plain calls elsewhere.

    A flow run that Prefect starts again goes on with the ledger's run that it began.
    """
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(open_site(order.site or None))
        if not order.incident:  # what is resumed was checked when it was opened
            check_choices(order, site.site)
        executor: Executor = Plainly()
        listeners: list[Listener] = []
        inboxes: list[Inbox] = []
        origin: dict[str, Json] = {}
        run_id: RunId | None = None
        if part := PART.get():
            origin = {"drill": part.drill}
            run_id = part.run_id  # the same when the drill is resumed, which then goes on with this run
        elif started := _flow_run():
            from tasks.approval import PrefectInbox  # noqa: PLC0415 - Prefect is there

            flow_run_id, expected_at = started
            api = Api()
            inboxes = [PrefectInbox(UUID(flow_run_id), api.answers)]
            executor = PrefectExecutor(api)
            listeners = [stack.enter_context(PrefectShow(api.answers))]
            origin = {"flow_run_id": flow_run_id}
            run_id = new_run_id("inc" if runbook.is_incident else "run", expected_at, seed=flow_run_id)
        listeners += stack.enter_context(announcing(site, is_incident=runbook.is_incident))
        if EXERCISE.get():
            origin["exercise"] = True  # also for whoever resumes it
        yield stack.enter_context(
            opened_run(
                runbook,
                order,
                site.journal,
                overrides=site.site.targets,
                approval=site.site.approval,
                run_id=run_id,
                origin=origin,
                executor=executor,
                listeners=listeners,
                inboxes=inboxes,
            )
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A run that a drill performs in one of its steps: plainly, under an id that follows from the drill's."""

    drill: RunId
    run_id: RunId


PART: Final = ContextVar[Part | None]("part", default=None)


@contextlib.contextmanager
def part_of(drill: RunId, runbook: Runbook[O], what: str) -> Iterator[RunId]:
    """What is performed in here is a part of that drill, and an exercise; the id that its run has, or gets."""
    begun = dt.datetime.strptime(drill.split("-", 1)[1].rpartition("-")[0], "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
    run_id = new_run_id("inc" if runbook.is_incident else "run", begun, seed=f"{drill}/{what}")
    token = PART.set(Part(drill, run_id))
    try:
        with exercising():
            yield run_id
    finally:
        PART.reset(token)


class Api:
    """Does Prefect's API answer?  Asked with a short time-out, and remembered for a moment."""

    def __init__(self, url: str | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._url = url if url is not None else _api_url()
        self._monotonic = monotonic
        self._answered = True
        self._asked_s = -PROBE_AGAIN_S

    def answers(self) -> bool:
        """True also when Prefect runs its server by itself (no URL is set)."""
        if not self._url:
            return True
        age_s = self._monotonic() - self._asked_s
        if age_s < (PROBE_VALID_S if self._answered else PROBE_AGAIN_S):
            return self._answered
        try:
            answered = httpx.get(f"{self._url}/health", timeout=PROBE_TIMEOUT_S).is_success
        except httpx.HTTPError:
            answered = False
        if answered != self._answered:
            log.warning("Prefect's API %s", "answers again" if answered else "does not answer: steps go on plainly")
        self._answered, self._asked_s = answered, self._monotonic()
        return answered


class PrefectExecutor:
    """Executes a step as a Prefect task; goes on plainly when Prefect cannot."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def execute(self, title: str, key: str, retry: Retry, attempt: Callable[[], T]) -> T:
        """As vedr.runbook.execution.Executor says."""
        if not self._api.answers():
            return Plainly().execute(title, key, retry, attempt)
        watched = _Watched(attempt)
        try:
            self._as_task(title, key, retry, watched)
        except Exception as error:
            if watched.error is error:
                raise
            log.warning("Prefect failed around step %s: %s", key, type(error).__name__)
        return self._afterwards(title, key, retry, watched)

    @staticmethod
    def _as_task(title: str, key: str, retry: Retry, watched: "_Watched[T]") -> None:
        from prefect import task  # noqa: PLC0415 - an optional dependency
        from prefect.cache_policies import NO_CACHE  # noqa: PLC0415
        from prefect.context import TagsContext  # noqa: PLC0415

        @task(
            name=key,
            task_run_name=lambda: title,
            retries=retry.attempts - 1,
            retry_delay_seconds=list(retry.delays_s) or 0,
            retry_condition_fn=lambda _task, _run, _state: watched.may_retry,
            cache_policy=NO_CACHE,
            persist_result=False,
            log_prints=False,
        )
        def one() -> None:
            watched()

        with TagsContext(current_tags=set()):  # every inherited tag would be a concurrency limit asked for at the API
            one()

    @staticmethod
    def _afterwards(title: str, key: str, retry: Retry, watched: "_Watched[T]") -> T:
        """What the step itself came to; attempts that Prefect still owed are made here."""
        if watched.results:
            return watched.results[-1]
        left = retry.attempts - watched.attempts
        if watched.error is not None and (not watched.may_retry or left <= 0):
            raise watched.error
        if watched.attempts:
            time.sleep(retry.delays_s[watched.attempts - 1])
        rest = Retry(left, retry.delay_s * retry.backoff**watched.attempts, retry.backoff)
        return Plainly().execute(title, key, rest, watched.attempt)


class _Watched(Generic[T]):
    """A step's attempt that remembers what came of it, so that Prefect's own failures are told apart.

    Called by Prefect it returns nothing: results stay out of Prefect's hands.
    """

    def __init__(self, attempt: Callable[[], T]) -> None:
        self.attempt = attempt
        self.attempts = 0
        self.results: list[T] = []
        self.error: BaseException | None = None

    def __call__(self) -> None:
        self.attempts += 1
        try:
            self.results.append(self.attempt())
        except BaseException as error:
            self.error = error
            raise

    @property
    def may_retry(self) -> bool:
        return isinstance(self.error, VedrError) and self.error.transient


def _prefect_wanted() -> bool:
    return not os.environ.get(PLAIN_ENV) and importlib.util.find_spec("prefect") is not None


def _flow_run() -> tuple[str, dt.datetime] | None:
    """Id and expected start of the Prefect flow run that this code is in; None outside of one."""
    if "prefect.context" not in sys.modules:
        return None
    from prefect.context import FlowRunContext  # noqa: PLC0415 - an optional dependency

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    expected = context.flow_run.expected_start_time or dt.datetime.now(dt.UTC)
    return str(context.flow_run.id), expected


def _api_url() -> str:
    from prefect.settings import get_current_settings  # noqa: PLC0415 - an optional dependency

    return get_current_settings().api.url or ""
