"""A run as the regions hold it, with what is wrong with it: the only source of a report.

Guarantees: a chain that does not hold is told apart from one that does, and what can still be read of it is kept apart
from what is proven.
Leaves out: the pins between runs that were not read, which `vedr ledger verify` checks.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from vedr.errors import NotFoundError, VerificationFailedError
from vedr.ledger import Entry, RunId, Sealed, check_successor, is_closed, open_entry, pins_of, verify_chain
from vedr.ports import ObjectStore
from vedr.runbook.journal import INDEX_ROOT, Journal, Recorded

Proof = Literal["verified", "incomplete", "unverifiable"]
"""`incomplete`: every entry is genuine and in its place, but a region lacks some or did not answer."""

PROOFS: Final[tuple[Proof, ...]] = get_args(Proof)

_MAX_PROBLEMS: Final = 50


@dataclass(frozen=True, slots=True)
class Record:
    """A run's entries, and how far they are proven.

    `chain` are the entries that follow one another, signed by keys that the site trusts; of an unverifiable run those
    up to the first that does not fit, in the region that has most. `problems` are sentences.
    """

    run_id: RunId
    chain: tuple[Sealed, ...]
    proof: Proof
    problems: tuple[str, ...]
    regions: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(sealed.entry for sealed in self.chain)


def read_record(journal: Journal, run_id: RunId) -> Record:
    """The run; NotFoundError when no region knows it, UnavailableError when too few regions answer."""
    try:
        recorded = journal.read(run_id)
        verify_chain(recorded.chain)
    except VerificationFailedError as error:
        return _unverifiable(journal, run_id, error)
    silent = tuple(region for region in journal.replicas.regions if region not in recorded.lagging)
    incomplete = _incomplete(recorded, silent)
    proof: Proof = "unverifiable" if recorded.damage else "incomplete" if incomplete else "verified"
    problems = (*recorded.damage, *incomplete)[:_MAX_PROBLEMS]
    return Record(run_id, recorded.chain, proof, problems, journal.replicas.regions, silent)


def _incomplete(recorded: Recorded, silent: tuple[str, ...]) -> tuple[str, ...]:
    """What regions lack; the newest entry of an open run may still be on its way."""
    settled = len(recorded.chain) - (not is_closed(recorded.entries))
    lacking = []
    for region, seqs in recorded.lagging.items():
        if missing := [seq for seq in seqs if seq < settled]:
            lacking.append(_lag(recorded, region, missing))
    return (*lacking, *(f"{region} did not answer and was not checked" for region in silent))


def _lag(recorded: Recorded, region: str, missing: Sequence[int]) -> str:
    """What a region's copy lacks, since when, and how it gets it."""
    last, first = recorded.entries[-1], missing[0]
    held = f"ends at entry {first - 1} of {last.seq}" if first else "holds nothing"
    if missing[-1] - first + 1 > len(missing) or missing[-1] < last.seq - 1:  # not all of its end
        held = f"lacks {len(missing)} of {last.seq + 1} entries, from {first} to {missing[-1]}"
    when = f"{recorded.entries[first].time:%H:%M:%S} UTC"
    return (
        f"{region}'s copy {held}: what was written from {when} on did not reach it, or it lost it; a majority of the "
        f"regions holds all.  Once {region} answers the watchdog's next round copies it there, or at once: "
        f"vedr ledger heal {recorded.run_id}"
    )


def _unverifiable(journal: Journal, run_id: RunId, error: VerificationFailedError) -> Record:
    copies = journal.copies_by_region(run_id)
    if not any(copies.values()):
        raise NotFoundError(
            f"no run {run_id} in the ledger of site {journal.site}", remedy="List runs: vedr ledger list."
        ) from error
    readable = max((_prefix(journal, run_id, objects) for objects in copies.values()), key=len)
    silent = tuple(region for region in journal.replicas.regions if region not in copies)
    return Record(run_id, readable, "unverifiable", (error.message,), journal.replicas.regions, silent)


def _prefix(journal: Journal, run_id: RunId, objects: Mapping[str, bytes]) -> tuple[Sealed, ...]:
    """The entries of one region from the first on, as long as each is genuine and follows the one before."""
    chain: list[Sealed] = []
    while (data := objects.get(f"{len(chain):08d}.json")) is not None:
        try:
            sealed = open_entry(data, journal.trusted, site=journal.site, run_id=run_id, seq=len(chain))
            check_successor(chain[-1] if chain else None, sealed)
        except VerificationFailedError:
            break
        chain.append(sealed)
    return tuple(chain)


def runbooks_by_run(journal: Journal) -> dict[RunId, str]:
    """Every run that an answering region knows, oldest first, and its runbook; empty where the index lost it."""

    def listed(store: ObjectStore) -> set[tuple[str, str]]:
        keys = (found.key.split("/") for found in store.list(f"{INDEX_ROOT}/"))
        return {(name, run.removesuffix(".json")) for _, name, run in keys}

    answers = journal.replicas.gather(listed, what="list the runs by runbook")
    names = {run: name for answer in answers.values() for name, run in answer}
    return {run_id: names.get(run_id, "") for run_id in journal.runs()}


def missing_runs(records: Iterable[Record], known: Container[RunId]) -> tuple[str, ...]:
    """What these runs' first entries tell of other runs that is not so any more: one sentence for each.

    Args:
        records: Runs that were read.
        known: Every run that the regions list.
    """
    read = {record.run_id: record for record in records}
    broken: dict[str, list[RunId]] = {}
    for record in read.values():
        for pin in pins_of(record.chain[0].entry) if record.chain else ():
            pinned = read.get(pin.run_id)
            if pin.run_id not in known:
                broken.setdefault(f"run {pin.run_id} was removed", []).append(record.run_id)
            elif pinned and (len(pinned.chain) <= pin.seq or pinned.chain[pin.seq].digest != pin.digest):
                what = f"run {pin.run_id} was cut or replaced at entry {pin.seq}"
                broken.setdefault(what, []).append(record.run_id)
    return tuple(f"{what}: {len(by)} later runs knew it, {by[0]} first" for what, by in broken.items())
