"""Ninety days of backups and runs in the regions' buckets: 540 snapshots with their proofs, and the ledger.

Guarantees: manifests, placements, records and ledger entries are signed and opened as the real ones are; a run of each
kind is written by the real engine, and signed again for each time that it was made.
Leaves out: the snapshots' content, which is one small file.
"""

import contextlib
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from vedr.adapters.memory_store import MemoryStore
from vedr.backup.documents import rfc3339
from vedr.backup.layout import (
    Source,
    epoch_at,
    manifest_key,
    object_key,
    placement_key,
    snapshot_id,
    verification_key,
)
from vedr.backup.manifest import (
    ChainPoint,
    Extent,
    Facts,
    FileEntry,
    Manifest,
    ObjectEntry,
    PlacedObject,
    Placement,
    seal_manifest,
    seal_placement,
)
from vedr.backup.repository import Repository
from vedr.backup.verify import RECORD_FORMAT
from vedr.errors import ConflictError
from vedr.inventory import Height
from vedr.ledger import GENESIS, Entry, Pin, RunId, Sealed, pins_payload, seal_entry
from vedr.ports import ObjectKey
from vedr.runbook.journal import MAX_PINS, Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Signer

SNAPSHOTS: Final = 540
EVERY: Final = dt.timedelta(hours=4)
DAYS: Final = 90
CONTENT: Final = b"what stands for a node's data" * 40


class Clock:
    """A clock that moves when told to."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


class Job(Order):
    """What the made runs are given."""

    region: str = "rg-sim-00"


@step(title="Confirm", budget_s=30, acts=False)
def confirm(_: Context[Job]) -> str:
    """Two sources agree."""
    return "two sources agree"


@step(title="Act", budget_s=60)
def act(_: Context[Job]) -> str:
    """What the runbook is for."""
    return "done"


@step(title="Verify", budget_s=60, acts=False)
def look_again(_: Context[Job]) -> str:
    """What a user sees."""
    return "blocks advance"


STEPS: Final = [confirm, act, look_again]
INCIDENT: Final = Runbook("RB-DR-001", "Single node failure", Job, STEPS)
DRILL: Final = Runbook("drill-region", "Region drill", Job, STEPS, target_s=1800)
BACKUP: Final = Runbook("chain-snapshot", "Chain snapshot", Job, STEPS, target_s=3600)


def fill_buckets(repository: Repository, origin: str, now: dt.datetime) -> None:
    """The snapshots of an origin, in every region, every one of them verified."""
    source = Source(origin, "state", "n-00-02")
    for number in range(SNAPSHOTS):
        created = (now - EVERY * (SNAPSHOTS - number)).replace(microsecond=0)
        _put_snapshot(repository, source, created, Height(1000 + number))


def _put_snapshot(repository: Repository, source: Source, created: dt.datetime, height: Height) -> None:
    name = repository.codec.name(hashlib.sha256(CONTENT).digest())
    sealed = repository.codec.seal(name, CONTENT)
    epoch = epoch_at(created, repository.retention.epoch_days)
    snapshot = snapshot_id(source, created, height)
    file = FileEntry("application.db/000001.ldb", 0o600, len(CONTENT), 1, 1, 1, (Extent(0, 0, len(CONTENT)),), "")
    manifest = Manifest(
        snapshot, source, epoch, created, _facts(height), repository.codec.encryption,
        (ObjectEntry(name, len(CONTENT)),), (file,), (),
    )  # fmt: skip
    verified = seal_manifest(manifest, repository.signer)
    at = created + dt.timedelta(minutes=30)
    record = repository.signer.seal_document(
        {
            "format": RECORD_FORMAT, "snapshot": snapshot, "origin": source.origin, "kind": source.kind, "depth": 3,
            "at": rfc3339(at), "ok": True, "regions": list(repository.regions), "failures": {}, "facts": {},
            "took_ms": 1000,
        }
    )  # fmt: skip
    for region, store in repository.stores.items():
        key = object_key(source, epoch, name)
        with contextlib.suppress(ConflictError):  # snapshots of one epoch share it
            store.create(key, sealed)
        placed = PlacedObject(store.head(key).version, len(sealed))
        placement = Placement(snapshot, region, epoch, verified.sha256, (placed,))
        store.create(placement_key(source, snapshot), seal_placement(placement, repository.signer))
        store.create(manifest_key(source, snapshot), verified.stored)
        store.create(verification_key(source, snapshot, at, 3), record)


def _facts(height: Height) -> Facts:
    point = ChainPoint("bench-1", height, "AB" * 32, None, None, height, height)
    return Facts(chain=point, software=(("app", "1"),), database_backend="goleveldb", method="pause", pause_ms=12)


def write_ledger(stores: Mapping[str, MemoryStore], site: str, signer: Signer, now: dt.datetime) -> int:
    """Ninety days of runs: a snapshot every four hours, an incident every third day, a drill every week; how many."""
    samples = {job.id: _sample(job, site, signer) for job in (BACKUP, INCIDENT, DRILL)}
    heads: list[Pin] = []
    at = (now - dt.timedelta(days=DAYS)).replace(microsecond=0)
    for number in range(SNAPSHOTS):
        at += EVERY
        jobs = [BACKUP.id]
        jobs += [INCIDENT.id] if number % 18 == 17 else []
        jobs += [DRILL.id] if number % 42 == 41 else []
        for place, job in enumerate(jobs):
            chain = _again(samples[job], at + place * dt.timedelta(minutes=2), heads[-MAX_PINS:], signer)
            last = chain[-1]
            heads.append(Pin(last.entry.run_id, last.entry.seq, last.digest))
            _put_run(stores, job, chain, signer)
    return len(heads)


def _sample(job: Runbook[Job], site: str, signer: Signer) -> tuple[Entry, ...]:
    """A run that the engine wrote."""
    clock = Clock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    store = {"rg-sim-00": MemoryStore("rg-sim-00")}
    with closing(Journal(store, site=site, signer=signer, trusted=[signer.public_hex], clock=clock)) as journal:
        with opened_run(job, Job(detected_at=clock.now), journal, wait_quiet=lambda *_, **__: None) as run:
            for one in STEPS:
                clock.now += dt.timedelta(seconds=7)
                run.step(one)
        return journal.read(run.run_id).entries


def _again(sample: Sequence[Entry], at: dt.datetime, pins: Sequence[Pin], signer: Signer) -> list[Sealed]:
    """The same run at another time, signed."""
    prefix, _, _, mark = sample[0].run_id.split("-")
    run_id = RunId(f"{prefix}-{at:%Y%m%d-%H%M%S}-{mark}")
    chain: list[Sealed] = []
    for entry in sample:
        payload = dict(entry.payload)
        if entry.kind == "opened":
            payload |= {"pins": pins_payload(pins), "detected_at": at.isoformat()}
        prev = chain[-1].digest if chain else GENESIS
        moved = at + (entry.time - sample[0].time)
        chain.append(seal_entry(replace(entry, run_id=run_id, time=moved, payload=payload, prev=prev), signer))
    return chain


def _put_run(stores: Mapping[str, MemoryStore], job: str, chain: Sequence[Sealed], signer: Signer) -> None:
    run_id = chain[0].entry.run_id
    pointer = signer.seal_document({"run": run_id})
    for store in stores.values():
        for sealed in chain:
            store.create(ObjectKey(f"ledger/{run_id}/{sealed.entry.seq:08d}.json"), sealed.data)
        store.create(ObjectKey(f"ledger-index/{job}/{run_id}.json"), pointer)
