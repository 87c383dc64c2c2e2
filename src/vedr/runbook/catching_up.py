"""Bring regions that were away up to date with the newest runs, whichever process wrote these.

A run heals its own entries when it ends.  A region that was still away then would lack them for good; so every run at
its end, and the watchdog every five minutes, compare what the regions list and heal the runs in which they differ.

Guarantees: only decided entries are copied, as `Journal.heal` does; a run that cannot be read keeps no other one back;
regions that agree cost one listing of each day.
Leaves out: runs that are older: `vedr ledger heal` looks at all.
"""

import contextlib
import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from vedr.errors import VedrError
from vedr.ledger import RUN_ID, RunId
from vedr.ports import ObjectStore
from vedr.runbook.journal import ROOT, Healed, Journal

LATELY_DAYS: Final = 2
"""As far back as a run looks when it ends: an incident and the way home from it."""

A_WEEK_DAYS: Final = 7
_KINDS: Final = ("inc", "run")

Listed = Mapping[RunId, frozenset[str]]


def catch_up(journal: Journal, *, days: int) -> tuple[Healed, ...]:
    """Heal every run of these days in which regions differ; what was given.

    Raises:
        UnavailableError: fewer than a majority of the regions answered.
    """
    healed = []
    for run_id in behind(journal, days=days):
        with contextlib.suppress(VedrError):  # its chain does not hold, or the region is gone again
            healed.append(journal.heal(run_id))
    return tuple(one for one in healed if any(one.given.values()))


def behind(journal: Journal, *, days: int) -> tuple[RunId, ...]:
    """Runs of these days of which regions that answer hold different entries, oldest first.

    Raises:
        UnavailableError: as above.
    """
    today = journal.clock().date()
    names = [(today - dt.timedelta(days=back)).strftime("%Y%m%d") for back in range(days)]
    prefixes = [f"{ROOT}/{kind}-{name}" for name in names for kind in _KINDS]
    answers = journal.replicas.gather(lambda store: _listed(store, prefixes), what="compare the regions' ledgers")
    runs = {run_id for answer in answers.values() for run_id in answer}
    apart = (run_id for run_id in runs if len({answer.get(run_id, frozenset()) for answer in answers.values()}) > 1)
    return tuple(sorted(apart, key=lambda run_id: run_id.split("-", 1)[1]))


def _listed(store: ObjectStore, prefixes: list[str]) -> Listed:
    """By run, the places of which the region holds an entry, whichever copy it is."""
    found: defaultdict[RunId, set[str]] = defaultdict(set)
    for prefix in prefixes:
        for one in store.list(prefix):
            _, run_id, name = one.key.split("/", 2)
            if RUN_ID.fullmatch(run_id):
                found[RunId(run_id)].add(name.partition(".")[0])
    return {run_id: frozenset(places) for run_id, places in found.items()}
