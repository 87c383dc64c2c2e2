"""Where validators' key files sign, as the ledger tells.

Guarantees: the newest promotion is believed, by its lease; a ledger that can't be read is an error, never "at home"; a
run that is closed is read once in a process.
Leaves out: whether a host does sign, or can be fenced; moving keys (`promotion`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from vedr.failover.promotion_record import ArmedAt, armed_in
from vedr.ledger import RunId, is_closed
from vedr.policies.key_files import KeyFile
from vedr.runbook.journal import Journal

MOVERS: Final = ("RB-DR-002", "RB-DR-003", "failback")


class KeyHolders:
    """The hosts of a site's key files."""

    def __init__(self, key_files: Sequence[KeyFile], journal: Journal) -> None:
        self._homes: Final = tuple(one.validator for one in key_files)
        self._journal = journal
        self._closed: dict[RunId, Mapping[str, ArmedAt]] = {}

    def look(self) -> dict[str, str]:
        """By validator, the host where its key file signs, or did last: its own when no run ever moved it.

        Raises:
            CorruptError, UnavailableError: the ledger does not tell.
        """
        newest: dict[str, ArmedAt] = {}
        for run_id in self._runs():
            for name, armed in self._armed_in(run_id).items():
                newest[name] = max(armed, newest.get(name, armed), key=lambda one: one.epoch)
        return {name: newest[name].host if name in newest else name for name in self._homes}

    def _runs(self) -> list[RunId]:
        return [run_id for runbook in MOVERS for run_id in self._journal.runs_of(runbook)] if self._homes else []

    def _armed_in(self, run_id: RunId) -> Mapping[str, ArmedAt]:
        known = self._closed.get(run_id)
        if known is None:
            entries = self._journal.read(run_id).entries
            known = armed_in(entries)
            if is_closed(entries):
                self._closed[run_id] = known
        return known
