"""One look at a site for the continuity plan: services, chain, where users are sent, the ledger, monitoring; at once.

Guarantees: a look ends in bounded time; whatever cannot be seen is a reason in the signals, never an error.
Leaves out: judging (vedr.continuity.severity).
"""

import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import httpx

from vedr.adapters.probing import SiteProber
from vedr.adapters.site import OpenSite
from vedr.chain.quorum import map_power
from vedr.chain.rpc import signing_lately
from vedr.continuity.sighting import Seen, Tip, Way, signals_of
from vedr.continuity.signals import Signals
from vedr.errors import NotFoundError, UnavailableError, VedrError
from vedr.failover.health import Answer
from vedr.ledger import Entry

DEADLINE_S: Final = 3.0  # for each service
NEWEST_INCIDENTS: Final = 50  # older ones that are still open are found by `vedr ledger list`
_WITNESSES: Final = 3
_NS_PER_S: Final = 1_000_000_000
T = TypeVar("T")


def look_around(opened: OpenSite, *, deadline_s: float = DEADLINE_S) -> Signals:
    """The site's signals, now."""
    with ThreadPoolExecutor(4, thread_name_prefix="look") as pool:
        services = pool.submit(_services, opened, deadline_s)
        ways = pool.submit(_try, lambda: _ways(opened))
        runs = pool.submit(_try, lambda: _runs(opened))
        monitoring = pool.submit(_monitoring, opened.site.continuity.monitoring_url, deadline_s)
        answers = services.result()
        seen = Seen(answers, _try(lambda: _tip(opened, answers)), ways.result(), runs.result(), monitoring.result())
    return signals_of(opened.site, seen, opened.journal.clock())


def _services(opened: OpenSite, deadline_s: float) -> Sequence[Answer]:
    prober = SiteProber(opened.site, None, deadline_s=deadline_s)
    try:
        return prober.look()
    finally:
        prober.close()


def _tip(opened: OpenSite, answers: Sequence[Answer]) -> Tip:
    """By the highest of the nodes that answer; on to the next when one cannot tell."""
    heights = {answer.service.name: answer.height for answer in answers if answer.height}
    highest = sorted(heights, key=lambda name: -heights[name])[:_WITNESSES]
    why = "no node answers"
    for name in highest:
        rpc = opened.rpc(opened.site.node(name))
        try:
            signed = rpc.commit()
            powers = map_power(opened.site, rpc.validators(signed.header.height))
        except (UnavailableError, NotFoundError) as error:
            why = error.message
            continue
        at = dt.datetime.fromtimestamp(signed.header.time_ns / _NS_PER_S, dt.UTC)
        return Tip(at, powers, signing_lately(rpc, signed.header.height))
    raise UnavailableError(why, remedy="Look at the nodes' RPC from this host.")


def _ways(opened: OpenSite) -> list[Way]:
    """Every backend and what it serves; one that does not answer is passed over when another does."""
    if not opened.site.traffic.backends:
        return []
    found, errors = [], []
    by_name = {traffic.backend.name: traffic.backend for traffic in opened.traffic.backends}
    for picture in opened.traffic.pictures():
        if isinstance(picture, VedrError):
            errors.append(picture)
        else:
            found.append(Way(by_name[picture.backend], picture))
    if not found and errors:
        raise errors[0]
    return found


def _runs(opened: OpenSite) -> list[Sequence[Entry]]:
    return [opened.journal.read(run_id).entries for run_id in opened.journal.runs("inc-")[-NEWEST_INCIDENTS:]]


def _monitoring(url: str, deadline_s: float) -> bool | None:
    if not url:
        return None
    try:
        return httpx.get(url, timeout=deadline_s, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _try(question: Callable[[], T]) -> T | VedrError:
    try:
        return question()
    except VedrError as error:
        return error
