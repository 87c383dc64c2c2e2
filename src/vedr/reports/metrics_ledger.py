"""Metrics from the ledger: open incidents, achieved times, scheduled jobs, exercises, check findings, deadlines.

Guarantees: only runs whose chain holds are counted, the others by their number; a run that is closed is read once in a
process's life, because it never changes.
Leaves out: single runs as pages (`vedr report`), and comparing with targets (deployments/prometheus).
"""

import datetime as dt
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vedr.continuity.deadlines import deadlines_of, done_words
from vedr.continuity.incident import incident_of, is_exercise
from vedr.errors import VerificationFailedError
from vedr.inventory import Site
from vedr.ledger import Entry, RunId, is_closed
from vedr.ports import ObjectStore
from vedr.readiness.finding import STATUSES
from vedr.readiness.ports import Ports
from vedr.readiness.run_times import opened_by
from vedr.readiness.schedule import (
    EVERYWHERE,
    FINDINGS_STEP,
    LOOK_BACK_RUNS,
    VALIDATION,
    crons,
    found_fresh,
    has_findings,
    is_partial,
)
from vedr.reports import metrics
from vedr.reports.metrics import NEVER, Sample
from vedr.runbook.journal import INDEX_ROOT, Journal
from vedr.runbook.liveness import is_quiet
from vedr.runbook.timing import measure
from vedr.signature import Json
from vedr.targets import RUNBOOK_RTO_S

REMEMBERED: Final = 2048  # closed runs
RESTORE: Final = "RB-DR-006"
PROOF_JOB: Final = "snapshot-verify"
DRILL: Final = "drill"  # how runbooks that are drills begin
_MS_PER_S: Final = 1000

Entries = Sequence[Entry]


class LedgerMetrics:
    """The collector; one for a process, used by one thread."""

    def __init__(self) -> None:
        self._closed: OrderedDict[RunId, tuple[Entry, ...]] = OrderedDict()
        self._broken: set[RunId] = set()

    def __call__(self, at: Ports) -> Iterator[Sample]:
        """Everything; UnavailableError when too few regions answer."""
        journal = at.opened.journal
        self._broken.clear()
        incidents = self._read(journal, journal.runs("inc-"))
        drills = {name: self._newest(journal, name) for name in sorted(_drills(journal))}
        jobs = {job: self._newest(journal, job) for job in (*crons(at.site), VALIDATION)}
        restores = [run for run in incidents if _runbook(run) == RESTORE]
        yield from _of_open(incidents)
        yield from _of_times(at.site, [*incidents, *(run for of_it in drills.values() for run in of_it)])
        yield from _of_restores(restores)
        yield from _of_jobs(at.site, jobs)
        tests = {**drills, **{job: jobs[job] for job in (PROOF_JOB, VALIDATION)}}
        yield metrics.DR_TEST_FAILURES(_failed_tests(tests, journal.clock()))
        yield from _of_checks(jobs[VALIDATION])
        yield from _of_deadlines(journal, incidents)
        yield metrics.LEDGER_UNVERIFIABLE(len(self._broken))

    def _newest(self, journal: Journal, name: str) -> list[Entries]:
        return self._read(journal, opened_by(journal.clock(), journal.runs_of(name))[-LOOK_BACK_RUNS:])

    def _read(self, journal: Journal, run_ids: Sequence[RunId]) -> list[Entries]:
        """Oldest first; a run whose chain does not hold is counted and left out."""
        found: list[Entries] = []
        for run_id in run_ids:
            try:
                entries = self._entries(journal, run_id)
            except VerificationFailedError:
                self._broken.add(run_id)
                continue
            if entries:
                found.append(entries)
        return found

    def _entries(self, journal: Journal, run_id: RunId) -> tuple[Entry, ...]:
        if run_id in self._closed:
            self._closed.move_to_end(run_id)
            return self._closed[run_id]
        entries = journal.read(run_id).entries
        if is_closed(entries):
            self._closed[run_id] = entries
            if len(self._closed) > REMEMBERED:
                self._closed.popitem(last=False)
        return entries


def _drills(journal: Journal) -> set[str]:
    """Names of the drills that any answering region knows a run of."""

    def names(store: ObjectStore) -> set[str]:
        return {found.key.split("/")[1] for found in store.list(f"{INDEX_ROOT}/{DRILL}")}

    answers = journal.replicas.gather(names, what="list drills")
    return {name for answer in answers.values() for name in answer}


def _of_open(incidents: Sequence[Entries]) -> Iterator[Sample]:
    still_open = [run for run in incidents if not is_closed(run) and not _is_exercise(run)]
    by_runbook = Counter(_runbook(run) for run in still_open)
    for runbook in sorted({*RUNBOOK_RTO_S, *by_runbook}):
        yield metrics.INCIDENTS_OPEN(by_runbook[runbook], runbook)
    for run in still_open:
        yield metrics.INCIDENT_DETECTED(measure(run).detected_at.timestamp(), run[0].run_id, _runbook(run))


