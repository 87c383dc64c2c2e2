"""How a node with damaged data comes back, by predicted time.

Guarantees: pure; every way that is closed says why; ways that keep bytes of the damaged node (a new log, a rollback, a
local copy) are only ever proposals: what they bring is proven against verified headers before the node starts.
Leaves out: doing it, and proving it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vedr.chain.sync import START_S, Prediction
from vedr.errors import RefusedError
from vedr.failover.corruption import Diagnosis

COPY_BYTES_PER_S: Final = 200e6
"""A local copy made durable; 290 MB/s were seen (docs/measurements.md), half of a disk's reading."""

READ_BYTES_PER_S: Final = 50e6
"""Reading the whole state to prove it, key by key."""


class Way(StrEnum):
    """How the data comes back."""

    KEEP = "keep"
    NEW_LOG = "new-log"
    ROLLBACK = "rollback"
    LOCAL_COPY = "local-copy"
    STATE_SYNC = "state-sync"
    SNAPSHOT = "snapshot"
    BLOCK_SYNC = "block-sync"


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """Another copy of the data beside it; `tail_s` is the time to start on it and apply what it lacks."""

    folder: str
    height: int
    tail_s: float


@dataclass(frozen=True, slots=True)
class LocalMeans:
    """What the node's own disk offers."""

    data_bytes: int
    has_rollback: bool
    copies: tuple[LocalCopy, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A way and its time; `source` names a local copy."""

    way: Way
    predicted_s: float
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Choices:
    """Ways to go, the quickest first, and why others are closed."""

    ways: tuple[Choice, ...]
    closed: tuple[str, ...]


def choose(diagnosis: Diagnosis, means: LocalMeans, predictions: Sequence[Prediction]) -> Choices:
    """All open ways by predicted time; the next one is taken where one does not prove itself.

    Raises:
        RefusedError: no way is open; every reason is named.
    """
    if not diagnosis.is_data_lost and not diagnosis.is_log_lost:
        return Choices((Choice(Way.KEEP, START_S, "its databases are whole: only files are replaced"),), ())
    ways = [Choice(Way(one.method), one.took_s, one.reason) for one in predictions if one.took_s is not None]
    closed = [f"{one.method}: {one.reason}" for one in predictions if one.took_s is None]
    prove_s = means.data_bytes / READ_BYTES_PER_S
    copy_s = means.data_bytes / COPY_BYTES_PER_S + prove_s
    if diagnosis.is_data_lost:
        closed.append("new-log: more than the consensus log is damaged")
    else:
        ways.append(Choice(Way.NEW_LOG, START_S + prove_s, "its databases are whole: the node begins a new log"))
    ways += [
        Choice(Way.LOCAL_COPY, copy_s + one.tail_s, f"{one.folder} lies beside it, at height {one.height}", one.folder)
        for one in means.copies
    ]
    if not means.copies:
        closed.append("local-copy: no other copy of the data lies beside it")
    if not diagnosis.is_state_wrong:
        closed.append("rollback: only for databases that can be read and hold a wrong state")
    elif not means.has_rollback:
        closed.append("rollback: the site names no program ([chain] rollback)")
    else:
        ways.append(Choice(Way.ROLLBACK, copy_s + START_S, "a block back, executed again"))
    if not ways:
        raise RefusedError(
            f"{diagnosis.node} has no way back: {'; '.join(closed)}",
            remedy="Remove one of these causes, then resume the incident.",
        )
    return Choices(tuple(sorted(ways, key=lambda one: one.predicted_s)), tuple(closed))
