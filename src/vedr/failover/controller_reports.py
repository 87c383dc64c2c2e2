"""The controllers' reports: each vantage point's verdicts, one small signed object in every region's registers.

`controller/<site>/verdicts/<vantage>.json` holds the newest report of one region's controller, numbered; every
controller reads all of them from every region that answers and takes the one with the highest number.

Guarantees: a region's report is only replaced by a later one; a report that nobody trusted signed, or that is of
another site or vantage point, counts for nothing.
A report is as old as the time since this process first saw its number, so that clocks need not agree; only the first
one that is seen of a vantage point is believed to be as old as it says.
Leaves out: what the verdicts mean together (vedr.failover.controller).
"""

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, CorruptError, VedrError, VerificationFailedError
from vedr.failover.controller_book import ROOT, parse_time, time_text
from vedr.failover.controller_lease import Spread, one_by_one
from vedr.failover.health import Confirmed, Verdict
from vedr.ports import Clock, ObjectKey, Registers
from vedr.signature import Json, Signer, open_document

FORMAT: Final = "vedr-controller-report/1"
MAX_BYTES: Final = 512 * 1024  # a verdict has under 1.5 KiB
_DAMAGED: Final = "Find out who wrote it: only controllers of this site write there.  The next report replaces it."


_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What one vantage point says.  `at`: its own clock; `heard_at`: ours, when we first saw this number."""

    vantage: str
    process: str
    number: int
    at: dt.datetime
    heard_at: dt.datetime
    height: int
    verdicts: Mapping[Domain, Verdict]


Opener = Callable[[str, bytes], Report]
"""Gives the report of a vantage point that is in these bytes."""


def key_of(site: str, vantage: str) -> ObjectKey:
    return ObjectKey(f"{ROOT}/{site}/verdicts/{vantage}.json")


def encode(site: str, report: Report, signer: Signer) -> bytes:
    """The object's bytes."""
    return signer.seal_document(
        {
            "format": FORMAT,
            "site": site,
            "vantage": report.vantage,
            "process": report.process,
            "number": report.number,
            "at": time_text(report.at),
            "height": report.height,
            "verdicts": [_verdict_json(verdict) for verdict in report.verdicts.values()],
        }
    )


def decode(site: str, vantage: str, data: bytes, trusted: Iterable[str]) -> Report:
    """What the bytes say, heard when they were written; VerificationFailedError unless a trusted key signed them as
    this vantage point's report.
    """
    what = f"the report of {vantage}"
    if len(data) > MAX_BYTES:
        raise CorruptError(f"{what}: {len(data)} bytes, more than {MAX_BYTES}", remedy=_DAMAGED)
    match open_document(data, trusted, what=what):
        case {
            "format": "vedr-controller-report/1",
            "site": str(of_site),
            "vantage": str(of_vantage),
            "process": str(process),
            "number": int(number),
            "at": str(at),
            "height": int(height),
            "verdicts": list(listed),
        } if (of_site, of_vantage) == (site, vantage) and number >= 1:
            verdicts = [_verdict(item, what) for item in listed]
            time = parse_time(at, what)
            return Report(vantage, process, number, time, time, height, {one.domain: one for one in verdicts})
        case _:
            raise CorruptError(f"{what}: not that report of site {site}", remedy=_DAMAGED)


def _verdict_json(verdict: Verdict) -> Json:
    first = verdict.first_failed_at
    return {
        "kind": verdict.domain.kind,
        "name": verdict.domain.name,
        "confirmed": verdict.confirmed,
        "good": verdict.good,
        "bad": verdict.bad,
        "since": time_text(verdict.since),
        "first_failed_at": None if first is None else time_text(first),
        "reasons": list(verdict.reasons),
    }


def _verdict(item: Json, what: str) -> Verdict:
    match item:
        case {
            "kind": "zone" | "region" as kind,
            "name": str(name),
            "confirmed": str(confirmed),
            "good": int(good),
            "bad": int(bad),
            "since": str(since),
            "first_failed_at": (str() | None) as first,
            "reasons": list(reasons),
        } if confirmed in get_args(Confirmed):
            return Verdict(
                domain=Domain(kind, name),
                confirmed=confirmed,  # type: ignore[arg-type]  # checked above
                good=good,
                bad=bad,
                since=parse_time(since, what),
                first_failed_at=None if first is None else parse_time(first, what),
                reasons=tuple(str(reason) for reason in reasons),
            )
        case _:
            raise CorruptError(f"{what}: not a verdict", remedy=_DAMAGED)


