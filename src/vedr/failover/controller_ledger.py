"""What the controller asks of the ledger, and keeps beside it: open incidents, and proposals and starts for ever.

`controller/outages/<outage id>/<proposal|start>.json` is a write-once slot in a majority of the regions' stores.

Guarantees: an incident that could not be read is an error, never "none"; of several documents `once` keeps one.
Leaves out: when to ask.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.chain.quorum import Domain
from vedr.errors import CorruptError, VerificationFailedError
from vedr.failover.controller import RUNBOOKS
from vedr.failover.controller_book import ROOT
from vedr.ledger import RunId, is_closed
from vedr.runbook.journal import Journal
from vedr.runbook.replicas import Slot
from vedr.signature import Json, open_document

RecordKind = Literal["proposal", "start"]
_LOOK_BACK_RUNS: Final = 30  # newest runs of each runbook; incidents are closed or abandoned long before


@dataclass(frozen=True, slots=True)
class Incident:
    """A run of a failover runbook."""

    run_id: RunId
    domain: Domain
    opened_at: dt.datetime
    is_open: bool


class Ledger(Protocol):
    """What the controller needs of it.  UnavailableError when no majority of the regions answers."""

    def incidents(self) -> tuple[Incident, ...]:
        """The newest runs of the failover runbooks, oldest first."""

    def once(self, outage_id: str, kind: RecordKind, document: Mapping[str, Json]) -> int:
        """Record it; the `epoch` of the document that is on record, which may be an earlier one.  Safe to repeat."""


class JournalLedger:
    """`Ledger` over the site's journal.  Not thread-safe."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._closed: dict[RunId, Incident | None] = {}

    def incidents(self) -> tuple[Incident, ...]:
        found = [
            incident
            for kind, runbook in RUNBOOKS.items()
            for run_id in self._journal.runs_of(runbook)[-_LOOK_BACK_RUNS:]
            if (incident := self._incident(run_id, kind)) is not None
        ]
        return tuple(sorted(found, key=lambda incident: incident.opened_at))

    def _incident(self, run_id: RunId, kind: str) -> Incident | None:
        if run_id in self._closed:
            return self._closed[run_id]
        entries = self._journal.read(run_id).entries
        if not entries:
            return None  # it is just being opened: the lease of its subject is what counts until then
        order = entries[0].payload.get("order")
        name = order.get(kind) if isinstance(order, dict) else None
        incident = None
        if isinstance(name, str):
            domain = Domain("zone", name) if kind == "zone" else Domain("region", name)
            incident = Incident(run_id, domain, entries[0].time, is_open=not is_closed(entries))
        if is_closed(entries):
            self._closed[run_id] = incident
        return incident

    def once(self, outage_id: str, kind: RecordKind, document: Mapping[str, Json]) -> int:
        data = self._journal.signer.seal_document(document)
        slot = Slot(f"{ROOT}/outages/{outage_id}/{kind}")
        decided = self._journal.replicas.propose(slot, data, lambda copy: self._epoch(copy, outage_id) is not None)
        epoch = self._epoch(decided, outage_id)
        if epoch is None:
            raise CorruptError(
                f"the {kind} of {outage_id} on record is not signed by this site", remedy="Find out who wrote it."
            )
        return epoch

    def _epoch(self, data: bytes, outage_id: str) -> int | None:
        try:
            signed = open_document(data, self._journal.trusted, what=outage_id)
        except VerificationFailedError:
            return None
        epoch = signed.get("epoch")
        return epoch if isinstance(epoch, int) and signed.get("outage") == outage_id else None


def open_ones(incidents: Iterable[Incident]) -> dict[Domain, str]:
    """The newest open incident of each place."""
    return {incident.domain: incident.run_id for incident in incidents if incident.is_open}
