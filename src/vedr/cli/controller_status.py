"""What `vedr controller status` shows: every vantage point's verdicts, the lease, and what would be done now."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.markup import escape
from rich.table import Table

from vedr.adapters.probing import ChainProbe
from vedr.adapters.site import OpenSite, utc_now
from vedr.chain.quorum import Domain
from vedr.cli.output import stdout
from vedr.errors import VedrError
from vedr.failover.controller import Decision, Places, Surroundings, decide, is_fresh, places_of
from vedr.failover.controller_lease import AtOnce, Seen
from vedr.failover.controller_lease import look as look_at_book
from vedr.failover.controller_lease import opener as book_opener
from vedr.failover.controller_ledger import JournalLedger, open_ones
from vedr.failover.controller_loop import request_for
from vedr.failover.controller_reports import Report, gather, opener
from vedr.failover.health import Verdict
from vedr.failover.key_places import signing_hosts
from vedr.policies.controller import ControllerPolicy
from vedr.signature import Json


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that is shown."""

    site: str
    at: dt.datetime
    policy: ControllerPolicy
    places: Places
    book: Seen
    reports: Mapping[str, Report]
    problems: Mapping[str, str]
    decisions: tuple[Decision, ...]


def look(opened: OpenSite, now: dt.datetime) -> Status:
    """Read it all; a region, ledger or chain that is away is shown as such."""
    site, places = opened.site, places_of(opened.site)
    spread = AtOnce(len(site.regions))
    try:
        trusted = site.signing.trusted
        book = look_at_book(site.name, opened.registers, book_opener(site.name, trusted), spread)
        found, problems = gather(site.name, opened.registers, opener(site.name, trusted), spread)
    finally:
        spread.close()
    reports = {vantage: replace(report, heard_at=min(now, report.at)) for vantage, report in found.items()}
    around = _surroundings(opened)
    decisions = decide(site.controller, places, reports, book.page.outages, around=around, now=now)
    return Status(site.name, now, site.controller, places, book, reports, problems, decisions)


def chain_probe(opened: OpenSite) -> ChainProbe:
    """Asks the site's chain, with every key where it signs now."""

    def hosts() -> Mapping[str, str | None]:
        return signing_hosts(opened.site, opened.registers, opened.key_holders)

    return ChainProbe(opened.site, opened.rpc, hosts, utc_now)


def _surroundings(opened: OpenSite) -> Surroundings:
    around = Surroundings()
    try:
        around = replace(around, incidents=open_ones(JournalLedger(opened.journal).incidents()))
    except VedrError as error:
        around = replace(around, ledger_problem=error.message)
    try:
        return replace(around, chain=chain_probe(opened)())
    except VedrError as error:
        return replace(around, chain_problem=error.message)


# --- as JSON


def document(status: Status) -> Json:
    """One document, for machines."""
    epoch, holder = status.book.leader
    return {
        "site": status.site,
        "at": _text(status.at),
        "lease": {
            "epoch": epoch,
            "holder": holder or None,
            "is_majority": status.book.is_majority,
            "beat": status.book.page.beat,
            "problems": dict(status.book.problems),
        },
        "vantages": {name: _vantage_json(status, name) for name in status.places.regions},
        "places": [_decision_json(status, decision) for decision in status.decisions],
        "problems": dict(status.problems),
    }


def _vantage_json(status: Status, name: str) -> Json:
    report = status.reports.get(name)
    if report is None:
        return None
    return {
        "process": report.process,
        "number": report.number,
        "at": _text(report.at),
        "age_ms": _age_ms(status, report),
        "height": report.height,
        "is_fresh": is_fresh(status.policy, report, status.at),
    }


def _decision_json(status: Status, decision: Decision) -> Json:
    outage = decision.outage
    return {
        "kind": decision.domain.kind,
        "name": decision.domain.name,
        "agreed": decision.agreement.state,
        "verdicts": {
            vantage: _verdict_json(verdict) for vantage, verdict in _verdicts(status, decision.domain).items()
        },
        "outage": None
        if outage is None
        else {"id": outage.id, "state": outage.state, "opened_at": _text(outage.opened_at), "note": outage.note},
        "action": decision.action,
        "why": decision.why,
        "impact": decision.impact,
        "reasons": list(decision.reasons),
        "command": "" if outage is None else request_for(decision, outage).command,
    }


def _verdict_json(verdict: Verdict) -> Json:
    return {
        "confirmed": verdict.confirmed,
        "good": verdict.good,
        "bad": verdict.bad,
        "since": _text(verdict.since),
        "reasons": list(verdict.reasons),
    }


# --- for people


def show(status: Status) -> None:
    """Tables on standard output."""
    epoch, holder = status.book.leader
    stdout.print(f"[bold]{status.site}[/]: the lease is held by {escape(holder or 'nobody')}, epoch {epoch}")
    for region, problem in status.book.problems.items():
        stdout.print(f"  book in {region}: {problem}", markup=False, highlight=False)
    for name in status.places.regions:
        stdout.print(f"  {_vantage_words(status, name)}", markup=False, highlight=False)
    table = Table("place", *status.places.regions, "since", "agreed", "what would be done", box=None)
    for decision in status.decisions:
        verdicts = _verdicts(status, decision.domain)
        cells = [str(verdicts[vantage]) if vantage in verdicts else "-" for vantage in status.places.regions]
        since = max((verdict.since for verdict in verdicts.values()), default=None)
        table.add_row(
            str(decision.domain),
            *cells,
            "-" if since is None else f"{since:%m-%d %H:%M:%S}",
            decision.agreement.state,
            escape("-" if decision.action == "nothing" else f"{decision.action}: {decision.why}"),
        )
    stdout.print(table)
    for decision in status.decisions:
        if decision.outage is not None and decision.action != "close":
            _show_outage(decision)


def _show_outage(decision: Decision) -> None:
    outage = decision.outage
    if outage is None:
        return
    stdout.print(f"{outage.id}: {outage.state}; {decision.impact}", markup=False, highlight=False)
    for reason in decision.reasons:
        stdout.print(f"  {reason}", markup=False, highlight=False)
    stdout.print(f"  by hand: {request_for(decision, outage).command}", markup=False, highlight=False)


def _vantage_words(status: Status, name: str) -> str:
    report = status.reports.get(name)
    if report is None:
        return f"{name}: no report"
    stale = "" if is_fresh(status.policy, report, status.at) else ", STALE: it does not count"
    age_s = _age_ms(status, report) / 1000
    return f"{name}: report {report.number}, {age_s:.1f} s old{stale}, height {report.height}, by {report.process}"


def _verdicts(status: Status, domain: Domain) -> dict[str, Verdict]:
    return {
        vantage: verdict
        for vantage in status.places.regions
        if (report := status.reports.get(vantage)) and (verdict := report.verdicts.get(domain))
    }


def _age_ms(status: Status, report: Report) -> int:
    return max(0, round((status.at - report.at).total_seconds() * 1000))


def _text(time: dt.datetime) -> str:
    return time.isoformat(timespec="milliseconds")
