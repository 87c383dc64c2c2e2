"""The files of a report: a page, its signed document and its PDF for each run, and the index.

Guarantees: a run that cannot be reported is told in the index, never left out; files appear whole or not at all.
Leaves out: which runs are wanted (the command).
"""

import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.durable import replace_file
from vedr.errors import InvalidInputError
from vedr.ledger import RunId
from vedr.reports.evidence import Evidence, gather, subject_of
from vedr.reports.index import Overview, index_page
from vedr.reports.pages import Imprint, run_page
from vedr.reports.record import Record, missing_runs, read_record, runbooks_by_run
from vedr.reports.sealing import Made, seal_page
from vedr.reports.trends import BACKUP_JOBS, VERIFY_JOB, Ended, ended
from vedr.runbook.journal import Journal

MAX_READ_AT_ONCE: Final = 16  # store reads wait for the network; more gains nothing on a small machine
MAX_JOB_RUNS: Final = 60  # of each scheduled job, the newest: ten days of snapshots in one region
PAGE_MODE: Final = 0o644  # reports are for reading; the ledger holds no secret
_JOBS: Final = (*BACKUP_JOBS, VERIFY_JOB)
_ID_TIME: Final = "%Y%m%d-%H%M%S"


@dataclass(frozen=True, slots=True)
class Binder:
    """Writes reports of one site's ledger into a folder."""

    journal: Journal
    folder: Path
    clock: Callable[[], dt.datetime]
    label: str = ""

    @property
    def imprint(self) -> Imprint:
        return Imprint(self.clock(), self.journal.signer.keyid, self.label)

    def write_run(self, evidence: Evidence, *, pdf: bool = False) -> Path:
        """The page, the signed document and the PDF of a run; the page's path."""
        imprint = self.imprint
        path = self.folder / f"{evidence.run_id}.html"
        self._write(path, run_page(evidence, imprint), [evidence], imprint.made_at, Made(self.label, evidence))
        if pdf:
            from vedr.reports.pdf import run_pdf  # noqa: PLC0415 - its library takes a second that pages need not pay

            replace_file(path.with_suffix(".pdf"), run_pdf(evidence, imprint), mode=PAGE_MODE)
        return path

    def write_all(self, overview: Overview, *, pdf: bool = False) -> Path:
        """A page for every incident and drill of the overview, and the index; the index's path."""
        for evidence in overview.evidence:
            self.write_run(evidence, pdf=pdf)
        imprint = self.imprint
        path = self.folder / "index.html"
        self._write(path, index_page(overview, imprint), overview.evidence, imprint.made_at, Made(self.label))
        return path

    def overview(self, since: dt.datetime) -> Overview:
        """What the index tells; UnavailableError when too few regions answer."""
        named = runbooks_by_run(self.journal)
        recent = {run_id: name for run_id, name in named.items() if _opened_at(run_id) >= since}
        telling = [run_id for run_id, name in recent.items() if not name or subject_of(run_id, name) != "run"]
        jobs = {job: [r for r, name in recent.items() if name == job][-MAX_JOB_RUNS:] for job in _JOBS}
        records = self._read([*telling, *(run_id for run_ids in jobs.values() for run_id in run_ids)])
        evidence, unreadable = [], []
        for run_id in telling:
            try:
                one = gather(records[run_id])
            except InvalidInputError as error:
                unreadable.append((run_id, error.message))
                continue
            if one.subject != "run":
                evidence.append(one)
        return Overview(
            site=self.journal.site,
            since=since,
            until=self.clock(),
            evidence=tuple(evidence),
            unreadable=tuple(unreadable),
            scheduled=tuple(_ended(job, records[run_id]) for job, run_ids in jobs.items() for run_id in run_ids),
            problems=missing_runs(records.values(), named),
        )

    def _read(self, run_ids: Sequence[RunId]) -> dict[RunId, Record]:
        with ThreadPoolExecutor(MAX_READ_AT_ONCE, "report") as pool:
            return dict(zip(run_ids, pool.map(lambda one: read_record(self.journal, one), run_ids), strict=True))

    def _write(self, path: Path, page: str, evidence: Sequence[Evidence], made_at: dt.datetime, made: Made) -> None:
        sealed, document = seal_page(
            page, self.journal.signer, site=self.journal.site, evidence=evidence, made_at=made_at, made=made
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, sealed.encode(), mode=PAGE_MODE)
        replace_file(path.with_suffix(".json"), document, mode=PAGE_MODE)


def _ended(job: str, record: Record) -> Ended:
    if record.proof == "unverifiable" or not record.chain:
        return Ended(job, "", _opened_at(record.run_id), "unverifiable")
    return ended(job, record.entries)


def _opened_at(run_id: RunId) -> dt.datetime:
    """The time that a run's id carries."""
    return dt.datetime.strptime(run_id.split("-", 1)[1].rpartition("-")[0], _ID_TIME).replace(tzinfo=dt.UTC)
