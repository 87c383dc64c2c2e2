"""The answer to a drill: what it came to, with the evidence of it and of all runs that it performed, signed.

It is a signed document of `vedr report` (docs/formats/evidence.md) with one member more, `drill`; so `vedr report
verify` checks it against the keys and the ledger as it checks a page.

Guarantees: the verdict follows from the ledger alone; `passed` only when the drill's run was completed and every run
that it performed stands in the ledger, verified and completed; `not run` when it was refused before anything was
broken; everything else failed.  `check_answer` refuses an answer that does not follow from the same entries, whoever
signed it.
Leaves out: where it is kept (tasks.drills_evidence).
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import vedr
from vedr.errors import InvalidInputError, VedrError, VerificationFailedError
from vedr.ledger import RunId, parse_run_id
from vedr.readiness.drill_schedule import CADENCES
from vedr.reports.evidence import Evidence, gather
from vedr.reports.facts import FORMAT, facts_of
from vedr.reports.record import read_record
from vedr.runbook.journal import Journal
from vedr.signature import Json

Verdict = Literal["passed", "failed", "not run"]
DRILL: Final = "drill-"
CHOSEN: Final = "choose_targets"
COMPARED: Final = "compare_census"
_BREAKING: Final = frozenset(f"{DRILL}{cadence}" for cadence in CADENCES)  # the other forms perform nothing
_ANOTHER: Final = "Do not use it: make it again with vedr drill evidence RUN, and find out who signed this one."


@dataclass(frozen=True, slots=True)
class Bundle:
    """A drill's answer; `document` are the signed bytes, `seq` the last entry of its run that they know."""

    run_id: RunId
    drill: str
    verdict: Verdict
    reason: str
    remedy: str
    seq: int
    document: bytes


def make_bundle(journal: Journal, run_id: RunId, *, made_at: dt.datetime) -> Bundle:
    """From the ledger.

    Raises:
        InvalidInputError: the run is no drill's.
        NotFoundError, UnavailableError: the ledger does not tell.
    """
    drill = gather(read_record(journal, run_id))
    if not drill.runbook.startswith(DRILL):
        raise InvalidInputError(f"run {run_id} is one of {drill.runbook}, no drill", remedy="See vedr drill list.")
    parts = _parts(journal, drill)
    told = [drill, *(part for part in parts.values() if isinstance(part, Evidence))]
    missing = [f"{one.words}{one.why}" for one in _missing(drill, parts)]
    verdict = verdict_of(drill, shown=not missing)
    reason = "; ".join(filter(None, (drill.error, *missing)))
    document = journal.signer.seal_document(
        {
            "format": FORMAT,
            "site": journal.site,
            "version": vedr.__version__,
            "made_at": made_at.astimezone(dt.UTC).isoformat(),
            "heads": [{"run": one.run_id, "seq": one.head_seq, "digest": one.head} for one in told],
            "facts": [facts_of(one) for one in told],
            "page_sha256": "",
            "drill": {
                "run": run_id,
                "runbook": drill.runbook,
                "verdict": verdict,
                "reason": reason,
                "remedy": drill.remedy,
                "broken": _result(drill, CHOSEN),
                "compared": _result(drill, COMPARED),
            },
        }
    )
    return Bundle(run_id, drill.runbook, verdict, reason, drill.remedy, drill.head_seq, document)


def check_answer(told: Mapping[str, Json], evidence: Sequence[Evidence], *, what: str) -> Verdict:
    """Make the answer again from the runs that a document names, and compare.

    Args:
        told: The document's member `drill`.
        evidence: Those runs up to the entries that the document knew, each as proven as it was then; the drill first.
        what: Names the file in errors.

    Returns:
        The verdict.

    Raises:
        VerificationFailedError: the ledger gives another answer.
    """
    if not evidence:
        raise VerificationFailedError(f"{what}: the answer to a drill that names no run", remedy=_ANOTHER)
    drill, *shown = evidence
    known = {part.run_id: part for part in shown}
    named = _named(drill)
    missing = _missing(drill, {run_id: known.get(run_id, "") for run_id in named})
    verdict = verdict_of(drill, shown=not missing)
    expected: dict[str, Json] = {
        "run": drill.run_id,
        "runbook": drill.runbook,
        "verdict": verdict,
        "remedy": drill.remedy,
        "broken": _result(drill, CHOSEN),
        "compared": _result(drill, COMPARED),
    }
    differing = [name for name, value in expected.items() if told.get(name) != value]
    if not _reads_as(str(told.get("reason")), drill.error, missing):
        differing.append("reason")
    if not drill.runbook.startswith(DRILL) or not known.keys() <= set(named):
        differing.append("runs")
    if differing:
        raise VerificationFailedError(
            f"{what}: drill {drill.run_id}: the ledger gives another {', '.join(differing)}; its verdict is {verdict}",
            remedy=_ANOTHER,
        )
    return verdict


def verdict_of(drill: Evidence, *, shown: bool) -> Verdict:
    """Of a drill's run; `shown`: every run that it performed is there and good."""
    if drill.proof == "unverifiable":
        return "failed"
    if drill.outcome == "completed":
        return "passed" if shown else "failed"  # what cannot be shown is not proven
    return "not run" if drill.outcome == "refused" else "failed"


def _parts(journal: Journal, drill: Evidence) -> dict[RunId, Evidence | str]:
    """The runs that it performed, or why one cannot be shown."""
    parts: dict[RunId, Evidence | str] = {}
    for run_id in _named(drill):
        try:
            parts[run_id] = gather(read_record(journal, run_id))
        except VedrError as error:
            parts[run_id] = error.message
    return parts


@dataclass(frozen=True, slots=True)
class _Missing:
    """What keeps a drill from being shown as good; `why` is known only to whoever looked then."""

    words: str
    why: str = ""
    of_then: bool = False


def _missing(drill: Evidence, parts: Mapping[RunId, Evidence | str]) -> list[_Missing]:
    missing = []
    for run_id, part in parts.items():
        if isinstance(part, str):
            missing.append(_Missing(f"run {run_id} cannot be shown: ", part, of_then=True))
        elif part.proof == "unverifiable":
            missing.append(_Missing(f"run {run_id} does not verify: ", "; ".join(part.problems), of_then=True))
        elif part.outcome != "completed":
            missing.append(_Missing(f"run {run_id} is {part.outcome}"))
    if drill.runbook in _BREAKING and not parts:
        missing.append(_Missing("no run of a runbook is named that it performed"))
    return missing


def _reads_as(reason: str, error: str, missing: Sequence[_Missing]) -> bool:
    parts = [re.escape(error)] if error else []
    parts += [re.escape(one.words) + (".*" if one.of_then else "") for one in missing]
    return re.fullmatch("; ".join(parts), reason, re.DOTALL) is not None


def _named(drill: Evidence) -> tuple[RunId, ...]:
    """The runs that its steps say they performed."""
    return tuple(dict.fromkeys(_run_ids([step.result for step in drill.steps])))


def _run_ids(results: Sequence[Json]) -> Iterator[RunId]:
    """Wherever a step's result names one, as tasks.drills.Answer does."""
    for result in results:
        if isinstance(result, dict):
            named = result.get("run_id")
            if isinstance(named, str) and named:
                yield parse_run_id(named)
            yield from _run_ids([*result.values()])
        elif isinstance(result, list):
            yield from _run_ids(result)


def _result(drill: Evidence, key: str) -> Json:
    return next((step.result for step in drill.steps if step.row.key == key), None)