def _of_times(site: Site, runs: Sequence[Entries]) -> Iterator[Sample]:
    """Of each runbook the newest run that completed, incidents and exercises apart."""
    newest: dict[tuple[str, str], Entries] = {}
    for run in sorted(runs, key=lambda run: run[-1].time):
        if _completed(run):
            newest[_runbook(run), "exercise" if _is_exercise(run) else "incident"] = run
    targets: dict[str, float] = {runbook: site.targets.rto(runbook) for runbook in RUNBOOK_RTO_S}
    for (runbook, _), run in newest.items():
        targets.setdefault(runbook, measure(run).target_ms / _MS_PER_S)  # drills and failback have their own
    for runbook, target_s in sorted(targets.items()):
        yield metrics.RTO_TARGET(target_s, runbook)
    for (runbook, circumstance), run in sorted(newest.items()):
        yield metrics.RTO_ACHIEVED(measure(run).total_ms / _MS_PER_S, runbook, circumstance)
        yield metrics.RTO_AT(run[-1].time.timestamp(), runbook, circumstance)


def _of_restores(runs: Sequence[Entries]) -> Iterator[Sample]:
    completed = [run for run in runs if _completed(run)]
    if completed:
        newest = max(completed, key=lambda run: run[-1].time)
        yield metrics.DR_RESTORE_DURATION(measure(newest).total_ms / _MS_PER_S)


def _of_jobs(site: Site, jobs: Mapping[str, Sequence[Entries]]) -> Iterator[Sample]:
    for job in crons(site):
        for region in site.regions_by_priority:
            times = [run[-1].time.timestamp() for run in jobs[job] if _completed(run) and _region(run) == region]
            yield metrics.JOB_TIME(max(times, default=NEVER), job, region)
    looked = [run for run in jobs[VALIDATION] if not is_partial(run) and has_findings(run)]
    times = [run[-1].time.timestamp() for run in looked if is_closed(run)]
    yield metrics.JOB_TIME(max(times, default=NEVER), VALIDATION, EVERYWHERE)  # it ran, whatever it found


def _failed_tests(tests: Mapping[str, Sequence[Entries]], now: dt.datetime) -> int:
    """Tests, by name and region, whose newest run did not complete; what somebody still writes has not ended.

    A proof that ended because another one was fresh proved nothing, nor does a validation of some checks only stand for
    the whole: neither takes back what the one before it found.
    """
    made = ((name, run) for name, runs in tests.items() for run in runs if not (found_fresh(run) or is_partial(run)))
    ended = ((name, run) for name, run in made if is_closed(run) or is_quiet(run, now))
    newest = {(name, _region(run)): run for name, run in ended}
    return sum(not _completed(run) for run in newest.values())


def _of_checks(validations: Sequence[Entries]) -> Iterator[Sample]:
    """Each check's newest finding; a validation may have been ordered for some checks only."""
    newest: dict[str, tuple[str, float]] = {}
    for run in reversed(validations):
        for entry in reversed(run):
            for check, status in _findings(entry.payload):
                newest.setdefault(check, (status, entry.time.timestamp()))
    for check, (status, at_s) in sorted(newest.items()):
        yield metrics.CHECK_TIME(at_s, check)
        for known in STATUSES:
            yield metrics.CHECK_STATUS(known == status, check, known)


def _findings(payload: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """As the step records them: tasks.checks.Validated."""
    result = payload.get("result") if payload.get("step") == FINDINGS_STEP else None
    rows = result.get("findings") if isinstance(result, dict) else None
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {"check": str(check), "status": str(status)}:
                yield check, status
            case _:
                pass


def _of_deadlines(journal: Journal, incidents: Sequence[Entries]) -> Iterator[Sample]:
    words, now = (done_words(journal) if incidents else ()), journal.clock()
    states = Counter(
        deadline.state
        for run in incidents
        if not _is_exercise(run)
        for deadline in deadlines_of(incident_of(run), words, now)
    )
    yield metrics.DEADLINES(states["due"], "due")
    yield metrics.DEADLINES(states["overdue"], "overdue")


def _runbook(run: Entries) -> str:
    name = run[0].payload.get("runbook")
    return name if isinstance(name, str) else ""


def _region(run: Entries) -> str:
    order = run[0].payload.get("order")
    region = order.get("region") if isinstance(order, dict) else None
    return region if isinstance(region, str) else EVERYWHERE


def _is_exercise(run: Entries) -> bool:
    return is_exercise(run) or _runbook(run).startswith(DRILL)


def _completed(run: Entries) -> bool:
    return run[-1].kind == "closed" and run[-1].payload.get("outcome") == "completed"
