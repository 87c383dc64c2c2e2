"""A provider daemon's state: its checkpoints, read strictly and reconciled against the chain.

An event that is handled twice may provision twice, one that is skipped is a customer's order lost.  A checkpoint says
up to which event everything was handled, so a restored, older one replays events.

Guarantees: a checkpoint is only ever moved forward, and only as far as surviving evidence proves that the daemon went;
one that is ahead of the chain is refused, because it then belongs to another chain or a history that was rolled back.
Leaves out: what the events mean.

Format: VirtEngine's `data/*_checkpoint.json`, `{"subscriber_id", "last_sequence", "updated_at"}`.
"""

import datetime as dt
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vedr.errors import CorruptError, NotFoundError, VerificationFailedError

CHECKPOINT_GLOB: Final = "*_checkpoint.json"
MAX_CHECKPOINT_BYTES: Final = 64 * 1024  # three fields; more is no checkpoint


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    subscriber_id: str = Field(min_length=1)
    last_sequence: int = Field(ge=0)
    updated_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One subscriber's place in the chain's events."""

    file: str
    subscriber_id: str
    last_sequence: int
    updated_at: dt.datetime


def parse_checkpoint(name: str, text: bytes) -> Checkpoint:
    """Strictly: exactly the three fields, a sequence of 0 or more, a time with its zone.  CorruptError otherwise."""
    if len(text) > MAX_CHECKPOINT_BYTES:
        raise CorruptError(
            f"{name}: {len(text)} bytes are no checkpoint", remedy="Restore an older snapshot of the provider."
        )
    try:
        stored = _Stored.model_validate_json(text)
    except ValidationError:
        raise CorruptError(
            f"{name}: not a checkpoint of {{subscriber_id, last_sequence, updated_at}}",
            remedy="Restore an older snapshot of the provider.",
        ) from None
    return Checkpoint(name, stored.subscriber_id, stored.last_sequence, stored.updated_at)


def read_checkpoints(data: Path) -> tuple[Checkpoint, ...]:
    """Every checkpoint in a provider's data folder, by name.  NotFoundError when there is none."""
    found = tuple(parse_checkpoint(path.name, path.read_bytes()) for path in sorted(data.glob(CHECKPOINT_GLOB)))
    if not found:
        raise NotFoundError(f"no checkpoint in {data}", remedy="Check the provider's home in the site file.")
    return found


@dataclass(frozen=True, slots=True)
class Position:
    """Where a checkpoint stands on the chain: its block, and how many blocks it is behind the tip."""

    file: str
    last_sequence: int
    height: int
    behind_blocks: int


def locate(checkpoints: tuple[Checkpoint, ...], *, tip: int, sequences_per_block: int) -> tuple[Position, ...]:
    """Each checkpoint's place.

    Raises:
        VerificationFailedError: one is ahead of the tip, so it can't come from this chain's history.
    """
    positions = []
    for checkpoint in checkpoints:
        height = checkpoint.last_sequence // sequences_per_block
        if height > tip:
            raise VerificationFailedError(
                f"{checkpoint.file}: sequence {checkpoint.last_sequence} is in block {height}, ahead of the tip {tip}",
                remedy="It belongs to another chain or to a rolled-back history: take an older snapshot.",
            )
        positions.append(Position(checkpoint.file, checkpoint.last_sequence, height, tip - height))
    return tuple(positions)


@dataclass(frozen=True, slots=True)
class Advance:
    """A restored checkpoint, and the sequence that it has to carry before the daemon may start."""

    restored: Checkpoint
    last_sequence: int

    @property
    def skips_replay_of(self) -> int:
        """How many sequence numbers would have been handled twice without the advance."""
        return self.last_sequence - self.restored.last_sequence


def reconcile(restored: tuple[Checkpoint, ...], surviving: tuple[Checkpoint, ...]) -> tuple[Advance, ...]:
    """For every restored checkpoint the highest sequence that it or the surviving disk proves.

    Raises:
        VerificationFailedError: the same file belongs to another subscriber on the surviving disk.
    """
    survivors = {checkpoint.file: checkpoint for checkpoint in surviving}
    advances = []
    for checkpoint in restored:
        survivor = survivors.get(checkpoint.file, checkpoint)
        if survivor.subscriber_id != checkpoint.subscriber_id:
            raise VerificationFailedError(
                f"{checkpoint.file}: restored for {checkpoint.subscriber_id}, the disk has {survivor.subscriber_id}",
                remedy="This snapshot is of another provider: choose one of this provider.",
            )
        advances.append(Advance(checkpoint, max(checkpoint.last_sequence, survivor.last_sequence)))
    return tuple(advances)


def write_advances(data: Path, advances: tuple[Advance, ...], now: dt.datetime) -> None:
    """Make the restored checkpoints carry the reconciled sequences; durable when this returns, safe to repeat."""
    for advance in advances:
        document = {
            "subscriber_id": advance.restored.subscriber_id,
            "last_sequence": advance.last_sequence,
            "updated_at": now.isoformat(),
        }
        target = data / advance.restored.file
        temporary = target.with_suffix(".vedr-tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
