"""Which providers in reserve serve with another's state, and the newest of it, as the ledger of failovers and ways home
says.

Guarantees: nothing is changed; a ledger that can't be read is an error, never "all at home"; a snapshot that a provider
stored while it served with one state is never taken for another's.
Leaves out: whether they do serve.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from vedr.adapters.site import OpenSite
from vedr.backup.layout import parse_id
from vedr.backup.repository import Listed, list_snapshots
from vedr.errors import NotFoundError
from vedr.inventory import Provider
from vedr.ledger import Entry

MOVERS: Final = ("RB-DR-002", "RB-DR-003", "failback")
_STEPS: Final = ("hand_over", "give_back")
_READ_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Passed:
    """A state that went from one provider to another: what the taker stored from `since` on is that state."""

    giver: str
    taker: str
    since: dt.datetime
    until: dt.datetime
    """When the giver's last snapshot of it was taken already."""


def states_away(opened: OpenSite) -> dict[str, str]:
    """By provider that serves with another's state, that other; its own at home is nobody's to give."""
    return away_by(passings(opened))


def away_by(history: Iterable[Passed]) -> dict[str, str]:
    """As `states_away`, from the history."""
    serves: dict[str, str] = {}
    for one in history:
        serves[one.taker] = serves.pop(one.giver, one.giver)  # a reserve's state is of whom it took it from
    return {taker: owner for taker, owner in serves.items() if taker != owner}


def passings(opened: OpenSite) -> tuple[Passed, ...]:
    """All that failovers and ways home ever passed on, the oldest first."""
    if not opened.site.providers:
        return ()
    run_ids = [run_id for runbook in MOVERS for run_id in opened.journal.runs_of(runbook)]
    with ThreadPoolExecutor(_READ_AT_ONCE, "handovers") as pool:
        runs = pool.map(lambda run_id: tuple(_passed_in(opened.journal.read(run_id).entries)), run_ids)
        return tuple(sorted((one for run in runs for one in run), key=lambda one: (one.until, one.giver)))


def _passed_in(entries: Sequence[Entry]) -> Iterator[Passed]:
    begun: dict[str, dt.datetime] = {}
    for entry in entries:
        key = str(entry.payload.get("step"))
        if key.partition(":")[0] not in _STEPS:
            continue
        if entry.kind == "step_started":
            begun[key] = entry.time
        result = entry.payload.get("result")
        if entry.kind == "step_completed" and isinstance(result, dict):
            yield Passed(str(result["provider"]), str(result["reserve"]), begun.get(key, entry.time), entry.time)


def earlier_holders(history: Sequence[Passed], holder: str) -> tuple[str, ...]:
    """Who had the state that this one serves with before it, the newest first, but for those that serve with another
    now: none of them may run with it.
    """
    away = away_by(history)
    found: dict[str, None] = {}
    owner = away.get(holder, holder)
    for one in reversed(history):
        if holder == owner:
            break
        if one.taker == holder:
            holder = one.giver
            found[holder] = None
    return tuple(name for name in found if name not in away)


def newest_state(opened: OpenSite, history: Sequence[Passed], holder: Provider) -> Listed:
    """The newest snapshot of the state that this provider serves with: its own since it has it, or else the newest of
    whoever it has it from.

    Raises:
        NotFoundError: none was ever stored.
    """
    providers = {provider.name: provider for provider in opened.site.providers}
    past, name, until = list(history), holder.name, None
    while provider := providers.get(name):
        while past and past[-1].taker != name:
            past.pop()
        taken = past.pop() if past else None
        since = taken.since.replace(microsecond=0) if taken else None  # ids tell whole seconds
        for one in list_snapshots(opened.repository, provider.region, "provider", name=name).snapshots:
            at = parse_id(one.id).created_at
            if (until is None or at <= until) and (since is None or at >= since):
                return one
        if taken is None:
            break
        name, until = taken.giver, taken.until
    raise NotFoundError(
        f"no state of {holder.name} is in any store",
        remedy="Start the reserve afresh by hand; let provider-state-backup run on its schedule.",
    )
