"""Asking people whether a plan may be carried out, and waiting for them.

1. Answers that were given before, also while no process asked, count: a resumed run does not ask again.
2. The question goes into the ledger (`waiting`) with the whole plan, where `vedr approve` reads it.
3. Answers are looked for in the regions' stores, and in inboxes such as Prefect's UI; what an inbox gives is put into
   the stores first, so that there is one record, and whoever is first counts.
4. Each answer that counts goes into the ledger (`answered`).
5. One refusal ends it; enough different people agreeing ends it; else the time limit does.

Guarantees: nothing is taken for agreement that is not a signed answer, in a majority of the regions, to exactly this
plan; regions or inboxes that do not answer only prolong the wait.
Leaves out: the answers themselves (vedr.runbook.approval).
"""

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from vedr.errors import ConflictError, RefusedError, UnavailableError
from vedr.ledger import Entry, RunId
from vedr.policies.approval import Approval
from vedr.runbook.approval import WHAT, Answer, Answers, Question, counted
from vedr.runbook.plan import Plan
from vedr.signature import Json

POLL_S: Final = 1.0

log = logging.getLogger(__name__)


class UnansweredError(RefusedError):
    """Too few people answered in time; the run stays open, and answers given later count when it is resumed."""


class Inbox(Protocol):
    """Another place where people answer.  An error that it raises is logged; it is asked again at the next look."""

    def collect(self, question: Question, given: Sequence[Answer]) -> Sequence[Answer]:
        """Show the question where it is not shown (any more); what was answered there and not collected before.

        Args:
            question: What is asked.
            given: The answers that count so far.
        """

    def close(self) -> None:
        """Stop showing it."""


@dataclass(frozen=True, slots=True)
class Asker:
    """What asking needs of a run.

    `entries`: the run's ledger; `answered`: records one answer there; `waiting`: time in it is a person's;
    `check`: ConflictError when another process has the run; `say`: a line of progress.
    """

    run_id: RunId
    runbook: str
    entries: Callable[[], Sequence[Entry]]
    answered: Callable[[Answer], object]
    waiting: Callable[[dict[str, Json]], AbstractContextManager[None]]
    check: Callable[[], None]
    say: Callable[[str], None]


@dataclass(slots=True)
class Asking:
    """One plan of one run before the people of a site."""

    asker: Asker
    answers: Answers
    policy: Approval
    inboxes: Sequence[Inbox]
    clock: Callable[[], dt.datetime]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _undelivered: list[Answer] = field(default_factory=list)

    def settle(self, plan: Plan) -> tuple[Answer, ...]:
        """The answers by which enough people agree.

        Raises:
            RefusedError: somebody refused.
            UnansweredError: too few answered within the site's limit.
            ConflictError: another process went on with the run meanwhile.
        """
        now = self.clock()
        people = self.policy.needed(self.asker.runbook)
        until = now + dt.timedelta(seconds=self.policy.limit_s)
        question = Question(self.asker.run_id, self.asker.runbook, plan, people, until)
        given = self._look(question)  # (1)
        if enough(given, question):
            return given
        facts: dict[str, Json] = {
            "what": WHAT,
            "people": people,
            "until": until.isoformat(),
            "digest": plan.digest,
            "plan": plan.document(),
        }
        with self.asker.waiting(facts):  # (2)
            self.asker.say(
                f"asks {people} {'person' if people == 1 else 'people'} until {until:%H:%M:%S} UTC:"
                f" vedr approve {question.run_id} --as NAME"
            )
            try:
                return self._wait(question)
            finally:
                for inbox in self.inboxes:
                    with suppress(Exception):  # how it is shown must not change how it ended
                        inbox.close()

    def _wait(self, question: Question) -> tuple[Answer, ...]:
        deadline_s = self.monotonic() + self.policy.limit_s
        while True:
            given = self._look(question)
            if enough(given, question):
                return given
            if self.monotonic() >= deadline_s:
                raise UnansweredError(
                    f"run {question.run_id}: {len(given)} of {question.people} people agreed to its plan within"
                    f" {self.policy.limit_s} s",
                    remedy=f"Answer with vedr approve {question.run_id}, then go on with"
                    f" vedr run {question.runbook} --incident {question.run_id}.",
                )
            self.asker.check()
            if not self._collect(question, given):
                self.sleep(POLL_S)

    def _look(self, question: Question) -> tuple[Answer, ...]:
        """The answers that count, each in the ledger; none while the regions can't be asked."""
        try:
            found = self.answers.of(question.run_id, question.plan.digest)
        except UnavailableError as error:
            self.asker.say(f"cannot read the answers: {error.message}")
            return ()
        given = counted(found, self.policy.people)
        recorded = {
            (entry.payload.get("person"), entry.payload.get("digest"))
            for entry in self.asker.entries()
            if entry.kind == "answered"
        }
        for answer in given:
            if (answer.person, answer.digest) not in recorded:
                self.asker.answered(answer)  # (4)
        return given

    def _collect(self, question: Question, given: Sequence[Answer]) -> bool:
        """(3): into the stores with what came in; whether there was anything."""
        for inbox in self.inboxes:
            try:
                self._undelivered.extend(inbox.collect(question, given))
            except Exception as error:  # noqa: BLE001 - an inbox that fails must not end a run that others can answer
                log.warning("an inbox of run %s: %s", question.run_id, type(error).__name__)
        delivered = False
        while self._undelivered:
            answer = self._undelivered[0]
            try:
                self.policy.check_person(answer.person)
                self.answers.give(answer)
                delivered = True
            except UnavailableError:
                break  # again at the next look
            except (RefusedError, ConflictError) as error:
                self.asker.say(error.message)
            self._undelivered.pop(0)
        return delivered


def enough(given: Sequence[Answer], question: Question) -> bool:
    """Whether as many people agreed as were asked for; RefusedError when one refused."""
    for answer in given:
        if not answer.approved:
            raise RefusedError(
                f"{answer.person} refused the plan of run {question.run_id}: {answer.why or 'no reason given'}",
                remedy="Order something else, or order it again when the reason is gone.",
            )
    return len(given) >= question.people
