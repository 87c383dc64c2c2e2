"""The commands that mend a region's copies, for remedies to name.

Guarantees: an error about a region's copy of a snapshot that passes through `mendable` names the command that mends
just that copy, ready to be typed.
Leaves out: mending (replicate.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from vedr.backup.layout import SnapshotId, Source
from vedr.errors import CorruptError, NotFoundError, VerificationFailedError


def repair_command(source: Source, snapshot: SnapshotId, region: str) -> str:
    """Replaces what is damaged or missing of a snapshot in a region, which may list it or not."""
    return f"vedr snapshot heal --repair {region} --snapshot {snapshot}{_kind(source)}"


def heal_command(source: Source) -> str:
    """Copies snapshots to the regions that do not list them."""
    return f"vedr snapshot heal --region {source.origin}{_kind(source)}"


def _kind(source: Source) -> str:
    return "" if source.kind == "state" else f" --kind {source.kind}"


@contextmanager
def mendable(source: Source, snapshot: SnapshotId, region: str) -> Iterator[None]:
    """What is damaged or missing within belongs to that region's copy."""
    try:
        yield
    except (CorruptError, NotFoundError) as error:
        remedy = f"Mend this copy from another region's: {repair_command(source, snapshot, region)}"
        raise type(error)(error.message, remedy=remedy) from error
    except VerificationFailedError as error:
        remedy = f"{error.remedy} A forged copy is replaced by: {repair_command(source, snapshot, region)}"
        raise VerificationFailedError(error.message, remedy=remedy) from error