def opener(site: str, trusted: Iterable[str]) -> Opener:
    """`decode` for this site, with a memory: the regions mostly hold the same bytes, and signatures take time."""
    keys = tuple(trusted)
    return functools.lru_cache(maxsize=_REMEMBERED)(lambda vantage, data: decode(site, vantage, data, keys))


class Exchange:
    """One controller's side of it: publishes its own report, gathers everybody's.  Not thread-safe.

    Args:
        site: Whose controllers these are.
        vantage: The region that this one is in.
        process: Names this process.
        registers: Every region's.
        signer: Signs the reports.
        trusted: Public keys that are believed.
        clock: This process's clock.
        spread: How regions are called.
    """

    def __init__(
        self,
        site: str,
        vantage: str,
        process: str,
        registers: Mapping[str, Registers],
        *,
        signer: Signer,
        trusted: Iterable[str],
        clock: Clock,
        spread: Spread = one_by_one,
    ) -> None:
        self._site, self._vantage, self._process = site, vantage, process
        self._registers, self._signer, self._open = dict(registers), signer, opener(site, trusted)
        self._clock, self._spread = clock, spread
        self._heard: dict[str, Report] = {}
        self._number: int | None = None
        self.problems: dict[str, str] = {}

    def gather(self) -> Mapping[str, Report]:
        """The newest report of each vantage point that any region shows, or showed before; `problems` has the regions
        that did not answer.
        """
        now = self._clock()
        found, self.problems = gather(self._site, self._registers, self._open, self._spread)
        for vantage, report in found.items():
            before = self._heard.get(vantage)
            if before is None:
                self._heard[vantage] = replace(report, heard_at=min(now, report.at))
            elif report.number > before.number:
                self._heard[vantage] = replace(report, heard_at=now)
        return dict(self._heard)

    def publish(self, verdicts: Mapping[Domain, Verdict], height: int) -> tuple[str, ...]:
        """Put a new report into every region; those that took it."""
        if self._number is None:  # an earlier process of this vantage point has numbered before
            self.gather()
        now = self._clock()
        shown = self._heard.get(self._vantage)
        self._number = max(self._number or 0, shown.number if shown else 0) + 1
        report = Report(self._vantage, self._process, self._number, now, now, height, dict(verdicts))
        data = encode(self._site, report, self._signer)
        took = self._spread(lambda region: self._put(region, report, data), self._registers)
        self._heard[self._vantage] = report
        return tuple(region for region, answer in took.items() if answer is True)

    def _put(self, region: str, report: Report, data: bytes) -> bool:
        """Whether the region has it now.  A later one that is there is another process's of this vantage point."""
        registers, key = self._registers[region], key_of(self._site, self._vantage)
        found = registers.read(key)
        shown = self._believed(found.data) if found else None
        if shown is not None and shown.number >= report.number:
            return False
        try:
            registers.swap(key, data, expected=found.tag if found else None)
        except ConflictError:
            return False  # the next report is numbered above whatever is there
        return True

    def _believed(self, data: bytes) -> Report | None:
        try:
            return self._open(self._vantage, data)
        except VerificationFailedError:
            return None


def gather(
    site: str, registers: Mapping[str, Registers], opening: Opener, spread: Spread = one_by_one
) -> tuple[dict[str, Report], dict[str, str]]:
    """The newest report of each vantage point, and what was wrong in which region.  Damaged reports are problems."""
    damaged: dict[str, str] = {}

    def read(region: str) -> Mapping[str, Report]:
        shown = {}
        for vantage in registers:
            found = registers[region].read(key_of(site, vantage))
            try:
                if found is not None:
                    shown[vantage] = opening(vantage, found.data)
            except VerificationFailedError as error:
                damaged[region] = error.message
        return shown

    newest, problems = _merge(spread(read, registers))
    return newest, {**damaged, **problems}


def _merge(answers: Mapping[str, Mapping[str, Report] | VedrError]) -> tuple[dict[str, Report], dict[str, str]]:
    """The report with the highest number of each vantage point, and the regions that did not answer."""
    newest: dict[str, Report] = {}
    problems: dict[str, str] = {}
    for region, answer in answers.items():
        if isinstance(answer, VedrError):
            problems[region] = answer.message
            continue
        for vantage, report in answer.items():
            if vantage not in newest or report.number > newest[vantage].number:
                newest[vantage] = report
    return newest, problems
