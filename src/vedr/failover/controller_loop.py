"""One controller: looks, publishes, reads what the others saw, and, while it holds the lease, does what was decided.

A start, in this order:
    1. The book says `starting`, and which way, in a majority of the regions under this holder's epoch.
    2. The start is on record in the stores, once for this outage and for ever.
    3. The lease is younger than half its life; then the runbook is started.
    4. The book says what came of it.
Whoever finds `starting` in the book goes on by the way it names: Prefect is asked again with the same key, which
makes no second run.  A plain process cannot be asked again: its run shows in the ledger, or a person is told.  The
plain way is taken where Prefect does not answer before 1, or has certainly not taken the order; never when that is
not known.

Guarantees: a runbook is started at most once for an outage, whichever controllers crash, freeze, or are cut off
between any two of these; without the lease nothing is written and nothing is started; an announcement that fails
stops nothing.
Leaves out: what the runbook does, which confirms the outage for itself and holds the place's own lease.
"""

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, VedrError
from vedr.failover.controller import (
    START_SHOWS_S,
    Agreement,
    Chain,
    Decision,
    Places,
    Surroundings,
    agree,
    decide,
)
from vedr.failover.controller_book import Outage, Way
from vedr.failover.controller_lease import Standing, Tenure
from vedr.failover.controller_ledger import Incident, Ledger, open_ones
from vedr.failover.controller_reports import Exchange, Report
from vedr.failover.controller_starting import Request, Result, Starter
from vedr.failover.health import Prober, Vantage, Verdict
from vedr.policies.controller import ControllerPolicy
from vedr.ports import Clock
from vedr.signature import Json

NoticeKind = Literal["opened", "proposed", "started", "start-unclear", "start-failed", "held-back", "closed", "lease"]
MAX_REASON: Final = 180  # of an order: it is read in a form
_SLACK: Final = dt.timedelta(seconds=60)  # between the controller's clock and a runbook's

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know.  `command`: what starts the runbook by hand, where that is a choice."""

    kind: NoticeKind
    at: dt.datetime
    text: str
    domain: Domain | None = None
    outage_id: str = ""
    command: str = ""


class Announcer(Protocol):
    """Tells people.  An error that it raises is logged and stops nothing."""

    def announce(self, notice: Notice) -> None:
        """Return soon: the controller waits."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one round saw and did, for metrics and tests."""

    at: dt.datetime
    verdicts: Mapping[Domain, Verdict]
    reports: Mapping[str, Report]
    published: tuple[str, ...]
    problems: Mapping[str, str]
    standing: Standing
    agreements: Mapping[Domain, Agreement]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Ways:
    """How runbooks are started: by the orchestrator, and without it."""

    prefect: Starter
    plain: Starter


