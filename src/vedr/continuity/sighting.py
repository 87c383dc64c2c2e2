"""From what was seen of single services to the signals that the plan asks for.

Guarantees: pure; what was not seen is named in `unseen`.  Users are counted by where they are sent now: a gateway that
traffic was moved away from is missed by nobody.
Leaves out: looking (vedr.adapters.continuity_signals).
"""

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from vedr.chain import quorum
from vedr.chain.quorum import PowerMap
from vedr.continuity.functions import Function
from vedr.continuity.incident import is_exercise
from vedr.continuity.signals import Answering, Breach, OpenIncident, Percent, Signals
from vedr.errors import VedrError
from vedr.failover.health import Answer
from vedr.failover.traffic import Backend, Picture
from vedr.inventory import Site
from vedr.ledger import Entry, is_closed
from vedr.runbook.timing import measure

T = TypeVar("T")
_BREACH_RUNBOOK: Final = "RB-DR-005"


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest block that anybody showed, and who signed it."""

    at: dt.datetime
    powers: PowerMap
    online: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Way:
    """A backend of traffic, and what it serves now."""

    backend: Backend
    picture: Picture


@dataclass(frozen=True, slots=True)
class Seen:
    """One look.  An error stands where nothing could be seen; `monitoring` is None when no address is known."""

    answers: Sequence[Answer]
    tip: Tip | VedrError
    ways: Sequence[Way] | VedrError
    runs: Sequence[Sequence[Entry]] | VedrError
    monitoring: bool | None


def signals_of(site: Site, seen: Seen, at: dt.datetime) -> Signals:
    """The signals of one look."""
    unseen: dict[str, str] = {}
    up = {answer.service.name for answer in seen.answers if answer.answers}
    tip = _got(seen.tip, "blocks", unseen)
    ways = _got(seen.ways, "gateways", unseen)
    runs = _got(seen.runs, "incidents", unseen)
    if seen.monitoring is None:
        unseen["monitoring"] = "no address is known: [continuity] monitoring_url"
    impact = quorum.assess(tip.powers, tip.online) if tip else None
    used = None if ways is None else _used(site, ways)
    incidents = None if runs is None else open_incidents(runs)
    return Signals(
        at=at,
        last_block_at=tip.at if tip else None,
        power=Answering(impact.online, impact.total) if impact else None,
        fragile=bool(impact and any(domain.kind == "node" for domain in impact.halting)),
        gateways=None if used is None else _count(used, up),
        unreached_pct=None if ways is None else unreached_pct(site, ways, up),
        providers=_count([one.name for one in site.providers if not one.reserve], up),
        regions={name: any(a.answers for a in seen.answers if a.service.region == name) for name in site.regions},
        monitoring=seen.monitoring,
        incidents=incidents,
        breach=None if runs is None else breach_of(runs),
        absent=absent_of(site),
        unseen=unseen,
    )


def absent_of(site: Site) -> tuple[Function, ...]:
    """What the site's file has nothing of, in reserve or not."""
    parts = {Function.GATEWAY: site.gateways, Function.PROVIDER: site.providers}
    return tuple(function for function, things in parts.items() if not things)


def unreached_pct(site: Site, ways: Sequence[Way], up: Collection[str]) -> Percent:
    """The share of users who are sent to endpoints of which no gateway answers; the worst of all names.

    Without backends, users are where the regions' part of the workload is.
    """
    shares = []
    for way in ways:
        dead = {one.name for one in way.backend.endpoints if not any(name in up for name in one.gateways)}
        for name, share in way.picture.names.items():
            total = sum(share.weights.values())
            if name in site.traffic.global_names:
                lost = sum(weight for to, weight in share.weights.items() if to in dead)
                shares.append(100 * lost / total if total else 100.0)  # a name that leads nowhere serves nobody
    return Percent(round(max(shares))) if shares else _unreached_by_workload(site, up)


def _unreached_by_workload(site: Site, up: Collection[str]) -> Percent:
    lost = total = 0.0
    for name, region in site.regions.items():
        gateways = [one.name for one in site.gateways if one.region == name and not one.reserve]
        if gateways:
            total += region.workload_pct
            lost += region.workload_pct * sum(one not in up for one in gateways) / len(gateways)
    return Percent(round(100 * lost / total) if total else 0)


def open_incidents(runs: Iterable[Sequence[Entry]]) -> tuple[OpenIncident, ...]:
    """The runs that nobody closed, but for exercises."""
    found = []
    for entries in runs:
        if entries and not is_closed(entries) and not is_exercise(entries):
            measured = measure(entries)
            found.append(OpenIncident(entries[0].run_id, measured.runbook, measured.detected_at))
    return tuple(found)


def breach_of(runs: Iterable[Sequence[Entry]]) -> Breach:
    """By the open runs of RB-DR-005, and how sure who ordered them was."""
    found: Breach = "none"
    for entries in runs:
        opened = entries[0].payload if entries else {}
        if opened.get("runbook") != _BREACH_RUNBOOK or is_closed(entries) or is_exercise(entries):
            continue
        order = opened.get("order")
        if isinstance(order, dict) and order.get("certainty") == "confirmed":
            return "confirmed"
        found = "suspected"
    return found


def _used(site: Site, ways: Sequence[Way]) -> list[str]:
    """Gateways that users are sent to; without backends, all that are not in reserve."""
    served = {
        gateway
        for way in ways
        for name, share in way.picture.names.items()
        for endpoint in way.backend.endpoints
        if name in site.traffic.global_names and endpoint.name in share.serving
        for gateway in endpoint.gateways
    }
    return [one.name for one in site.gateways if (one.name in served if ways else not one.reserve)]


def _count(names: Collection[str], up: Collection[str]) -> Answering:
    return Answering(sum(name in up for name in names), len(names))


def _got(found: T | VedrError, what: str, unseen: dict[str, str]) -> T | None:
    if isinstance(found, VedrError):
        unseen[what] = found.message
        return None
    return found
