"""Appending to a run: the one process that may, until somebody else does.

Guarantees: an append that returned is in the ledger once, however often it was tried; a writer that lost an entry to
somebody else's never writes again; nothing follows the entry that closes a run.
Leaves out: deciding an entry among the regions (vedr.runbook.journal), and patience (vedr.runbook.run).
"""

import threading
from collections.abc import Mapping
from typing import Final, Protocol

from vedr.errors import ConflictError, UnavailableError
from vedr.ledger import GENESIS, Entry, Kind, RunId, Sealed, check_successor, seal_entry
from vedr.ports import Clock
from vedr.signature import Json, Signer


class Committing(Protocol):
    """What a writer needs of vedr.runbook.journal.Journal."""

    @property
    def site(self) -> str:
        """Whose ledger it is."""

    @property
    def signer(self) -> Signer:
        """Signs entries."""

    @property
    def clock(self) -> Clock:
        """Dates entries."""

    def commit(self, sealed: Sealed, last: Sealed | None) -> Sealed:
        """Propose it after `last`; the entry that was decided there, which may be another writer's."""


class Writer:
    """Made by `Journal.open` and `Journal.resume`.  Thread-safe."""

    def __init__(self, journal: Committing, run_id: RunId, chain: tuple[Sealed, ...]) -> None:
        self._journal = journal
        self.run_id: Final = run_id
        self._chain = list(chain)
        self._pending: Sealed | None = None
        self._untold: list[Entry] = []  # tried, and whoever asked for it does not know yet that it was written
        self._lost: ConflictError | None = None
        self._lock = threading.Lock()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What the run holds, as far as this writer wrote or read it."""
        with self._lock:
            return tuple(sealed.entry for sealed in self._chain)

    @property
    def epoch(self) -> int:
        with self._lock:
            return self._chain[-1].entry.epoch if self._chain else 1

    def check(self) -> None:
        """ConflictError when an append was lost to somebody else's; only the ledger's next entry tells for sure."""
        if self._lost:
            raise self._lost

    def append(self, kind: Kind, payload: Mapping[str, Json]) -> Entry:
        """Write the next entry.

        Raises:
            ConflictError: the run is closed, or somebody else writes it and this writer is fenced for good.
            UnavailableError: no majority of regions answered; call again, nothing is written twice.
        """
        with self._lock:
            if self._pending:  # it may have reached a region: the same bytes, or our own orphan would stand in our way
                self._commit(self._pending)
            for tried in self._untold:
                if (tried.kind, tried.payload) == (kind, payload):
                    self._untold.remove(tried)
                    return tried
            sealed = self._sealed(kind, payload)
            try:
                self._commit(sealed)
            except UnavailableError:
                self._untold.append(sealed.entry)
                raise
            return sealed.entry

    def _sealed(self, kind: Kind, payload: Mapping[str, Json]) -> Sealed:
        last = self._chain[-1] if self._chain else None
        if last and last.entry.kind == "closed":
            raise ConflictError(f"run {self.run_id} is closed: no {kind} can follow", remedy="Start a new run.")
        entry = Entry(
            site=self._journal.site,
            run_id=self.run_id,
            seq=last.entry.seq + 1 if last else 0,
            kind=kind,
            time=self._journal.clock(),
            epoch=(last.entry.epoch if last else 1) + (kind == "resumed"),
            payload=dict(payload),
            prev=last.digest if last else GENESIS,
        )
        sealed = seal_entry(entry, self._journal.signer)
        check_successor(last, sealed)
        return sealed

    def _commit(self, sealed: Sealed) -> None:
        self.check()
        self._pending = sealed
        decided = self._journal.commit(sealed, self._chain[-1] if self._chain else None)
        self._pending = None
        if decided.data != sealed.data:
            self._lost = ConflictError(
                f"run {self.run_id}: somebody else wrote entry {sealed.entry.seq}; this process must not act any more",
                remedy=f"See who: vedr ledger show {self.run_id}.",
            )
            raise self._lost
        self._chain.append(sealed)