@dataclass
class Controller:
    """The parts of one controller; `cycle` is called from one thread."""

    policy: ControllerPolicy
    places: Places
    vantage: Vantage
    prober: Prober
    exchange: Exchange
    tenure: Tenure
    ledger: Ledger
    ask_chain: Callable[[], Chain]
    ways: Ways
    clock: Clock
    announcers: Sequence[Announcer] = ()
    _said: dict[Domain, tuple[str, str]] = field(default_factory=dict)
    _leader: str | None = None
    _incidents: tuple[Incident, ...] | None = None  # None: the ledger could not tell

    def cycle(self) -> Cycle:
        """One round."""
        answers = self.prober.look()
        now = self.clock()
        verdicts = self.vantage.observe(answers, now)
        published = self.exchange.publish(verdicts, self.vantage.height)
        reports = self.exchange.gather()
        standing = self.tenure.keep()
        self._say_leader(standing)
        now = self.clock()
        agreements = {domain: agree(self.policy, self.places, reports, domain, now) for domain in verdicts}
        decisions: tuple[Decision, ...] = ()
        if standing.is_held:
            around = self._surroundings(agreements, standing)
            decisions = decide(self.policy, self.places, reports, standing.page.outages, around=around, now=now)
            self._act(decisions, standing)
        return Cycle(now, verdicts, reports, published, self.exchange.problems, standing, agreements, decisions)

    # --- before deciding

    def _surroundings(self, agreements: Mapping[Domain, Agreement], standing: Standing) -> Surroundings:
        is_quiet = all(agreement.state != "down" for agreement in agreements.values())
        if is_quiet and not any(outage.is_open for outage in standing.page.outages.values()):
            return Surroundings()
        incidents: Mapping[Domain, str] | None = None
        chain, ledger_problem, chain_problem = None, "", ""
        try:
            self._incidents = self.ledger.incidents()
            incidents = open_ones(self._incidents)
        except VedrError as error:
            self._incidents = None
            ledger_problem = error.message
        try:
            chain = self.ask_chain()
        except VedrError as error:
            chain_problem = error.message
        return Surroundings(incidents, ledger_problem, chain, chain_problem)

    # --- acting

    def _act(self, decisions: Sequence[Decision], standing: Standing) -> None:
        try:
            self._note_outages(decisions, standing)
            for decision in decisions:
                match decision.action:
                    case "propose":
                        self._propose(decision)
                    case "start":
                        self._start(decision)
                    case "resume":
                        self._resume(decision)
                    case "wait" | "watch":
                        self._follow_up(decision)
                self._say_held_back(decision)
        except VedrError as error:
            log.warning("the round ended early: %s", error.message)

    @property
    def _outages(self) -> dict[Domain, Outage]:
        return dict(self.tenure.page.outages)

    def _write(self, outage: Outage) -> Outage:
        """In the book, under this epoch."""
        written = replace(outage, changed_at=self.clock(), epoch=self.tenure.epoch)
        self.tenure.write({**self._outages, outage.domain: written})
        return written

    def _note_outages(self, decisions: Sequence[Decision], standing: Standing) -> None:
        """Outages that are new, and those that are over, in one write."""
        known, now = self._outages, self.clock()
        new = [
            replace(d.outage, changed_at=now, epoch=standing.epoch)
            for d in decisions
            if d.outage is not None and d.action != "close" and known.get(d.domain) != d.outage
        ]
        over = [
            replace(d.outage, state="closed", changed_at=now, epoch=standing.epoch)
            for d in decisions
            if d.outage is not None and d.action == "close"
        ]
        if not new and not over:
            return
        self.tenure.write({**known, **{outage.domain: outage for outage in (*new, *over)}})
        why = {decision.domain: decision for decision in decisions}
        for outage in new:
            self._announce("opened", outage, f"{outage.domain} is down ({why[outage.domain].agreement})")
        for outage in over:
            self._announce("closed", outage, f"{outage.domain} is {why[outage.domain].why}")

    def _propose(self, decision: Decision) -> None:
        outage = self._outages[decision.domain]
        request = request_for(decision, outage)
        self.ledger.once(outage.id, "proposal", _record(decision, outage, request))
        self._write(replace(outage, state="proposed", acted_at=self.clock(), note=decision.why))
        words = f"{decision.runbook} is proposed for {decision.domain}: {decision.why}. {decision.impact}"
        self._announce("proposed", outage, words, command=request.command)

    def _start(self, decision: Decision) -> None:
        outage = self._outages[decision.domain]
        way: Way = "prefect" if self.ways.prefect.answers() else "plain"
        began = self._write(replace(outage, state="starting", way=way, acted_at=self.clock(), note=decision.why))  # (1)
        request = request_for(decision, began)
        if not self._record_start(began, outage, decision, request):  # (2)
            self._finish(began, request, Result("ended", why="a later holder's start of it is on record"))
            return
        result = self._call(began, request)  # (3)
        if way == "prefect" and result.kind == "not-sent":
            began = self._write(replace(began, way="plain", note=f"not by Prefect: {result.why}"))
            result = self._call(began, request)
        self._finish(began, request, result)  # (4)

    def _record_start(self, began: Outage, before: Outage, decision: Decision, request: Request) -> bool:
        try:
            recorded = self.ledger.once(began.id, "start", _record(decision, began, request))
        except VedrError:
            self._write(before)  # nothing was called: the next round starts anew
            raise
        # An earlier epoch's record without its `starting` in the book is of a holder that never came to (3).
        return recorded <= began.epoch

    def _call(self, began: Outage, request: Request) -> Result:
        if self.tenure.age_s > self.policy.lease_s / 2:
            raise ConflictError(
                f"{request.outage_id}: recording its start took {self.tenure.age_s:.0f} s, too long to be sure of the"
                " lease",
                remedy="Nothing needs doing: the holder goes on in its next round.",
            )
        starter = self.ways.prefect if began.way == "prefect" else self.ways.plain
        return starter.start(request)

    def _resume(self, decision: Decision) -> None:
        outage = self._outages[decision.domain]
        request = request_for(decision, outage)
        if run := self._run_of(outage):
            self._finish(outage, request, Result("started", run.run_id))
        elif outage.way == "prefect":
            result = self.ways.prefect.start(request)
            self._finish(outage, request, result if result.kind == "started" else replace(result, kind="unclear"))
        elif self._age_s(outage) > START_SHOWS_S and self._incidents is not None:
            self._finish(outage, request, Result("ended", why="no run of it has appeared in the ledger"))

    def _finish(self, outage: Outage, request: Request, result: Result) -> None:
        """What came of a start, in the book and to people."""
        match result.kind:
            case "started":
                self._write(replace(outage, state="started", reference=result.reference, note=result.why))
                self._announce(
                    "started", outage, f"{request.runbook} was started for {outage.domain}: {result.reference}"
                )
            case "unclear":
                why = f"whether {request.runbook} was started is not known: {result.why}"
                if outage.note != why:
                    self._write(replace(outage, note=why))
                    self._announce("start-unclear", outage, why, command=request.command)
            case "not-sent" | "ended":
                self._write(replace(outage, state="failed", reference=result.reference, note=result.why))
                why = f"{request.runbook} could not be started for {outage.domain}: {result.why}"
                self._announce("start-failed", outage, why, command=request.command)

    def _follow_up(self, decision: Decision) -> None:
        """A started runbook shows in the ledger; say so, and say when it does not."""
        outage = self._outages.get(decision.domain)
        if outage is None or outage.state != "started":
            return
        run = self._run_of(outage)
        if run and outage.note != f"incident {run.run_id}":
            self._write(replace(outage, note=f"incident {run.run_id}"))
        elif not run and not outage.note and self._age_s(outage) > START_SHOWS_S and self._incidents is not None:
            self._write(replace(outage, note="no run of it has appeared in the ledger"))
            command = request_for(decision, outage).command
            words = f"{decision.runbook} was started ({outage.reference}), and no run of it has appeared in the ledger"
            self._announce("start-unclear", outage, words, command=command)

    def _run_of(self, outage: Outage) -> Incident | None:
        """The run of this outage's runbook that was opened after its start."""
        began = (outage.acted_at or outage.opened_at) - _SLACK
        runs = [i for i in self._incidents or () if i.domain == outage.domain and i.opened_at >= began]
        return runs[-1] if runs else None

    def _age_s(self, outage: Outage) -> float:
        return (self.clock() - (outage.acted_at or outage.opened_at)).total_seconds()

    # --- telling

    def _announce(self, kind: NoticeKind, outage: Outage, text: str, *, command: str = "") -> None:
        self._tell(Notice(kind, self.clock(), text, outage.domain, outage.id, command))

    def _say_held_back(self, decision: Decision) -> None:
        """Why nothing is done about a place that is down, once for each reason."""
        said = (decision.action, decision.why)
        if decision.action == "wait" and decision.outage and decision.outage.state == "open":
            if self._said.get(decision.domain) != said:
                self._announce(
                    "held-back", decision.outage, f"{decision.domain} is down; nothing is done: {decision.why}"
                )
            self._said[decision.domain] = said
        else:
            self._said.pop(decision.domain, None)

    def _say_leader(self, standing: Standing) -> None:
        if standing.problem or standing.holder == self._leader:
            return
        self._leader = standing.holder
        whose = "held by this controller" if standing.is_held else f"held by {standing.holder or 'nobody'}"
        self._tell(Notice("lease", self.clock(), f"the controllers' lease is {whose}, epoch {standing.epoch}"))

    def _tell(self, notice: Notice) -> None:
        for announcer in self.announcers:
            try:
                announcer.announce(notice)
            except Exception:  # a dead webhook must never stop a failover
                log.exception("an announcement failed: %s", notice.text)


def request_for(decision: Decision, outage: Outage) -> Request:
    """The order of the runbook that this outage asks for; the same one whoever makes it."""
    order = {
        decision.domain.kind: decision.domain.name,
        "detected_at": outage.opened_at.isoformat(timespec="milliseconds"),
        "reason": f"{outage.id}: {decision.domain} is down since {outage.first_failed_at:%H:%M:%S} UTC"[:MAX_REASON],
    }
    return Request(outage.id, decision.runbook, order, key=f"vedr-controller/{outage.id}")


def _record(decision: Decision, outage: Outage, request: Request) -> dict[str, Json]:
    return {
        "format": "vedr-controller-record/1",
        "outage": outage.id,
        "runbook": request.runbook,
        "order": dict(request.order),
        "epoch": outage.epoch,
        "first_failed_at": outage.first_failed_at.isoformat(timespec="milliseconds"),
        "why": decision.why,
        "agreement": str(decision.agreement),
        "impact": decision.impact,
        "reasons": list(decision.reasons),
    }
