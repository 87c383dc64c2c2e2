"""People's answers to a plan, kept in the regions' stores: given from any machine, counted by the run that asks.

`approval/<run id>/<plan digest>/<SHA-256 of the person's name, 16 digits>.json`: a signed document, one for each person
and plan, created once (docs/formats/ledger.md).

Guarantees: an answer that was given is in a majority of the regions and is never changed; it counts for one run and
one plan, by its digest, and once for each person.
Leaves out: who may answer (vedr.policies.approval), waiting for answers (vedr.runbook.asking), and proof that a person
is who they say they are: whoever has the site's signing key can answer by any name.
"""

import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, VerificationFailedError
from vedr.ledger import Entry, RunId
from vedr.policies.approval import identity_of
from vedr.ports import ObjectStore
from vedr.runbook.journal import Journal
from vedr.runbook.plan import Plan, parse_plan
from vedr.runbook.replicas import Slot
from vedr.signature import Json, open_document

ROOT: Final = "approval"
FORMAT: Final = "vedr-approval/1"
WHAT: Final = "approval"
"""The `what` of the ledger's waiting entries that this is about."""

Via = Literal["cli", "prefect"]
_NAME: Final = re.compile(r"^([0-9a-f]{16})(?:\.[0-9a-f]{8})?\.json$")


@dataclass(frozen=True, slots=True)
class Question:
    """What people are asked: whether this plan may be carried out."""

    run_id: RunId
    runbook: str
    plan: Plan
    people: int
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person said to one plan; only the name says who it was."""

    run_id: RunId
    digest: str
    person: str
    approved: bool
    why: str
    time: dt.datetime
    via: Via

    def payload(self) -> dict[str, Json]:
        """As the ledger's `answered` entry has it."""
        return {
            "person": self.person,
            "approved": self.approved,
            "why": self.why,
            "at": self.time.astimezone(dt.UTC).isoformat(),
            "via": self.via,
            "digest": self.digest,
        }


class Answers:
    """The answers of a site's people, in the same stores as its ledger."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def give(self, answer: Answer) -> Answer:
        """Keep it; the answer that this person gave, which is the earlier one when they said the same before.

        Raises:
            ConflictError: they answered otherwise before: an answer is not taken back.
            RefusedError: this process signs with a key that the site does not trust.
        """
        data = self._document(answer)
        if not self._fits(data, answer):
            raise RefusedError(
                f"the site does not trust the key that would sign {answer.person}'s answer",
                remedy="Give [signing] key one of the keys in [signing] trusted.",
            )
        slot = _slot(answer.run_id, answer.digest, _token(answer.person))
        decided = self._journal.replicas.propose(slot, data, lambda other: self._fits(other, answer))
        given = self._open(decided, answer.run_id, answer.digest)
        if given is None or given.approved != answer.approved:
            said = "something else" if given is None else "approved" if given.approved else "refused"
            raise ConflictError(
                f"{answer.person} answered this plan of run {answer.run_id} before: {said}",
                remedy="An answer is not taken back: another person may answer, or a refusing one ends the run.",
            )
        return given

    def of(self, run_id: RunId, digest: str) -> tuple[Answer, ...]:
        """Every answer to this plan that is decided, by time.

        Raises:
            UnavailableError: fewer than a majority of the regions answered: not known what was said.
        """
        prefix = f"{ROOT}/{run_id}/{digest}/"

        def tokens(store: ObjectStore) -> set[str]:
            names = (_NAME.fullmatch(found.key.removeprefix(prefix)) for found in store.list(prefix))
            return {name[1] for name in names if name}

        held = self._journal.replicas.gather(tokens, what=f"read the answers to run {run_id}")
        found = (self._settled(run_id, digest, token) for token in sorted(set().union(*held.values())))
        return tuple(sorted((answer for answer in found if answer), key=lambda answer: (answer.time, answer.person)))

    def _settled(self, run_id: RunId, digest: str, token: str) -> Answer | None:
        def fits(data: bytes) -> bool:
            answer = self._open(data, run_id, digest)
            return answer is not None and _token(answer.person) == token

        with contextlib.suppress(NotFoundError, CorruptError, ConflictError):  # not decided: as good as not given yet
            return self._open(self._journal.replicas.settle(_slot(run_id, digest, token), fits), run_id, digest)
        return None

    def _fits(self, data: bytes, place: Answer) -> bool:
        held = self._open(data, place.run_id, place.digest)
        return held is not None and held.person == place.person

    def _document(self, answer: Answer) -> bytes:
        place: dict[str, Json] = {"format": FORMAT, "site": self._journal.site, "run": answer.run_id}
        return self._journal.signer.seal_document({**place, **answer.payload()})

    def _open(self, data: bytes, run_id: RunId, digest: str) -> Answer | None:
        try:
            signed = open_document(data, self._journal.trusted, what=f"an answer to run {run_id}")
        except VerificationFailedError:
            return None
        answer = _parse(signed)
        place = (FORMAT, self._journal.site, run_id, digest)
        fits = (signed.get("format"), signed.get("site"), signed.get("run"), signed.get("digest")) == place
        return answer if fits else None


def _parse(signed: dict[str, Json]) -> Answer | None:
    match signed:
        case {
            "run": str(run),
            "digest": str(digest),
            "person": str(person),
            "approved": bool(approved),
            "why": str(why),
            "at": str(at),
            "via": "cli" | "prefect" as via,
        }:
            with contextlib.suppress(ValueError):
                return Answer(RunId(run), digest, person, approved, why, dt.datetime.fromisoformat(at), via)
    return None


def counted(answers: Iterable[Answer], allowed: Sequence[str]) -> tuple[Answer, ...]:
    """Those that count: one a person by whatever name, a refusal first; of the people who may answer (empty: all)."""
    by_person: dict[str, Answer] = {}
    for answer in answers:
        if not allowed or answer.person in allowed:
            known = by_person.setdefault(identity_of(answer.person), answer)
            if known.approved and not answer.approved:
                by_person[identity_of(answer.person)] = answer
    return tuple(by_person.values())


def asked(entries: Sequence[Entry]) -> Question | None:
    """What a run asked last and nobody has settled; None when it asks nothing.

    A question outlives the process that asked it, and its time limit: an answer given later counts when the run is
    resumed.
    """
    if entries and entries[-1].kind == "closed":
        return None
    for entry in reversed(entries):
        match entry.kind, entry.payload:
            case "waiting", {
                "what": "approval",
                "plan": plan,
                "people": int(people),
                "until": str(until),
            }:
                runbook = str(entries[0].payload.get("runbook"))
                return Question(entry.run_id, runbook, parse_plan(plan), people, dt.datetime.fromisoformat(until))
            case (("step_started" | "abandoning"), _):
                return None  # it was answered and the run went on, or it is given up
            case _:
                continue
    return None


def _token(person: str) -> str:
    return hashlib.sha256(person.encode()).hexdigest()[:16]


def _slot(run_id: RunId, digest: str, token: str) -> Slot:
    return Slot(f"{ROOT}/{run_id}/{digest}/{token}")
