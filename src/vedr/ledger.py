"""The ledger's entries and chains: bytes in, verified chains out; no I/O.  Format: docs/formats/ledger.md.

Each run is a chain of signed entries, numbered from 0, each carrying the SHA-256 of the entry before it.  The first
entry of a run also pins the last known entry of the runs before it, so that the runs hold one another.

Guarantees: `verify_chain` accepts only what a trusted key signed for this site, this run and this place in it, so
that an edit, a removal, an insertion or a reordering is refused with the number of the first entry that is wrong;
`broken_pins` finds removed tails and removed runs.
Leaves out: storage (vedr.runbook.journal), and the newest entries of a run that is open and that no later run has
pinned.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NewType, get_args

from vedr.errors import CorruptError, InvalidInputError
from vedr.signature import Json, Signer, canonical_json, open_document

RunId = NewType("RunId", str)
"""`inc-YYYYMMDD-HHMMSS-xxxx` for incidents, `run-…` for what the schedule starts; the time is the run's opening, UTC.
"""

Digest = NewType("Digest", str)
"""SHA-256 of an entry's stored bytes, 64 hexadecimal digits."""

Kind = Literal[
    "opened",
    "resumed",
    "heartbeat",
    "step_started",
    "step_completed",
    "step_failed",
    "waiting",
    "waited",
    "answered",
    "overrun_predicted",
    "overrun",
    "note",
    "paused",
    "abandoning",
    "undo_started",
    "undo_completed",
    "undo_failed",
    "closed",
]

FORMAT: Final = "vedr-ledger/1"
GENESIS: Final = Digest("0" * 64)
"""What the first entry of a run carries as the digest of the entry before it."""

