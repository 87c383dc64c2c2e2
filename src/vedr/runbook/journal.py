"""The ledger kept in the regions' stores: opening, resuming, appending, reading, healing, verifying.

Keys: `ledger/<run id>/<entry number, 8 digits>.json`, and `ledger-index/<runbook id>/<run id>.json` pointing to a run
(an index object is a pointer, never evidence: a lost one is made again by `heal`).

Guarantees: an append that returned is in a majority of the regions and is never changed or lost; two writers of one run
cannot both go on, the one that loses gets ConflictError and must stop (this is the fencing); any one region may be
gone.
Leaves out: what the entries mean (vedr.runbook.run), and deleting (nothing here deletes).
"""

import contextlib
import datetime as dt
import functools
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, VerificationFailedError
from vedr.ledger import (
    RUN_ID,
    Entry,
    Pin,
    RunId,
    Sealed,
    broken_pins,
    check_successor,
    is_closed,
    open_entry,
    pins_payload,
    verify_chain,
)
from vedr.ports import Clock, ObjectStore
from vedr.runbook.replicas import Acceptable, Copies, Decided, Replicas, Slot, Undecided, decide, read_copy
from vedr.runbook.writer import Writer
from vedr.signature import Json, Signer

ROOT: Final = "ledger"
INDEX_ROOT: Final = "ledger-index"
MAX_PINS: Final = 8  # a run is pinned by the 8 that open after it: hiding a cut means cutting all of those too
_PIN_DAYS: Final = 3  # how far back runs to pin are looked for by listing days, before everything is listed
_OPENED: Final = 8192  # verified entries that are remembered, about 1 KB each
_NAME: Final = re.compile(r"^(\d{8})(?:\.([0-9a-f]{8}))?\.json$")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run as the regions hold it.

    `unsettled`: how many entries beyond the last are not decided yet (a writer at work, or one that died writing).
    `lagging`: entry numbers that each region lacks; a region that did not answer is not in it.
    `superseded`: copies that lost against another writer's, a sentence each; `damage`: copies that should not be.
    """

    run_id: RunId
    chain: tuple[Sealed, ...]
    unsettled: int
    lagging: Mapping[str, tuple[int, ...]]
    superseded: tuple[str, ...]
    damage: tuple[str, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(sealed.entry for sealed in self.chain)


@dataclass(frozen=True, slots=True)
class Healed:
    """How many copies each region was given; the `silent` ones did not answer and may still lack some."""

    run_id: RunId
    given: Mapping[str, int]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` saw; only made when every chain and every pin holds in each region but the `silent` ones."""

    heads: tuple[Pin, ...]
    entries: int
    superseded: tuple[str, ...]
    silent: tuple[str, ...]


