"""What a report says of one run: a pure function of its ledger entries.

Guarantees: nothing comes from anywhere else; what the ledger does not tell is told as not recorded, never guessed; an
open run is never told as completed, nor a target as met before the end.
Leaves out: how it looks (`pages`, `pdf`, `gantt`) and who vouches for it (`sealing`).
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.continuity.incident import is_exercise
from vedr.errors import InvalidInputError
from vedr.ledger import Digest, Entry, RunId
from vedr.reports.record import Proof, Record
from vedr.reports.spans import ATTEMPTS, Span, spans_of
from vedr.runbook import timing
from vedr.runbook.timing import StepRow, Timing, millis
from vedr.signature import Json

Subject = Literal["incident", "drill", "exercise", "run"]
"""`exercise`: a runbook that a drill performed; nothing but the drill was wrong."""

Verdict = Literal["met", "missed", "not completed", "open"]

_LOSS: Final = re.compile(r"^(rpo(_[a-z_]+)?_(s|ms)|lost_[a-z_]+|[a-z_]+_lost|blocks_missed|missed_blocks)$")
_MAX_DEPTH: Final = 12  # of a result that is searched; deeper ones are shown, not searched


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """One step: planned and achieved, with its record.  `error` and `remedy` are of its last failure."""

    row: StepRow
    resumed: bool
    error: str
    remedy: str
    result: Json


@dataclass(frozen=True, slots=True)
class Approved:
    """What one person said to a plan."""

    person: str
    approved: bool
    why: str
    via: str
    at: str
    plan: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A plan that people were asked about."""

    title: str
    digest: str
    people: int
    until: str
    actions: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something recorded, and by what."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a report shows of a run.  `drill`: the run that performed it as an exercise; else empty."""

    run_id: RunId
    site: str
    runbook: str
    title: str
    subject: Subject
    drill: str
    outcome: str
    verdict: Verdict
    detected_at: dt.datetime
    opened_at: dt.datetime
    ended_at: dt.datetime
    timing: Timing
    steps: tuple[StepEvidence, ...]
    spans: tuple[Span, ...]
    asked: tuple[Asked, ...]
    approvals: tuple[Approved, ...]
    data_lost: tuple[Fact, ...]
    remarks: tuple[Fact, ...]
    error: str
    remedy: str
    order: Mapping[str, Json]
    origin: tuple[Fact, ...]
    proof: Proof
    problems: tuple[str, ...]
    regions: tuple[str, ...]
    head_seq: int
    head: Digest
    entries: tuple[Entry, ...]

    @property
    def retried_ms(self) -> int:
        """Attempts at steps that failed or were interrupted, and were made again; a step's own time is its last."""
        spent = 0
        for step in self.steps:
            attempts = [one for one in self.spans if one.step == step.row.key and one.kind in ATTEMPTS]
            spent += sum(one.length_ms for one in attempts[:-1])
        return min(spent, self.timing.overhead_ms)

    @property
    def overhead_ms(self) -> int:
        return self.timing.overhead_ms - self.retried_ms

    @property
    def critical_path(self) -> tuple[tuple[str, int], ...]:
        """What the total consists of, longest first."""
        parts = [part for part in self.timing.critical_path if part[0] != "vedr itself"]
        parts += [("earlier attempts", self.retried_ms), ("vedr itself", self.overhead_ms)]
        return tuple(sorted((part for part in parts if part[1]), key=lambda part: -part[1]))

    @property
    def share_of_target_pct(self) -> int:
        return 100 * self.timing.total_ms // max(1, self.timing.target_ms)


def gather(record: Record) -> Evidence:
    """The evidence of a run.

    Raises:
        InvalidInputError: not even its first entry can be read.
    """
    if not record.chain:
        raise InvalidInputError(
            f"run {record.run_id}: no entry of it can be read: {'; '.join(record.problems)}",
            remedy=f"Keep every region's copies: vedr ledger export {record.run_id}, and tell security.",
        )
    entries = record.entries
    opened, last = entries[0], entries[-1]
    measured = timing.measure(entries)
    outcome = measured.outcome or ("paused" if last.kind == "paused" else "open")
    failure = _error_of(last)
    return Evidence(
        run_id=record.run_id,
        site=opened.site,
        runbook=measured.runbook,
        title=_text(opened.payload, "title") or measured.runbook,
        subject="exercise" if is_exercise(entries) else subject_of(record.run_id, measured.runbook),
        drill=_text(opened.payload, "drill"),
        outcome=outcome,
        verdict=_verdict(measured),
        detected_at=measured.detected_at,
        opened_at=opened.time,
        ended_at=last.time,
        timing=measured,
        steps=_steps(entries, measured),
        spans=spans_of(entries, measured.detected_at),
        asked=tuple(_asked(entries)),
        approvals=tuple(_approvals(entries)),
        data_lost=tuple(_losses(entries)),
        remarks=tuple(_remarks(entries)),
        error=failure[0],
        remedy=failure[1],
        order=_table(opened.payload, "order"),
        origin=tuple(_origin(entries)),
        proof=record.proof,
        problems=record.problems,
        regions=record.regions,
        head_seq=last.seq,
        head=record.chain[-1].digest,
        entries=entries,
    )


def subject_of(run_id: RunId, runbook: str) -> Subject:
    """What a run's id and runbook alone tell; that it was an exercise stands in its first entry."""
    if "drill" in runbook:
        return "drill"
    return "incident" if run_id.startswith("inc-") else "run"


