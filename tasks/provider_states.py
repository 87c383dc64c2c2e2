"""Which providers in reserve serve with another's state, as the ledger of the failovers and ways home says.

Guarantees: nothing is changed; a ledger that can't be read is an error, never "all at home".
Leaves out: whether they do serve.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vedr.adapters.site import OpenSite
from vedr.ledger import Entry

MOVERS: Final = ("RB-DR-002", "RB-DR-003", "failback")
_STEPS: Final = ("hand_over", "give_back")
_READ_AT_ONCE: Final = 8


def states_away(opened: OpenSite) -> dict[str, str]:
    """By provider that serves with another's state, that other; its own at home is nobody's to give."""
    if not opened.site.providers:
        return {}
    run_ids = [run_id for runbook in MOVERS for run_id in opened.journal.runs_of(runbook)]
    with ThreadPoolExecutor(_READ_AT_ONCE, "handovers") as pool:
        runs = pool.map(lambda run_id: opened.journal.read(run_id).entries, run_ids)
        handed = sorted((entry for entries in runs for entry in entries if _is_handover(entry)), key=_when)
    serves: dict[str, str] = {}
    for entry in handed:
        result = entry.payload["result"]
        if isinstance(result, dict):
            given, taker = str(result["provider"]), str(result["reserve"])
            serves[taker] = serves.pop(given, given)  # a reserve's state is of whom it took it from
    return {taker: owner for taker, owner in serves.items() if taker != owner}


def _is_handover(entry: Entry) -> bool:
    return entry.kind == "step_completed" and str(entry.payload.get("step")).partition(":")[0] in _STEPS


def _when(entry: Entry) -> tuple[str, str]:
    return entry.time.isoformat(), str(entry.payload.get("step"))