class Journal:
    """One site's ledger.  Thread-safe."""

    def __init__(
        self, stores: Mapping[str, ObjectStore], *, site: str, signer: Signer, trusted: Iterable[str], clock: Clock
    ) -> None:
        self.site: Final = site
        self.replicas: Final = Replicas(stores)
        self.clock: Final = clock
        self.signer: Final = signer
        self.trusted: Final = tuple(trusted)
        self._open = functools.lru_cache(maxsize=_OPENED)(self._open_uncached)

    def close(self) -> None:
        self.replicas.close()

    # --- writing

    def open(self, run_id: RunId, runbook: str, payload: Mapping[str, Json]) -> Writer:
        """Begin a run; ConflictError when it exists."""
        pins = self._pins(besides=run_id)
        writer = Writer(self, run_id, ())
        writer.append("opened", {**payload, "runbook": runbook, "pins": pins_payload(pins)})
        self._index(runbook, run_id)
        return writer

    def resume(self, run_id: RunId, payload: Mapping[str, Json]) -> Writer:
        """Go on with a run under the next epoch, which fences every earlier writer of it.

        Raises:
            NotFoundError: no such run, or nothing genuine of it.
            RefusedError: it is closed.
            ConflictError: its last entry cannot be decided before another region answers, or somebody writes right now.
        """
        chain = self.settled(run_id)
        if not chain:
            raise NotFoundError(
                f"no genuine entry of run {run_id} is in the ledger of site {self.site}",
                remedy="Somebody wrote what is there: vedr ledger verify names it. Start a new run.",
            )
        writer = Writer(self, run_id, chain)
        if chain[-1].entry.kind == "closed":
            raise RefusedError(
                f"run {run_id} is closed: {chain[-1].entry.payload.get('outcome')}",
                remedy=f"Order it anew, without --incident.  What this one did: vedr ledger show {run_id}.",
            )
        writer.append("resumed", payload)
        return writer

    def settled(self, run_id: RunId) -> tuple[Sealed, ...]:
        """The run's entries, the last one too, which is decided by this where it was not.

        Raises:
            NotFoundError, CorruptError, UnavailableError: as `read`.
            ConflictError: it cannot be decided before another region answers.
        """
        run = self.read(run_id)
        chain = run.chain
        for _ in range(run.unsettled):
            slot = self._slot(run_id, len(chain))
            sealed = self._open(
                self.replicas.settle(slot, self._acceptable(run_id, chain[-1] if chain else None)), run_id, len(chain)
            )
            chain = (*chain, sealed)
        return chain

    def _acceptable(self, run_id: RunId, last: Sealed | None) -> Acceptable:
        """Tells entries that may stand after `last` from other bytes, which only occupy their region."""
        seq = last.entry.seq + 1 if last else 0

        def fits(data: bytes) -> bool:
            try:
                check_successor(last, self._open(data, run_id, seq))
            except VerificationFailedError:
                return False
            return True

        return fits

    def commit(self, sealed: Sealed, last: Sealed | None) -> Sealed:
        """Propose it after `last`; the entry that was decided there, which may be another writer's."""
        run_id, seq = sealed.entry.run_id, sealed.entry.seq
        decided = self.replicas.propose(self._slot(run_id, seq), sealed.data, self._acceptable(run_id, last))
        return sealed if decided == sealed.data else self._open(decided, run_id, seq)

    def _slot(self, run_id: RunId, seq: int) -> Slot:
        return Slot(f"{ROOT}/{run_id}/{seq:08d}")

    def _open_uncached(self, data: bytes, run_id: RunId, seq: int) -> Sealed:
        return open_entry(data, self.trusted, site=self.site, run_id=run_id, seq=seq)

    def _index(self, runbook: str, run_id: RunId) -> None:
        slot = Slot(f"{INDEX_ROOT}/{runbook}/{run_id}")
        with contextlib.suppress(ConflictError):  # an older key's pointer is as good
            self.replicas.propose(slot, self.signer.seal_document({"run": run_id}), lambda _: True)

    # --- reading

    def runs(self, prefix: str = "") -> tuple[RunId, ...]:
        """Ids of all runs that any answering region knows, oldest first; `prefix` narrows it (`inc-202602`)."""
        return self._names(f"{ROOT}/{prefix}", part=1)

    def runs_of(self, runbook: str) -> tuple[RunId, ...]:
        """Ids of the runs of one runbook or scheduled flow, oldest first."""
        return self._names(f"{INDEX_ROOT}/{runbook}/", part=2)

    def _names(self, prefix: str, part: int) -> tuple[RunId, ...]:
        def names(store: ObjectStore) -> set[str]:
            return {found.key.split("/")[part].removesuffix(".json") for found in store.list(prefix)}

        answers = self.replicas.gather(names, what=f"list {prefix}")
        found = {name for answer in answers.values() for name in answer if RUN_ID.fullmatch(name)}
        return tuple(RunId(name) for name in sorted(found, key=_by_time))

    def read(self, run_id: RunId) -> Recorded:
        """The run's decided entries, checked; NotFoundError when no region that answers knows it.

        Raises:
            CorruptError: a decided entry does not stand after the one before, or entries are missing before later ones.
            UnavailableError: fewer than a majority of the regions answered.
        """
        copies = self._copies(run_id)
        if not copies:
            raise NotFoundError(
                f"no run {run_id} in the ledger of site {self.site}", remedy="List runs: vedr ledger list."
            )
        last_seq = max((seq for seq in copies if self._genuine(run_id, seq, copies)), default=-1)
        chain: list[Sealed] = []
        while len(chain) <= last_seq:
            sealed = self._decided(run_id, chain, copies)
            if sealed is None:
                break
            chain.append(sealed)
        unsettled = last_seq + 1 - len(chain)
        if unsettled > 1:
            raise CorruptError(
                f"run {run_id}: entry {len(chain)} is missing or damaged in too many regions, but {last_seq} exists",
                remedy="Bring back a region that holds it, then `vedr ledger heal`; else treat it as tampered with.",
            )
        return Recorded(run_id, tuple(chain), unsettled, *self._differences(run_id, chain, copies, last_seq))

    def _decided(self, run_id: RunId, chain: list[Sealed], copies: Mapping[int, Copies]) -> Sealed | None:
        seq = len(chain)
        if seq not in copies:
            return None
        acceptable = self._acceptable(run_id, chain[-1] if chain else None)
        match decide(copies[seq], len(self.replicas.regions), acceptable):
            case Decided(data):
                return self._open(data, run_id, seq)
            case Undecided(candidates=candidates):
                # Whoever wrote a later entry had seen this one decided, so what follows tells which candidate it was.
                follows = {sealed.entry.prev for sealed in self._genuine(run_id, seq + 1, copies)}
                chosen = (self._open(data, run_id, seq) for data in candidates)
                return next((sealed for sealed in chosen if sealed.digest in follows), None)

    def _genuine(self, run_id: RunId, seq: int, copies: Mapping[int, Copies]) -> list[Sealed]:
        """The different copies at this place that a trusted key signed for it."""
        if seq not in copies:
            return []
        held = {data for data in copies[seq].main.values() if data is not None}
        held.update(data for others in copies[seq].alternates.values() for data in others)
        genuine = []
        for data in held:
            with contextlib.suppress(VerificationFailedError):
                genuine.append(self._open(data, run_id, seq))
        return genuine

    def _differences(
        self, run_id: RunId, chain: list[Sealed], copies: Mapping[int, Copies], last_seq: int
    ) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...], tuple[str, ...]]:
        lagging: dict[str, tuple[int, ...]] = {}
        superseded, damage = [], []
        for seq, held in sorted(copies.items()):
            genuine = {sealed.data for sealed in self._genuine(run_id, seq, copies)}
            decided = chain[seq].data if seq < len(chain) else None
            lacking = []
            for region, data in held.main.items():
                lagging.setdefault(region, ())
                if data is not None and data not in genuine:
                    damage.append(f"run {run_id} entry {seq}: {region} holds bytes that nobody trusted signed for it")
                elif decided and data not in (None, decided):
                    superseded.append(
                        f"run {run_id} entry {seq}: {region} holds an entry that lost against the majority's"
                    )
                if decided and data != decided and decided not in held.alternates.get(region, ()):
                    lacking.append(region)
                    lagging[region] = (*lagging[region], seq)
            if decided and seq < last_seq and len(self.replicas.regions) - len(lacking) < self.replicas.majority:
                damage.append(
                    f"run {run_id} entry {seq}: {' and '.join(lacking)} lost it, which had to be in a majority"
                )
        return lagging, tuple(superseded), tuple(damage)

    def last(self, run_id: RunId) -> Entry | None:
        """The newest entry that a majority of the regions hold, without reading the run; None when there is none."""
        seq = self._last_seqs(run_id).get(run_id)
        if seq is None:
            return None
        held = self._genuine(run_id, seq, {seq: self.replicas.copies(self._slot(run_id, seq))})
        return held[0].entry if len(held) == 1 else None

    def copies_by_region(self, run_id: RunId) -> dict[str, dict[str, bytes]]:
        """Every object of a run, by region and name, unchecked; regions that do not answer are left out."""

        def fetch(store: ObjectStore) -> dict[str, bytes]:
            keys = [found.key for found in store.list(f"{ROOT}/{run_id}/")]
            return {key.rsplit("/", 1)[1]: read_copy(store, key) for key in keys}

        return self.replicas.gather(fetch, what=f"read run {run_id}")

    def _copies(self, run_id: RunId) -> dict[int, Copies]:
        answers = {
            region: {
                (int(name[1]), name[2]): data
                for text, data in objects.items()
                if (name := _NAME.fullmatch(text)) is not None
            }
            for region, objects in self.copies_by_region(run_id).items()
        }
        seqs = {seq for held in answers.values() for seq, _ in held}
        return {
            seq: Copies(
                {region: held.get((seq, None)) for region, held in answers.items()},
                {
                    region: others
                    for region, held in answers.items()
                    if (others := tuple(data for (at, alt), data in held.items() if at == seq and alt is not None))
                },
            )
            for seq in seqs
        }

    # --- healing and verifying

    def heal(self, run_id: RunId) -> Healed:
        """Give every region the entries that it lacks."""
        run = self.read(run_id)
        given = dict.fromkeys(self.replicas.regions, 0)
        for seq in sorted({seq for seqs in run.lagging.values() for seq in seqs}):
            for region in self.replicas.repair(self._slot(run_id, seq), run.chain[seq].data):
                given[region] += 1
        runbook = run.chain[0].entry.payload.get("runbook") if run.chain else None
        if isinstance(runbook, str):
            self._index(runbook, run_id)
        return Healed(run_id, given, self._silent(run.lagging))

    def verify(self, run_id: RunId | None = None) -> Verified:
        """Check one run, or every run and the pins between them, in every region that answers.

        Raises:
            VerificationFailedError: damage, or something is missing; every finding is named.
        """
        problems: list[str] = []
        superseded: list[str] = []
        chains: dict[RunId, tuple[Sealed, ...]] = {}
        answered = set(self.replicas.regions)
        for one in self.runs() if run_id is None else (run_id,):
            try:
                run = self.read(one)
            except VerificationFailedError as error:
                problems.append(error.message)
                continue
            problems.extend((*run.damage, *_missing(run)))
            superseded.extend(run.superseded)
            answered &= set(run.lagging)
            if run.chain:
                verify_chain(run.chain)
                chains[one] = run.chain
        if run_id is None:
            problems.extend(broken_pins(chains))
        if problems:
            raise VerificationFailedError(
                f"the ledger of site {self.site} does not hold: " + "; ".join(problems),
                remedy="If a region was down, `vedr ledger heal`.  Else `vedr ledger export` it and tell security.",
            )
        return Verified(
            heads=tuple(_head(chain) for chain in chains.values()),
            entries=sum(map(len, chains.values())),
            superseded=tuple(superseded),
            silent=self._silent(answered),
        )

    def _silent(self, answered: Container[str]) -> tuple[str, ...]:
        """The regions that were not looked at."""
        resting = self.replicas.resting()
        return tuple(region for region in self.replicas.regions if region not in answered or region in resting)

    def _pins(self, besides: RunId) -> tuple[Pin, ...]:
        """The heads of the newest runs: what a new run vouches for."""
        today = self.clock().date()
        seqs: dict[RunId, int] = {}
        for back in range(_PIN_DAYS):
            day = (today - dt.timedelta(days=back)).strftime("%Y%m%d")
            seqs.update({**self._last_seqs(f"inc-{day}"), **self._last_seqs(f"run-{day}")})
            if len(seqs) > MAX_PINS:
                break
        else:
            seqs = self._last_seqs("")
        newest = [run_id for run_id in sorted(seqs, key=_by_time) if run_id != besides][-MAX_PINS:]
        pins = []
        for run_id in newest:
            copies = {seqs[run_id]: self.replicas.copies(self._slot(run_id, seqs[run_id]))}
            held = self._genuine(run_id, seqs[run_id], copies)
            if len(held) == 1:
                pins.append(Pin(run_id, seqs[run_id], held[0].digest))
        return tuple(pins)

    def _last_seqs(self, prefix: str) -> dict[RunId, int]:
        """The newest entry of each run that a majority of regions hold."""

        def names(store: ObjectStore) -> set[tuple[str, int]]:
            parts = (found.key.split("/") for found in store.list(f"{ROOT}/{prefix}"))
            places = ((run, _NAME.fullmatch(file)) for _, run, file in parts if RUN_ID.fullmatch(run))
            return {(run, int(name[1])) for run, name in places if name}

        answers = self.replicas.gather(names, what=f"list runs {prefix}")
        votes = Counter(place for answer in answers.values() for place in answer)
        held = sorted(place for place, count in votes.items() if count >= self.replicas.majority)
        return {RunId(run): seq for run, seq in held}


def _missing(run: Recorded) -> list[str]:
    """What regions that answered lack; the newest entry of an open run may still be on its way."""
    settled = len(run.chain) if is_closed(run.entries) else len(run.chain) - 1
    return [
        f"run {run.run_id} entry {seq} is missing in {region}"
        for region, seqs in run.lagging.items()
        for seq in seqs
        if seq < settled
    ]


def _head(chain: tuple[Sealed, ...]) -> Pin:
    last = chain[-1]
    return Pin(last.entry.run_id, last.entry.seq, last.digest)


def _by_time(run_id: str) -> str:
    return run_id.split("-", 1)[1]