def _verdict(measured: Timing) -> Verdict:
    if measured.outcome is None:
        return "open"
    if measured.outcome != "completed":
        return "not completed"
    return "met" if measured.met else "missed"


def _steps(entries: Sequence[Entry], measured: Timing) -> tuple[StepEvidence, ...]:
    resumed = {_text(e.payload, "step") for e in entries if e.kind == "step_started" and e.payload.get("resuming")}
    results = {_text(e.payload, "step"): e.payload.get("result") for e in entries if e.kind == "step_completed"}
    failures = {_text(e.payload, "step"): _error_of(e) for e in entries if e.kind == "step_failed"}
    return tuple(
        StepEvidence(row, row.key in resumed, *failures.get(row.key, ("", "")), results.get(row.key))
        for row in measured.rows
    )


def _error_of(entry: Entry) -> tuple[str, str]:
    error = _table(entry.payload, "error")
    kind, message = _text(error, "type"), _text(error, "message")
    return (f"{kind}: {message}" if message else kind), _text(error, "remedy")


def _asked(entries: Sequence[Entry]) -> Iterator[Asked]:
    for entry in entries:
        plan = _table(entry.payload, "plan")
        if entry.kind != "waiting" or not plan:
            continue
        actions = [item for item in _items(plan, "actions") if isinstance(item, dict)]
        people = entry.payload.get("people")
        yield Asked(
            title=_text(plan, "title"),
            digest=_text(entry.payload, "digest"),
            people=people if isinstance(people, int) else 0,
            until=_text(entry.payload, "until"),
            actions=tuple((_text(a, "what"), _text(a, "where"), _text(a, "effect")) for a in actions),
            warnings=tuple(str(warning) for warning in _items(plan, "warnings")),
        )


def _approvals(entries: Sequence[Entry]) -> Iterator[Approved]:
    """Every entry that names a person, whatever its kind."""
    for entry in entries:
        person = _text(entry.payload, "person")
        if person:
            yield Approved(
                person=person,
                approved=entry.payload.get("approved") is True,
                why=_text(entry.payload, "why"),
                via=_text(entry.payload, "via"),
                at=_text(entry.payload, "at") or entry.time.isoformat(),
                plan=_text(entry.payload, "digest"),
            )


def _losses(entries: Sequence[Entry]) -> Iterator[Fact]:
    """What steps, notes and the closing recorded of lost data or blocks, by the names that are used for it."""
    for entry in entries:
        source = _text(entry.payload, "step") or entry.kind
        for name, value in _named_values(dict(entry.payload), 0):
            if _LOSS.fullmatch(name):
                yield Fact(_plainly(name), str(value), source)


def _plainly(name: str) -> str:
    """`rpo_s` as RPO (s), `lost_blocks` as lost blocks."""
    words, _, unit = name.rpartition("_")
    text = f"{words} ({unit})" if unit in ("s", "ms") else name
    return text.replace("_", " ").replace("rpo", "RPO")


def _named_values(value: Json, depth: int) -> Iterator[tuple[str, Json]]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, (dict, list)):
                yield from _named_values(inner, depth + 1)
            elif inner is not None:
                yield name, inner
    elif isinstance(value, list):
        for inner in value:
            yield from _named_values(inner, depth + 1)


def _remarks(entries: Sequence[Entry]) -> Iterator[Fact]:
    """What happened besides steps: notes, overruns, resumptions, steps taken back, ends."""
    for entry in entries:
        match entry.kind:
            case "note":
                more = {name: value for name, value in entry.payload.items() if name != "text"}
                facts = ", ".join(f"{name} {value}" for name, value in more.items())
                yield Fact("note", "; ".join(filter(None, (_text(entry.payload, "text"), facts))), _clock(entry))
            case "overrun":
                yield Fact("target passed", "the run took longer than its target from here on", _clock(entry))
            case "overrun_predicted":
                yield Fact("overrun predicted", f"by {_text(entry.payload, 'basis')} of past runs", _clock(entry))
            case "resumed":
                yield Fact("resumed", f"by another process, epoch {entry.epoch}", _clock(entry))
            case "abandoning":
                yield Fact("given up", _text(entry.payload, "reason"), _clock(entry))
            case "undo_completed":
                yield Fact(
                    "taken back", f"{_text(entry.payload, 'step')}: {_text(entry.payload, 'done')}", _clock(entry)
                )
            case "undo_failed" | "paused":
                yield Fact(entry.kind.replace("_", " "), _error_of(entry)[0], _clock(entry))
            case _:
                pass


def _origin(entries: Sequence[Entry]) -> Iterator[Fact]:
    """Which versions and processes wrote it."""
    for entry in entries:
        if entry.kind not in ("opened", "resumed"):
            continue
        for name in ("version", "user", "flow_run_id"):
            if value := _text(entry.payload, name):
                yield Fact(name, value, entry.kind)
        process = _table(entry.payload, "process")
        if process:
            yield Fact("process", ", ".join(f"{name} {value}" for name, value in process.items()), entry.kind)


def _clock(entry: Entry) -> str:
    return f"{entry.time:%H:%M:%S}"


def since(evidence: Evidence, entry: Entry) -> int:
    """Milliseconds from detection to an entry."""
    return millis(entry.time - evidence.detected_at)


def _text(payload: Mapping[str, Json], key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else ""


def _table(payload: Mapping[str, Json], key: str) -> dict[str, Json]:
    value = payload.get(key)
    return value if isinstance(value, dict) else {}


def _items(payload: Mapping[str, Json], key: str) -> list[Json]:
    value = payload.get(key)
    return value if isinstance(value, list) else []
