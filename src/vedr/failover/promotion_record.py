"""A promotion's stages in the ledger of the run that made it, and what they say afterwards.

Each stage is a `note` of the run, written before the next stage begins (docs/signing-safety.md).

Guarantees: what is read back is evidence and never a stage, and none is passed over; of two runs that were about to
let a host sign, the one with the later lease is believed.
Leaves out: promoting (`promotion`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from vedr.errors import RefusedError
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.ledger import Entry
from vedr.signature import Json

TEXT: Final = "promotion"


@dataclass(frozen=True, slots=True)
class ArmedAt:
    """Under which lease a key was last about to be let sign, and where."""

    epoch: int
    host: str


def facts_of(validator: str, stage: StageName, evidence: Evidence) -> dict[str, Json]:
    """The note's facts; its text is TEXT."""
    return {"validator": validator, "stage": stage, "evidence": dict(evidence)}


def stages_in(entries: Iterable[Entry], validator: str) -> list[tuple[StageName, Evidence]]:
    """What processes of this run recorded of this key, in order.

    Raises:
        RefusedError: a record of this key that this version can't read; it may say that a host was let sign.
    """
    found: list[tuple[StageName, Evidence]] = []
    for entry in entries:
        if entry.kind != "note" or (entry.payload.get("text"), entry.payload.get("validator")) != (TEXT, validator):
            continue
        stage, evidence = entry.payload.get("stage"), entry.payload.get("evidence")
        known = next((name for name in get_args(StageName) if name == stage), None)
        if known is None or not isinstance(evidence, dict):
            raise RefusedError(
                f"entry {entry.seq} of run {entry.run_id} tells of {validator}'s key what this version can't read",
                remedy="Go on with the version of vedr that wrote it: vedr ledger show tells which.",
            )
        found.append((known, evidence))
    return found


def armed_in(entries: Iterable[Entry]) -> Mapping[str, ArmedAt]:
    """Where this run let each key sign last, or was about to: a process that was killed then may have.

    What can't be read names no host: plans are made from this, and the promotion reads it again by `stages_in`.
    """
    found: dict[str, ArmedAt] = {}
    for entry in entries:
        match entry.kind, entry.payload:
            case "note", {
                "text": "promotion",
                "validator": str(name),
                "stage": "arming" | "armed",
                "evidence": {"epoch": int(epoch), "host": str(host)},
            }:
                found[name] = ArmedAt(epoch, host)
            case _:
                continue
    return found
