"""The answer to a drill: what it came to, with the evidence of it and of all runs that it performed, signed.

It is a signed document of `vedr report` (docs/formats/evidence.md) with one member more, `drill`; so `vedr report
verify` checks it against the keys and the ledger as it checks a page.

Guarantees: the verdict follows from the ledger alone; `passed` only when the drill's run was completed and every run
that it performed stands in the ledger, verified and completed; `not run` when it was refused before anything was
broken; everything else failed.
Leaves out: where it is kept (tasks.drills_evidence).
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import vedr
from vedr.errors import InvalidInputError, VedrError
from vedr.ledger import RunId, parse_run_id
from vedr.readiness.drill_schedule import CADENCES
from vedr.reports.evidence import Evidence, gather
from vedr.reports.record import read_record
from vedr.reports.sealing import FORMAT, facts_of
from vedr.runbook.journal import Journal
from vedr.signature import Json

Verdict = Literal["passed", "failed", "not run"]
DRILL: Final = "drill-"
CHOSEN: Final = "choose_targets"
COMPARED: Final = "compare_census"
_BREAKING: Final = frozenset(f"{DRILL}{cadence}" for cadence in CADENCES)  # the other forms perform nothing


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
    parts, missing = _parts(journal, drill)
    told = [drill, *parts]
    verdict = verdict_of(drill)
    reason = "; ".join(filter(None, (drill.error, *missing)))
    if missing and verdict == "passed":
        verdict = "failed"  # what cannot be shown is not proven
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


def verdict_of(drill: Evidence) -> Verdict:
    """Of a drill's run."""
    if drill.proof == "unverifiable":
        return "failed"
    if drill.outcome == "completed":
        return "passed"
    return "not run" if drill.outcome == "refused" else "failed"


def _parts(journal: Journal, drill: Evidence) -> tuple[list[Evidence], list[str]]:
    """The runs that it performed, and what keeps them from being shown as good."""
    shown, missing = [], []
    for run_id in dict.fromkeys(_run_ids([step.result for step in drill.steps])):
        try:
            part = gather(read_record(journal, run_id))
        except VedrError as error:
            missing.append(f"run {run_id} cannot be shown: {error.message}")
            continue
        shown.append(part)
        if part.proof == "unverifiable":
            missing.append(f"run {run_id} does not verify: {'; '.join(part.problems)}")
        elif part.outcome != "completed":
            missing.append(f"run {run_id} is {part.outcome}")
    if drill.runbook in _BREAKING and not shown and not missing:
        missing.append("no run of a runbook is named that it performed")
    return shown, missing


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
