"""Asking in Prefect's UI: the flow run is paused for input, and its form is the question.

1. The flow run is set to Paused with a form; the plan stands above it.
2. Whoever resumes it there fills the form in; the answer goes to the run, which keeps it as it keeps all answers.
3. Where more people are asked, it is paused again.
4. When the question is settled, here or by `vedr approve`, the flow run is set to Running.

Guarantees: the run never waits for Prefect and never fails by it; while its API does not answer, `vedr approve` is the
way, and when it is back the form is shown again.  An answer is for the plan that its form showed.
Leaves out: who may answer and how many are needed (the run's), and a cancelled flow run: a cancellation ends the
process, it refuses nothing.
"""

import contextvars
import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.input import RunInput, keyset_from_paused_state
from prefect.states import Paused, Running
from pydantic import Field

from vedr.policies.approval import parse_person
from vedr.runbook.approval import Answer, Question
from vedr.runbook.plan import Plan

if TYPE_CHECKING:
    from prefect.input.run_input import Keyset

LOOK_S: Final = 1.0
FLUSH_S: Final = 5.0  # how long the run waits for the flow run to be shown as running again
AGAIN_S: Final = 3.0  # after an answer: the run counts it first, and mostly needs no other
MARGIN: Final = dt.timedelta(minutes=1)  # the run's own limit comes first: Prefect fails a pause that expires

log = logging.getLogger(__name__)


class Reply(RunInput):
    """The form."""

    decision: Literal["agree", "refuse"] = Field(
        title="Decision", description="Agree to the plan above, or refuse it: then the run ends and nothing is done."
    )
    name: str = Field(
        title="Your name",
        description="As your directory has it: zoe or zoe@virtengine.com.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
    )
    why: str = Field(default="", title="Why", description="One line for the record.", max_length=200)


@dataclass(frozen=True, slots=True)
class _Pause:
    """A form that is shown: its place in Prefect, and the question that it asks."""

    keyset: "Keyset"
    question: Question


class PrefectInbox:
    """`vedr.runbook.asking.Inbox` on the page of one flow run; a thread of its own talks to Prefect."""

    def __init__(self, flow_run_id: UUID, api_answers: Callable[[], bool]) -> None:
        self._flow_run_id = flow_run_id
        self._api_answers = api_answers
        self._came: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._asked: tuple[Question, int] | None = None
        self._pause: _Pause | None = None
        self._not_before_s = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def collect(self, question: Question, given: Sequence[Answer]) -> Sequence[Answer]:
        """As vedr.runbook.asking.Inbox says."""
        self._asked = (question, len(given))
        if self._thread is None:
            self._ended.clear()
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._work,), name="asking", daemon=True)
            self._thread.start()
        came = []
        while not self._came.empty():
            came.append(self._came.get())
        return came

    def close(self) -> None:
        """As vedr.runbook.asking.Inbox says."""
        self._ended.set()
        if self._thread:
            self._thread.join(FLUSH_S)
        self._thread = None

    def _work(self) -> None:
        while not self._ended.is_set():
            self._carefully(self._look)
            self._ended.wait(LOOK_S)
        self._carefully(self._let_go)

    def _carefully(self, work: Callable[[SyncPrefectClient], None]) -> None:
        if not self._api_answers():
            return
        try:
            with get_client(sync_client=True) as client:
                work(client)
        except Exception as error:  # noqa: BLE001 - the CLI is there as well; the next look tries again
            log.warning("Prefect does not ask for approval: %s", type(error).__name__)

    def _look(self, client: SyncPrefectClient) -> None:
        state = client.read_flow_run(self._flow_run_id).state
        if state is None or not state.is_running():
            return  # still paused, or ended from outside
        if self._pause:
            self._not_before_s = time.monotonic() + AGAIN_S
            if answer := _reply(client, self._flow_run_id, self._pause):  # (2)
                self._came.put(answer)
            self._pause = None
        elif self._asked and time.monotonic() >= self._not_before_s:
            self._show(client, *self._asked)  # (1), (3)

    def _show(self, client: SyncPrefectClient, question: Question, given: int) -> None:
        pause_key = f"{question.plan.digest[:8]}-{uuid4().hex[:8]}"
        paused: State[None] = Paused(pause_expiration_time=question.until + MARGIN, pause_key=pause_key)
        keyset = keyset_from_paused_state(paused)
        paused.state_details.run_input_keyset = {str(part): key for part, key in keyset.items()}
        # The form first: a resume that comes before it would be rejected.
        Reply.with_initial_data(description=describe(question, given)).save(keyset, self._flow_run_id)
        done = client.set_flow_run_state(self._flow_run_id, paused)
        if done.status is SetStateStatus.ACCEPT:
            self._pause = _Pause(keyset, question)

    def _let_go(self, client: SyncPrefectClient) -> None:
        """(4)."""
        state = client.read_flow_run(self._flow_run_id).state
        if self._pause and state and state.is_paused():
            client.set_flow_run_state(self._flow_run_id, Running(message="Settled, also by vedr approve"), force=True)
        self._pause = None


def _reply(client: SyncPrefectClient, flow_run_id: UUID, pause: _Pause) -> Answer | None:
    """What the form was filled in with; None when the flow run was set to running without it."""
    try:
        reply = Reply.model_validate_json(client.read_flow_run_input(flow_run_id, pause.keyset["response"]))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return None
        raise
    return Answer(
        run_id=pause.question.run_id,
        digest=pause.question.plan.digest,
        person=parse_person(reply.name),
        approved=reply.decision == "agree",
        why=reply.why,
        time=dt.datetime.now(dt.UTC),
        via="prefect",
    )


def describe(question: Question, given: int) -> str:
    """The question as the form's page shows it, in Markdown."""
    people = "One person has" if question.people == 1 else f"{question.people} different people have"
    lines = [
        f"### {question.plan.title}",
        f"{people} to agree until {question.until:%H:%M:%S} UTC; {given} did.",
        f"From a shell: `vedr approve {question.run_id} --as NAME`.",
        "",
        *_table(question.plan),
        "",
        *(f"- {kind}: {text}" for kind, texts in _remarks(question.plan) for text in texts),
        "",
        f"Digest of this plan: `{question.plan.digest}`",
    ]
    return "\n".join(lines)


def _remarks(plan: Plan) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (("note", plan.notes), ("**warning**", plan.warnings))


def _table(plan: Plan) -> list[str]:
    rows = [
        f"| {number} | {action.what} | {action.where} | {action.budget_s:g} s | {action.effect} |"
        for number, action in enumerate(plan.actions, start=1)
    ]
    return ["| | Action | Where | Budget | Effect |", "|---|---|---|---:|---|", *rows]