RUN_ID: Final = re.compile(r"^(?:inc|run)-\d{8}-\d{6}-[a-z0-9]{4}$")
_KINDS: Final = frozenset(get_args(Kind))
_FIELDS: Final = frozenset({"format", "site", "run", "seq", "kind", "time", "epoch", "payload", "prev"})
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
_NO_REPAIR: Final = (
    "Treat the ledger as tampered with: `vedr ledger export` it, compare the regions' copies, tell security."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened in a run."""

    site: str
    run_id: RunId
    seq: int
    kind: Kind
    time: dt.datetime
    epoch: int
    payload: Mapping[str, Json]
    prev: Digest


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry with the bytes that are stored; only `seal_entry` and `open_entry` make one."""

    entry: Entry
    data: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class Pin:
    """A run's last entry, as another run knew it when it opened."""

    run_id: RunId
    seq: int
    digest: Digest


def parse_run_id(text: str) -> RunId:
    """The run id, or InvalidInputError showing what one looks like."""
    if not RUN_ID.fullmatch(text):
        raise InvalidInputError(
            f"{text!r} is not a run id",
            remedy="Give one like inc-20260214-031500-k3x9, as `vedr ledger list` shows them.",
        )
    return RunId(text)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def check_payload(payload: Mapping[str, Json]) -> None:
    """InvalidInputError when it holds what has no single encoding (floats, non-text keys, other types)."""
    try:
        _refuse_floats(dict(payload))
        canonical_json(dict(payload))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"a ledger payload cannot hold this: {error}", remedy="Use integers with units (took_ms), text or booleans."
        ) from error


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError(f"the float {value!r}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r}")
            _refuse_floats(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_floats(inner)


def seal_entry(entry: Entry, signer: Signer) -> Sealed:
    """Sign it.  The same entry and key give the same bytes (Ed25519 is deterministic), so sealing again is harmless."""
    check_payload(entry.payload)
    data = signer.seal_document(
        {
            "format": FORMAT,
            "site": entry.site,
            "run": entry.run_id,
            "seq": entry.seq,
            "kind": entry.kind,
            "time": entry.time.astimezone(dt.UTC).strftime(_TIME_FORMAT),
            "epoch": entry.epoch,
            "payload": dict(entry.payload),
            "prev": entry.prev,
        }
    )
    return Sealed(entry, data, digest_of(data))


def open_entry(data: bytes, trusted: Iterable[str], *, site: str, run_id: RunId, seq: int) -> Sealed:
    """The entry in these bytes, when a trusted key signed it for this site, run and place.

    Raises:
        CorruptError: other bytes, or an entry of another site, run or place.
        VerificationFailedError: no trusted key signed it.
    """
    what = f"ledger entry {run_id}/{seq}"
    signed = open_document(data, trusted, what=what)
    entry = _parse(signed, what)
    if (entry.site, entry.run_id, entry.seq) != (site, run_id, seq):
        raise CorruptError(
            f"{what} of site {site}: the stored entry is {entry.run_id}/{entry.seq} of site {entry.site}",
            remedy=_NO_REPAIR,
        )
    return Sealed(entry, data, digest_of(data))


def _parse(signed: Mapping[str, Json], what: str) -> Entry:
    match signed:
        case {
            "format": "vedr-ledger/1",
            "site": str(site),
            "run": str(run),
            "seq": int(seq),
            "kind": str(kind),
            "time": str(time),
            "epoch": int(epoch),
            "payload": dict(payload),
            "prev": str(prev),
        } if kind in _KINDS and set(signed) == _FIELDS:
            try:
                when = dt.datetime.strptime(time, _TIME_FORMAT).replace(tzinfo=dt.UTC)
            except ValueError:
                raise CorruptError(f"{what}: its time is {time!r}", remedy=_NO_REPAIR) from None
            return Entry(site, RunId(run), seq, kind, when, epoch, payload, Digest(prev))  # type: ignore[arg-type]  # checked above
        case _:
            raise CorruptError(
                f"{what}: not an entry of {FORMAT}", remedy="Use a newer vedr, or another region's copy."
            )


def check_successor(last: Sealed | None, following: Sealed) -> None:
    """CorruptError unless `following` may stand right after `last` (None: at the beginning)."""
    entry = following.entry
    if problem := _chain_problem(last, entry):
        raise CorruptError(f"ledger entry {entry.run_id}/{entry.seq}: {problem}", remedy=_NO_REPAIR)


def _chain_problem(last: Sealed | None, entry: Entry) -> str | None:
    if last is None:
        fits = (entry.seq, entry.kind, entry.epoch, entry.prev) == (0, "opened", 1, GENESIS)
        return None if fits else f"a run begins with entry 0, opened, epoch 1; this is {entry.seq}, {entry.kind}"
    if entry.seq != last.entry.seq + 1:
        return f"it follows entry {last.entry.seq}: entries between them were removed"
    if entry.prev != last.digest:
        return f"it follows an entry with digest {entry.prev[:16]}…, but entry {last.entry.seq} has {last.digest[:16]}…"
    if last.entry.kind == "closed" or entry.kind == "opened":
        return f"{entry.kind} cannot follow {last.entry.kind}"
    if entry.epoch != last.entry.epoch + (entry.kind == "resumed"):
        return f"{entry.kind} has epoch {entry.epoch} after epoch {last.entry.epoch}"
    return None


def verify_chain(entries: Iterable[Sealed]) -> tuple[Entry, ...]:
    """The run's entries, when each stands right after the one before; CorruptError names the first that does not."""
    last: Sealed | None = None
    verified = []
    for sealed in entries:
        check_successor(last, sealed)
        verified.append(sealed.entry)
        last = sealed
    return tuple(verified)


def is_closed(entries: Sequence[Entry]) -> bool:
    return bool(entries) and entries[-1].kind == "closed"


def pins_payload(pins: Iterable[Pin]) -> list[Json]:
    """Pins as an `opened` entry carries them."""
    return [{"run": pin.run_id, "seq": pin.seq, "digest": pin.digest} for pin in pins]


def pins_of(opened: Entry) -> tuple[Pin, ...]:
    """The pins that an `opened` entry carries; CorruptError when it carries none of the right form."""
    match opened.payload.get("pins"):
        case list(pins):
            return tuple(_pin(item, opened) for item in pins)
        case _:
            raise CorruptError(f"ledger entry {opened.run_id}/{opened.seq}: it has no pins", remedy=_NO_REPAIR)


def _pin(item: Json, opened: Entry) -> Pin:
    match item:
        case {"run": str(run), "seq": int(seq), "digest": str(digest)}:
            return Pin(RunId(run), seq, Digest(digest))
        case _:
            raise CorruptError(f"ledger entry {opened.run_id}/{opened.seq}: bad pin {item!r}", remedy=_NO_REPAIR)


def broken_pins(chains: Mapping[RunId, Sequence[Sealed]]) -> tuple[str, ...]:
    """What is missing from these chains according to the pins they carry: one sentence for each, empty when all hold.

    Args:
        chains: Every run of the site, each verified by `verify_chain`.
    """
    problems = []
    for run_id, chain in sorted(chains.items()):
        for pin in pins_of(chain[0].entry):
            pinned = chains.get(pin.run_id, ())
            if not pinned:
                problems.append(f"run {pin.run_id} was removed: run {run_id} knew it up to entry {pin.seq}")
            elif len(pinned) <= pin.seq:
                problems.append(
                    f"run {pin.run_id} ends at entry {len(pinned) - 1}, but run {run_id} knew its entry {pin.seq}:"
                    " its tail was removed"
                )
            elif pinned[pin.seq].digest != pin.digest:
                problems.append(
                    f"run {pin.run_id} entry {pin.seq} is not the one that run {run_id} knew: it was replaced"
                )
    return tuple(problems)
