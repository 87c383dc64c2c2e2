"""Every kind of stored thing that is damaged, and how the trials are shared out among them.

Guarantees: the same seed and count give the same trials, whichever of them are run.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.corrupting.chains import Appointments, ShippedSignStates, SignStateRegisters, TrustAnchors
from bench.corrupting.custody import Envelopes, KeyBackups, ShareRecords
from bench.corrupting.ledgers import EvidencePages, HsmReferences, Ledger
from bench.corrupting.nodes import NodeData
from bench.corrupting.snapshots import Fill, Snapshots, VerificationRecords, fill_config, fill_provider, fill_tables
from bench.corrupting.trial import Subject
from vedr.backup.layout import Kind

KEY: Final = bytes(range(32))
Maker = Callable[[Path], Subject]


class Entry(NamedTuple):
    """A subject: how it is made, and how many of some hundred trials are its own."""

    make: Maker
    share: int


def _snapshots(name: str, kind: Kind, fill: Fill, key: bytes | None) -> Maker:
    return lambda folder: Snapshots(folder, name=name, kind=kind, fill=fill, key=key)


SUBJECTS: Final[dict[str, Entry]] = {
    "chain snapshots": Entry(_snapshots("chain snapshots", "state", fill_tables, None), 12),
    "encrypted chain snapshots": Entry(_snapshots("encrypted chain snapshots", "state", fill_tables, KEY), 12),
    "config backups": Entry(_snapshots("config backups", "config", fill_config, None), 6),
    "provider state backups": Entry(_snapshots("provider state backups", "provider", fill_provider, KEY), 6),
    "verification records": Entry(VerificationRecords, 5),
    "ledger entries": Entry(Ledger, 20),
    "evidence bundles": Entry(EvidencePages, 8),
    "hsm references": Entry(HsmReferences, 6),
    "envelopes": Entry(Envelopes, 10),
    "key backups": Entry(KeyBackups, 10),
    "share records": Entry(ShareRecords, 4),
    "trust anchors": Entry(TrustAnchors, 8),
    "register contents": Entry(SignStateRegisters, 5),
    "shipped sign-state": Entry(ShippedSignStates, 4),
    "appointments": Entry(Appointments, 4),
}
SLOW: Final[dict[str, Entry]] = {"a real node's databases": Entry(NodeData, 1)}
"""Each look runs a program: these are asked for by name."""


@contextlib.contextmanager
def opened(name: str, folder: Path) -> Iterator[Subject]:
    """The subject, with its original state made."""
    subject = (SUBJECTS | SLOW)[name].make(folder)
    try:
        yield subject
    finally:
        subject.close()


def shared_out(count: int, only: str | None = None) -> dict[str, int]:
    """How many trials each subject gets: by its share, one at least, `count` in all; or all of them one subject."""
    if only is not None:
        return {only: count}
    total = sum(entry.share for entry in SUBJECTS.values())
    parts = {name: max(1, count * entry.share // total) for name, entry in SUBJECTS.items()}
    largest = max(parts, key=lambda name: parts[name])
    parts[largest] += max(0, count - sum(parts.values()))
    return parts
